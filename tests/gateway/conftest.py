"""One gateway for a whole table of refusals. Each case ends by checking that it cost nothing, leaked nothing and broke nothing."""

import logging
from collections.abc import AsyncIterator, Iterable

import pytest
import pytest_asyncio

from proxy.telemetry.logs import JsonFormatter
from tests.support.gateway import CANARY_KEY, Bench, bench

CANARY_PROMPT = "canary-prompt-3b91"
"""A text in the prompts, headers and paths of these tests; no log may ever contain it."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    async with bench(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def refusing(module_gateway: Bench, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Bench]:
    """Yield a gateway for calls that it must refuse or that are free. Tests need ``asyncio(loop_scope="module")``."""
    caplog.set_level(logging.INFO)
    module_gateway.log.written.clear()
    asked_upstream = len(module_gateway.ark.calls)

    yield module_gateway

    assert (await module_gateway.ask("/models")).status == 200, "the gateway does not work any more"
    assert len(module_gateway.ark.calls) == asked_upstream, "the upstream was asked"
    await module_gateway.assert_charged(0)
    records = [*caplog.get_records("call"), *caplog.records]
    assert not [record for record in records if record.levelno >= logging.WARNING]
    assert_no_secrets(module_gateway, records)


def assert_no_secrets(gateway: Bench, records: Iterable[logging.LogRecord]) -> None:
    """Assert that no log line contains a key, a prompt or the upstream's key."""
    assert gateway.log.written, "the access log is not looked at"
    said = repr(gateway.log.written) + "".join(JsonFormatter().format(record) for record in records)
    for secret in (gateway.key, CANARY_KEY, CANARY_PROMPT):
        assert secret not in said
