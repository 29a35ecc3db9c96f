"""Ark's ids, response heads, errors, and the checks of keys and models. The sources are in the reference of the upstream's API."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http import HTTPStatus
from typing import Literal

import orjson

from proxy.clock import Clock

BEIJING = timezone(timedelta(hours=8))
_TASK_LETTERS = "bcdfghjklmnpqrstvwxz2456789"

Kind = Literal["chat", "image", "video"]

_TYPES = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    429: "TooManyRequests",
    500: "InternalServerError",
}


class ArkError(Exception):
    """A refusal by Ark. `bare`: only a code and a message, without param, type and request id, as DELETE answers."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str = "",
        type: str | None = None,  # noqa: A002 -- Ark's own name of the field
        *,
        bare: bool = False,
        error_code_header: str | None = None,
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.type = _TYPES.get(status, "InternalServerError") if type is None else type
        self.bare = bare
        self.error_code_header = error_code_header or code


def render_error(fault: ArkError, request_id: str, *, wrapped: bool = True) -> bytes:
    """Return the body. The unwrapped form, recorded on images, has its fields at the top level, with param and type empty."""
    fields = {"code": fault.code, "message": fault.message}
    if not fault.bare:
        fields["message"] += f" Request id: {request_id}"
        fields |= {"param": fault.param, "type": fault.type} if wrapped else {"param": "", "type": ""}
    return orjson.dumps({"error": fields} if wrapped else fields)


def head(status: int, headers: Iterable[tuple[str, str]]) -> bytes:
    """Return a status line, the headers and the empty line."""
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Unknown"
    lines = [f"HTTP/1.1 {status} {reason}", *[f"{name}: {value}" for name, value in headers], "", ""]
    return "\r\n".join(lines).encode("latin-1")


class Ids:
    """Ids in Ark's formats. With a seed and a fixed clock they repeat."""

    __slots__ = ("_clock", "_random")

    def __init__(self, clock: Clock, seed: int | None = None) -> None:
        self._clock = clock
        self._random = random.Random(seed)

    def request_id(self) -> str:
        """Return ``02``, unix milliseconds and 24 hex digits: 39 characters."""
        return f"02{self._clock.now_ms():013d}{self._random.getrandbits(96):024x}"

    def client_request_id(self, request_id: str) -> str:
        """Return the id that Ark uses when the client sent none of its own."""
        return f"unknown-{self._beijing_second()}-{request_id[-20:]}"

    def task_id(self) -> str:
        """Return ``cgt-YYYYMMDDHHMMSS-xxxxx``, in Beijing time."""
        return f"cgt-{self._beijing_second()}-{''.join(self._random.choices(_TASK_LETTERS, k=5))}"

    def seed(self) -> int:
        """Return the seed of a video whose request named none."""
        return self._random.randrange(100_000)

    def _beijing_second(self) -> str:
        return f"{datetime.fromtimestamp(self._clock.now_ms() // 1000, BEIJING):%Y%m%d%H%M%S}"


@dataclass(frozen=True, slots=True)
class Account:
    """The operator's account at Ark.

    Attributes:
        number: part of several messages; no customer may ever see it.
        keys: the accepted keys; None: any bearer token.
        models: ids of models and endpoints that exist; None: any, even family names, which Ark itself refuses.
        endpoints: the model of each ``ep-…``.
        closed: models that exist but were not activated: 404 `ModelNotOpen`.
    """

    number: str = "2100987654"
    keys: frozenset[str] | None = None
    models: frozenset[str] | None = None
    endpoints: Mapping[str, str] = field(default_factory=dict)
    closed: frozenset[str] = frozenset()

    def authenticate(self, authorization: str | None) -> None:
        """Check a credential. Raises: ArkError: 401, in the variants that were recorded."""
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise ArkError(
                401,
                "AuthenticationError",
                "The API key or AK/SK in the request is missing or invalid.",
                error_code_header="AuthN_MissOrInvalidAuthorizationHeader",
            )
        if self.keys is not None and key.strip() not in self.keys:
            raise ArkError(401, "AuthenticationError", "The API key doesn't exist.")

    def model(self, asked: object, kind: Kind) -> str:
        """Return the real id of the requested model.

        Raises:
            ArkError: 400 if it is missing or of another kind, 404 if it does not exist or is not open.
        """
        if not isinstance(asked, str) or not asked:
            raise missing("model")
        if self.models is not None and asked not in self.models and asked not in self.endpoints:
            raise ArkError(
                404,
                "InvalidEndpointOrModel.NotFound",
                f"The model or endpoint {asked} does not exist or you do not have access to it.",
            )
        if asked in self.closed:
            message = (
                f"Your account {self.number} has not activated the model {asked}. Please activate the model service in the Ark Console."
            )
            raise ArkError(404, "ModelNotOpen", message, type="Not Found")
        real = self.endpoints.get(asked, asked)
        if kind_of(real) not in (kind, None):
            raise _wrong_kind(real, kind)
        return real


def kind_of(model: str) -> Kind | None:
    """Return what a model makes, judged by its name; None for an endpoint, whose model is unknown."""
    if model.startswith("ep-"):
        return None
    if "seedance" in model:
        return "video"
    return "image" if "seedream" in model or "seededit" in model else "chat"


def missing(name: str) -> ArkError:
    return ArkError(400, "MissingParameter", f"The request failed because it is missing `{name}` parameter.", name)


def invalid(name: str, reason: str, code: str = "InvalidParameter") -> ArkError:
    return ArkError(400, code, f"The parameter `{name}` specified in the request is not valid: {reason}.", name)


def _wrong_kind(model: str, kind: Kind) -> ArkError:
    said = {
        "chat": f"the requested model {model} does not support this api",
        "image": f"the specified model {model} does not support image generation",
        "video": f"the specified model {model} does not support content generation",
    }[kind]
    return ArkError(400, "InvalidParameter", f"The parameter model specified in the request is not valid: {said}.", "model")
