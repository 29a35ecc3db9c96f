"""``GET /models``, ``/models/public`` and ``/models/{id}``: from the configuration, never from upstream."""

from typing import Any

from proxy.core.catalog import Model, find_model
from proxy.edge.context import Context
from proxy.edge.response import Response
from proxy.live.settings import Live


class ModelHandlers:
    def __init__(self, live: Live) -> None:
        self._live = live

    async def list(self, context: Context) -> Response:
        models = [shown(model) for model in self._live.now.catalog.values() if model.enabled]
        return context.json({"object": "list", "data": models})

    async def retrieve(self, context: Context) -> Response:
        return context.json(shown(find_model(self._live.now.catalog, context.tail)))


def shown(model: Model) -> dict[str, Any]:
    """Return a model as published: ``{"id", "object", "created", "owned_by", "description"}``."""
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": model.owned_by,
        "description": model.description,
    }
