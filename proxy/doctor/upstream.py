"""Checks of the upstream: DNS name, certificate, key and clock. One free request answers all of them."""

import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import aiohttp

from proxy.clock import Clock
from proxy.config import Secret, UpstreamConfig
from proxy.config.environment import PROXY_ADVICE, ignored_proxy_variable
from proxy.config.upstreams import DEFAULT_KEY
from proxy.doctor.finding import Finding, failed, ok, warning
from proxy.upstream.ark_client import TASKS_PATH, connector_of
from proxy.upstream.failures import UpstreamUnreachableError

FAKE_TASK = "cgt-20000101000000-doctr"
"""No task has this id. Ark answers 404 to a valid key and 401 to any other; neither costs anything."""
MODELS_PATH = "/models"
"""What services that speak OpenAI's API list for a valid key, for nothing."""
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
    """Ask by each key for what cannot exist, or costs nothing, and return what the answers show."""
    name = f"upstream {config.name}"
    found = list(_plain(config, name, env))
    for key, secret in config.api_keys.items():
        more = await _by_key(config, name if config.api_keys.keys() == {DEFAULT_KEY} else f"{name}, key {key}", secret, clock)
        told = {finding.check for finding in found}
        found += [finding for finding in more if finding.check != "clock" or "clock" not in told]
    return found


async def _by_key(config: UpstreamConfig, name: str, secret: Secret, clock: Clock) -> list[Finding]:
    if not secret:
        return [warning(name, "was not asked: there is no key to show", "set the key (see configuration above)")]
    try:
        said = await _ask(config, secret, clock)
    except UpstreamUnreachableError as error:  # the proxy, which answers before the upstream does
        reason = str(error).removeprefix("upstream: ")
        return [failed(name, reason, "look at proxy and proxy_auth, and at what the proxy lets through")]
    except aiohttp.ClientConnectorDNSError as error:
        host = urlsplit(config.base_url).hostname
        return [failed(name, f"the name {host} does not resolve: {error.strerror}", "look at base_url, and at /etc/resolv.conf")]
    except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError) as error:
        return [_distrusted(name, error)]
    except aiohttp.ConnectionTimeoutError:
        return [failed(name, f"no connection in {config.connect_seconds:g} s", _firewall(config))]
    except TimeoutError:
        return [failed(name, f"no answer in {config.connect_seconds + ANSWER_SECONDS:g} s", _firewall(config))]
    except aiohttp.ClientConnectorError as error:
        return [failed(name, f"cannot be reached: {error.strerror or type(error.os_error).__name__}", _firewall(config))]
    except (aiohttp.ClientError, OSError) as error:
        return [failed(name, f"answers nothing that is HTTP ({type(error).__name__})", "look at base_url: is that Ark?")]
    return [(_key if config.dialect == "ark" else _key_of_openai)(name, said), _time(name, said)]


def _firewall(config: UpstreamConfig) -> str:
    if config.proxy is None:
        return "look at base_url and the firewall; the gateway dials the upstream directly, through no proxy"
    return "look at base_url, at proxy, and at what the proxy lets through"


async def _ask(config: UpstreamConfig, secret: Secret, clock: Clock) -> _Said:
    path = f"{TASKS_PATH}/{FAKE_TASK}" if config.dialect == "ark" else MODELS_PATH
    timeout = aiohttp.ClientTimeout(total=config.connect_seconds + ANSWER_SECONDS, sock_connect=config.connect_seconds)
    headers = {"Authorization": f"Bearer {secret.reveal()}", "Accept-Encoding": "identity", "User-Agent": "llm-proxy"}
    async with (
        aiohttp.ClientSession(connector=connector_of(config), timeout=timeout, headers=headers) as session,
        session.get(f"{config.base_url}{path}", allow_redirects=False) as response,
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


def _key_of_openai(name: str, said: _Said) -> Finding:
    if said.status == 200:
        return ok(name, "reached, and it takes the key (nothing was spent)")
    if said.status in (401, 403):
        return failed(name, f"does not take the key ({said.status})", "look at api_key, and at the account that it belongs to")
    if said.status == 429 or said.status >= 500:
        return warning(name, f"is busy or broken just now ({said.status})", "run doctor again in a minute")
    return warning(
        name, f"answers {said.status} when asked for its models: whether it takes the key is not known", "look at base_url: try a call"
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
