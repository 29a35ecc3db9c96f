"""Checks of the database server that gateways share: its durability, its clock, this role's rights, and who is connected.

`judge` is pure: it turns the facts of one look (`proxy.store.inspect`) into findings.
"""

from collections.abc import Iterator

from proxy.clock import Clock
from proxy.config import Config
from proxy.config.digest import digest
from proxy.doctor import process
from proxy.doctor.finding import Finding, failed, ok, warning
from proxy.store import inspect
from proxy.store.errors import StoreRefusedError, StoreVersionError
from proxy.store.server_facts import CLOCK_SECONDS_COMFORT, CLOCK_SECONDS_MAX, ServerFacts

CONNECTIONS_OF_A_GATEWAY = 7
"""Its writer, its beat, four for reads, and one for a long read."""
ROUND_TRIP_SECONDS_COMFORT = 0.005
_WEAK_COMMITS = {
    "off": "an acknowledged payment can be lost when the server falls",
    "local": "an acknowledged payment is on one disk only, whatever standbys there are",
    "remote_write": "an acknowledged payment can be lost when server and standby fall together",
}


async def database(config: Config, clock: Clock) -> list[Finding]:
    """Return what is found of the server that keeps the store."""
    try:
        facts = await inspect(config.store.url, config.store.password.reveal(), clock.now_ms)
    except StoreVersionError as error:
        return [failed("schema", str(error), "run the newest version that any of the gateways runs")]
    except StoreRefusedError as error:
        return [failed("database", str(error), "look at store.url, store.password and the server")]
    found = list(judge(facts, digest(config)))
    is_readable = facts.schema.version >= facts.schema.known and not facts.lacking
    return [*found, await process.store(config.store)] if is_readable else found


def judge(facts: ServerFacts, own_digest: str) -> Iterator[Finding]:
    """Yield the findings, good and bad."""
    yield _server(facts)
    if not facts.is_supported:
        return
    yield _round_trip(facts)
    yield from _durability(facts)
    yield _connections(facts)
    if facts.is_pooled:
        yield ok("pooler", "one stands before the server: keys changed elsewhere are heard of within a second, not at once")
    yield _clock(facts)
    yield _schema(facts)
    yield from _rights(facts)
    yield from _gateways(facts, own_digest)


def _server(facts: ServerFacts) -> Finding:
    says = f"PostgreSQL {facts.version}, {facts.name}"
    if not facts.is_supported:
        return failed("database", says, f"this program needs PostgreSQL {facts.version_min} or newer")
    if facts.is_standby:
        advice = "name the primary, or all servers with ?target_session_attrs=read-write"
        return failed("database", f"{says}: a standby, which takes no writes", advice)
    return ok("database", says)


def _round_trip(facts: ServerFacts) -> Finding:
    says = f"an answer takes {facts.round_trip_seconds * 1000:.1f} ms"
    if facts.round_trip_seconds > ROUND_TRIP_SECONDS_COMFORT:
        return warning("database latency", says, "each paid call waits for one, and for the commit: put the gateways near the database")
    return ok("database latency", says)


def _durability(facts: ServerFacts) -> Iterator[Finding]:
    """Check that what the server acknowledges outlives its fall, and a failover to whatever standby is connected."""
    settings = facts.settings
    off = [name for name in ("fsync", "full_page_writes") if settings[name] == "off"]
    if off:
        yield failed("durability", f"{' and '.join(off)} = off: a fall of the machine can damage the books", f"set {off[0]} = on")
    commit = settings["synchronous_commit"]
    if commit in _WEAK_COMMITS:
        where = "ALTER ROLE … RESET synchronous_commit, ALTER DATABASE … RESET synchronous_commit, or postgresql.conf"
        yield failed("durability", f"synchronous_commit = {commit}: {_WEAK_COMMITS[commit]}", f"set it to on ({where})")
    elif not off:
        yield ok("durability", f"fsync = on, synchronous_commit = {commit}")
    names = settings["synchronous_standby_names"]
    if facts.standbys and not names:
        yield failed(
            "standby",
            f"{_many(facts.standbys, 'standby', 'standbys')} connected and synchronous_standby_names is empty: "
            "a failover loses payments that were acknowledged",
            "set synchronous_standby_names = 'ANY 1 (*)', or never promote one",
        )
    elif names and not facts.standbys:
        yield warning("standby", f"none is connected, and synchronous_standby_names = '{names}' waits for one", "start the standby")
    else:
        yield ok("standby", f"{facts.standbys} connected, synchronous_standby_names = '{names}'" if names else "none is connected")


def _connections(facts: ServerFacts) -> Finding:
    most = int(facts.settings["max_connections"])
    says = f"{facts.connections} of {most} are open; a gateway takes {CONNECTIONS_OF_A_GATEWAY}"
    if not facts.is_pooled and most - facts.connections < CONNECTIONS_OF_A_GATEWAY:
        return warning("connections", says, "raise max_connections, or put a pooler in transaction mode before the server")
    return ok("connections", says)


def _clock(facts: ServerFacts) -> Finding:
    says = f"the database's is {facts.clock} this machine's"
    advice = "synchronise both (timedatectl, chronyc): due times and the days of limits are read by every gateway"
    if facts.clock.surely_seconds > CLOCK_SECONDS_MAX:
        return failed("database clock", f"{says}: a gateway does not start here", advice)
    if facts.clock.surely_seconds > CLOCK_SECONDS_COMFORT:
        return warning("database clock", says, advice)
    return ok("database clock", "agrees with this machine's")


def _schema(facts: ServerFacts) -> Finding:
    version, known = facts.schema.version, facts.schema.known
    if not version:
        return ok("schema", "the database is empty; the first start makes it")
    if version < known:
        return warning("schema", f"version {version}; the next start brings it to {known}", "take a backup before")
    if version > known:
        return warning("schema", f"version {version}, made by a newer program; this one knows up to {known}", "update this program")
    return ok("schema", f"version {version}")


def _rights(facts: ServerFacts) -> Iterator[Finding]:
    if facts.lacking:
        shown = ", ".join(facts.lacking[:5]) + (f" and {len(facts.lacking) - 5} more" if len(facts.lacking) > 5 else "")
        yield failed("privileges", f"{facts.role} has not: {shown}", "grant them, or make this role the owner of the database")
    elif facts.is_superuser:
        advice = "give the gateways a role of their own, which owns this database and nothing else"
        yield warning("privileges", f"{facts.role} is a superuser, who may do anything to every database there", advice)
    elif not facts.may_migrate and not facts.schema.version:
        advice = "make it the owner of the database, or start the gateway once as the owner"
        yield failed("privileges", f"{facts.role} may not make the tables", advice)
    elif not facts.may_migrate:
        says = f"{facts.role} reads and writes, and may not change the schema, as the first start of a newer version does"
        yield warning("privileges", says, "start that one once as the owner of the tables")
    else:
        yield ok("privileges", f"{facts.role} reads, writes, and brings the schema up to date")


def _gateways(facts: ServerFacts, own_digest: str) -> Iterator[Finding]:
    serving = [node for node in facts.nodes if node.serves]
    for node in serving:
        if node.is_still:
            says = f"{node.id} ({node.name}) lives, and its beat stands still for {node.silent_seconds:.0f} s"
            advice = "others set it dead within 26 s and release what it left; where it is alone, the next start does"
            yield warning("gateways", says, advice)
    yield ok("gateways", "none lives" if not serving else f"{_lives(len(serving))}: llm-proxy nodes")
    told = {node.introduction.settings for node in serving if node.introduction.settings}
    if len(told) > 1:
        each = ", ".join(f"{node.id}: {node.introduction.settings}" for node in serving)
        yield warning("configurations", f"gateways differ ({each})", "bring the files to one state and reload each gateway")
    elif told and told != {own_digest}:
        advice = "reload them, or mend this file: llm-proxy check-config --diff"
        yield warning("configurations", f"all gateways have {min(told)}, this file is {own_digest}", advice)
    elif told:
        yield ok("configurations", "all gateways have this one")


def _lives(number: int) -> str:
    return "1 lives" if number == 1 else f"{number} live"


def _many(number: int, one: str, many: str) -> str:
    return f"1 {one} is" if number == 1 else f"{number} {many} are"
