"""Every endpoint refuses documents that are not JSON, as a body and as a value in one, and reads all valid ones."""

import pytest

from tests.support.gateway import MODEL, Bench
from tests.support.json_documents import BROKEN, WHOLE

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAID = {
    "/chat/completions": b'{"model":"%b","messages":[{"role":"user","content":"hi"}]' % MODEL.encode(),
    "/images/generations": b'{"prompt":"a lighthouse"',
    "/videos/generations": b'{"prompt":"waves"',
}
"""The endpoints that take a body, each with a valid body without its closing brace."""


REPAIRED = {
    *("a byte order mark", "a high surrogate alone", "a low surrogate alone", "a high surrogate and a letter"),
    *("a high surrogate and a short escape", "two high surrogates", "surrogates the wrong way"),
}
"""What SDKs write by mistake, and is read all the same."""
REFUSED = {name: document for name, document in BROKEN.items() if name not in REPAIRED}


@pytest.mark.parametrize("path", PAID)
@pytest.mark.parametrize("document", REFUSED.values(), ids=REFUSED.keys())
async def test_what_is_no_json_is_refused_as_a_body_and_as_a_value(refusing: Bench, path: str, document: bytes) -> None:
    as_body = await refusing.ask(path, document)
    as_value = await refusing.ask(path, PAID[path] + b',"metadata":' + document + b"}")

    assert (as_body.status, as_body.error["code"]) == (400, "INVALID_JSON")
    assert (as_value.status, as_value.error["code"]) == (400, "INVALID_JSON")


@pytest.mark.parametrize("path", PAID)
@pytest.mark.parametrize("document", WHOLE.values(), ids=WHOLE.keys())
async def test_what_is_json_is_read_and_judged_by_its_fields(refusing: Bench, path: str, document: bytes) -> None:
    answer = await refusing.ask(path, document)

    assert answer.status == 400
    assert answer.error["code"] in ("MISSING_MODEL", "MISSING_PROMPT", "INVALID_PARAMETER"), answer.error
