"""The processes that are measured: the gateway as an operator runs it, a bare aiohttp proxy, and nginx where there is one."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import orjson

from tests.bench.load import Target

HERE = Path(__file__).parent
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

GATEWAY = """
[server]
listen = ["127.0.0.1:{port}"]
[store]
url = "sqlite:bench.db"
[upstreams.ark]
base_url = "{upstream}"
api_key = "env:ARK_API_KEY"
[[models]]
id = "doubao-pro-32k"
kind = "chat"
upstream = "ark"
upstream_model = "doubao-seed-2-0-lite-260428"
request_defaults = {{ thinking = {{ type = "disabled" }} }}
price = {{ input = "0.8", output = "2.0", cached_input = "0.16" }}
"""

NGINX = """
daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log stderr;
events {{ worker_connections 4096; }}
http {{
  access_log {directory}/access.log;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/f;
  uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  upstream ark {{ server {upstream}; keepalive 256; }}
  server {{
    listen 127.0.0.1:{port};
    location /api/v1/ {{
      proxy_pass http://ark/api/v3/; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      proxy_set_header Authorization "Bearer bench"; proxy_set_header Accept-Encoding identity;
    }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    target: Target
    pid: int

    def cpu_seconds(self) -> float:
        """Return user and system time of the process and its children so far."""
        pids = [self.pid, *_children(self.pid)]
        return sum(_cpu_ticks(pid) for pid in pids) / TICKS_PER_SECOND


@contextmanager
def stand_in(*options: str) -> Iterator[str]:
    """Run the stand-in for Ark as a process; yield its base URL."""
    with _running([sys.executable, "-m", "proxy.demo.ark", "--calls", "0", *options]) as process:
        yield _first_line(process)


@contextmanager
def contenders(upstream: str, directory: Path) -> Iterator[list[Contender]]:
    """Run all that there are, in front of one upstream."""
    with ExitStack() as stack:
        found = [stack.enter_context(_gateway(upstream, directory)), stack.enter_context(_bare(upstream))]
        if shutil.which("nginx"):
            found.append(stack.enter_context(_nginx(upstream, directory)))
        yield found


@contextmanager
def _gateway(upstream: str, directory: Path) -> Iterator[Contender]:
    port = _free_port()
    config = directory / "config.toml"
    config.write_text(GATEWAY.format(port=port, upstream=upstream))
    command = [sys.executable, "-m", "proxy", "--config", str(config)]
    environment = {**os.environ, "ARK_API_KEY": "bench"}

    def tell(*words: str) -> dict[str, str]:
        done = subprocess.run([*command, *words, "--json"], env=environment, check=True, capture_output=True)
        answer: dict[str, str] = orjson.loads(done.stdout)
        return answer

    tell("account", "create", "bench", "--credit", "1000000")
    key = tell("key", "create", "bench")["key"]
    log = (directory / "gateway.log").open("wb")
    with log, _running([*command, "serve"], env=environment, stderr=log) as process:
        _wait_for_port(port)
        yield Contender("gateway", Target("127.0.0.1", port, key), process.pid)


@contextmanager
def _bare(upstream: str) -> Iterator[Contender]:
    with _running([sys.executable, str(HERE / "bare_proxy.py"), upstream]) as process:
        address = urlsplit(_first_line(process))
        yield Contender("bare aiohttp", Target("127.0.0.1", address.port or 0, "bench"), process.pid)


@contextmanager
def _nginx(upstream: str, directory: Path) -> Iterator[Contender]:
    port = _free_port()
    config = directory / "nginx.conf"
    config.write_text(NGINX.format(port=port, upstream=urlsplit(upstream).netloc, directory=directory))
    with _running(["nginx", "-c", str(config), "-e", "stderr"], stderr=subprocess.DEVNULL) as process:
        _wait_for_port(port)
        yield Contender("nginx", Target("127.0.0.1", port, "bench"), process.pid)


@contextmanager
def _running(command: list[str], **options: object) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def _first_line(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
