"""Time from the start of the process to its first 200 of ``/readyz``, and its memory then."""

import socket
import time
from dataclasses import dataclass

from tests.bench.contenders import Gateway
from tests.bench.processes import Memory, SpoiltError, running

READY = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
READY_SECONDS = 120.0
RETRY_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class Start:
    seconds: float
    memory: Memory


def start_once(gateway: Gateway) -> Start:
    """Start a gateway that is set up but not running, wait until it is ready, stop it. Raises: SpoiltError."""
    began = time.monotonic()
    with running("gateway", gateway.command("serve"), gateway.directory / "start.log", {"ARK_API_KEY": "bench"}) as process:
        while not _is_ready(gateway.target.port):
            process.require_alive()
            if time.monotonic() - began > READY_SECONDS:
                raise SpoiltError(f"not ready after {READY_SECONDS:g} s: {process.log_tail()}")
            time.sleep(RETRY_SECONDS)
        return Start(time.monotonic() - began, process.memory())


def _is_ready(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=READY_SECONDS) as connection:
            connection.sendall(READY)
            return connection.recv(100).startswith(b"HTTP/1.1 200")
    except OSError:
        return False
