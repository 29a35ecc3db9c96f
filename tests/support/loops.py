"""The event loop that production runs on, in which a test whose time is over ends.

pytest-timeout raises from a signal's handler. uvloop takes that for a callback's error, reports it, and goes on waiting for ever.
"""

import asyncio
from typing import Any

import pytest
import uvloop


class Loop(uvloop.Loop):
    """uvloop's, in which a timeout cancels the test: the traceback then says what was waited for."""

    _test: asyncio.Task[Any] | None = None

    def run_until_complete(self, future: Any) -> Any:
        self._test = future if isinstance(future, asyncio.Task) else None
        return super().run_until_complete(future)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        fault = context.get("exception")
        if isinstance(fault, pytest.fail.Exception) and self._test is not None:
            self._test.cancel(fault.msg)
        else:
            super().call_exception_handler(context)
