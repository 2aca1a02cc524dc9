"""Small sessions without files, and an app opened on one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from textual.pilot import Pilot

from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.app.screens.main import Workspace
from s2p_tui.app.start import S2PApp
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.skeleton_file import Target
from s2p_tui.formats.tensors import ArrayTensors
from s2p_tui.session.session import Arrangement, Session
from tests.helpers.claude_server import Script, connect, rows, says, serving
from tests.helpers.unlike import RIGHT, unlike

ANSWER = says(rows(("they are named so", RIGHT)))
Opened = Callable[..., AbstractAsyncContextManager[tuple[Pilot[object], Workspace]]]


def make_session(
    entries: Iterable[Entry], leaves: Iterable[Leaf], *, arrange: Arrangement | None = None
) -> Session:
    """A session in memory: unless arranged, by order, and names are no evidence.

    Entries count up from 0, the skeleton's values are 0.
    """
    entries, leaves = tuple(entries), tuple(leaves)
    arrays = {e.key: np.arange(np.prod(e.shape), dtype=e.dtype).reshape(e.shape) for e in entries}
    kept = {leaf.path: np.zeros(leaf.shape, leaf.dtype) for leaf in leaves}
    checkpoint = Checkpoint("model.pt", (), 4321, StateDict(entries), ArrayTensors(arrays))
    target = Target("model_skeleton.eqx", (), 99, Skeleton(leaves), ArrayTensors(kept))
    if arrange is None:
        return Session(checkpoint, target)
    return Session.between(checkpoint, target, arrange=arrange)


def linears() -> Session:
    """Rows 0, 1 mismatched, 2 doubtful, 3 exact, 4 a scalar, 5 transformed; one entry benched."""
    shapes = {"a": (2, 3), "b": (4,), "c": (6, 2), "d": (5,), "e": (3, 1), "left.over": (7,)}
    leaves = [
        Leaf(".first", (4,), "float32", owner="equinox.nn.Linear"),
        Leaf(".second", (2, 3), "float32", owner="equinox.nn.Linear"),
        Leaf(".third", (2, 6), "float32"),
        Leaf(".fourth", (5,), "float32"),
        Leaf(".drop.p", (), "float64", kind="scalar", owner="equinox.nn.Dropout"),
        Leaf(".fifth", (3,), "float32"),
    ]
    return make_session((Entry(key, shape, "float32") for key, shape in shapes.items()), leaves)


def fitting(count: int = 4) -> Session:
    """Every row exact."""
    names = [f"layer{i}" for i in range(count)]
    return make_session(
        (Entry(name, (2, 2), "float32") for name in names),
        (Leaf(f".{name}", (2, 2), "float32") for name in names),
    )


def reordered(arrange: Arrangement | None = "auto") -> Session:
    """Layers last to first in the checkpoint, first to last in the skeleton."""
    shapes = {"weight": (2, 2), "bias": (2,)}
    owner = "equinox.nn.Linear"
    return make_session(
        (Entry(f"lin{n}.{k}", shapes[k], "float32") for n in (3, 2, 1) for k in shapes),
        (
            Leaf(f".lin{n}.{k}", shapes[k], "float32", owner=owner)
            for n in (1, 2, 3)
            for k in shapes
        ),
        arrange=arrange,
    )


def without_partner() -> Session:
    """Row 2 is a leaf that nothing in the checkpoint corresponds to."""
    owner = "mynet.Linear"
    return make_session(
        [
            Entry("lin1.weight", (2, 2), "float32"),
            Entry("lin2.weight", (3, 2), "float32"),
            Entry("lin2.bias", (3,), "float32"),
        ],
        [
            Leaf(".lin1.weight", (2, 2), "float32", owner=owner),
            Leaf(".lin1.bias", (2,), "float32", owner=owner),
            Leaf(".lin2.weight", (3, 2), "float32", owner=owner),
            Leaf(".lin2.bias", (3,), "float32", owner=owner),
        ],
        arrange="auto",
    )


def make_app(session: Session, output: Path = Path("model.eqx"), **options: object) -> S2PApp:
    return S2PApp(
        lambda _: session,
        model_label="model.pt",
        skeleton_label="model_skeleton.eqx",
        output=output,
        **options,  # pyright: ignore[reportArgumentType]
    )


async def until(pilot: Pilot[object], is_so: Callable[[], bool]) -> None:
    """Let the app go on until something is the case."""
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline, "it never came to be"
        await pilot.pause()


def in_turn(pilot: Pilot[object]) -> Pilot[object]:
    """The pilot, pressing a key only when what the one before did can be seen."""
    press, app = pilot.press, pilot.app
    assert isinstance(app, S2PApp)

    async def press_in_turn(*keys: str) -> None:
        for key in keys:
            await press(key)
            await until(pilot, lambda: app.keys_are_done or not app.is_running)

    pilot.press = press_in_turn
    return pilot


@pytest.fixture
def opened() -> Opened:
    @asynccontextmanager
    async def open_app(
        session: Session, size: tuple[int, int] = (100, 30), **options: object
    ) -> AsyncIterator[tuple[Pilot[object], Workspace]]:
        app = make_app(session, **options)
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: isinstance(app.screen, Workspace))
            await pilot.pause()
            assert isinstance(app.screen, Workspace)
            yield in_turn(pilot), app.screen

    return open_app


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    script = Script([ANSWER])
    with serving(script) as url:
        connect(monkeypatch, tmp_path, url)
        yield script


@pytest.fixture
def session() -> Session:
    return make_session(*unlike(), arrange="auto")
