"""Refusals of images and videos: as `ark.refusal`, in the customer's field names. Fields of the gateway's are never their fault."""

from proxy.core.ark.field_names import FieldNames, refused_field
from proxy.core.ark.named_field import refused_path
from proxy.core.ark.refusal import Refusal, operators_fault, outage, read_refusal
from proxy.core.ark.text import ArkError, read_error


def creation_refusal(status: int, answer: object, names: FieldNames, *, upstream_model: str) -> Refusal:
    """Return the refusal for an answer that created nothing.

    Args:
        status: the upstream's status; 200 for an error inside a 200.
        answer: its body as parsed JSON; None if it was not JSON.
        names: names of the endpoint's fields.
        upstream_model: the model's id upstream, which is cut from messages.
    """
    said = read_error(status, answer)
    if status == 409 or (status in (400, 422) and said is None):
        # From a proxy in front of Ark, or a conflict between two calls of the gateway: nobody has judged what the customer sent.
        return outage(f"upstream {status} that judges no request")
    if said is not None and names.is_ours(said) and status in (200, 400, 422):
        return operators_fault(f"upstream {status} refused our field {refused_field(said)}")
    told = {} if said is None else _told(said, names)
    return read_refusal(status, {"error": told}, upstream_model=upstream_model, messages=False)


def _told(said: ArkError, names: FieldNames) -> dict[str, str | None]:
    """Return Ark's error in the customer's field names; the field is the one that its message names, if it has no `param`."""
    return {"code": said.code, "message": names.told(said.message), "param": names.published_name(refused_path(said))}
