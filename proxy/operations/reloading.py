"""The operation that puts the configuration in force."""

from pathlib import Path
from typing import ClassVar

from proxy.config.changes import NotReloadedError
from proxy.operations.operation import Answer, Operation, Operator
from proxy.operations.parameters import PathText, check_path
from proxy.store.errors import StoreRefusedError


class Reload(Operation, frozen=True, kw_only=True):
    """Put the configuration in force as it is now, or with ``preview`` only show what that would change.

    ``file`` is read in place of the gateway's own, in a preview only.
    """

    name: ClassVar = "reload"
    preview: bool = False
    file: PathText | None = None

    def __post_init__(self) -> None:
        if self.file is not None:
            check_path("file", self.file)
            if not self.preview:
                raise ValueError("file: a gateway reloads its own file; another can only be previewed")

    @property
    def doubt(self) -> str:
        return "look at its log"

    async def run(self, operator: Operator) -> Answer:
        if operator.reloader is None:
            raise StoreRefusedError("no gateway runs here that could reload")
        candidate = None if self.file is None else Path(self.file)
        try:
            reloaded = await (operator.reloader.preview(candidate) if self.preview else operator.reloader.reload())
        except NotReloadedError as fault:
            prefix = "a reload would be refused" if self.preview else "not reloaded, nothing has changed"
            raise StoreRefusedError(f"{prefix}:\n{fault}") from None
        return reloaded.view()
