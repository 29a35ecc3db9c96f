"""Answers to probes and scrapers: ``/healthz``, ``/readyz``, and on the operator's listeners ``/metrics``."""

import logging
from collections.abc import Callable

from proxy.core.credential import refuse_foreign_page
from proxy.edge.context import Context
from proxy.edge.response import Response
from proxy.store.contract import Engine
from proxy.store.errors import StoreError
from proxy.telemetry.collectors import OpenBusiness
from proxy.telemetry.metrics import CONTENT_TYPE, Metrics

logger = logging.getLogger(__name__)


class OpsHandlers:
    def __init__(self, engine: Engine, metrics: Metrics, open_business: OpenBusiness, draining: Callable[[], bool]) -> None:
        self._engine = engine
        self._metrics = metrics
        self._open_business = open_business
        self._draining = draining

    async def healthz(self, context: Context) -> Response:
        """Answer that the process is alive."""
        return context.json({"status": "ok"})

    async def readyz(self, context: Context) -> Response:
        """Answer 200 if a paid request could be taken now: the store answers, can write, and no drain has begun; else 503."""
        if self._draining():
            return context.json({"status": "draining"}, status=503)
        try:
            await self._engine.ping()
        except StoreError as fault:
            logger.error("the store does not answer: %s", fault)  # noqa: TRY400
            return context.json({"status": "store unavailable"}, status=503)
        return context.json({"status": "ready"})

    async def metrics(self, context: Context) -> Response:
        """Answer with all metrics. A web page of another machine is refused: it would read the turnover."""
        headers = context.request.headers
        refuse_foreign_page(headers.get("Origin"), headers.get("Host") if context.connection.is_loopback else None)
        await self._open_business.look()
        return context.answer(self._metrics.render(), content_type=CONTENT_TYPE)
