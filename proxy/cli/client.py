"""A command's access to the store: through the running gateway, or directly if none runs.

A read opens the store read-only, beside the process that writes. A change goes through the admin socket, so that one process alone
writes the file and the running gateway acts on it at once. If no gateway runs, the command takes the lock itself.

A database that several processes write to has no lock. There a command is a node like any other while it runs, writes itself, and waits
until every gateway goes by the change.
"""

import asyncio
import errno
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson

from proxy.clock import Clock
from proxy.config import Config, UnixAddress
from proxy.config.workers import worker_sockets
from proxy.operations.operation import Answer, Operation, Operator
from proxy.operations.parameters import ParameterError
from proxy.operations.table import prepare
from proxy.store import is_shared, open_store
from proxy.store.errors import StoreError, StoreLockedError, StoreRefusedError, StoreUnavailableError
from proxy.store.progress import Report

LOCK_WAIT_SECONDS = 5.0
"""Limit of retries while the lock is held and no gateway answers: by another command, or by a gateway that is starting."""
_RETRY_SECONDS = 0.05
ANSWER_SECONDS = 30.0
"""Time allowed for a gateway's whole answer to a change, including the connection."""
_LISTS = ("changed", "needs_restart")
_NOBODY = (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTSOCK)
"""No socket file, one that a dead process left behind, or a file that is something else."""


class AnswerLostError(StoreUnavailableError):
    """The gateway was asked, and no answer came: the change may have been made, or may be yet."""


async def perform(config: Config, clock: Clock, name: str, parameters: Mapping[str, Any], report: Report | None = None) -> Answer:
    """Carry out an operation and return its answer. An operation that only reads reports its progress.

    After a lost answer it is asked for again, where asking twice does no more than asking once: for `LOCK_WAIT_SECONDS` where the
    connection was cut, as by a gateway that ends, and once more where the gateway was silent.

    Raises:
        ParameterError: a parameter is wrong; nothing was touched.
        AnswerLostError: no answer came; the text says what to do.
        StoreError: the operation was refused or failed, or the store cannot be reached.
    """
    operation = prepare(name, parameters)
    if not operation.changes:
        return await _in_process(config, clock, operation, read_only=True, report=report)
    loop = asyncio.get_running_loop()
    repeat_until = None
    while True:
        try:
            return await _change(config, clock, operation, parameters)
        except AnswerLostError:
            repeat_until = repeat_until or loop.time() + LOCK_WAIT_SECONDS
            if not operation.is_repeatable or loop.time() > repeat_until:
                raise
        await asyncio.sleep(_RETRY_SECONDS)


async def _change(config: Config, clock: Clock, operation: Operation, parameters: Mapping[str, Any]) -> Answer:
    """Have the running gateway carry it out, or do it here if none runs. Raises: as `perform`."""
    if is_shared(config.store.url):
        return await _in_process(config, clock, operation, read_only=False)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LOCK_WAIT_SECONDS
    while True:
        answer = await _through_gateway(config.admin.listen, operation, parameters)
        if answer is not None:
            return answer
        try:
            return await _in_process(config, clock, operation, read_only=False)
        except StoreLockedError as error:
            if loop.time() > deadline:
                raise StoreLockedError(f"{error}, and {_silence(config)}") from None
        await asyncio.sleep(_RETRY_SECONDS)


async def ask_gateway(config: Config, name: str, parameters: Mapping[str, Any]) -> Answer:
    """Return the running gateway's answer to an operation that only it can do.

    Where it runs as several workers, one is asked what a reload would change. All are asked to reload: what any of them took over is
    in the answer, and ``workers`` has their numbers.

    Raises:
        StoreError: no gateway runs, it refuses, or it cannot be reached.
    """
    listen, operation = config.admin.listen, prepare(name, parameters)
    answer = await _through_gateway(listen, operation, parameters)
    if answer is None and listen is not None:
        answer = await _through_workers(listen, operation, parameters)
    if answer is None:
        where = (
            'admin.listen is "off", so it cannot be asked'
            if config.admin.listen is None
            else f"nothing answers at {config.admin.listen}"
        )
        raise StoreRefusedError(f"no gateway runs: {where}")
    return answer


async def _in_process(config: Config, clock: Clock, operation: Operation, *, read_only: bool, report: Report | None = None) -> Answer:
    async with AsyncExitStack() as opened:
        store = await open_store(
            config.store.url, read_only=read_only, zone=config.billing.zone, password=config.store.password.reveal()
        )
        opened.push_async_callback(store.close)
        on_change = None if store.peers is None else store.peers.all_saw_keys
        return await operation.run(Operator(store, clock, store.zone, on_change=on_change, report=report))


async def _through_workers(listen: UnixAddress, operation: Operation, parameters: Mapping[str, Any]) -> Answer | None:
    """Return the answer of the workers that run, or None if none does. Raises: as `_through_gateway`."""
    answers: dict[int, Answer] = {}
    for number, socket in worker_sockets(listen).items():
        try:
            answer = await _through_gateway(socket, operation, parameters)
        except StoreError as error:
            done = f" (workers {', '.join(map(str, answers))} have done it)" if answers else ""
            raise type(error)(f"worker {number}: {error}{done}") from None
        if answer is not None:
            answers[number] = answer
            if parameters.get("preview"):
                return answer
    if not answers:
        return None
    merged = {name: list({change["key"]: change for answer in answers.values() for change in answer[name]}.values()) for name in _LISTS}
    return {**next(iter(answers.values())), **merged, "workers": list(answers)}


async def _through_gateway(listen: UnixAddress | None, operation: Operation, parameters: Mapping[str, Any]) -> Answer | None:
    """Return the running gateway's answer, or None if none runs. Raises: AnswerLostError, ParameterError, StoreError."""
    if listen is None:
        return None
    import aiohttp  # noqa: PLC0415  the import takes a quarter of a second, which commands that only read do not need

    path = listen.path
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(path)), timeout=timeout) as session,
            session.post(f"http://llm-proxy/operations/{operation.name}", data=orjson.dumps(parameters)) as response,
        ):
            return _answer(response.status, await response.read(), operation.doubt)
    except aiohttp.ClientConnectorError as error:
        if error.os_error.errno in _NOBODY:
            return None
        raise StoreUnavailableError(f"the admin socket {path} cannot be opened: {error.os_error.strerror}{_advice(path)}") from None
    except TimeoutError:
        raise AnswerLostError(f"no answer from the gateway at {path} in {ANSWER_SECONDS:g} s: {operation.doubt}") from None
    except aiohttp.ClientError as error:
        reason = str(error) or type(error).__name__
        raise AnswerLostError(f"no answer from the gateway at {path} ({reason}): {operation.doubt}") from None


def _answer(status: int, body: bytes, doubt: str) -> Answer:
    """Return the answer of status 200. Raises: ParameterError, StoreError: as the gateway did; AnswerLostError: it is no answer."""
    try:
        answer = orjson.loads(body)
        if status == 200 and isinstance(answer, dict):
            return answer
        message = str(answer["error"]["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise AnswerLostError(f"the admin socket answered with status {status} and nothing that a gateway says: {doubt}") from None
    if status == 400:
        raise ParameterError(message)
    if status == 500:  # it stopped at a bug, before the change or after it
        raise StoreError(f"{message}: {doubt}")
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
