"""The contenders: the gateway as an operator runs it, and references in front of the same upstream."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from tests.bench.admin import AdminSocket
from tests.bench.jobs import Target
from tests.bench.processes import ROOT, Running, free_port, running, wait_for_port

UPSTREAM_PATH = "/api/v3/chat/completions"
CREDIT_YUAN = "100000000"
PROGRAM = (sys.executable, "-m", "proxy")

NGINX = """
daemon off; worker_processes 1; worker_rlimit_nofile 20000; pid {directory}/nginx.pid; error_log stderr error;
events {{ worker_connections 16384; }}
http {{
  access_log {directory}/nginx-access.log; keepalive_requests 100000000; client_max_body_size 64m;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/f;
  uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  upstream ark {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location /api/v1/ {{
      proxy_pass http://ark/api/v3/; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      proxy_set_header Authorization "Bearer bench"; proxy_set_header Accept-Encoding identity;
    }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Contender:
    """A server under load, and its address; ``running`` is None if it is set up but not running."""

    name: str
    target: Target
    running: Running | None

    @property
    def process(self) -> Running:
        assert self.running is not None, f"{self.name} does not run"
        return self.running


@dataclass(frozen=True, slots=True)
class Gateway(Contender):
    """The gateway, with its admin listener."""

    directory: Path = field(default_factory=Path)

    @property
    def store(self) -> Path:
        return self.directory / "llm-proxy.db"

    @property
    def admin(self) -> AdminSocket:
        return AdminSocket(self.directory / "admin.sock")

    program: tuple[str, ...] = PROGRAM

    def command(self, *words: str) -> list[str]:
        return [*self.program, "--config", str(self.directory / "config.toml"), *words]

    def ask(self, *words: str, seconds: float = 600) -> str:
        """Run a command of the command line and return its output."""
        return subprocess.run(self.command(*words), cwd=ROOT, check=True, capture_output=True, text=True, timeout=seconds).stdout


@contextmanager
def stand_in(directory: Path) -> Iterator[Contender]:
    """Run the upstream."""
    with running("upstream", [sys.executable, "-m", "tests.bench.upstream"], directory / "upstream.log") as process:
        port = int(process.first_line())
        yield Contender("direct", Target(port=port, path=UPSTREAM_PATH), process)


@contextmanager
def media_stand_in(directory: Path) -> Iterator[str]:
    """Run an upstream for images and videos, and yield its base URL."""
    command = [sys.executable, "-m", "proxy.demo.ark", "--queued-seconds", "2", "--running-seconds", "5", "--image-ms", "500"]
    with running("media", command, directory / "media.log") as process:
        yield process.first_line()


@contextmanager
def references(upstream: int, directory: Path, *, alone: bool = False, accounts: int = 1) -> Iterator[list[Contender]]:
    """Run the gateway in front of the upstream's port, and, unless ``alone``, the bare proxy, and nginx if it is installed."""
    with ExitStack() as stack:
        found: list[Contender] = [stack.enter_context(gateway(upstream, directory, accounts=accounts))]
        if not alone:
            found.append(stack.enter_context(bare(upstream, directory)))
            if shutil.which("nginx"):
                found.append(stack.enter_context(nginx(upstream, directory)))
            else:
                print("nginx is left out: it is not installed", file=sys.stderr, flush=True)
        yield found


@contextmanager
def gateway(
    upstream: int,
    directory: Path,
    *,
    accounts: int = 1,
    wrapper: tuple[str, ...] = (),
    media: str = "",
    store: str = "",
    program: tuple[str, ...] = PROGRAM,
) -> Iterator[Gateway]:
    """Set up a gateway with ``accounts`` accounts, each with a key, and run it as in production.

    Args:
        wrapper: a command that runs it, such as strace.
        media: the base URL of the upstream for images and videos, if that is another one.
        store: the URL of its store, if that is not a file of its own.
        program: what runs a command of the command line.
    """
    described = Gateway("gateway", Target(port=write_config(upstream, directory, media, store)), None, directory, program)
    with serving(described, wrapper) as running_one:
        keys = tuple(_key(described.admin, f"bench-{number}") for number in range(accounts))
        yield replace(running_one, target=msgspec.structs.replace(running_one.target, keys=keys))


@contextmanager
def serving(set_up: Gateway, wrapper: tuple[str, ...] = ()) -> Iterator[Gateway]:
    """Run a gateway that is set up."""
    command = [*wrapper, *set_up.command("serve")]
    with running("gateway", command, set_up.directory / "gateway.log", {"ARK_API_KEY": "bench"}) as process:
        wait_for_port(process, set_up.target.port)
        yield replace(set_up, running=process)


def write_config(upstream: int, directory: Path, media: str = "", store: str = "") -> int:
    """Write the example configuration with addresses of this machine; return the port that the gateway will listen on."""
    port = free_port()
    text = (ROOT / "config.example.toml").read_text(encoding="utf-8")
    for old, new in (
        ("127.0.0.1:8080", f"127.0.0.1:{port}"),
        ("https://ark.cn-beijing.volces.com/api/v3", f"http://127.0.0.1:{upstream}/api/v3"),
        ("\ncontext_tokens = 32768\n", "\ncontext_tokens = 100_000_000\n"),  # 20 MB of text are a prompt, too
        ("\nupstream_context_tokens = 262144\n", "\nupstream_context_tokens = 100_000_000\n"),
    ):
        assert old in text
        text = text.replace(old, new)
    if store:
        text = text.replace("sqlite:llm-proxy.db", store)
    (directory / "config.toml").write_text(_with_media(text, media) if media else text, encoding="utf-8")
    return port


def _with_media(text: str, base_url: str) -> str:
    """Return the configuration with another upstream for all models except chat."""
    head, *models = text.split("[[models]]\n")
    at = head.index("[billing]")
    upstream = f'[upstreams.media]\nbase_url = "{base_url}"\napi_key = "env:ARK_API_KEY"\n\n'
    models = [model if 'kind = "chat"' in model else model.replace('upstream = "ark"', 'upstream = "media"') for model in models]
    return "[[models]]\n".join([head[:at] + upstream + head[at:], *models])


def _key(admin: AdminSocket, account: str) -> str:
    admin.operate("account.create", account=account, credit=CREDIT_YUAN)
    return str(admin.operate("key.create", account=account)["key"])


@contextmanager
def bare(upstream: int, directory: Path) -> Iterator[Contender]:
    """Run a minimal aiohttp proxy, such as one writes in an afternoon."""
    command = [sys.executable, str(Path(__file__).parent / "bare_proxy.py"), f"http://127.0.0.1:{upstream}/api/v3"]
    with running("bare aiohttp", command, directory / "bare.log") as process:
        yield Contender("bare aiohttp", Target(port=int(process.first_line())), process)


@contextmanager
def nginx(upstream: int, directory: Path) -> Iterator[Contender]:
    """Run nginx with one worker."""
    port = free_port()
    config = directory / "nginx.conf"
    config.write_text(NGINX.format(port=port, upstream=upstream, directory=directory))
    with running("nginx", ["nginx", "-c", str(config), "-e", "stderr"], directory / "nginx.log") as process:
        wait_for_port(process, port)
        yield Contender("nginx", Target(port=port), process)
