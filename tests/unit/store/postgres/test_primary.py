"""Which of several hosts is written to: the primary of the newest timeline that was seen, and no older one ever again."""

import asyncio

import pytest

from proxy.store.postgres import primary
from proxy.store.postgres.primary import NotPrimaryError, Standing, Timelines, hosts_of, survey

CLUSTER, ANOTHER = 7, 8
STANDBY = Standing(is_standby=True, cluster=CLUSTER)


class Link:
    """A connection that remembers its end."""

    def __init__(self) -> None:
        self.is_ended = False

    def terminate(self) -> None:
        self.is_ended = True


def of(timeline: int, cluster: int = CLUSTER) -> Standing:
    return Standing(is_standby=False, cluster=cluster, timeline=timeline)


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://u@db/books", []),
        ("postgresql://u@/books?host=/run/a", []),
        ("postgresql://u@a,b:5433/books", [("a", 5432), ("b", 5433)]),
        ("postgresql://[::1]:5433,b/books?target_session_attrs=read-write", [("::1", 5433), ("b", 5432)]),
        ("postgresql://u@/books?host=/run/a,/run/b", [("/run/a", 5432), ("/run/b", 5432)]),
        ("postgresql://u@/books?host=a,b&port=1,2", [("a", 1), ("b", 2)]),
        ("postgresql://u@/books?host=a,b&port=9", [("a", 9), ("b", 9)]),
        ("postgresql://a,b/books?target_session_attrs=standby", []),
    ],
)
def test_the_hosts_of_a_url_are_known_where_several_are_asked_for_a_primary(url: str, hosts: list[tuple[str, int]]) -> None:
    assert hosts_of(url) == hosts


def test_an_older_timeline_than_was_seen_is_refused_and_its_connections_end() -> None:
    seen, old, new, other = Timelines(), Link(), Link(), Link()
    seen.accept(old, of(1), "a")
    seen.accept(other, of(1, ANOTHER), "c")
    seen.accept(new, of(2), "b")

    with pytest.raises(NotPrimaryError, match="a is a primary of old: its timeline is 1, and 2 has been seen"):
        seen.accept(Link(), of(1), "a")

    assert (old.is_ended, new.is_ended, other.is_ended) == (True, False, False)
    seen.accept(Link(), STANDBY, "a")  # which is only read from
    seen.accept(Link(), Standing(is_standby=False), "a platform that shows no timeline")


async def surveyed(servers: dict[str, Standing | Exception]) -> tuple[str, list[str]]:
    """Return which host is taken, and the connections to which were closed."""
    closed: list[str] = []

    async def connect(host: str, _: int) -> tuple[str, Standing]:
        its = servers[host]
        if isinstance(its, Exception):
            raise its
        if host.startswith("hangs"):
            await asyncio.Event().wait()
        return host, its

    async def close(connection: str) -> None:
        closed.append(connection)

    *_, host = await survey([(host, 1) for host in servers], connect, close, (OSError,))
    return host, sorted(closed)


async def test_the_primary_of_the_newest_timeline_is_taken_and_the_others_are_let_go() -> None:
    servers: dict[str, Standing | Exception] = {
        "old": of(1),
        "gone": OSError("refused"),
        "new": of(3),
        "standby": STANDBY,
        "older": of(2),
    }

    assert await surveyed(servers) == ("new", ["old", "older", "standby"])


async def test_a_host_that_does_not_answer_holds_up_a_primary_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(primary, "SURVEY_SECONDS", 0.05)

    async with asyncio.timeout(5):
        assert await surveyed({"hangs": of(9), "here": of(1)}) == ("here", [])


@pytest.mark.parametrize(
    ("servers", "said"),
    [
        ({"a": OSError("refused"), "b": STANDBY}, r"no host is a primary \(a: refused; b: a standby\)"),
        ({"a": TimeoutError(), "b": OSError()}, r"a: TimeoutError; b: OSError"),
        ({"a": of(1), "b": of(1, ANOTHER)}, "a and b are no copies of one another, and all take writes"),
    ],
)
async def test_where_no_host_may_be_written_to_each_is_told(servers: dict[str, Standing | Exception], said: str) -> None:
    with pytest.raises(NotPrimaryError, match=said):
        await surveyed(servers)
