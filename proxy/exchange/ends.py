"""How a call is answered: the head of a stream, and the errors of calls that did not end by themselves."""

from proxy.core.errors import GatewayError, ModelUnavailableError

ANSWER_BYTES_MAX = 32 * 1024 * 1024
ERROR_BYTES_MAX = 256 * 1024
EVENT_STREAM = "text/event-stream"
STREAM_HEADERS = {
    "Content-Type": EVENT_STREAM,
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # an nginx in front would hold the stream back
}


def broken_off() -> GatewayError:
    return ModelUnavailableError("The model's answer broke off", should_retry=False)  # it may have run, and may be charged


def restarting(*, asked: bool = True) -> GatewayError:
    """Return the error of a call that the process's end cut. Once the upstream was asked it may run, and a retry could pay twice."""
    if asked:
        return ModelUnavailableError("The gateway is restarting; it is not known whether the call ran", should_retry=False)
    return ModelUnavailableError("The gateway is restarting", retry_after_seconds=1)


def milliseconds(at: float | None, since: float) -> int | None:
    """Return the time from ``since`` to ``at``, both in seconds; None: it did not happen."""
    return None if at is None else round((at - since) * 1000)
