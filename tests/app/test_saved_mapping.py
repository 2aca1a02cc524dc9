"""A mapping file of the pair at the start: offered, taken, or told to be of no use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from textual.widgets import Label

from s2p_tui.app.screens.main import Workspace
from s2p_tui.app.screens.questions import GoOn
from s2p_tui.session.session import Session
from tests.app.reading import in_workspace, keys, said, status
from tests.helpers.running_app import Opened, in_turn, make_app, until
from tests.helpers.sessions import fitting, linears

_FIRST = ["a", "b", "c", "d", ".", "e"]
_SAVED = ["b", "a", "c", "d", ".", "e"]
_LATER = ["b", "c", "a", "d", ".", "e"]


async def save(opened: Opened, folder: Path, *later: str) -> None:
    """A session in which the first entry was moved, that saved, and more done."""
    async with opened(linears(), output=folder / "o.eqx", resume="afresh") as (pilot, _):
        await pilot.press("J", "ctrl+s", *later)


def forget(state_home: Path) -> None:
    for path in state_home.rglob("*.jsonl"):
        path.unlink()


def asked(pilot) -> str:
    return "\n".join(str(label.content) for label in pilot.app.screen.query(Label))


@pytest.mark.parametrize(("key", "rows"), [("enter", _SAVED), ("m", _SAVED), ("n", _FIRST)])
@pytest.mark.slow("opens the app for every case")
async def test_a_saved_mapping_is_offered(
    opened: Opened, tmp_path: Path, state_home: Path, key: str, rows: list[str]
) -> None:
    await save(opened, tmp_path)
    forget(state_home)
    app = make_app(linears(), output=tmp_path / "o.eqx")
    async with app.run_test(size=(110, 30)) as pilot:
        in_turn(pilot)
        await until(pilot, lambda: isinstance(app.screen, GoOn))
        assert "o.mapping.json is a mapping of this pair, saved on " in asked(pilot)
        await pilot.press("y")
        assert isinstance(app.screen, GoOn)
        await pilot.press(key)
        workspace = await in_workspace(pilot)
        assert keys(workspace) == rows
        assert not workspace.has_unsaved_edits
        await pilot.press("G", "k", "k", "K", "ctrl+s")
        assert ("another was there: now o.mapping.json~" in status(workspace)) is (key == "n")
    # It was started from, or it was not: then the old one is kept.
    assert (tmp_path / "o.mapping.json~").exists() is (key == "n")


@pytest.mark.parametrize(
    ("key", "rows"), [("enter", _LATER), ("y", _LATER), ("m", _SAVED), ("n", _FIRST)]
)
@pytest.mark.slow("opens the app for every case")
async def test_one_question_where_edits_came_after_it(
    opened: Opened, tmp_path: Path, key: str, rows: list[str]
) -> None:
    await save(opened, tmp_path, "J")
    os.utime(tmp_path / "o.mapping.json", (1, 1))
    app = make_app(linears(), output=tmp_path / "o.eqx")
    async with app.run_test(size=(110, 30)) as pilot:
        in_turn(pilot)
        await until(pilot, lambda: isinstance(app.screen, GoOn))
        assert "This pair has 2 edits" in asked(pilot)
        assert "o.mapping.json is a mapping of it too" in asked(pilot)
        await pilot.press(key)
        assert keys(await in_workspace(pilot)) == rows


async def test_enter_takes_the_newer_of_both(opened: Opened, tmp_path: Path) -> None:
    await save(opened, tmp_path, "J")
    os.utime(tmp_path / "o.mapping.json", (1 << 33, 1 << 33))
    app = make_app(linears(), output=tmp_path / "o.eqx")
    async with app.run_test(size=(110, 30)) as pilot:
        in_turn(pilot)
        await until(pilot, lambda: isinstance(app.screen, GoOn))
        await pilot.press("enter")
        assert keys(await in_workspace(pilot)) == _SAVED


async def test_what_is_saved_already_is_asked_once(opened: Opened, tmp_path: Path) -> None:
    await save(opened, tmp_path)
    app = make_app(linears(), output=tmp_path / "o.eqx")
    async with app.run_test(size=(110, 30)) as pilot:
        in_turn(pilot)
        await until(pilot, lambda: isinstance(app.screen, GoOn))
        assert "mapping" not in asked(pilot)
        await pilot.press("enter")
        workspace = await in_workspace(pilot)
        assert keys(workspace) == _SAVED
        assert not workspace.has_unsaved_edits


@pytest.mark.parametrize("what", ["of another pair", "no usable mapping file"])
async def test_a_file_of_no_use_is_told_and_kept(opened: Opened, tmp_path: Path, what: str) -> None:
    path = tmp_path / "o.mapping.json"
    if what == "of another pair":
        fitting().save_mapping(path)
    else:
        path.write_text("[]")
    async with opened(linears(), output=tmp_path / "o.eqx", size=(160, 30)) as (_, workspace):
        assert f"o.mapping.json here is {what}" in said(workspace)
        assert keys(workspace) == _FIRST


async def test_a_mapping_that_is_not_there_is_told(opened: Opened, tmp_path: Path) -> None:
    async with opened(linears(), mapping=tmp_path / "net.json", size=(160, 30)) as (_, workspace):
        assert "net.json does not exist yet: saving will create it." in said(workspace)
        assert "meant" not in said(workspace)
    (tmp_path / "resnet.mapping.json").touch()
    given = tmp_path / "resnet.maping.json"
    async with opened(linears(), mapping=given, size=(160, 30)) as (_, workspace):
        assert "Or is resnet.mapping.json meant?" in said(workspace)


def started_from(path: Path) -> Session:
    session = linears()
    from s2p_tui.session.opening import load_mapping

    return Session(
        session.checkpoint,
        session.target,
        Session.between(session.checkpoint, session.target, mapping=load_mapping(path)).alignment,
    )


@pytest.mark.parametrize(("key", "rows"), [("enter", _LATER), ("m", _SAVED)])
@pytest.mark.slow("opens the app for every case")
async def test_edits_made_after_a_mapping_asked_for_come_first(
    opened: Opened, tmp_path: Path, key: str, rows: list[str]
) -> None:
    await save(opened, tmp_path, "J")
    path = tmp_path / "o.mapping.json"
    os.utime(path, (1, 1))
    app = make_app(started_from(path), mapping=path, has_mapping=True)
    async with app.run_test(size=(110, 30)) as pilot:
        in_turn(pilot)
        await until(pilot, lambda: isinstance(app.screen, GoOn))
        assert "start over" not in asked(pilot)
        await pilot.press(key)
        assert keys(await in_workspace(pilot)) == rows


async def test_a_mapping_asked_for_answers_otherwise(opened: Opened, tmp_path: Path) -> None:
    await save(opened, tmp_path, "J")
    path = tmp_path / "o.mapping.json"
    os.utime(path, (1 << 33, 1 << 33))
    async with opened(started_from(path), mapping=path, has_mapping=True) as (pilot, workspace):
        assert isinstance(pilot.app.screen, Workspace)
        assert keys(workspace) == _SAVED
        assert "Started from o.mapping.json" in said(workspace)
