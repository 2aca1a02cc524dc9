"""One changed file given to the program, and what must hold whatever is in it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from cyclopts import App

from s2p_tui.cli import run
from s2p_tui.errors import S2PError
from s2p_tui.formats.registry import open_checkpoint
from s2p_tui.formats.skeleton_file import open_target
from s2p_tui.session.journal import Journal
from s2p_tui.session.session import Session
from tests.fuzz.seeds import CHUNKS, MODEL, SKELETON, SOUND_LIST

CPU_SECONDS = 60.0
"""Only what grows faster than its file takes so long: 100,000 objects that look at each other take
hours. Slow machines need 5 s for the largest file."""
MEMORY = 64 << 20
"""Bytes a file may take beside its own size, a few times over."""
_PER_BYTE = 64
_STATUSES = {0, 2, 3, 4, 5}


class TooSlowError(BaseException):
    """The program did not come to an end."""


class WrongError(AssertionError):
    """The program did something that no file may make it do."""


@contextlib.contextmanager
def limited_time(seconds: float = CPU_SECONDS) -> Iterator[None]:
    """Stop what takes more time on the processor than this, or waits for ever."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TooSlowError

    before = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    # On a busy machine what takes so long on the processor may take many times as long.
    signal.setitimer(signal.ITIMER_REAL, seconds * 10)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def limited_memory(size: int) -> Iterator[None]:
    """See that no more memory is used at any moment than a file of that size may ask for."""
    # Linux: the most memory used is counted from now on.
    Path("/proc/self/clear_refs").write_text("5")
    before = _most_memory()
    yield
    grown = _most_memory() - before
    if grown > MEMORY + _PER_BYTE * size:
        raise WrongError(f"it took {grown >> 20} MiB for a file of {size:,} bytes")


def _most_memory() -> int:
    found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


@dataclass
class Ground:
    """A folder with a sound pair, in which one file at a time is replaced by a changed one.

    Attributes:
        folder: It.
        state: The state directory.
        outcomes: How often what happened, by format.
    """

    folder: Path
    state: Path
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)

    def attempt(self, name: str, role: str, content: bytes) -> None:
        """Have the program read, list and convert the content in a role.

        Raises:
            WrongError: It ended in any other way than by its own errors or a verified file.
            TooSlowError: It did not end.
        """
        before = _contents(self.folder)
        path = self.folder / _NAMES.get(role, "changed")
        kept = path.read_bytes() if path.exists() else None
        path.write_bytes(content)
        try:
            with limited_time(), limited_memory(len(content)):
                self.outcomes[name, self._outcome(role, path)] += 1
        finally:
            if kept is None:
                path.unlink()
            else:
                path.write_bytes(kept)
        if _contents(self.folder) != before:
            raise WrongError("it left or changed a file")

    def _outcome(self, role: str, path: Path) -> str:
        if role == "journal":
            return self._journal(path)
        model, skeleton, mapping = self.folder / MODEL, self.folder / SKELETON, None
        match role:
            case "skeleton":
                skeleton = path
            case "mapping":
                mapping = path
            case "shard":
                model = self.folder / "sound.index.json"
            case "distcp":
                model = self.folder / SOUND_LIST
            case _:
                model = path
        status = _command("inspect", str(path), *["--json"] * (len(path.read_bytes()) % 2))
        try:
            self._read_all(role, model, skeleton)
            session = Session.open(model, skeleton, mapping=mapping)
        except S2PError as error:
            _require_clean(error)
            return "refused" if status else "listed, then refused"
        session.close()
        options = [] if mapping is None else ["--mapping", str(mapping)]
        output = self.folder / "out.eqx"
        status = _command("convert", str(model), str(skeleton), "-o", str(output), "--trust-all",
                          *options)  # fmt: skip
        if status:
            return "opened, not converted"
        leaves = len(session.target.skeleton)
        with output.open("rb") as stream:
            for _ in range(leaves):
                np.load(stream, allow_pickle=False)
            if stream.read(1):
                raise WrongError("the output holds more than its leaves")
        output.unlink()
        return "converted"

    def _read_all(self, role: str, model: Path, skeleton: Path) -> None:
        if role == "skeleton":
            target = open_target(skeleton)
            described = [(leaf.path, leaf.shape) for leaf in target.skeleton if leaf.has_value]
            tensors = target.values
        else:
            checkpoint = open_checkpoint(model)
            described = [(entry.key, entry.shape) for entry in checkpoint.state_dict]
            tensors = checkpoint.tensors
        for name, shape in described:
            tensors.read(name, tuple((0, min(size, 3)) for size in shape))
        tensors.close()

    def _journal(self, path: Path) -> str:
        (journal_file,) = self.state.rglob("*.jsonl")
        sound = journal_file.read_bytes()
        journal_file.write_bytes(path.read_bytes())
        session = Session.open(self.folder / MODEL, self.folder / SKELETON)
        try:
            journal = Journal.open(session.checkpoint, session.target)
            found = journal.found and journal.go_on()
            if found:
                session.go_on(found.alignment, found.history)
                while session.history.edits:
                    session.undo()
            journal.close()
            return "gone on with" if found else "kept aside" if journal.damaged else "nothing there"
        finally:
            session.close()
            for file in journal_file.parent.iterdir():
                file.unlink()
            journal_file.write_bytes(sound)


_NAMES = {
    "shard": "shard.safetensors",
    "index": "changed.index.json",
    "dcp": "changed.metadata",
    "distcp": CHUNKS,
}


def _contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {entry.name: (entry.stat().st_size, entry.stat().st_ino) for entry in os.scandir(folder)}


def _require_clean(error: S2PError) -> None:
    if not error.message or not error.message.isprintable() or len(error.message) > 4000:
        raise WrongError(f"no single clear line: {error.message[:500]!r}")


def parse_once() -> None:
    """Parse the same arguments once in this process.

    Files change here, arguments do not: reading these again takes half of the processor's time.
    """
    parse = App.parse_args
    known: dict[tuple[str, ...], Any] = {}

    def parsed(app: App, tokens: Iterable[str], **options: Any) -> Any:
        asked = tuple(tokens)
        if asked not in known:
            known[asked] = parse(app, asked, **options)
        return known[asked]

    App.parse_args = parsed


def _command(*arguments: str) -> int:
    """Run a command in this process; its exit status."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run([*arguments])
    if status not in _STATUSES:
        raise WrongError(f"exit status {status}: {err.getvalue()[:500]}")
    if "--json" in arguments and status == 0:
        json.loads(out.getvalue())
    for line in (out.getvalue() + err.getvalue()).split("\n"):
        if not line.isprintable() or len(line) > 20_000:
            raise WrongError(f"it printed {line[:500]!r}")
    if "Traceback" in err.getvalue() or (status and not err.getvalue()):
        raise WrongError(f"it said {err.getvalue()[:500]!r}")
    return status
