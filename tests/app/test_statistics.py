"""`i`: what is shown of a row's tensors, read from real files in a worker."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from msgspec import structs
from textual.pilot import Pilot
from textual.widgets import Static

from s2p_tui.app.screens.help import Help
from s2p_tui.app.screens.kinds import KindsView
from s2p_tui.app.screens.look import Look
from s2p_tui.app.screens.main import Workspace
from s2p_tui.conversion import statistics
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.formats.tensors import ArrayTensors, FileTensors
from s2p_tui.session.session import Session
from tests.app.pairs import many_keys
from tests.helpers.running_app import Opened, until
from tests.helpers.sessions import linears, reordered


def look(pilot: Pilot[object]) -> str:
    return str(pilot.app.screen.query_one("#look", Static).content)


async def read(pilot: Pilot[object]) -> str:
    """The text once everything has been read."""
    await until(pilot, lambda: "reading" not in look(pilot))
    return look(pilot)


@pytest.fixture
def files(tmp_path: Path) -> Session:
    import equinox as eqx
    import jax

    weight = torch.linspace(-1, 3, 4096, dtype=torch.float32).reshape(64, 64)
    weight[0, :4] = torch.tensor([float("nan"), float("inf"), 0, 0])
    bias = torch.arange(64, dtype=torch.bfloat16)
    state = {"fc.weight": weight, "fc.bias": bias, "twin": bias, "flags": torch.ones(3) > 0}
    torch.save(state, tmp_path / "model.pt")
    layer = eqx.nn.Conv1d(64, 64, 1, groups=1, key=jax.random.PRNGKey(0))
    save_skeleton(tmp_path / "skeleton.eqx", {"fc": layer})
    return Session.open(tmp_path / "model.pt", tmp_path / "skeleton.eqx", arrange="order")


async def test_numbers_of_the_entry_and_of_the_skeleton(opened: Opened, files: Session) -> None:
    async with opened(files, size=(100, 80)) as (pilot, workspace):
        await pilot.press("g", "i")
        assert isinstance(pilot.app.screen, Look)
        text = await read(pilot)
        lines = text.splitlines()
        assert lines[0] == "['fc'].weight  64×64×1 float32"
        assert lines[1].startswith("layer: equinox.nn.")
        assert "groups=1" in lines[1]
        assert "which entry: " in text or "proof: " in text
        assert "fc.weight\n64×64 float32  16.4 kB\nmodel.pt, from byte " in text
        assert "4,096 elements: 1 NaN, 1 infinite, 2 zero" in text
        assert "min -0.99609  max 3" in text
        assert "['fc'].weight in the skeleton" in text
        bars = [line for line in lines if "█" in line]
        assert len(bars) >= 2 * statistics.BINS - 4
        assert max(map(len, bars)) <= 80
        await pilot.press("escape")
        assert pilot.app.screen is workspace


@pytest.mark.slow("drives the app through many screens")
async def test_shared_storage_is_named(opened: Opened, files: Session) -> None:
    async with opened(files, size=(100, 60)) as (pilot, _):
        await pilot.press("g", "j", "i")
        text = await read(pilot)
        assert "fc.bias\n64 bfloat16  128 bytes" in text
        assert "tied with twin" in text
        assert "min 0  max 63" in text


async def test_benched_entries_and_empty_rows(opened: Opened, files: Session) -> None:
    async with opened(files, size=(100, 60)) as (pilot, _):
        await pilot.press("G", "i")
        text = await read(pilot)
        assert text.startswith("On the bench: no leaf takes it.")
        assert "flags\n3 bool  3 bytes" in text
        assert "min 1  max 1\nmean 1  std 0" in text
        await pilot.press("i", "g", "delete", "i")
        text = await read(pilot)
        assert "nothing from the checkpoint is here yet" in text
        assert "['fc'].weight in the skeleton" in text


async def test_transform_and_evidence_in_words(opened: Opened) -> None:
    async with opened(reordered("order"), size=(100, 60)) as (pilot, _):
        await pilot.press("g", "i")
        text = await read(pilot)
        assert "? doubtful: by name and structure lin1.weight belongs here" in text
        assert "transform: none, as it is" in text
        assert "the matcher: " in text


@pytest.mark.slow("drives the app through several screens")
async def test_many_entries_are_read_one_after_the_other(opened: Opened) -> None:
    async with opened(many_keys(), size=(100, 60)) as (pilot, workspace):
        await pilot.press("G", "v", "g", "t", "1", "enter", "i")
        assert len(workspace.session.row(0).keys) == 100
        text = await read(pilot)
        assert text.count(" NaN, ") == 32
        assert text.endswith("and 69 more entries")


async def test_progress_is_shown_and_escape_stops_the_reading(
    opened: Opened, files: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, going_on, ended = threading.Event(), threading.Event(), threading.Event()
    monkeypatch.setattr(statistics, "_CHUNK", 64)
    read_region, count = FileTensors.read, 0

    def slowly(self: FileTensors, name: str, region: object):
        nonlocal count
        count += 1
        if count == 33:
            reading.set()
            assert going_on.wait(300)
            ended.set()
        return read_region(self, name, region)

    monkeypatch.setattr(FileTensors, "read", slowly)
    async with opened(files, size=(100, 60)) as (pilot, workspace):
        await pilot.press("g", "i")
        await until(pilot, reading.is_set)
        await until(pilot, lambda: "reading … 25%" in look(pilot))
        screen = pilot.app.screen
        assert isinstance(screen, Look)
        progress = screen.progress
        await pilot.press("escape")
        assert pilot.app.screen is workspace
        assert progress is not None
        assert progress.is_cancelled
        going_on.set()
        await until(pilot, ended.is_set)
        await pilot.press("J")
        assert len(workspace.session.history) == 1
    assert count == 33


async def test_a_file_cut_short_is_said(opened: Opened, files: Session) -> None:
    path = files.checkpoint.files[0]
    async with opened(files, size=(100, 60)) as (pilot, _):
        with path.open("r+b") as file:
            file.truncate(500)
        await pilot.press("g", "i")
        assert "it was cut short" in await read(pilot)


async def test_packed_numbers_are_named(opened: Opened) -> None:
    session = linears()
    tensors = session.checkpoint.tensors
    assert isinstance(tensors, ArrayTensors)
    structs.force_setattr(session.checkpoint.state_dict.entries[3], "dtype", "float4")
    async with opened(session, size=(100, 60)) as (pilot, _):
        await pilot.press("G", "k", "k", "k", "i")
        assert "float4 tensors cannot be converted" in await read(pilot)


async def test_a_kind_shows_its_worst_row(opened: Opened) -> None:
    session = linears()
    async with opened(session) as (pilot, _):
        await pilot.press("o")
        kinds = pilot.app.screen
        assert isinstance(kinds, KindsView)
        assert kinds.here is not None
        await pilot.press("i")
        assert session.target.skeleton[kinds.here.indices[0]].path in await read(pilot)
        await pilot.press("escape")
        assert pilot.app.screen is kinds
        await pilot.press("question_mark")
        assert isinstance(pilot.app.screen, Help)


@pytest.mark.parametrize("size", [(120, 40), (80, 24), (40, 10)])
@pytest.mark.slow("opens the app for every case")
async def test_ascii_on_any_screen(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with opened(linears(), size=size, ascii_only=True) as (pilot, workspace):
        assert isinstance(workspace, Workspace)
        await pilot.press("i")
        assert (await read(pilot)).isascii()
        for key in ("j", "G", "g", "space"):
            await pilot.press(key)
            for strip in pilot.app.screen._compositor.render_strips():
                assert strip.text.isascii()
