"""``GET /models``, ``/models/public`` and ``/models/{id}``: from the configuration, never from upstream."""

from proxy.core.catalog import find_model
from proxy.core.listing import listed
from proxy.edge.context import Context
from proxy.edge.response import Response
from proxy.live.settings import Live


class ModelHandlers:
    def __init__(self, live: Live) -> None:
        self._live = live

    async def list(self, context: Context) -> Response:
        """Answer with the models that the key may use."""
        bounds = context.bounds
        models = [
            listed(model) for model in self._live.now.catalog.values() if model.enabled and (bounds is None or bounds.allows(model.id))
        ]
        return context.json({"object": "list", "data": models})

    async def retrieve(self, context: Context) -> Response:
        return context.json(listed(find_model(self._live.now.catalog, context.tail, bounds=context.bounds)))
