"""Complete default answers, with the ids of their call."""

import gzip
from collections.abc import Sequence
from typing import Any

import orjson

from proxy.demo.ark.call import Call
from proxy.demo.ark.dialect import ArkError, head, missing
from proxy.demo.ark.script import Send, Step


def ark_headers(call: Call, content_type: str) -> list[tuple[str, str]]:
    return [
        ("content-type", content_type),
        ("server", "istio-envoy"),
        ("x-request-id", call.request_id),
        ("x-client-request-id", call.client_request_id),
        ("x-envoy-upstream-service-time", "12"),
        ("vary", "Accept-Encoding"),
    ]


def reply(call: Call, obj: Any, *, may_gzip: bool = False) -> list[Step]:
    """Return 200 and JSON in one write, gzipped if `may_gzip` and the client accepts gzip."""
    return [Send(reply_bytes(call, orjson.dumps(obj), may_gzip=may_gzip))]


def reply_bytes(call: Call, body: bytes, *, may_gzip: bool = False, content_type: str = "application/json") -> bytes:
    headers = ark_headers(call, content_type)
    if may_gzip and "gzip" in call.headers.get("accept-encoding", ""):
        body = gzip.compress(body, compresslevel=1, mtime=0)
        headers.append(("content-encoding", "gzip"))
    headers.append(("content-length", str(len(body))))
    return head(200, headers) + body


def refuse(call: Call, fault: ArkError, body: bytes) -> Sequence[Step]:
    headers = ark_headers(call, "application/json")
    headers += [("x-error-code", fault.error_code_header), ("content-length", str(len(body)))]
    return [Send(head(fault.status, headers) + (b"" if call.method == "HEAD" else body))]


def asked(call: Call) -> dict[str, Any]:
    """Return the body as a JSON object.

    Raises:
        ArkError: 400 if it is not one.
    """
    if not call.body:
        raise missing("model")
    if not isinstance(call.json, dict):
        raise ArkError(400, "InvalidParameter", "The request body is not a valid JSON object.")
    return call.json
