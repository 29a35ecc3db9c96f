"""Operations on the gateways that share a store."""

from typing import Annotated, ClassVar

from msgspec import Meta

from proxy.operations import views
from proxy.operations.operation import Answer, Operation, Operator
from proxy.store.errors import StoreRefusedError

ALONE = "one gateway alone writes to a store in a file"


class NodesList(Operation, frozen=True, kw_only=True):
    """List the gateways that live, and the commands under way."""

    name: ClassVar = "nodes.list"

    async def run(self, operator: Operator) -> Answer:
        nodes = await operator.store.nodes()
        return {"shared": nodes is not None, "nodes": [views.node(node) for node in nodes or ()]}


class NodesDrain(Operation, frozen=True, kw_only=True):
    """Ask a gateway to end as by SIGTERM, and return once it has left."""

    name: ClassVar = "nodes.drain"
    changes: ClassVar = True
    id: Annotated[int, Meta(ge=1, le=2**63 - 1)]

    @property
    def doubt(self) -> str:
        return f"gateway {self.id} may have been asked, and then ends: `llm-proxy nodes` shows whether it drains"

    async def run(self, operator: Operator) -> Answer:
        if (peers := operator.store.peers) is None:
            raise StoreRefusedError(f"{ALONE}: stop it by SIGTERM, as `systemctl stop llm-proxy` does")
        if not await peers.dismiss(self.id):
            raise StoreRefusedError(
                f"gateway {self.id} did not leave: it died, and the others set it dead. They release what it left open"
            )
        return {"id": self.id, "left": True}
