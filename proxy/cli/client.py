"""How a command reaches the store: through the gateway that runs, or itself where none does.

Reading needs no permission of anybody: the store is opened read-only beside whoever writes. A change goes through the admin socket, so
that one process alone writes the file and the running gateway acts on it at once; with nobody there, the command takes the lock.
"""

import asyncio
import errno
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson

from proxy.clock import Clock
from proxy.config import Config
from proxy.operations.operation import Answer, Operation, Operator
from proxy.operations.parameters import ParameterError
from proxy.operations.table import prepare
from proxy.store.errors import StoreError, StoreLockedError, StoreRefusedError, StoreUnavailableError
from proxy.store.progress import Report
from proxy.store.sqlite import open_store

LOCK_WAIT_SECONDS = 5.0
"""How long to go on trying where somebody holds the lock and no gateway answers: another command, or a gateway that is starting."""
_RETRY_SECONDS = 0.05
ANSWER_SECONDS = 30.0
"""What a gateway has for its whole answer to a change, from the connection on."""
_DOUBT = "the change may have been made, or may be yet: look with `llm-proxy account show` or `key list` before you repeat it"
_NOBODY = (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTSOCK)
"""No socket file, one that a dead process left behind, or a file that is something else."""


async def perform(config: Config, clock: Clock, name: str, parameters: Mapping[str, Any], report: Report | None = None) -> Answer:
    """Carry out an operation and return its answer; one that only reads tells how far it has come.

    Raises:
        ParameterError: before anything is touched.
        StoreError: refused, failed, or not to be reached.
    """
    operation = prepare(name, parameters)
    if not operation.changes:
        return await _at_own_desk(config, clock, operation, read_only=True, report=report)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LOCK_WAIT_SECONDS
    while True:
        answer = await _through_gateway(config, name, parameters)
        if answer is not None:
            return answer
        try:
            return await _at_own_desk(config, clock, operation, read_only=False)
        except StoreLockedError as error:
            if loop.time() > deadline:
                raise StoreLockedError(f"{error}, and {_silence(config)}") from None
        await asyncio.sleep(_RETRY_SECONDS)


async def ask_gateway(config: Config, name: str, parameters: Mapping[str, Any]) -> Answer:
    """Return the answer of the gateway that runs, to what is its own affair.

    Raises:
        StoreError: there is none, it refuses, or it is not to be reached.
    """
    prepare(name, parameters)
    answer = await _through_gateway(config, name, parameters, doubt="look at its log")
    if answer is None:
        where = (
            'admin.listen is "off", so it cannot be asked'
            if config.admin.listen is None
            else f"nothing answers at {config.admin.listen}"
        )
        raise StoreRefusedError(f"no gateway runs: {where}")
    return answer


async def _at_own_desk(config: Config, clock: Clock, operation: Operation, *, read_only: bool, report: Report | None = None) -> Answer:
    async with AsyncExitStack() as opened:
        store = await open_store(config.store.path, read_only=read_only)
        opened.push_async_callback(store.close)
        return await operation.run(Operator(store, clock, report=report))


async def _through_gateway(config: Config, name: str, parameters: Mapping[str, Any], doubt: str = _DOUBT) -> Answer | None:
    """Return the answer of the gateway that runs, or None where none does. ``doubt``: what to do where it asks and hears nothing."""
    if config.admin.listen is None:
        return None
    import aiohttp  # noqa: PLC0415  a quarter of a second that reading commands need not spend

    path = config.admin.listen.path
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(path)), timeout=timeout) as session,
            session.post(f"http://llm-proxy/operations/{name}", data=orjson.dumps(parameters)) as response,
        ):
            return _answer(response.status, await response.read())
    except aiohttp.ClientConnectorError as error:
        if error.os_error.errno in _NOBODY:
            return None
        raise StoreUnavailableError(f"the admin socket {path} cannot be opened: {error.os_error.strerror}{_advice(path)}") from None
    except TimeoutError:
        raise StoreUnavailableError(f"no answer from the gateway at {path} in {ANSWER_SECONDS:g} s: {doubt}") from None
    except aiohttp.ClientError as error:
        reason = str(error) or type(error).__name__
        raise StoreUnavailableError(f"no answer from the gateway at {path} ({reason}): {doubt}") from None


def _answer(status: int, body: bytes) -> Answer:
    try:
        answer = orjson.loads(body)
        if status == 200 and isinstance(answer, dict):
            return answer
        message = str(answer["error"]["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise StoreUnavailableError(f"the admin socket answered with status {status} and nothing that a gateway says") from None
    if status == 400:
        raise ParameterError(message)
    raise StoreRefusedError(message) if status == 409 else StoreError(message)


def _advice(path: Path) -> str:
    try:
        owner = path.owner()
    except (OSError, KeyError):
        owner = "the gateway's user"
    return f" (run this as {owner})" if owner == "root" else f" (run this as {owner}, or as root)"


def _silence(config: Config) -> str:
    if config.admin.listen is None:
        return 'admin.listen is "off": stop that process first'
    return f"nothing answers at {config.admin.listen}: stop that process, or wait for it"
