"""Dated backups in a directory: which are removed, which stay, and the lock."""

from pathlib import Path

import pytest

from proxy.cli.rotation import Rotation, RotationError, compact

FIRST_MS = 1_764_000_000_000
"""2025-11-24T16:00:00Z."""
DAY_MS = 86_400_000


def write(rotation: Rotation, day: int) -> Path:
    path = rotation.path(FIRST_MS + day * DAY_MS)
    path.write_text(f"books of day {day}")
    return path


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_time_is_part_of_a_name() -> None:
    assert compact(FIRST_MS) == "20251124T160000Z"


def test_the_newest_are_kept_and_the_others_go(tmp_path: Path) -> None:
    with Rotation(tmp_path) as rotation:
        copies = [write(rotation, day) for day in range(5)]

        removed = rotation.prune(2, copies[-1])

    assert removed == [str(copy) for copy in copies[:3]]
    assert names(tmp_path) == [copy.name for copy in copies[3:]]


def test_fewer_than_are_kept_stay(tmp_path: Path) -> None:
    with Rotation(tmp_path) as rotation:
        copies = [write(rotation, day) for day in range(2)]

        assert rotation.prune(3, copies[-1]) == []


def test_what_was_just_verified_stays_also_where_the_clock_was_set_back(tmp_path: Path) -> None:
    with Rotation(tmp_path) as rotation:
        later = [write(rotation, day) for day in (7, 8, 9)]
        new = write(rotation, 1)

        removed = rotation.prune(2, new)

    assert removed == [str(copy) for copy in later[:2]]
    assert names(tmp_path) == [new.name, later[2].name]


def test_only_what_was_named_here_is_touched(tmp_path: Path) -> None:
    others = [
        "notes.txt",
        "llm-proxy.db",
        "llm-proxy-20251124T160000Z.db.gz",
        "before-llm-proxy-20251124T160000Z.db",
        "mine.db.partial",
    ]
    for name in others:
        (tmp_path / name).write_text("not ours")
    with Rotation(tmp_path) as rotation:
        new = write(rotation, 3)

        rotation.prune(1, new)

    assert names(tmp_path) == sorted([*others, new.name])


def test_what_a_backup_left_that_was_cut_short_goes(tmp_path: Path) -> None:
    (tmp_path / "llm-proxy-20251124T160000Z.db.partial").write_text("half")
    (tmp_path / "llm-proxy-20251124T160000Z.db.partial-journal").write_text("half")
    (tmp_path / "llm-proxy-20251123T160000Z.db").write_text("whole")

    with Rotation(tmp_path):
        assert names(tmp_path) == ["llm-proxy-20251123T160000Z.db"]


def test_two_do_not_write_at_a_time(tmp_path: Path) -> None:
    with Rotation(tmp_path), pytest.raises(RotationError, match="another backup is being written to it"):
        Rotation(tmp_path).__enter__()

    with Rotation(tmp_path):  # the lock ends with its holder
        pass


def test_a_directory_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(RotationError, match=r"cannot keep backups in .*file: File exists"):
        Rotation(tmp_path / "file").__enter__()


def test_a_new_directory_is_for_its_owner_alone(tmp_path: Path) -> None:
    with Rotation(tmp_path / "state" / "backups"):
        assert (tmp_path / "state" / "backups").stat().st_mode & 0o777 == 0o700
