"""What a refusal to make a picture or a video means: as `ark.refusal`, but in the customer's names, and blaming nobody for ours."""

from proxy.core.ark.field_names import FieldNames, refused_field
from proxy.core.ark.refusal import Refusal, outage, read_refusal
from proxy.core.ark.text import read_error
from proxy.core.catalog import UNAVAILABLE_RETRY_AFTER_SECONDS
from proxy.core.errors import ModelUnavailableError
from proxy.core.settlement import Outcome


def creation_refusal(status: int, answer: object, names: FieldNames, *, upstream_model: str) -> Refusal:
    """Return what an answer that made nothing means.

    Args:
        status: the upstream's; of an error inside a 200, 200.
        answer: its body as parsed JSON; None where it was no JSON.
        names: of the endpoint's fields.
        upstream_model: its id upstream, which is cut from messages.
    """
    said = read_error(status, answer)
    if status == 409 or (status in (400, 422) and said is None):
        # Something in front of Ark, or two of the gateway's own calls at odds: nobody has judged what the customer sent.
        return outage(f"upstream {status} that judges no request")
    if said is not None and names.is_ours(said) and status in (200, 400, 422):
        error = ModelUnavailableError("The model is unavailable just now", retry_after_seconds=UNAVAILABLE_RETRY_AFTER_SECONDS)
        note = f"upstream {status} refused our field {refused_field(said)}"
        return Refusal(error, Outcome.UPSTREAM_ERROR, note, operator=True)
    told = {} if said is None else {"code": said.code, "message": names.told(said.message), "param": names.published_name(said.param)}
    return read_refusal(status, {"error": told}, upstream_model=upstream_model, messages=False)
