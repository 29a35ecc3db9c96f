"""`doctor`: common faults of an installation; each must be named, with advice."""

import asyncio
import errno
import resource
import socket
from collections.abc import Sequence
from email.utils import formatdate
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from proxy import cli
from proxy.clock import SystemClock
from proxy.core.money import Nanos
from proxy.demo.ark import TASKS, Hang, Reset, Send, StandIn, Step, answer_json, error, known_error
from proxy.doctor import files, process, upstream
from proxy.doctor.examination import examine
from proxy.doctor.finding import Finding
from proxy.store.sqlite import open_store
from tests.support.connect_proxy import Behaviour, connect_proxy, saying, silent
from tests.support.gateway import CANARY_KEY, CONFIG, DEFAULTS
from tests.support.origin import Peer, serve
from tests.support.scraping import SCRAPED

ENV = {"ARK_API_KEY": CANARY_KEY}


def write_config(directory: Path, base_url: str, *, listen: str = "127.0.0.1:0", key: str = "env:ARK_API_KEY", admin: str = "") -> Path:
    text = (
        CONFIG.format(**{**DEFAULTS, "base_url": base_url, "admin": admin})
        .replace("127.0.0.1:0", listen)
        .replace("env:ARK_API_KEY", key)
    )
    path = directory / "config.toml"
    path.write_text(text)
    return path


async def with_store(directory: Path) -> Path:
    store = await open_store(directory / "gateway.db")
    await store.create_account("acme", Nanos(5), 0)
    await store.close()
    return directory / "gateway.db"


async def found(directory: Path, base_url: str = "http://127.0.0.1:9/api/v3", **config: str) -> list[Finding]:
    return await examine(write_config(directory, base_url, **config), ENV, SystemClock())


def of(findings: Sequence[Finding], check: str) -> Finding:
    """Return the worst finding of one check."""
    severity = ["ok", "warning", "failed"]
    return max((finding for finding in findings if finding.check == check), key=lambda finding: severity.index(finding.state))


def date_in(seconds: int) -> str:
    return formatdate(SystemClock().now_ms() / 1000 + seconds, usegmt=True)


def not_found(**headers: str) -> list[Step]:
    return error(404, "ResourceNotFound", "The specified resource is not found.", headers=headers)


async def test_a_sound_installation_passes_and_nothing_is_spent_or_told(tmp_path: Path) -> None:
    before = (await with_store(tmp_path)).read_bytes()

    async with StandIn() as ark:
        ark.enqueue(lambda _: not_found(date=date_in(0)), f"{TASKS}/*")
        findings = await found(tmp_path, ark.base_url)

    assert [(finding.check, finding.says) for finding in findings if finding.state == "failed"] == []
    assert of(findings, "upstream ark").says == "reached, and it takes the key (nothing was spent)"
    assert of(findings, "clock").state == "ok"
    assert [(call.method, call.path) for call in ark.calls] == [("GET", f"{TASKS}/{upstream.FAKE_TASK}")]
    assert CANARY_KEY not in repr(findings)
    assert (tmp_path / "gateway.db").read_bytes() == before


async def test_the_stand_in_itself_takes_the_question_as_ark_does(tmp_path: Path) -> None:
    async with StandIn() as ark:
        with_a_key = await found(tmp_path, ark.base_url)
        ark.enqueue(known_error("AuthenticationError"), f"{TASKS}/*")
        with_a_bad_one = await found(tmp_path, ark.base_url)

    assert (of(with_a_key, "upstream ark").state, of(with_a_bad_one, "upstream ark").state) == ("ok", "failed")


UPSTREAMS: dict[str, tuple[list[Step], str, str, str]] = {
    # the upstream's script, the state, the message, the advice
    "a bad key": (known_error("AuthenticationError"), "failed", "does not take the key (401)", "api_key"),
    "overdue": (known_error("AccountOverdueError"), "failed", "refuses the account (403)", "console"),
    "busy": (known_error("RequestBurstTooFast"), "warning", "busy or broken just now (429)", "again in a minute"),
    "broken": (known_error("InternalServiceError"), "warning", "busy or broken just now (500)", "again in a minute"),
    "another service": (answer_json(200, b'{"hello":1}'), "warning", "answers 200, which Ark does not", "is that Ark?"),
    "no HTTP": ([Send(b"SSH-2.0-OpenSSH_9.6\r\n"), Reset()], "failed", "answers nothing that is HTTP", "is that Ark?"),
    "reset": ([Reset()], "failed", "answers nothing that is HTTP", "is that Ark?"),
    "silence": ([Hang()], "failed", "no answer in ", "firewall"),
}


@pytest.mark.parametrize(("script", "state", "says", "advice"), UPSTREAMS.values(), ids=UPSTREAMS.keys())
async def test_an_upstream_that_does_not_work_is_told_by_what_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: list[Step], state: str, says: str, advice: str
) -> None:
    monkeypatch.setattr(upstream, "ANSWER_SECONDS", -1.5)  # leaves half a second of the two that connecting may take
    async with StandIn() as ark:
        ark.enqueue(script, f"{TASKS}/*", times=None)
        finding = of(await found(tmp_path, ark.base_url), "upstream ark")

    assert (finding.state, says in finding.says, advice in finding.advice) == (state, True, True), finding


@pytest.mark.parametrize(
    ("base_url", "says"),
    [
        ("https://no-such-host.invalid/api/v3", "the name no-such-host.invalid does not resolve"),
        ("http://127.0.0.1:9/api/v3", "cannot be reached: "),
    ],
)
async def test_an_upstream_that_is_not_reached_is_told_by_where_it_stops(tmp_path: Path, base_url: str, says: str) -> None:
    finding = of(await found(tmp_path, base_url), "upstream ark")

    assert (finding.state, finding.says[: len(says)]) == ("failed", says)


PROXIES: dict[str, tuple[Behaviour | None, str, str]] = {
    # what the proxy does, the state, the message
    "a tunnel": (None, "ok", "reached, and it takes the key"),
    "407": (saying(b"HTTP/1.1 407 No\r\n\r\n"), "failed", "wants a credential, and there is no proxy_auth (407)"),
    "502": (saying(b"HTTP/1.1 502 No\r\n\r\n"), "failed", "refuses to reach the upstream, or cannot (502)"),
    "closes": (saying(), "failed", "closed the connection"),
    "silence": (silent, "failed", "no connection in 2 s"),
}


@pytest.mark.parametrize(("behaviour", "state", "says"), PROXIES.values(), ids=PROXIES.keys())
async def test_an_upstream_is_looked_at_through_its_proxy(tmp_path: Path, behaviour: Behaviour | None, state: str, says: str) -> None:
    async with StandIn() as ark, connect_proxy(behaviour) as proxy:
        path = write_config(tmp_path, ark.base_url)
        path.write_text(path.read_text().replace('api_key = "env:ARK', f'proxy = "{proxy.url}"\napi_key = "env:ARK'))
        findings = await examine(path, ENV | {"HTTPS_PROXY": "http://elsewhere:1"}, SystemClock())

    finding = of(findings, "upstream ark")
    assert (finding.state, says in finding.says) == (state, True), finding
    assert state == "ok" or "proxy" in finding.advice
    assert len(proxy.heads) == 1


async def test_a_proxy_of_the_environment_that_is_not_obeyed_is_mentioned(tmp_path: Path) -> None:
    async with StandIn() as ark:
        path = write_config(tmp_path, ark.base_url)
        findings = await examine(path, ENV | {"HTTPS_PROXY": "http://user:canary@elsewhere:1"}, SystemClock())

    assert of(findings, "upstream ark").says == "$HTTPS_PROXY is set, and is not obeyed"
    assert "canary" not in repr(findings)


async def test_tls_that_is_none_is_told_apart(tmp_path: Path) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serve(refuse) as origin:
        finding = of(await found(tmp_path, origin.base_url.replace("http://", "https://")), "upstream ark")

    assert finding.state == "failed"
    assert finding.says.startswith("TLS fails: ")
    assert "clock and certificates" in finding.advice


@pytest.mark.parametrize(
    ("off_seconds", "state", "says"),
    [
        (2, "ok", "agrees"),
        (-60, "warning", "ahead of"),
        (60, "warning", "behind"),
        (3600, "failed", "behind"),
        (-86_400, "failed", "ahead of"),
    ],
)
async def test_the_clock_is_compared_with_the_upstreams(tmp_path: Path, off_seconds: int, state: str, says: str) -> None:
    async with StandIn() as ark:
        ark.enqueue(lambda _: not_found(date=date_in(off_seconds)), f"{TASKS}/*")
        finding = of(await found(tmp_path, ark.base_url), "clock")

    assert (finding.state, says in finding.says) == (state, True), finding
    assert finding.state == "ok" or "NTP" in finding.advice


async def test_a_key_that_is_missing_is_told_and_the_rest_is_looked_at_all_the_same(tmp_path: Path) -> None:
    findings = await examine(write_config(tmp_path, "http://127.0.0.1:9/api/v3"), {}, SystemClock())

    assert "ARK_API_KEY is not set" in of(findings, "configuration").says
    assert of(findings, "upstream ark").state == "warning"
    assert of(findings, "disk space").state != "failed"


async def test_of_a_configuration_that_says_nothing_only_that_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("listen = [")

    findings = await examine(tmp_path / "config.toml", ENV, SystemClock())

    assert [(finding.check, finding.state) for finding in findings] == [("configuration", "failed")]


async def test_a_key_file_that_others_may_read_is_told_with_the_command(tmp_path: Path) -> None:
    (tmp_path / "ark.key").write_text("canary-in-a-file")
    (tmp_path / "ark.key").chmod(0o644)

    told = of(await found(tmp_path, key="file:ark.key"), "key of ark")
    (tmp_path / "ark.key").chmod(0o600)
    mended = of(await found(tmp_path, key="file:ark.key"), "key of ark")

    assert (told.state, told.advice) == ("warning", f"chmod 600 {tmp_path / 'ark.key'}")
    assert mended.state == "ok"
    assert "canary" not in f"{told}{mended}"


@pytest.mark.parametrize(
    ("mode", "state"), [(0o600, "ok"), (0o640, "warning"), (0o644, "warning"), (0o660, "failed"), (0o666, "failed")]
)
async def test_a_store_that_others_may_open_is_told(tmp_path: Path, mode: int, state: str) -> None:
    (await with_store(tmp_path)).chmod(mode)

    assert of(await found(tmp_path), "store file").state == state


async def test_a_damaged_store_is_told_with_the_way_back(tmp_path: Path) -> None:
    path = await with_store(tmp_path)
    path.write_bytes(b"\0" * 100 + path.read_bytes()[100:])

    finding = of(await found(tmp_path), "store")

    assert finding.state == "failed"
    assert "llm-proxy restore" in finding.says + finding.advice


async def test_a_restore_that_was_cut_short_and_a_log_that_grows_are_told(tmp_path: Path) -> None:
    path = await with_store(tmp_path)
    path.with_name("gateway.db.restore-20251124T160000Z").touch()
    with path.with_name("gateway.db-wal").open("wb") as log:
        log.truncate(files.LOG_BYTES_COMFORT + 1)  # a sparse file: it takes no room

    findings = await found(tmp_path)

    assert "a restore was cut short" in of(findings, "store file").says
    assert of(findings, "write-ahead log").state == "warning"


async def test_what_this_user_may_not_look_at_is_told_and_the_rest_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: str, path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(files, "store_file", refuse)  # simulated: tests may run as root, to whom nothing is refused

    findings = await found(tmp_path)

    assert of(findings, "store file").says == f"{tmp_path}/gateway.db cannot be looked at: Permission denied"
    assert "as the gateway's user" in of(findings, "store file").advice
    assert of(findings, "upstream ark").state == "failed"


async def test_a_full_disk_and_a_slow_one_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FREE_BYTES_MIN", 2**62)
    monkeypatch.setattr(files, "_sync_seconds", lambda _: iter([0.05] * 20))

    findings = await found(tmp_path)

    assert (of(findings, "disk space").state, of(findings, "disk latency").state) == ("failed", "warning")
    assert of(findings, "disk latency").says == "fsync takes 50.0 ms, at worst 50.0 ms"


@pytest.mark.parametrize(("kind", "state"), [("ext4", None), ("tmpfs", "failed"), ("nfs4", "failed"), ("overlay", "warning")])
async def test_a_disk_that_is_none_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, state: str | None) -> None:
    monkeypatch.setattr(files, "_kind_of", lambda _: kind)

    states = [finding.state for finding in await found(tmp_path) if finding.check == "disk kind"]

    assert states == ([] if state is None else [state])


@pytest.mark.parametrize(("limit", "state"), [(100, "failed"), (1024, "warning"), (65_536, "ok"), (resource.RLIM_INFINITY, "ok")])
async def test_too_few_file_descriptors_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, state: str) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))

    assert of(await found(tmp_path), "descriptors").state == state


@pytest.mark.parametrize(("kernels", "state", "says"), [("128", "warning", "128 may wait"), ("4096", "ok", "2048 may wait")])
async def test_a_kernel_that_lets_fewer_clients_wait_than_the_gateway_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernels: str, state: str, says: str
) -> None:
    (tmp_path / "somaxconn").write_text(kernels + "\n")
    monkeypatch.setattr(process, "_SOMAXCONN", tmp_path / "somaxconn")

    finding = of(await found(tmp_path), "accept queue")

    assert (finding.state, "net.core.somaxconn" in finding.advice) == (state, state == "warning")
    assert says in finding.says


async def test_the_address_of_the_metrics_is_looked_at_too(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = of(await found(tmp_path, admin=SCRAPED.format(port=other.getsockname()[1])), "address")
    everywhere = of(await found(tmp_path, admin='metrics_listen = "0.0.0.0:0"'), "metrics")

    assert (taken.state, "another program listens there" in taken.advice) == ("failed", True)
    assert (everywhere.state, "whoever reaches this machine may read them" in everywhere.says) == ("warning", True)


async def test_an_address_that_another_program_has_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        finding = of(await found(tmp_path, listen=address), "address")

    assert (finding.state, "another program listens there" in finding.advice) == ("failed", True)
    assert of(await found(tmp_path, listen=address), "address").state == "ok"


async def test_a_socket_file_is_told_by_who_is_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        live = of(await found(tmp_path, listen="unix:api.sock"), "address")
    stale = of(await found(tmp_path, listen="unix:api.sock"), "address")
    path.unlink()
    path.write_text("a letter")
    other = of(await found(tmp_path, listen="unix:api.sock"), "address")

    assert [finding.state for finding in (live, stale, other)] == ["failed", "ok", "failed"]
    assert "is replaced" in stale.says


async def test_a_store_that_a_silent_process_holds_is_told(tmp_path: Path) -> None:
    await with_store(tmp_path)
    holder = await open_store(tmp_path / "gateway.db")

    finding = of(await found(tmp_path), "gateway")

    await holder.close()
    assert (finding.state, "has the store, but nobody answers" in finding.says) == ("warning", True)


def test_the_command_exits_with_1_where_something_failed_and_prints_a_line_each(tmp_path: Path) -> None:
    path = write_config(tmp_path, "http://127.0.0.1:9/api/v3")

    told = CliRunner().invoke(cli.app, ["doctor", "--config", str(path)], env=ENV, prog_name="llm-proxy")
    as_json = CliRunner().invoke(cli.app, ["doctor", "--config", str(path), "--json"], env=ENV, prog_name="llm-proxy")

    assert (told.exit_code, as_json.exit_code) == (1, 1)
    answer = orjson.loads(as_json.stdout)
    assert not answer["holds"]
    assert [set(check) for check in answer["checks"]] == [{"check", "state", "says", "advice"}] * len(answer["checks"])
    assert len(told.stdout.splitlines()) == len(answer["checks"])
    assert "failed   upstream ark: cannot be reached" in told.stdout
    assert CANARY_KEY not in told.output + as_json.output


async def test_the_command_exits_with_0_where_all_is_well(tmp_path: Path) -> None:
    await with_store(tmp_path)
    async with StandIn() as ark:
        path = write_config(tmp_path, ark.base_url)
        ended = await asyncio.to_thread(CliRunner().invoke, cli.app, ["doctor", "--config", str(path)], env=ENV)

    assert ended.exit_code == 0, ended.output


def test_a_url_that_is_none_is_wrong_usage(tmp_path: Path) -> None:
    path = write_config(tmp_path, "http://127.0.0.1:9/api/v3")

    assert CliRunner().invoke(cli.app, ["doctor", "--config", str(path), "--url", "api.example.com"], env=ENV).exit_code == 2
