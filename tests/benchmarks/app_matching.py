"""The app at 100,000 rows while the matcher runs: keys, stalls, and a matcher that fails.

`python -m tests.benchmarks matching` measures each kind of names in a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from textual import events

from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.app.app import S2PApp
from s2p_tui.app.screens.main import Workspace
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.skeleton_file import Target
from s2p_tui.formats.tensors import ArrayTensors
from s2p_tui.session import opening
from s2p_tui.session.session import Session
from tests.benchmarks.alignment_names import NAMES, SHAPES
from tests.benchmarks.measure import Report, Result

_SIZE = (110, 30)
_ROWS = 100_000
_PATIENCE = 120.0
_BETWEEN = 0.05
"""Seconds between two keys, as from a keyboard that repeats."""
_LEAST_KEYS = 10


def run(_folder: Path, _runs: int, report: Report) -> None:
    """Two lines per kind of names: keys while it matches, and the longest that nothing was done."""
    for number, names in enumerate(NAMES):
        found = _in_child(number, _ROWS)
        keys = Result(f"down (j) while matching {_ROWS:,}, {names.what}, key to paint", "≤ 30 ms")
        keys.seconds = [found["p95"]]
        keys.note = f"95 % of {found['keys']}; median {1000 * found['p50']:.1f} ms; "
        keys.note += (
            f"longest stall {1000 * found['stall']:.0f} ms; matched in {found['all']:.1f} s; "
        )
        keys.note += f"goes on when the matcher fails: {found['survives']}"
        report(keys)


def _in_child(number: int, rows: int) -> Mapping[str, Any]:
    command = [sys.executable, "-m", __name__, str(number), str(rows)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def _session(number: int, rows: int) -> Session:
    """By order, the matcher still to run; nothing here has numbers."""
    entries, leaves, _ = NAMES[number].make(rows, SHAPES["four shapes"])
    state_dict = StateDict(tuple(Entry(key, shape, "float32") for key, shape in entries))
    skeleton = Skeleton(tuple(Leaf(path, shape, "float32") for path, shape in leaves))
    empty = ArrayTensors({})
    checkpoint = Checkpoint("model.pt", (), 0, state_dict, empty)
    target = Target("model_skeleton.eqx", (), 0, skeleton, empty)
    return Session.between(checkpoint, target, soon=True)


class _Paints:
    """When the app last drew something, and where the cursor was then."""

    def __init__(self, app: S2PApp) -> None:
        self.last, self.cursor = 0.0, -1
        draw: Callable[..., None] = app._display

        def noted(*arguments: Any) -> None:
            draw(*arguments)
            self.last = time.perf_counter()
            if isinstance(app.screen, Workspace):
                self.cursor = app.screen.cursor.index

        app._display = noted  # type: ignore[method-assign]


@contextlib.contextmanager
def _stalls() -> Iterator[list[float]]:
    """By how much a task that wants to run every millisecond came too late, at the worst."""
    worst = [0.0]

    async def look() -> None:
        while True:
            wanted = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            worst[0] = max(worst[0], time.perf_counter() - wanted)

    task = asyncio.ensure_future(look())
    try:
        yield worst
    finally:
        task.cancel()


async def _measure(number: int, rows: int) -> dict[str, Any]:
    session = _session(number, rows)
    app = _app(session)
    paints = _Paints(app)
    waits: list[float] = []
    async with app.run_test(size=_SIZE) as pilot:
        await _until(lambda: isinstance(app.screen, Workspace))
        workspace = app.screen
        assert isinstance(workspace, Workspace)
        # A list that is one block has a single line while it is folded.
        await pilot.press("F")
        started, top = time.perf_counter(), workspace.cursor.index
        with _stalls() as worst:
            while session.awaits_evidence or len(waits) < _LEAST_KEYS:
                before, pressed = workspace.cursor.index, time.perf_counter()
                assert app._driver is not None
                key = "kj"[before == top]
                event = events.Key(key, key)
                event.set_sender(app)
                app._driver.send_message(event)
                await _until(
                    lambda before=before, pressed=pressed: (
                        paints.cursor != before and paints.last > pressed
                    )
                )
                waits.append(paints.last - pressed)
                await asyncio.sleep(_BETWEEN)
        seconds = time.perf_counter() - started
    return {
        "p50": float(np.quantile(waits, 0.5)),
        "p95": float(np.quantile(waits, 0.95)),
        "keys": len(waits),
        "stall": worst[0],
        "all": seconds,
    }


async def _survives(number: int, rows: int) -> bool:
    """Return True if the app answers a key after its matcher raised."""

    def fails(*_: object) -> None:
        raise MemoryError

    match, opening.evidence_of = opening.evidence_of, fails
    try:
        app = _app(_session(number, rows))
        async with app.run_test(size=_SIZE) as pilot:
            await _until(lambda: isinstance(app.screen, Workspace))
            workspace = app.screen
            assert isinstance(workspace, Workspace)
            await _until(lambda: workspace.session.lacks_evidence)
            await pilot.press("F")
            before = workspace.cursor.index
            await pilot.press("j")
            return workspace.cursor.index != before and app.is_running
    finally:
        opening.evidence_of = match


def _app(session: Session) -> S2PApp:
    return S2PApp(
        lambda _: session,
        model_label="model.pt",
        skeleton_label="model_skeleton.eqx",
        output=Path("model.eqx"),
        resume="afresh",
    )


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(_PATIENCE):
        while not is_so():
            await asyncio.sleep(0.0005)


def _child(number: int, rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_STATE_HOME"] = folder
        found = asyncio.run(_measure(number, rows))
        found["survives"] = asyncio.run(_survives(number, rows))
    print(json.dumps(found))


if __name__ == "__main__":
    _child(*map(int, sys.argv[1:]))
