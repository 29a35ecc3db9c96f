"""The gateway's admin socket, over plain HTTP on a unix socket."""

import http.client
import re
import socket
from pathlib import Path
from typing import Any

import orjson

ANSWER_SECONDS = 120.0


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("admin", timeout=ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(ANSWER_SECONDS)
        self.sock.connect(str(self._path))


class AdminSocket:
    """Operations and metrics of a running gateway."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def operate(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Run an operation and return its answer."""
        answer: dict[str, Any] = orjson.loads(self._ask("POST", f"/operations/{operation}", orjson.dumps(parameters)))
        return answer

    def metric(self, name: str) -> float:
        """Return a metric, summed over its labels; 0 if there is none yet."""
        return self.metrics(name)[0]

    def metrics(self, *names: str) -> list[float]:
        """Return several metrics from one scrape, each as above."""
        text = self._ask("GET", "/metrics", None).decode()
        return [sum(map(float, re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))) for name in names]

    def _ask(self, method: str, path: str, body: bytes | None) -> bytes:
        connection = _Connection(self._path)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        assert answer.status == 200, content
        return content
