"""Fast starts of gateways: a process that has imported everything and forks `llm-proxy serve` on demand.

The child runs the real command line in a separate process, which kill -9 ends like any other. Only the half second of importing is
saved, which makes a thousand deaths affordable. With `rig`, the child first rigs itself: see `tests.support.rigging`.

Input is one JSON line, ``{"argv": […], "environment": {…}, "log": PATH, "rig": {…}}``. Output is the child's pid and, when it has
ended, a second line: its status from `waitpid`. One child at a time.
"""

import os
import sys
from typing import Any

import orjson

import proxy.gateway.app
import proxy.gateway.process  # noqa: F401  the slow imports happen here, once
from proxy import cli
from tests.support import rigging


def main() -> None:
    for line in sys.stdin.buffer:
        order = orjson.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(order)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


def _become(order: dict[str, Any]) -> None:
    """Run a gateway to its end and exit. Never returns to the parent's code."""
    code = 99
    try:
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, number in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(descriptor, number)
        os.environ.update(order["environment"])
        rigging.rig(**order["rig"])
        sys.argv = order["argv"]
        cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
