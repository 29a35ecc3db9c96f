"""The admin listener's route: statuses, and a change that is made even if the operator disconnects."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.clock import SystemClock
from proxy.core.days import UTC
from proxy.handlers.admin import BODY_BYTES_MAX, AdminHandlers
from proxy.operations.operation import Operator
from proxy.store.contract import Store
from proxy.store.errors import StoreUnavailableError
from proxy.store.sqlite import open_store
from proxy.tasks import TaskGroup
from tests.support.books import assert_books_balance


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(tmp_path / "books.db")
    yield opened
    await assert_books_balance(opened)
    await opened.close()


def handlers(store: Store, on_change: Callable[[], Awaitable[None]] | None = None) -> tuple[AdminHandlers, TaskGroup]:
    tasks = TaskGroup("operation")
    return AdminHandlers(Operator(store, SystemClock(), UTC, on_change), tasks), tasks


async def test_an_operation_is_answered_with_what_it_returns(store: Store) -> None:
    admin, _ = handlers(store)

    status, answer = await admin.operate("account.create", b'{"account":"acme","credit":"1"}')

    assert (status, answer["balance"]) == (200, "1.00")
    (listed,) = (await admin.operate("account.list", b""))[1]["accounts"]
    assert {name: answer[name] for name in listed.keys() & answer.keys()}.items() <= listed.items()
    assert {"id", "name", "balance", "held", "available", "created_at"} <= listed.keys() & answer.keys()


@pytest.mark.parametrize(
    ("name", "body", "status", "code"),
    [
        ("account.delete", b"{}", 404, "UNKNOWN_OPERATION"),
        ("account.create", b"{", 400, "INVALID_PARAMETER"),
        ("account.create", b"[]", 400, "INVALID_PARAMETER"),
        ("account.create", b'{"account":"a","credit":"x"}', 400, "INVALID_PARAMETER"),
        ("account.create", b" " * (BODY_BYTES_MAX + 1), 400, "INVALID_PARAMETER"),
        ("usage", b'{"since":"1d","until":"7d"}', 400, "INVALID_PARAMETER"),
        ("account.show", b'{"account":"nobody"}', 409, "REFUSED"),
    ],
)
async def test_a_refusal_has_a_status_a_code_and_a_message_and_is_no_incident(
    store: Store, caplog: pytest.LogCaptureFixture, name: str, body: bytes, status: int, code: str
) -> None:
    admin, _ = handlers(store)

    answered, answer = await admin.operate(name, body)

    assert (answered, answer["error"]["code"]) == (status, code)
    assert answer["error"]["message"]
    assert caplog.records == []


@pytest.mark.parametrize(
    ("failure", "status", "message"),
    [
        (StoreUnavailableError("disk full"), 503, "disk full"),
        (RuntimeError("secret detail"), 500, "an internal error"),
    ],
)
async def test_a_failure_is_logged_with_its_cause(
    store: Store, caplog: pytest.LogCaptureFixture, failure: Exception, status: int, message: str
) -> None:
    async def fail() -> None:
        raise failure

    admin, _ = handlers(store, fail)

    answered, answer = await admin.operate("account.create", b'{"account":"acme"}')

    assert answered == status
    assert message in answer["error"]["message"]
    assert "secret" not in str(answer)
    assert str(failure) in caplog.text


async def test_an_operator_who_hangs_up_does_not_keep_a_revoked_key_alive(store: Store) -> None:
    told, may_go_on = asyncio.Event(), asyncio.Event()
    live: list[Any] = []

    async def refresh() -> None:
        told.set()
        await may_go_on.wait()
        live.append(await store.grants())

    admin, tasks = handlers(store, refresh)
    callers = TaskGroup("callers")
    call = callers.spawn(admin.operate("account.create", b'{"account":"acme"}'), "operator")
    await told.wait()

    call.cancel()
    await asyncio.wait([call])
    may_go_on.set()

    assert await tasks.drain(timeout_seconds=5) == 0
    assert live == [[]]
