"""Which nodes are dead, by what one of them has seen of the others' beats."""

from proxy.store.postgres.lease import Watch


def watch() -> Watch:
    return Watch(lease_seconds=20, gap_seconds=5)


def test_a_beat_that_stands_still_for_a_lease_is_dead_and_not_before() -> None:
    seen = watch()

    told = [seen.look({1: at, 2: 7}, float(at)) for at in range(0, 24, 2)]

    assert told == [[]] * 10 + [[(2, 7)], [(2, 7)]]  # first seen at 0, so dead at 20 and at 22


def test_a_beat_that_moves_is_alive_however_slowly() -> None:
    seen = watch()

    told = [seen.look({1: at, 2: at // 18}, float(at)) for at in range(0, 100, 2)]

    assert told == [[]] * 50


def test_a_beat_that_goes_back_has_moved() -> None:
    seen = watch()
    for at in range(0, 18, 2):
        seen.look({2: 7}, float(at))

    assert seen.look({2: 6}, 18.0) == []
    assert seen.look({2: 6}, 22.0) == []


def test_who_could_not_look_for_a_while_begins_anew() -> None:
    """As after an outage of the database, in which nobody could beat: it kills nobody."""
    seen = watch()
    for at in range(0, 20, 2):
        seen.look({1: at, 2: 7}, float(at))

    assert seen.look({1: 20, 2: 7}, 23.5) == []  # 5.5 s after the look before
    assert [seen.look({1: at, 2: 7}, float(at)) for at in (28, 33, 38, 43)] == [[], [], [], []]
    assert seen.look({1: 44, 2: 7}, 43.5) == [(2, 7)]  # 20 s after 23.5


def test_a_node_that_is_seen_for_the_first_time_has_a_whole_lease() -> None:
    seen = watch()
    for at in range(0, 20, 2):
        seen.look({1: at}, float(at))

    assert [seen.look({1: at, 3: 0}, float(at)) for at in range(20, 40, 2)] == [[]] * 10
    assert seen.look({1: 40, 3: 0}, 40.0) == [(3, 0)]
