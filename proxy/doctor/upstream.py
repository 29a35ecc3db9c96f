"""Checks of the upstream: DNS name, certificate, key and clock. One free request answers all of them."""

import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import aiohttp

from proxy.clock import Clock
from proxy.config import UpstreamConfig
from proxy.config.environment import PROXY_ADVICE, ignored_proxy_variable
from proxy.doctor.finding import Finding, failed, ok, warning
from proxy.upstream.ark_client import TASKS_PATH, connector_of
from proxy.upstream.failures import UpstreamUnreachableError

FAKE_TASK = "cgt-20000101000000-doctr"
"""No task has this id. Ark answers 404 to a valid key and 401 to any other; neither costs anything."""
ANSWER_SECONDS = 20.0
SKEW_SECONDS_COMFORT = 5.0
SKEW_SECONDS_MAX = 300.0


@dataclass(frozen=True, slots=True)
class _Said:
    status: int
    date: str | None
    at_ms: int
    """Time of the answer, by our clock."""


async def upstream(config: UpstreamConfig, clock: Clock, env: Mapping[str, str]) -> list[Finding]:
    """Ask for a task that cannot exist, and return what the answer shows."""
    name = f"upstream {config.name}"
    found = list(_plain(config, name, env))
    if not config.api_key:
        return [*found, warning(name, "was not asked: there is no key to show", "set the key (see configuration above)")]
    try:
        said = await _ask(config, clock)
    except UpstreamUnreachableError as error:  # the proxy, which answers before the upstream does
        reason = str(error).removeprefix("upstream: ")
        return [*found, failed(name, reason, "look at proxy and proxy_auth, and at what the proxy lets through")]
    except aiohttp.ClientConnectorDNSError as error:
        host = urlsplit(config.base_url).hostname
        return [
            *found,
            failed(name, f"the name {host} does not resolve: {error.strerror}", "look at base_url, and at /etc/resolv.conf"),
        ]
    except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError) as error:
        return [*found, _distrusted(name, error)]
    except aiohttp.ConnectionTimeoutError:
        return [*found, failed(name, f"no connection in {config.connect_seconds:g} s", _firewall(config))]
    except TimeoutError:
        return [*found, failed(name, f"no answer in {config.connect_seconds + ANSWER_SECONDS:g} s", _firewall(config))]
    except aiohttp.ClientConnectorError as error:
        return [*found, failed(name, f"cannot be reached: {error.strerror or type(error.os_error).__name__}", _firewall(config))]
    except (aiohttp.ClientError, OSError) as error:
        return [*found, failed(name, f"answers nothing that is HTTP ({type(error).__name__})", "look at base_url: is that Ark?")]
    return [*found, _key(name, said), _time(name, said)]


def _firewall(config: UpstreamConfig) -> str:
    if config.proxy is None:
        return "look at base_url and the firewall; the gateway dials the upstream directly, through no proxy"
    return "look at base_url, at proxy, and at what the proxy lets through"


async def _ask(config: UpstreamConfig, clock: Clock) -> _Said:
    timeout = aiohttp.ClientTimeout(total=config.connect_seconds + ANSWER_SECONDS, sock_connect=config.connect_seconds)
    headers = {"Authorization": f"Bearer {config.api_key.reveal()}", "Accept-Encoding": "identity", "User-Agent": "llm-proxy"}
    async with (
        aiohttp.ClientSession(connector=connector_of(config), timeout=timeout, headers=headers) as session,
        session.get(f"{config.base_url}{TASKS_PATH}/{FAKE_TASK}", allow_redirects=False) as response,
    ):
        return _Said(response.status, response.headers.get("Date"), clock.now_ms())


def _plain(config: UpstreamConfig, name: str, env: Mapping[str, str]) -> Iterator[Finding]:
    parts = urlsplit(config.base_url)
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        yield warning(name, f"{config.base_url} is not encrypted: the key can be read on the way", 'begin base_url with "https://"')
    if config.proxy is None and (variable := ignored_proxy_variable(env)):
        yield warning(name, f"${variable} is set, and is not obeyed", PROXY_ADVICE)


def _distrusted(name: str, error: aiohttp.ClientError) -> Finding:
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    reason = getattr(cause, "verify_message", "") or (cause.reason if isinstance(cause, ssl.SSLError) else str(cause))
    advice = "look at this machine's clock and certificates (ca-certificates); is something in between that opens TLS?"
    return failed(name, f"TLS fails: {reason}", advice)


def _key(name: str, said: _Said) -> Finding:
    """Judge the key by the answer's status: 404 is the good one, since the task does not exist."""
    if said.status == 404:
        return ok(name, "reached, and it takes the key (nothing was spent)")
    if said.status == 401:
        return failed(
            name, "does not take the key (401)", "look at api_key: a key of Ark's API, of this region, not a plan's; is it disabled?"
        )
    if said.status == 403:
        return failed(
            name,
            "takes the key, but refuses the account (403)",
            "look in Ark's console: overdue balance, service not opened, IP allowlist",
        )
    if said.status == 429 or said.status >= 500:
        return warning(name, f"is busy or broken just now ({said.status})", "run doctor again in a minute")
    return warning(
        name, f"answers {said.status}, which Ark does not: whether it takes the key is not known", "look at base_url: is that Ark?"
    )


def _time(name: str, said: _Said) -> Finding:
    """Compare the clocks. A Date header has whole seconds and its answer takes time, so a second or two mean nothing."""
    try:
        theirs_ms = round(parsedate_to_datetime(said.date or "").timestamp() * 1000)
    except ValueError:
        return warning("clock", f"{name} does not say what time it has", "compare this machine's clock with another's (timedatectl)")
    skew = (said.at_ms - theirs_ms) / 1000
    says = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} {name}"
    if abs(skew) <= SKEW_SECONDS_COMFORT:
        return ok("clock", f"agrees with {name}")
    advice = "let it be set by NTP (timedatectl set-ntp true): receipts, days of usage and deadlines of videos go by it"
    return (failed if abs(skew) > SKEW_SECONDS_MAX else warning)("clock", says, advice)
