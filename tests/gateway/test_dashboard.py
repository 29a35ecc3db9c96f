"""The dashboard and the alerts: each metric and label in them exists on a real gateway, and each alert fires only on its own cause."""

import asyncio
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from proxy.demo.ark import TASKS, Close, answer_sse
from tests.support.cluster import cluster
from tests.support.images import paint
from tests.support.scraping import Scrape, scrape_socket
from tests.support.videos import ENDED_SECONDS_MAX, quick_bench, submitted

SYSTEMD = Path(__file__).parents[2] / "systemd"
DASHBOARD: dict[str, Any] = orjson.loads((SYSTEMD / "grafana-dashboard.json").read_bytes())
ALERTS = SYSTEMD / "alerts.yml"
COLUMNS = 24
OF_PROMETHEUS = {"up", "job", "instance"}
"""Names that come from Prometheus itself."""
METRIC = re.compile(r"\b((?:llm_proxy|process)_\w+)(?:\{([^}]*)\})?")
EVENT = b'data: {"choices":[{"delta":{"content":"Hel"},"index":0}],"id":"0217","usage":null}\n\n'

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian's prometheus) is not installed")


class Alert(NamedTuple):
    name: str
    text: str

    def part(self, key: str) -> str:
        """Return the text of a key, on its line or folded below it."""
        found = re.search(rf"^ +{key}:(?: >-)?((?: .*)?(?:\n {{10,}}(?!\w+:).*)*)", self.text, re.MULTILINE)
        assert found is not None, f"{self.name} has no {key}"
        return " ".join(found[1].split())


def alerts() -> list[Alert]:
    rules = re.split(r"^ {6}- alert: ", ALERTS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return [Alert(rule.split("\n", 1)[0], re.sub(r"^ +#.*\n", "", rule, flags=re.MULTILINE)) for rule in rules]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """Yield the name of each panel, variable, annotation and alert with its expression, Grafana's variables replaced."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], _filled(target["expr"])
    for variable in DASHBOARD["templating"]["list"]:
        if asked := re.fullmatch(r"label_values\((.*), \w+\)", variable.get("definition", "")):
            yield variable["name"], _filled(asked[1])
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["name"], _filled(annotation["expr"])
    for alert in alerts():
        yield alert.name, alert.part("expr")


def _filled(expression: str) -> str:
    for name, value in {"$__rate_interval": "5m", "$__range": "6h", "$job": "llm-proxy", "$instance": ".*"}.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    made = [tmp_path / "alone", tmp_path / "shared"]
    for folder in made:
        folder.mkdir()
    return made


@pytest.fixture
async def seen(folders: list[Path]) -> Scrape:
    """Return what a gateway shows that has answered calls of each kind and failed some, and what one whose store is shared does."""
    alone, shared = await of_one_alone(folders[0]), await of_one_that_shares(folders[1])
    return Scrape({**alone.kinds, **shared.kinds}, {**alone.values, **shared.values}, alone.growing | shared.growing)


async def of_one_that_shares(folder: Path) -> Scrape:
    async with cluster(folder, 1) as gateways:
        (member,) = gateways.members
        await member.ask("/videos/generations", {"model": "doubao-seedance-1-5-pro-251215", "prompt": "waves"})
        return await scrape_socket(member.directory / "admin.sock")


async def of_one_alone(tmp_path: Path) -> Scrape:
    async with quick_bench(tmp_path) as gateway, asyncio.timeout(ENDED_SECONDS_MAX):
        await gateway.chat()
        gateway.ark.enqueue([*answer_sse(EVENT, end=False), Close()])
        await gateway.chat(stream=True)
        await paint(gateway)
        await submitted(gateway)
        await gateway.ark.wait_for_calls(1, f"{TASKS}/*")  # its status
        while not (scraped := await scrape_socket(gateway.admin_socket)).value("llm_proxy_video_polls_total"):
            pass
        return scraped


async def test_every_name_and_label_that_is_asked_for_is_a_gateways(seen: Scrape) -> None:
    labels: dict[str, set[str]] = {}
    for name, has in seen.values:
        labels.setdefault(name, set()).update(label for label, _ in has)

    asked = [(who, *found) for who, expression in expressions() for found in METRIC.findall(expression)]

    assert len(asked) > 50
    assert [(who, name) for who, name, _ in asked if name not in labels] == []
    selected = {(who, name, label) for who, name, selector in asked for label in re.findall(r"(\w+) ?(?:=|!)", selector)}
    assert [one for one in selected if one[2] not in labels[one[1]] | OF_PROMETHEUS] == []
    grouped = {(who, label) for who, text in expressions() for by in re.findall(r"by \(([^)]*)\)", text) for label in by.split(", ")}
    everything = set().union(*labels.values()) | OF_PROMETHEUS
    assert [one for one in grouped if one[1] not in everything] == []


async def test_every_metric_of_ours_is_on_the_dashboard(seen: Scrape) -> None:
    """A metric that nobody looks at need not be counted."""
    asked = {re.sub(r"_(bucket|sum|count)$", "", name) for _, text in expressions() for name, _ in METRIC.findall(text)}

    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in seen.names if name.startswith("llm_proxy_")}

    assert ours - asked == set()


def test_every_panel_has_a_unit_a_description_and_a_place_of_its_own() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, f"{panel['title']} lies over another panel"
        assert max(x for x, _ in cells) < COLUMNS
        taken |= cells

    assert rows == ["Traffic", "Latency", "Money", "Upstream", "Store", "Gateways", "Videos", "Process"]
    assert [panel["title"] for panel in panels() if not panel["fieldConfig"]["defaults"].get("unit")] == []
    assert [panel["title"] for panel in panels() if not panel["description"].endswith(".")] == []
    assert {panel["datasource"]["uid"] for panel in panels()} == {"${datasource}"}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_each_alert_says_what_is_wrong_and_what_to_do() -> None:
    assert len(alerts()) == 15
    for alert in alerts():
        assert re.search(r"severity: (critical|warning)\}", alert.text), alert.name
        assert "{{ $labels." in alert.part("summary"), alert.name
        assert len(alert.part("description")) > 100, alert.name


@needs_promtool
def test_prometheus_itself_takes_every_expression(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": text} for number, (_, text) in enumerate(expressions())]
    asked = tmp_path / "panels.json"  # JSON is YAML
    asked.write_bytes(orjson.dumps({"groups": [{"name": "panels", "rules": rules}]}))

    for file in (ALERTS, asked):
        checked = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr


OUTCOMES = 'llm_proxy_outcomes_total{job="llm-proxy", instance="a", outcome="%s", usage="%s"}'
COMMITS = 'llm_proxy_commit_seconds_bucket{job="llm-proxy", instance="a", le="%s"}'
LAGS = 'llm_proxy_loop_lag_seconds_bucket{job="llm-proxy", instance="a", le="%s"}'
ON_A = '{job="llm-proxy", instance="a"%s}'
RESTING = 'llm_proxy_resting{job="llm-proxy", instance="a", upstream="ark", key="main"}'
HEALTHY: Mapping[str, str] = {
    "up" + ON_A % "": "1x120",
    "process_start_time_seconds" + ON_A % "": "1000x120",
    "llm_proxy_commit_failures_total" + ON_A % "": "0x120",
    "llm_proxy_store_up" + ON_A % "": "1x120",
    "llm_proxy_disk_free_bytes" + ON_A % "": "100000000000x120",
    OUTCOMES % ("complete", "reported"): "0+600x120",
    OUTCOMES % ("upstream_error", "none"): "0+1x120",
    OUTCOMES % ("upstream_cut", "estimated"): "0+1x120",
    'llm_proxy_upstream_errors_total{job="llm-proxy", instance="a", upstream="ark", cause="operator"}': "0x120",
    'llm_proxy_video_due_lag_seconds{job="llm-proxy", instance="a", upstream="ark"}': "3x120",
    RESTING: "0x50 1x3 0x67",
    "llm_proxy_gateways" + ON_A % "": "3x60 2x4 3x56",
    "llm_proxy_node_unconfirmed_seconds" + ON_A % "": "2x60 4 2x59",
    "llm_proxy_keys_age_seconds" + ON_A % "": "2x120",
    "llm_proxy_store_retries_total" + ON_A % "": "0x60 5x60",
    "llm_proxy_store_read_waits_total" + ON_A % "": "0+10x120",
    'llm_proxy_cluster_video_due_lag_seconds{job="llm-proxy", instance="a", upstream="ark"}': "3x120",
    "llm_proxy_shortfalls_total" + ON_A % ', model="m"': "0x120",
    COMMITS % "0.01": "0+600x120",
    COMMITS % "+Inf": "0+600x120",
    LAGS % "0.01": "0+600x120",
    LAGS % "+Inf": "0+600x120",
}
"""One value a minute, in promtool's notation: start, step, count."""
ILL: Mapping[str, Mapping[str, str]] = {
    "LlmProxyDown": {"up" + ON_A % "": "0x120"},
    "LlmProxyRestarting": {"process_start_time_seconds" + ON_A % "": "1000+200x120"},
    "LlmProxyStoreNotWriting": {"llm_proxy_commit_failures_total" + ON_A % "": "0x50 1x70"},
    "LlmProxyDiskFilling": {"llm_proxy_disk_free_bytes" + ON_A % "": "40000000000-60000000x120"},
    "LlmProxyCommitsSlow": {COMMITS % "0.01": "0x120", COMMITS % "0.5": "0+600x120"},
    "LlmProxyLoopBlocked": {LAGS % "0.01": "0+500x120", LAGS % "0.5": "0+600x120"},
    "LlmProxyUpstreamFailing": {OUTCOMES % ("upstream_error", "none"): "0+60x120"},
    "LlmProxyUpstreamRefusesOperator": {
        'llm_proxy_upstream_errors_total{job="llm-proxy", instance="a", upstream="ark", cause="operator"}': "0x50 1x70"
    },
    "LlmProxyRouteResting": {RESTING: "0x50 1x70"},
    "LlmProxyVideosWaiting": {'llm_proxy_video_due_lag_seconds{job="llm-proxy", instance="a", upstream="ark"}': "0+60x120"},
    "LlmProxyGatewayMissing": {"llm_proxy_gateways" + ON_A % "": "3x90 2x30"},
    "LlmProxyBeatLate": {"llm_proxy_node_unconfirmed_seconds" + ON_A % "": "2x100 12x3 2x17"},
    "LlmProxyStoreRetries": {"llm_proxy_store_retries_total" + ON_A % "": "0+30x120"},
    "LlmProxyStoreReadsWait": {"llm_proxy_store_read_waits_total" + ON_A % "": "0+120x120"},
    "LlmProxyUsageNotCharged": {"llm_proxy_shortfalls_total" + ON_A % ', model="m"': "0x100 1x20"},
}
ILL_ALSO: Mapping[str, Mapping[str, str]] = {
    "LlmProxyVideosWaiting": {'llm_proxy_cluster_video_due_lag_seconds{job="llm-proxy", instance="a", upstream="ark"}': "0+60x120"},
    "LlmProxyBeatLate": {"llm_proxy_keys_age_seconds" + ON_A % "": "2x100 12x3 2x17"},
}
"""Second causes of the same alerts."""
FIRES_AT: Mapping[str, str] = {
    "LlmProxyStoreNotWriting": "53m",
    "LlmProxyUpstreamRefusesOperator": "52m",
    "LlmProxyBeatLate": "104m",
}
"""Times to check alerts that are over before the end, since their cause happened only once."""


def fired(tmp_path: Path, series: Mapping[str, str], at: str) -> list[str]:
    """Run the alerts over series with promtool and return those that fire: none is expected, so promtool reports each."""
    checks = [{"eval_time": at, "alertname": alert.name, "exp_alerts": []} for alert in alerts()]
    test = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": checks,
            }
        ],
    }
    file = tmp_path / "alerts-test.json"
    file.write_bytes(orjson.dumps(test))
    said = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True)
    found = re.findall(r"alertname: (\w+)", said.stdout + said.stderr)
    assert bool(found) == bool(said.returncode), said.stdout + said.stderr
    return found


@needs_promtool
def test_a_healthy_gateway_wakes_nobody(tmp_path: Path) -> None:
    assert fired(tmp_path, HEALTHY, "2h") == []


@needs_promtool
@pytest.mark.parametrize("name", ILL)
def test_each_alert_fires_on_what_it_is_for_and_no_other_does(tmp_path: Path, name: str) -> None:
    assert fired(tmp_path, {**HEALTHY, **ILL[name]}, FIRES_AT.get(name, "2h")) == [name]


@needs_promtool
@pytest.mark.parametrize("name", ILL_ALSO)
def test_each_second_cause_fires_the_same_alert(tmp_path: Path, name: str) -> None:
    assert fired(tmp_path, {**HEALTHY, **ILL_ALSO[name]}, FIRES_AT.get(name, "2h")) == [name]


def test_each_alert_has_its_case() -> None:
    assert {alert.name for alert in alerts()} == {*ILL}
