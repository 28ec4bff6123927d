"""What stays on disk of a replica that is gone, and what is read from its log."""

from __future__ import annotations

from pathlib import Path

from dcf.scheduler.backends.replica_folder import clear_away, read_record, read_tail


def make_folder(replicas: Path, name: str, log: str = "") -> Path:
    folder = replicas / name
    folder.mkdir(parents=True)
    (folder / "log").write_text(log)
    return folder


def test_only_the_newest_failed_replicas_are_kept(tmp_path: Path) -> None:
    for number in range(5):
        make_folder(tmp_path / ".failed", f"echo-g1-0.{number}")

    clear_away(make_folder(tmp_path, "echo-g1-0", log="newest"), failed=True, keep=3)

    kept = {folder.name: (folder / "log").read_text() for folder in (tmp_path / ".failed").iterdir()}
    assert {"echo-g1-0.3", "echo-g1-0.4"} < kept.keys()
    assert sorted(kept.values()) == ["", "", "newest"]
    assert not (tmp_path / "echo-g1-0").exists()


def test_a_replica_that_was_stopped_leaves_nothing(tmp_path: Path) -> None:
    clear_away(make_folder(tmp_path, "echo-g1-0"), failed=False)

    assert list(tmp_path.iterdir()) == []


def test_the_tail_has_the_text_alone_and_at_most_20_lines(tmp_path: Path) -> None:
    lines = [f"1700000000.123 stdout line {number}" for number in range(30)]
    folder = make_folder(tmp_path, "a", "\n".join([*lines, "1700000001.000 dcf dcf: it broke", ""]))

    tail = read_tail(folder)

    assert tail.lines == (*(f"line {number}" for number in range(11, 30)), "dcf: it broke")
    assert tail.last_own == "it broke"


def test_without_a_log_the_interpreters_own_words_are_shown(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, "a")
    (folder / "stderr").write_text("sh: 1: exec: /gone/python: not found\n")

    tail = read_tail(folder)

    assert tail.lines == ("sh: 1: exec: /gone/python: not found",)
    assert tail.last_stderr == "sh: 1: exec: /gone/python: not found"


def test_a_broken_record_is_none(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, "a")
    assert read_record(folder) is None
    for text in ("", "[]", "{}", '{"name": 1}'):
        (folder / "replica.json").write_text(text)
        assert read_record(folder) is None
