"""Growth of curves, checked against values worked out by hand."""

import pytest

from tests.bench.curves import Curve, slope, thinned
from tests.bench.soak import REACHES, curves_of


def curve(*values: float, reach: float = 2.0) -> Curve:
    return Curve("RSS", "MiB", values, reach)


def test_what_rises_at_first_and_then_stays_is_flat() -> None:
    warmed_up = curve(10, 30, 50, 60, 60, 60, 60, 60)

    assert (warmed_up.growth_percent, warmed_up.is_flat) == (0, True)


def test_what_goes_on_rising_is_not() -> None:
    leak = curve(10, 30, 50, 60, 60, 62, 64, 66)

    assert leak.growth_percent == pytest.approx(100 * 2 * 3 / 63)  # 2 a step over three steps, of a mean of 63
    assert not leak.is_flat


def test_what_falls_is_no_worry() -> None:
    assert curve(90, 80, 70, 60, 50, 40, 30, 20).is_flat


def test_one_high_point_at_the_end_weighs_less_than_a_rise() -> None:
    assert slope([60, 60, 60, 63]) == pytest.approx(0.9)  # the rise over the whole would be 1 a step
    assert slope([1, 2, 3]) == 1


def test_a_curve_is_drawn_from_its_least_to_its_most_in_sixty_bars_at_most() -> None:
    assert curve(0, 1, 2, 7).drawn == "▁▂▃█"
    assert curve(5, 5, 5, 5).drawn == "▁▁▁▁"
    assert thinned(list(range(120)), 60) == list(range(0, 120, 2))


def test_log_bytes_are_counted_a_request_between_two_looks() -> None:
    at = dict.fromkeys(REACHES, 1.0)
    seen = [{**at, "requests": 10.0 * step, "log bytes": 4000.0 * step} for step in range(5)]

    curves = {one.name: one for one in curves_of(seen)}

    assert curves.keys() == REACHES.keys()
    assert curves["log a request"].values == (400, 400, 400, 400)
