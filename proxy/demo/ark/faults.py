"""Ark's errors by code, each with its status and the recorded message, or one like it.

Messages name the account, the model and the request, as the real ones do, so that tests notice a gateway that forwards them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from proxy.demo.ark.dialect import Account
from proxy.demo.ark.script import REQUEST_ID, Step, error

ACCOUNT = Account().number
MODEL = "doubao-seed-2-0-lite-260428"
CANARIES = (ACCOUNT, REQUEST_ID, "Request id", "AKLTcanary")
"""Texts that no customer may ever see; the messages below contain them."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Status and message of one error. `type` None: the usual type of the status."""

    status: int
    message: str
    param: str = ""
    type: str | None = None


_ABOUT_ACCOUNT = f"The request of account {ACCOUNT} (access key AKLTcanary) was refused:"

FAULTS: Mapping[str, Fault] = MappingProxyType(
    {
        "MissingParameter": Fault(400, "The request failed because it is missing `messages` parameter.", "messages"),
        "InvalidParameter": Fault(
            400, "The parameter `size` specified in the request is not valid: image size must be at least 3686400 pixels.", "size"
        ),
        "InvalidParameter.UnsupportedParameter": Fault(
            400, "the parameter service_tier specified in the request is not supported.", "service_tier"
        ),
        "InvalidArgumentError.UnknownRole": Fault(400, "Unknown role in messages.", "messages.role"),
        "InvalidImageURL.EmptyURL": Fault(400, "The image url is empty.", "messages"),
        "InvalidImageURL.InvalidFormat": Fault(400, "The image url has an invalid format.", "messages"),
        "OutofContextError": Fault(400, "Total tokens of image and text exceed max message tokens.", "messages"),
        "InvalidEndpoint.ClosedEndpoint": Fault(400, f"{_ABOUT_ACCOUNT} the endpoint ep-20260101-canary is closed.", "model"),
        "InputTextSensitiveContentDetected": Fault(400, "The request failed because the input text may contain sensitive information."),
        "InputImageSensitiveContentDetected.PrivacyInformation": Fault(
            400, "The request failed because the input image 'content[1]' may contain real person."
        ),
        "OutputTextSensitiveContentDetected": Fault(
            400, "The request failed because the output text may contain sensitive information."
        ),
        "OutputImageSensitiveContentDetected": Fault(
            400, "The request failed because the output image may contain sensitive information."
        ),
        "SensitiveContentDetected": Fault(400, "The request failed because the input may contain sensitive information."),
        "InputTextRiskDetection": Fault(400, "The request failed because the input text may be risky."),
        "ContentSecurityDetectionError": Fault(400, "The content security detection failed. Please try again later."),
        "InvalidSubscription": Fault(400, f"{_ABOUT_ACCOUNT} the subscription is invalid."),
        "AuthenticationError": Fault(401, "The API key or AK/SK in the request is missing or invalid."),
        "InvalidAccountStatus": Fault(401, f"{_ABOUT_ACCOUNT} the account status is invalid."),
        "AccountOverdueError": Fault(403, f"The request failed because your account {ACCOUNT} has an overdue balance."),
        "OperationDenied.ServiceOverdue": Fault(403, f"{_ABOUT_ACCOUNT} the service is overdue."),
        "OperationDenied.ServiceNotOpen": Fault(403, f"{_ABOUT_ACCOUNT} the service is not open."),
        "AccessDenied": Fault(403, f"{_ABOUT_ACCOUNT} access denied."),
        "InvalidEndpointOrModel.NotFound": Fault(404, f"The model or endpoint {MODEL} does not exist or you do not have access to it."),
        "InvalidEndpointOrModel.ModelIDAccessDisabled": Fault(404, f"{_ABOUT_ACCOUNT} model ids are disabled, use an endpoint id."),
        "ModelNotOpen": Fault(
            404,
            f"Your account {ACCOUNT} has not activated the model {MODEL}. Please activate the model service in the Ark Console.",
            type="Not Found",
        ),
        "UnsupportedModel": Fault(404, f"The model {MODEL} is not supported."),
        "ResourceNotFound": Fault(404, "The specified resource is not found."),
        "InvalidAction.RunningTaskDeletion": Fault(
            409, "Cannot delete task `cgt-20260119201255-2tnnx` because it is currently running."
        ),
        "RateLimitExceeded.EndpointRPMExceeded": Fault(429, "The Requests Per Minute (RPM) limit of the endpoint is exceeded."),
        "RateLimitExceeded.EndpointTPMExceeded": Fault(429, "The Tokens Per Minute (TPM) limit of the endpoint is exceeded."),
        "ModelAccountRpmRateLimitExceeded": Fault(429, f"The RPM limit of model {MODEL} for account {ACCOUNT} is exceeded."),
        "ModelAccountTpmRateLimitExceeded": Fault(429, f"The TPM limit of model {MODEL} for account {ACCOUNT} is exceeded."),
        "ModelAccountIpmRateLimitExceeded": Fault(429, f"The IPM limit of model {MODEL} for account {ACCOUNT} is exceeded."),
        "APIAccountRpmRateLimitExceeded": Fault(429, f"The RPM limit of the API for account {ACCOUNT} is exceeded."),
        "AccountRateLimitExceeded": Fault(429, "The request has exceeded the account rate limit. Please try again later."),
        "QuotaExceeded": Fault(429, f"Your account {ACCOUNT} has exhausted its free trial quota for the model {MODEL}."),
        "SetLimitExceeded": Fault(
            429, f"Your account {ACCOUNT} has reached the set inference limit for the {MODEL} model (Safe Experience Mode)."
        ),
        "InflightBatchsizeExceeded": Fault(429, "The in-flight batch size is exceeded."),
        "ServerOverloaded": Fault(429, "The service is currently unable to handle additional requests due to server overload."),
        "RequestBurstTooFast": Fault(429, "The request rate is growing too fast."),
        "InternalServiceError": Fault(500, "The service encountered an unexpected internal error."),
    }
)


def known_error(code: str, wrapped: bool = True, *, message: str | None = None) -> list[Step]:
    """Return the answer for one of Ark's codes; `message` replaces the recorded one.

    Raises:
        KeyError: no such code in `FAULTS`.
    """
    fault = FAULTS[code]
    return error(fault.status, code, message or fault.message, wrapped, param=fault.param, type=fault.type)
