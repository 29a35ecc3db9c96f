"""``?wait=``: what is asked for, and when the wait ends."""

import pytest

from proxy.core.errors import InvalidParameterError
from proxy.core.waiting import answered_within, wait_seconds


def test_long_waits_end_before_proxies_give_up() -> None:
    assert [answered_within(seconds) for seconds in (0, 0.5, 10, 50, 60, 9999)] == [0, 0.45, 9, 49, 49, 49]


def test_a_wait_is_one_plain_number_of_seconds() -> None:
    assert [wait_seconds(values) for values in ([], ["0"], ["0.25"], ["60"], ["0099.50"])] == [0, 0, 0.25, 60, 99.5]
    for values in (["-1"], ["1e1"], ["nan"], [""], ["10s"], ["9" * 11], ["1", "1"]):
        with pytest.raises(InvalidParameterError, match="'wait'"):
            wait_seconds(values)
