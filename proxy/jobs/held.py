"""Jobs that one gateway does for all that share a store: whoever takes a job first has it until its death."""

from collections.abc import Awaitable, Callable

from proxy.store.peers import Peers

Job = Callable[[], Awaitable[None]]


def held(peers: Peers | None, name: str, job: Job) -> Job:
    """Return a job that does nothing where another gateway has it; the same one where there are no peers.

    It may run twice at a time all the same, for a moment, where its holder was set dead: so each is safe to.
    """
    if peers is None:
        return job

    async def run() -> None:
        if await peers.take_job(name):
            await job()

    return run
