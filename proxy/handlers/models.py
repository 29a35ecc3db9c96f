"""``GET /models``, ``/models/public`` and ``/models/{id}``: from the configuration, never from upstream."""

from typing import Any

from proxy.core.catalog import Catalog, Model, find_model
from proxy.edge.context import Context
from proxy.edge.response import Response


class ModelHandlers:
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._list = {"object": "list", "data": [shown(model) for model in catalog.values() if model.enabled]}

    async def list(self, context: Context) -> Response:
        return context.json(self._list)

    async def retrieve(self, context: Context) -> Response:
        return context.json(shown(find_model(self._catalog, context.tail)))


def shown(model: Model) -> dict[str, Any]:
    """Return a model as published: ``{"id", "object", "created", "owned_by", "description"}``."""
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": model.owned_by,
        "description": model.description,
    }
