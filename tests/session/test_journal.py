"""The journal's files: private, one program at a time, kept aside, cleared away."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from s2p_tui.alignment.edits import OpenGap, SendToBench, Swap
from s2p_tui.errors import S2PError
from s2p_tui.session import journal as journal_module
from s2p_tui.session.journal import Journal
from s2p_tui.session.journal_lines import VERSION, framed
from s2p_tui.session.session import Session
from tests.helpers.sessions import checkpoint_of, target_of

DAY = 86400


def session_of(count: int = 4, name: str = "") -> Session:
    arrays = {f"{name}e{n}": np.zeros((2,), np.float32) for n in range(count)}
    return Session(checkpoint_of(arrays), target_of({f".{key}": a for key, a in arrays.items()}))


def opened(session: Session, now: float = 1000.0) -> Journal:
    return Journal.open(session.checkpoint, session.target, lambda: now)


def begun(session: Session, now: float = 1000.0) -> Journal:
    journal = opened(session, now)
    journal.start(session.alignment)
    session.record(journal.record)
    return journal


def resumed(session: Session) -> Journal:
    journal = opened(session)
    found = journal.go_on()
    session.go_on(found.alignment, found.history)
    session.record(journal.record)
    return journal


@pytest.fixture
def folder(state_home: Path) -> Path:
    return state_home / "s2p-tui" / "journals"


@pytest.fixture
def left(folder: Path) -> Session:
    """A session that made three edits and took one back."""
    session = session_of()
    journal = begun(session)
    session.edit(Swap(0, 1))
    session.edit(OpenGap(2))
    session.edit(SendToBench((0,)))
    session.undo()
    journal.close()
    assert names(folder) == ["jsonl", "lock"]
    return session


def names(folder: Path) -> list[str]:
    return sorted(path.name.partition(".")[2] for path in folder.iterdir())


def test_a_session_is_gone_on_with_undo_and_redo_included(left: Session) -> None:
    session = session_of()
    journal = resumed(session)
    assert session.alignment == left.alignment
    assert [session.verdict(n) for n in range(4)] == [left.verdict(n) for n in range(4)]
    assert (session.counts, session.blocking) == (left.counts, left.blocking)
    assert len(session.history) == 2
    session.redo()
    left.redo()
    assert session.alignment == left.alignment
    journal.close()
    third = session_of()
    resumed(third).close()
    assert third.alignment == left.alignment
    while third.undo():
        pass
    assert third.alignment == session_of().alignment


@pytest.mark.usefixtures("left")
def test_only_the_user_can_read_it(folder: Path) -> None:
    old = os.umask(0)
    try:
        folder.chmod(0o755)
        begun(session_of(name="x")).close()
    finally:
        os.umask(old)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


@pytest.mark.usefixtures("left")
def test_starting_afresh_keeps_the_old_one_aside_at_the_first_edit(folder: Path) -> None:
    session = session_of()
    begun(session).close()
    assert names(folder) == ["jsonl", "lock"]
    journal = begun(session)
    before = next(folder.glob("*.jsonl")).read_bytes()
    session.edit(Swap(2, 3))
    journal.close()
    assert names(folder) == ["jsonl", "lock", "old.jsonl"]
    assert next(folder.glob("*.old.jsonl")).read_bytes() == before
    again = session_of()
    resumed(again).close()
    assert again.alignment == session.alignment

    third = session_of()
    journal = begun(third)
    third.edit(Swap(1, 2))
    journal.close()
    assert names(folder) == ["jsonl", "lock", "old.jsonl", "old2.jsonl"]
    assert next(folder.glob("*.old.jsonl")).read_bytes() == before


def test_without_a_step_nothing_is_left(folder: Path) -> None:
    begun(session_of()).close()
    assert names(folder) == []


def test_what_was_all_undone_is_not_worth_keeping_aside(folder: Path) -> None:
    for _ in range(2):
        session = session_of()
        journal = begun(session)
        session.edit(Swap(0, 1))
        session.undo()
        journal.close()
    assert names(folder) == ["jsonl", "lock"]


@pytest.mark.usefixtures("left")
def test_a_damaged_one_is_kept_aside_and_said(folder: Path) -> None:
    path = next(folder.glob("*.jsonl"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    journal = opened(session_of())
    assert journal.found is None
    aside = next(folder.glob("*.damaged.jsonl"))
    assert journal.damaged.endswith(f"It is kept as {aside}.")
    assert "\n" not in journal.damaged
    assert aside.read_bytes() == content
    journal.close()


@pytest.mark.usefixtures("left")
def test_one_of_an_earlier_version_is_kept_aside_and_said(folder: Path) -> None:
    path = next(folder.glob("*.jsonl"))
    lines = [json.loads(line[9:]) for line in path.read_bytes().splitlines()]
    assert lines[0]["version"] == VERSION
    lines[0]["version"], chain, content = VERSION - 1, 0, b""
    for line in lines:
        framed_line, chain = framed(line, chain)
        content += framed_line
    path.write_bytes(content)
    journal = opened(session_of())
    assert journal.found is None
    aside = next(folder.glob("*.damaged.jsonl"))
    assert f"it is of version {VERSION - 1}, this reads {VERSION}" in journal.damaged
    assert journal.damaged.endswith(f"It is kept as {aside}.")
    assert aside.read_bytes() == content
    journal.close()


@pytest.mark.usefixtures("left")
def test_one_of_another_pair_under_this_name_is_not_applied(folder: Path) -> None:
    other = session_of(name="x")
    begun(other).close()
    journal = begun(other)
    other.edit(Swap(0, 1))
    journal.close()
    ours, others = sorted(folder.glob("*.jsonl"), key=lambda path: b"xe0" in path.read_bytes())
    os.replace(ours, others)
    journal = opened(session_of(name="x"))
    assert journal.found is None
    assert "was made for other files" in journal.damaged
    journal.close()


@pytest.mark.usefixtures("left")
def test_a_torn_line_is_dropped_and_written_over(folder: Path) -> None:
    path = next(folder.glob("*.jsonl"))
    path.write_bytes(path.read_bytes()[:-9])
    session = session_of()
    journal = resumed(session)
    assert len(session.history) == 3
    session.edit(Swap(0, 3))
    journal.close()
    again = session_of()
    resumed(again).close()
    assert again.alignment == session.alignment


def test_the_second_program_is_told_and_the_first_goes_on() -> None:
    session = session_of()
    journal = begun(session)
    with pytest.raises(S2PError, match="another s2p-tui is at work on the same pair"):
        opened(session_of())
    opened(session_of(name="x")).close()
    session.edit(Swap(0, 1))
    journal.close()
    again = session_of()
    resumed(again).close()
    assert again.alignment == session.alignment


@pytest.mark.parametrize("room", [0, 20])
def test_a_full_disk_loses_nothing_once_there_is_room(
    monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    session = session_of()
    journal = begun(session)
    session.edit(Swap(0, 1))
    real, left = os.pwrite, [room]

    def full(file: int, data: bytes, offset: int) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        some, left[0] = data[: left[0]], 0
        return real(file, some, offset)

    monkeypatch.setattr(os, "pwrite", full)
    session.edit(Swap(1, 2))
    assert journal.trouble == "Edits are not journalled now: No space left on device."
    monkeypatch.setattr(os, "pwrite", real)
    session.edit(Swap(2, 3))
    assert journal.trouble == ""
    journal.close()
    again = session_of()
    resumed(again).close()
    assert again.alignment == session.alignment
    assert len(again.history) == 3


def test_a_long_one_is_made_shorter(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(journal_module, "MOST_STEPS", 30)
    monkeypatch.setattr(journal_module, "UNDO_KEPT", 10)
    session = session_of()
    journal = begun(session)
    for number in range(31):
        session.edit(Swap(number % 4, (number + 1) % 4))
    journal.close()
    size = next(folder.glob("*.jsonl")).stat().st_size
    for _ in range(2):
        again = session_of()
        journal = opened(again)
        assert journal.found is not None
        assert journal.found.edits == 31
        journal.close()
        journal = resumed(again)
        assert len(again.history) == 10
        assert again.alignment == session.alignment
        journal.close()
    assert next(folder.glob("*.jsonl")).stat().st_size < size * 2 / 3
    assert names(folder) == ["jsonl", "lock"]


def test_no_place_for_it_is_said(state_home: Path) -> None:
    (state_home / "s2p-tui").write_text("a file")
    with pytest.raises(S2PError, match="journals cannot be used: "):
        opened(session_of())


def test_old_ones_of_files_that_are_gone_are_cleared_away(folder: Path, tmp_path: Path) -> None:
    there = tmp_path / "model.pt"
    there.touch()
    for name, files in (("gone", ()), ("there", (there,)), ("busy", ())):
        session = session_of(name=name)
        object.__setattr__(session.checkpoint, "files", files)
        journal = begun(session)
        session.edit(Swap(0, 1))
        if name != "busy":
            journal.close()
    assert names(folder) == ["jsonl"] * 3 + ["lock"] * 3
    written = next(folder.glob("*.jsonl")).stat().st_mtime
    opened(session_of(), written + 89 * DAY).close()
    assert names(folder) == ["jsonl"] * 3 + ["lock"] * 3
    opened(session_of(), written + 91 * DAY).close()
    assert names(folder) == ["jsonl"] * 2 + ["lock"] * 2
    assert not any(b"gonee0" in path.read_bytes() for path in folder.glob("*.jsonl"))
