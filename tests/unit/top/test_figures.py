"""The figures that `top` computes from two scrapes, checked by hand, and its frames on terminals of every size."""

from io import StringIO

import pytest
from rich.console import Console

from proxy.top.exposition import parse
from proxy.top.figures import Figures, UpstreamRow, figures
from proxy.top.screen import Heading, frame, money, rate

FIRST = """\
# TYPE llm_proxy_requests counter
llm_proxy_requests_total{model="pro",route="/chat/completions",status="200"} 100
llm_proxy_requests_total{model="pro",route="/chat/completions",status="503"} 4
llm_proxy_requests_total{model="",route="/metrics",status="200"} 1000
# TYPE llm_proxy_tokens counter
llm_proxy_tokens_total{model="pro",direction="input"} 1000
llm_proxy_tokens_total{model="pro",direction="output"} 500
# TYPE llm_proxy_charged_yuan counter
llm_proxy_charged_yuan_total{model="pro"} 1.5
# TYPE llm_proxy_shortfall_yuan counter
# TYPE llm_proxy_first_byte_seconds histogram
llm_proxy_first_byte_seconds_bucket{le="0.01",route="/chat/completions"} 50
llm_proxy_first_byte_seconds_bucket{le="0.1",route="/chat/completions"} 100
llm_proxy_first_byte_seconds_bucket{le="+Inf",route="/chat/completions"} 100
# TYPE llm_proxy_upstream_errors counter
llm_proxy_upstream_errors_total{upstream="ark",cause="timeout"} 3
# TYPE llm_proxy_open_streams gauge
llm_proxy_open_streams 34
# TYPE llm_proxy_commit_operations histogram
llm_proxy_commit_operations_bucket{le="+Inf"} 10
llm_proxy_commit_operations_count 10
llm_proxy_commit_operations_sum 100
"""
SECOND = """\
# TYPE llm_proxy_requests counter
llm_proxy_requests_total{model="pro",route="/chat/completions",status="200"} 120
llm_proxy_requests_total{model="pro",route="/chat/completions",status="503"} 5
llm_proxy_requests_total{model="lite",route="/chat/completions",status="400"} 1
llm_proxy_requests_total{model="",route="/metrics",status="200"} 1001
# TYPE llm_proxy_tokens counter
llm_proxy_tokens_total{model="pro",direction="input"} 1200
llm_proxy_tokens_total{model="pro",direction="output"} 560
# TYPE llm_proxy_charged_yuan counter
llm_proxy_charged_yuan_total{model="pro"} 1.7
llm_proxy_charged_yuan_total{model="never-asked"} 0
# TYPE llm_proxy_requests_in_flight gauge
llm_proxy_requests_in_flight{door="admin"} 1
llm_proxy_requests_in_flight{door="public"} 38
# TYPE llm_proxy_shortfall_yuan counter
# TYPE llm_proxy_first_byte_seconds histogram
llm_proxy_first_byte_seconds_bucket{le="0.01",route="/chat/completions"} 50
llm_proxy_first_byte_seconds_bucket{le="0.1",route="/chat/completions"} 119
llm_proxy_first_byte_seconds_bucket{le="+Inf",route="/chat/completions"} 120
# TYPE llm_proxy_upstream_errors counter
llm_proxy_upstream_errors_total{upstream="ark",cause="timeout"} 4
# TYPE llm_proxy_upstream_connections gauge
llm_proxy_upstream_connections{upstream="ark",pool="chat",state="busy"} 3
llm_proxy_upstream_connections{upstream="ark",pool="chat",state="idle"} 9
llm_proxy_upstream_connections{upstream="ark",pool="videos",state="busy"} 1
# TYPE llm_proxy_open_streams gauge
llm_proxy_open_streams 40
# TYPE llm_proxy_commit_operations histogram
llm_proxy_commit_operations_bucket{le="+Inf"} 14
llm_proxy_commit_operations_count 14
llm_proxy_commit_operations_sum 150
"""


def seen() -> Figures:
    return figures(parse(SECOND, 12.0), parse(FIRST, 10.0))


def drawn(shown: Figures | None, columns: int, lines: int, silence: str = "") -> list[str]:
    """Return the lines that are drawn on a terminal of this size."""
    console = Console(file=StringIO(), width=columns, height=lines, highlight=False, markup=False, legacy_windows=False)
    heading = Heading("unix:/run/llm-proxy/admin.sock", "08:00:00 UTC", silence, "q quits")
    with console.capture() as captured:
        console.print(frame(heading, shown, columns, lines))
    return captured.get().rstrip("\n").split("\n")


def test_rates_are_of_what_was_counted_between_two_looks() -> None:
    shown = seen()

    # 20 + 1 + 1 requests in 2 s, without the operator's own scrape; ¥0.2 in 2 s are ¥6 a minute; 50 writes in 4 commits.
    assert (shown.seconds, shown.requests) == (2.0, 11.0)
    assert shown.by_class == {"2xx": 10.0, "4xx": 0.5, "5xx": 0.5}
    assert (shown.input_tokens, shown.output_tokens, shown.cached_tokens) == (100.0, 30.0, None)
    assert shown.yuan_a_minute == pytest.approx(6.0)
    assert (shown.yuan, shown.shortfall_yuan) == (1.7, 0)
    assert (shown.commits, shown.operations_a_commit) == (2.0, 12.5)
    assert (shown.streams, shown.in_flight) == (40, 38)


def test_times_are_bounds_of_the_buckets_of_this_while_alone() -> None:
    # Of the 20 since the first scrape none took up to 10 ms, 19 up to 100 ms, one longer than any bound.
    shown = seen()

    assert (shown.first_byte.p50_ms, shown.first_byte.p99_ms) == (100.0, 100.0)
    assert shown.answer.p50_ms is None


def test_models_are_the_busiest_first_and_an_upstream_is_told_by_its_errors() -> None:
    shown = seen()

    assert [(row.model, row.requests, row.failed) for row in shown.models] == [("pro", 10.5, 0.5), ("lite", 0.5, 0)]
    assert shown.upstreams == [UpstreamRow("ark", 4.0, 9.0, 0.5, {"timeout": 0.5})]


def test_after_one_look_there_are_no_rates() -> None:
    shown = figures(parse(FIRST, 10.0), None)

    assert (shown.seconds, shown.requests, shown.commits, shown.models[0].requests) == (None,) * 4
    assert (shown.streams, shown.yuan, shown.upstreams[0].causes) == (34, 1.5, {"timeout": 3})


def test_a_gateway_that_began_anew_has_no_rates_until_the_next_look() -> None:
    shown = figures(parse(FIRST, 12.0), parse(SECOND, 10.0))

    assert (shown.requests, shown.input_tokens, shown.yuan_a_minute) == (None, None, None)
    assert shown.first_byte.p50_ms is None


def test_what_a_gateway_does_not_say_is_left_open() -> None:
    shown = figures(parse("", 2.0), parse("", 1.0))

    assert (shown.requests, shown.streams, shown.held_yuan, shown.models, shown.upstreams) == (None, None, None, [], [])
    assert "¥– held" in "\n".join(drawn(shown, 80, 24))


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (120, 40), (60, 14), (40, 8), (20, 4), (200, 60)])
def test_a_frame_fits_its_terminal(columns: int, lines: int) -> None:
    printed = drawn(seen(), columns, lines)

    assert max(map(len, printed)) <= columns
    assert len(printed) <= max(lines, 7)  # the facts alone are cut by the terminal itself


def test_a_frame_of_80_by_24_shows_all_there_is() -> None:
    printed = "\n".join(drawn(seen(), 80, 24))

    for words in ("11.0/s", "2xx 10.0", "40 open", "100/s in", "¥6.00/min", "2.0 commits/s", "timeout 0.5", "pro", "lite", "q quits"):
        assert words in printed, words


def test_a_frame_says_why_it_is_old() -> None:
    assert "no gateway answers" in drawn(seen(), 80, 24, silence="no gateway answers at unix:x")[1]
    assert len(drawn(None, 80, 24, silence="no gateway answers at unix:x")) == 2


def test_numbers_are_as_long_as_they_need_to_be() -> None:
    assert [rate(n) for n in (None, 0, 0.004, 0.26, 12.34, 99.94, 99.96, 1204, 3_400_000)] == [
        "–", "0", "0.00", "0.3", "12.3", "99.9", "100", "1,204", "3.4M",
    ]  # fmt: skip
    assert [money(n) for n in (None, 0, 0.0004, 1204.5)] == ["–", "0.00", "0.0004", "1,204.50"]


def test_names_from_the_socket_do_not_act_on_the_terminal() -> None:
    hostile = "\x1b]0;owned\x07\x9b31m\u202e"
    first, second = (
        parse(text.replace('"pro"', f'"p{hostile}"').replace('"ark"', f'"a{hostile}"'), at) for text, at in ((FIRST, 0), (SECOND, 2))
    )
    screen = StringIO()
    console = Console(file=screen, width=200, highlight=False, markup=False, emoji=False)

    console.print(frame(Heading(f"unix:{hostile}", "now", silence=f"silent {hostile}"), figures(second, first), 200, 50))

    drawn = screen.getvalue()
    assert [char for char in drawn if not char.isprintable() and char != "\n"] == []
    told = "\\x1b]0;owned\\x07\\x9b31m\\u202e"
    assert [f"{name}{told}" in drawn for name in ("p", "a", "unix:", "silent ")] == [True] * 4
