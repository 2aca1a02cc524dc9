"""The app in a terminal, killed while it is being edited in, and opened again."""

from __future__ import annotations

import fcntl
import os
import pty
import random
import re
import select
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyte

from s2p_tui.alignment.mapping_file import to_text
from s2p_tui.app.commands import arrange
from s2p_tui.app.commands.arrange import ImpossibleError
from s2p_tui.app.cursor import Cursor
from s2p_tui.conversion.output import mapping_of
from s2p_tui.session.session import Session
from tests.benchmarks.inputs import equal_tensors, plain_pair

_ROWS = 12
_WIDTH = 110
# Only what never ends waits for so long, on a machine however busy.
_LATEST = 300.0
_PAUSE = 0.3
_DRAWN = re.compile(r"edits ([\d,]+) ")
_GOING_ON = re.compile(r"Resumed ([\d,]+) edit")
_CUT, _BORDER = "edits…", "│"
# Its entry may be on the bench, below the screen.
_FIRST_LEAF = ".layers[0].weight"
# The emulator writes what it does not know of these as text.
_MODES = re.compile(rb"\x1b\[[<>=][\d;]*[A-Za-z]|\x1b\[\?[\d;]*\$p")
_EDITS = {
    b"J": lambda session, cursor: arrange.shift(session, cursor, 1),
    b"K": lambda session, cursor: arrange.shift(session, cursor, -1),
    b"s": arrange.toggle_gap,
    b"\x7f": arrange.to_bench,
    b"y": arrange.toggle_trust,
}
_UNDO, _REDO, _MATCH, _SAVE = b"u", b"\x19", b"a", b"\x13"
_TAKE = b"\r"

Step = tuple[int, bytes]
"""A row, counted from 0, and the key pressed there."""


@dataclass(frozen=True)
class Round:
    """What one kill showed.

    Attributes:
        seen: Edits on the screen when the program was killed.
        found: Edits there were when it was opened again.
        sent: Edits there would have been, had it lived.
        right: Whether the alignment was that of so many edits.
    """

    seen: int
    found: int
    sent: int
    right: bool

    @property
    def kept(self) -> bool:
        """Whether what was on the screen was there again, and nothing was made up."""
        return self.right and self.seen <= self.found <= self.sent


class Model:
    """What the keys must come to, by the functions the app calls, in this process."""

    def __init__(self, model: Path, skeleton: Path) -> None:
        self._files = model, skeleton
        self.steps: list[Step] = []
        self.session = Session.open(model, skeleton)

    @property
    def edits(self) -> int:
        return len(self.session.history)

    def press(self, step: Step) -> int:
        """Return how often the key has to be pressed: twice where the app asks first."""
        place, key = step
        self.steps.append(step)
        session, cursor = self.session, Cursor(index=place)
        if key in _EDITS:
            try:
                move = _EDITS[key](session, cursor)
            except ImpossibleError:
                return 1
            session.edit(move.edit)
            return 2 if move.warning else 1
        elif key == _MATCH:
            hunks = session.match_proposal().hunks
            ticked = {change.index for hunk in hunks if hunk.ticked for change in hunk.changes}
            if ticked:
                session.edit(session.match_proposal().accepted(ticked))
        else:
            {_UNDO: session.undo, _REDO: session.redo}[key]()
        return 1

    def back_to(self, count: int) -> Model:
        """The model after its first steps."""
        other = Model(*self._files)
        for step in self.steps[:count]:
            other.press(step)
        return other

    def as_saved(self) -> str:
        session = self.session
        return to_text(mapping_of(session.checkpoint, session.target, session.alignment))


class Program:
    """The app, or a script that opens it, in a child process on a pseudo-terminal."""

    def __init__(
        self,
        *arguments: str,
        state_home: Path,
        module: str | None = "s2p_tui",
        stderr: BinaryIO | None = None,
    ) -> None:
        self.output = b""
        self._open, self._stalled = True, False
        self._master, terminal = pty.openpty()
        self._terminal, self._rows = terminal, 30
        self._resize()
        # GNU readline, where a test runner has loaded it, exports another terminal's size.
        env = {name: os.environ[name] for name in os.environ.keys() - {"LINES", "COLUMNS"}}
        env |= {"TERM": "xterm-256color", "XDG_STATE_HOME": str(state_home)}
        what = [] if module is None else ["-m", module]
        self._process = subprocess.Popen(
            [sys.executable, *what, *arguments],
            stdin=terminal, stdout=terminal, stderr=stderr or terminal, env=env,
            start_new_session=True,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def ended(self) -> int:
        """The exit status, once there is one; what is drawn until then is read."""
        deadline = time.monotonic() + _LATEST
        while self._process.poll() is None and time.monotonic() < deadline:
            self._read(0.1)
        return self._process.wait(0)

    def send(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def attributes(self) -> list[object]:
        """How the terminal is set."""
        return termios.tcgetattr(self._terminal)

    def hang_up(self) -> None:
        """Close the terminal."""
        os.close(self._terminal)
        os.close(self._master)
        self._open = False

    def status(self) -> int:
        """Its exit status, once it has ended; reads on meanwhile unless it is stalled."""
        deadline = time.monotonic() + _LATEST
        while self._process.poll() is None:
            assert time.monotonic() < deadline, "it does not end"
            if not self._stalled and self._open:
                self._read(0.05)
        return self._process.returncode

    def until_stalled(self) -> None:
        """Wait, reading nothing any more, until the terminal takes no more output."""
        self._stalled = True
        writable = select.poll()
        writable.register(self._terminal, select.POLLOUT)
        while writable.poll(0):
            assert self._process.poll() is None, "it has ended"

    def until(self, text: bytes) -> bytes:
        """Wait until the text is on the screen, or else was sent; returns what was sent till then.

        Only what changes is sent: of words that are drawn over others maybe a few letters.
        """
        while text not in self.output and text not in self._shown.encode():
            if not self._read(_LATEST):
                raise TimeoutError(f"{text!r} was not drawn, but {self.output[-2000:]!r}")
        seen, self.output = self.output, b""
        return seen

    def until_edits(self, count: int) -> None:
        """Wait until the screen says that there are so many edits."""
        deadline = time.monotonic() + _LATEST
        while self.shown_edits() != count:
            assert time.monotonic() < deadline, f"not {count} edits, but\n{self._shown}"
            self._read(0.05)

    def edits(self, row: str) -> int:
        """The number of edits on the screen, which is drawn anew; `row` is in every whole one."""
        deadline = time.monotonic() + _LATEST
        while True:
            assert time.monotonic() < deadline, f"nothing was drawn: {self.output[-2000:]!r}"
            self._rows = 61 - self._rows
            self._resize()
            self._read_for(_PAUSE)
            if found := _GOING_ON.findall(self._shown):
                return _number(found[-1])
            # A picture of the old size may be sent still, of which the rest was read before.
            status = self._screen.display[-2].strip()
            is_whole = row in self._shown and status and not status.startswith(_BORDER)
            if is_whole and _CUT not in self._shown:
                return self.shown_edits()

    def shown_edits(self) -> int:
        """The number of edits on the screen as drawn last; 0 where there is none."""
        found = _DRAWN.findall(self._shown)
        return _number(found[-1]) if found else 0

    @property
    def _shown(self) -> str:
        return "\n".join(self._screen.display)

    def _resize(self) -> None:
        self._screen = pyte.Screen(_WIDTH, self._rows)
        self._stream = pyte.ByteStream(self._screen)
        size = struct.pack("HHHH", self._rows, _WIDTH, 0, 0)
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)

    def _read_for(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._read(left)

    def until_there(self, path: Path) -> None:
        """Wait, reading on, until there is a file."""
        deadline = time.monotonic() + _LATEST
        while not path.exists():
            assert time.monotonic() < deadline, f"no {path.name}, but {self.output[-2000:]!r}"
            self._read(0.05)

    def kill_after(self, seconds: float) -> None:
        """Read on for a while, then kill it, and read what it drew before."""
        self._read_for(seconds)
        self._process.kill()
        self._process.wait()
        if self._open:
            os.close(self._terminal)
            while self._read(0.0):
                pass
            os.close(self._master)
            self._open = False

    def _read(self, wait: float) -> bool:
        if not select.select([self._master], [], [], wait)[0]:
            return False
        try:
            data = os.read(self._master, 1 << 16)
        except OSError:
            return False
        self.output += data
        self._stream.feed(_MODES.sub(b"", data))
        return True


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def kill_rounds(folder: Path, count: int, seed: int) -> list[Round]:
    """Edit, kill, open again and compare, so many times on one pair."""
    chance = random.Random(seed)
    tensors = equal_tensors(_ROWS, _ROWS * 64)
    pair = plain_pair(folder, "killed", tensors, ".safetensors")
    output = folder / "killed.eqx"
    model, done, at_kill = Model(pair.model, pair.skeleton), [], None
    while True:
        program = Program(
            str(pair.model), str(pair.skeleton), "-o", str(output), "--resume",
            state_home=folder / "state",
        )  # fmt: skip
        wait = 0.0
        try:
            program.until(_FIRST_LEAF.encode())
            if at_kill is not None:
                model, one = _compared(program, model, at_kill, output)
                done.append(one)
            if len(done) == count or (done and not done[-1].kept):
                return done
            for _ in range(chance.randint(0, 5)):
                _press_and_wait(program, model, chance)
            base = len(model.steps)
            for _ in range(chance.randint(1, 8)):
                step = (chance.randrange(_ROWS), chance.choice([*_EDITS]))
                program.send(_as_keys(step, model.press(step)))
            wait = chance.choice([0, chance.uniform(0, 0.05), chance.uniform(0, 0.3)])
        finally:
            program.kill_after(wait)
        at_kill = base, program.shown_edits()


def _press_and_wait(program: Program, model: Model, chance: random.Random) -> None:
    keys = [*_EDITS, *_EDITS, _MATCH] + [_UNDO, _REDO, _UNDO] * (model.edits > 1)
    step = (chance.randrange(_ROWS), chance.choice(keys))
    before = model.edits
    # Only a proposal that would change something opens the screen on which it is taken.
    reviewed = step[1] == _MATCH and bool(model.session.match_proposal().hunks)
    times = model.press(step)
    program.send(_as_keys(step, times) + _TAKE * reviewed)
    if model.edits != before:
        program.until_edits(model.edits)


def _as_keys(step: Step, times: int) -> bytes:
    place, key = step
    return b"%dG%s" % (place + 1, key * times)


def _compared(
    program: Program, model: Model, at_kill: tuple[int, int], output: Path
) -> tuple[Model, Round]:
    """The model brought to where the reopened program is, and how well that is."""
    base, seen = at_kill
    # Edits that cancel out come to one alignment: only their number tells where it is.
    found = program.edits(_FIRST_LEAF)
    mapping = output.with_name("killed.mapping.json")
    mapping.unlink(missing_ok=True)
    program.send(_SAVE)
    program.until(b"Mapping saved")
    text, sent = mapping.read_text(), model.edits
    for count in range(base, len(model.steps) + 1):
        then = model.back_to(count)
        if then.edits == found and then.as_saved() == text:
            return then, Round(seen, found, sent, right=True)
    return model, Round(seen, found, sent, right=False)
