"""The default behaviour, for calls without a script: authentication, routes, errors, and the three families of models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from proxy.clock import Clock
from proxy.demo.ark.call import Call
from proxy.demo.ark.chat import Chat
from proxy.demo.ark.dialect import Account, ArkError, Ids, render_error
from proxy.demo.ark.images import Images
from proxy.demo.ark.media import serve_file
from proxy.demo.ark.reply import refuse
from proxy.demo.ark.script import Step
from proxy.demo.ark.videos import Timeline, Videos

TASKS = "/contents/generations/tasks"


@dataclass(frozen=True, slots=True)
class Settings:
    """The configuration of this Ark.

    Attributes:
        timeline: seconds that a video task is queued and runs, by the clock; None: it stays queued until `videos.advance()`.
        enforces_rates: answer 429 above 20/s for GET of a task, 1/s for LIST, 20/s for DELETE. Refused calls are recorded too.
        wraps_errors: False answers with the unwrapped form that was recorded on images.
        links: "ark": dead links that look like Ark's presigned ones; "local": links to this stand-in, which serves a picture or a
            placeholder.
        seed: makes ids and seeds repeatable.
    """

    account: Account = field(default_factory=Account)
    timeline: Timeline | None = None
    enforces_rates: bool = False
    wraps_errors: bool = True
    links: Literal["ark", "local"] = "ark"
    seed: int | None = None


class Behaviour:
    """Returns the default script of any call. Calling `answer` does the work, such as making a task."""

    def __init__(self, settings: Settings, clock: Clock, origin: Callable[[], str]) -> None:
        self._settings = settings
        self.ids = Ids(clock, settings.seed)
        links_origin = origin if settings.links == "local" else None
        self.chat = Chat(settings.account, clock)
        self.images = Images(settings.account, clock, links_origin)
        self.videos = Videos(settings.account, clock, self.ids, links_origin, settings.timeline, settings.enforces_rates)

    def answer(self, call: Call) -> Sequence[Step]:
        try:
            if call.path.startswith("/files/") and self._settings.links == "local":
                return serve_file(call)
            self._settings.account.authenticate(call.headers.get("authorization"))
            return self._route(call)
        except ArkError as fault:
            body = render_error(fault, call.request_id, wrapped=self._settings.wraps_errors)
            return refuse(call, fault, body)

    def _route(self, call: Call) -> Sequence[Step]:
        match call.method, call.path:
            case "POST", "/chat/completions":
                return self.chat.answer(call)
            case "POST", "/images/generations":
                return self.images.answer(call)
            case "GET", path if path == TASKS:
                return self.videos.list(call)
            case "GET", path if path.startswith(TASKS + "/"):
                return self.videos.get(call, path.removeprefix(TASKS + "/"))
            case "DELETE", path if path.startswith(TASKS + "/"):
                return self.videos.delete(call, path.removeprefix(TASKS + "/"))
            case "POST", path if path == TASKS or path.startswith(TASKS + "/"):
                return self.videos.create(call)  # Ark has no /cancel: any POST below the tasks creates a task
        raise ArkError(404, "ResourceNotFound", "The specified resource is not found.")
