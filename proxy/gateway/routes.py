"""The tables of public and operator routes."""

from collections.abc import Mapping
from types import MappingProxyType

from proxy.edge.body import BodyReader
from proxy.edge.context import Context
from proxy.edge.response import Response
from proxy.edge.router import Route
from proxy.handlers.account import AccountHandlers
from proxy.handlers.admin import AdminHandlers
from proxy.handlers.chat import ChatHandlers
from proxy.handlers.images import ImageHandlers
from proxy.handlers.models import ModelHandlers
from proxy.handlers.ops import OpsHandlers
from proxy.handlers.reference import ReferenceHandlers
from proxy.handlers.videos import VideoHandlers

PREFIXES = ("/api/v1", "/v1")

_CHAT = f"text is answered by POST {PREFIXES[0]}/chat/completions"
_PICTURES = f"pictures are made by POST {PREFIXES[0]}/images/generations"
_VIDEOS = f"videos are made by POST {PREFIXES[0]}/videos/generations"
_READ = f"read by GET {PREFIXES[0]}/videos/tasks/{{id}}"
_SOLD = f"what there is, GET {PREFIXES[0]}/models/public lists"
ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        "/completions": _CHAT,
        "/responses": _CHAT,
        "/messages": _CHAT,
        "/complete": _CHAT,
        "/assistants": _CHAT,
        "/threads": _CHAT,
        "/conversations": _CHAT,
        "/engines": _SOLD,
        "/embeddings": _SOLD,
        "/rerank": _SOLD,
        "/moderations": _SOLD,
        "/audio": _SOLD,
        "/realtime": _SOLD,
        "/images/edits": _PICTURES,
        "/images/variations": _PICTURES,
        "/videos": f"{_VIDEOS} and {_READ}",
        "/contents/generations/tasks": f"{_VIDEOS} and {_READ}",
        "/files": f"pictures and files go within the request itself; {_SOLD}",
        "/uploads": f"pictures and files go within the request itself; {_SOLD}",
        "/batches": f"each request is sent by itself; {_CHAT}",
        "/fine_tuning": _SOLD,
        "/vector_stores": _SOLD,
        "/dashboard/billing": f"what is left is told by GET {PREFIXES[0]}/account",
        "/user": f"what is left is told by GET {PREFIXES[0]}/account",
    }
)
"""Paths that clients of other APIs try, and what there is instead."""


def public_routes(
    *, chat: ChatHandlers, images: ImageHandlers, videos: VideoHandlers, models: ModelHandlers, account: AccountHandlers
) -> list[Route]:
    """Return the customers' routes, each under every one of `PREFIXES`."""
    return [
        Route("POST", "/chat/completions", chat.create),
        Route("POST", "/images/generations", images.create),
        Route("POST", "/videos/generations", videos.create, hint=f"a video is {_READ}"),
        Route("GET", "/videos/tasks", videos.list, hint=_VIDEOS),
        Route("GET", "/videos/tasks/{id}", videos.retrieve),
        Route("DELETE", "/videos/tasks/{id}", videos.cancel),
        Route("GET", "/models", models.list),
        Route("GET", "/models/public", models.list, needs_key=False),
        Route("GET", "/models/{id}", models.retrieve),
        Route("GET", "/account", account.account),
        Route("GET", "/usage/{id}", account.usage),
    ]


def probe_routes(ops: OpsHandlers) -> list[Route]:
    """Return the load balancers' routes, at the root and under every prefix, without a key."""
    return [Route("GET", "/healthz", ops.healthz, needs_key=False), Route("GET", "/readyz", ops.readyz, needs_key=False)]


def reference_routes(reference: ReferenceHandlers) -> list[Route]:
    """Return the routes by which the API describes itself, at the root and under every prefix, without a key."""
    return [
        Route("GET", "/openapi.json", reference.document, needs_key=False),
        Route("GET", "/docs", reference.page, needs_key=False),
        Route("GET", "/docs/{id}", reference.file, needs_key=False),
    ]


def metrics_routes(ops: OpsHandlers) -> list[Route]:
    """Return the scraper's route; the metrics listener has no other."""
    return [Route("GET", "/metrics", ops.metrics, needs_key=False)]


def admin_routes(ops: OpsHandlers, admin: AdminHandlers, bodies: BodyReader) -> list[Route]:
    """Return the routes of the admin socket; whoever can open it is the operator."""

    async def operate(context: Context) -> Response:
        status, answer = await admin.operate(context.tail, bytes(await bodies.read(context.request)))
        return context.json(answer, status)

    return [
        *probe_routes(ops),
        *metrics_routes(ops),
        Route("POST", "/operations/{id}", operate, needs_key=False),
    ]
