"""The admin listener's one route, `POST /operations/{name}`: an operation in, its answer or a refusal out.

It knows no HTTP beyond a status. Whoever can open the socket is the operator; there is no other authentication.
"""

import asyncio
import logging
from typing import Any

import orjson

from proxy.operations.operation import Operation, Operator
from proxy.operations.parameters import ParameterError, UnknownOperationError
from proxy.operations.table import prepare
from proxy.store.errors import StoreError, StoreRefusedError
from proxy.tasks import TaskGroup

logger = logging.getLogger(__name__)

BODY_BYTES_MAX = 65_536


class AdminHandlers:
    """Carries out operations inside the running gateway, each as a task that its owner drains."""

    def __init__(self, operator: Operator, tasks: TaskGroup) -> None:
        self._operator = operator
        self._tasks = tasks

    async def operate(self, name: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Return 200 and the answer, or a status and ``{"error": {"code", "message"}}``.

        400 wrong parameters · 404 no such operation · 409 refused by the store · 503 a store error · 500 a bug.
        """
        try:
            operation = prepare(name, _parameters(body))
        except UnknownOperationError as error:
            return _failed(404, "UNKNOWN_OPERATION", str(error))
        except ParameterError as error:
            return _failed(400, "INVALID_PARAMETER", str(error))
        # Shielded: an operator who hangs up between a change and its announcement must not leave a revoked key alive.
        return await asyncio.shield(self._tasks.spawn(self._carry_out(operation), name))

    async def _carry_out(self, operation: Operation) -> tuple[int, dict[str, Any]]:
        try:
            return 200, await operation.run(self._operator)
        except ParameterError as error:
            return _failed(400, "INVALID_PARAMETER", str(error))
        except StoreRefusedError as error:
            return _failed(409, "REFUSED", str(error))
        except StoreError as error:
            logger.exception("operation %s failed", operation.name)
            return _failed(503, "STORE_UNAVAILABLE", str(error))
        except Exception:  # the request must get an answer, and the listener live on
            logger.exception("operation %s failed", operation.name)
            return _failed(500, "INTERNAL_ERROR", "an internal error: see the gateway's log")


def _parameters(body: bytes) -> object:
    if len(body) > BODY_BYTES_MAX:
        raise ParameterError(f"the body is larger than {BODY_BYTES_MAX} bytes")
    try:
        return orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise ParameterError(f"the body is no JSON: {error}") from None


def _failed(status: int, code: str, message: str) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"code": code, "message": message}}
