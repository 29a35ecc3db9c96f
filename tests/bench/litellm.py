"""LiteLLM's proxy as an optional reference, in its own virtual environment, since it pins packages that the gateway uses."""

import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.contenders import Contender
from tests.bench.jobs import MODEL, Target
from tests.bench.processes import free_port, running, wait_for_port

PACKAGE = "litellm[proxy]"
INSTALL_SECONDS = 600
MASTER_KEY = "sk-bench"
CONFIG = """
model_list:
  - model_name: {model}
    litellm_params:
      model: openai/doubao-seed-2-0-lite-260428
      api_base: http://127.0.0.1:{upstream}/api/v3
      api_key: bench
      input_cost_per_token: 0.0000008
      output_cost_per_token: 0.000002
general_settings:
  master_key: {master_key}
"""


@contextmanager
def litellm(upstream: int, directory: Path, home: Path) -> Iterator[Contender | None]:
    """Run it with one worker; yield None, and print the reason, if it cannot be installed.

    Args:
        home: directory of its virtual environment, created if missing.
    """
    command = home / "bin/litellm"
    if not command.exists() and (why := _install(home)):
        print(f"LiteLLM is left out: {why}", file=sys.stderr, flush=True)
        yield None
        return
    port = free_port()
    config = directory / "litellm.yaml"
    config.write_text(CONFIG.format(model=MODEL, upstream=upstream, master_key=MASTER_KEY))
    words = [str(command), "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    quiet = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
    with running("LiteLLM", words, directory / "litellm.log", quiet) as process:
        wait_for_port(process, port)
        yield Contender("LiteLLM", Target(port=port, path="/v1/chat/completions", keys=(MASTER_KEY,)), process)


def _install(home: Path) -> str:
    """Create the environment; return the error, or nothing."""
    print(f"installing {PACKAGE} in {home}, which takes minutes …", file=sys.stderr, flush=True)
    try:
        venv.create(home, with_pip=True)
        subprocess.run(
            [home / "bin/pip", "install", "--quiet", PACKAGE], check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(getattr(error, "stderr", "") or error).strip()[-500:]
    return ""
