"""Copying by OSC 52, with a file as the way out; loading a mapping within the app."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from textual.widgets import Input, Label, Static

from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry
from s2p_tui.app.screens.convert import Result
from s2p_tui.app.screens.questions import LoadMapping
from tests.app.reading import keys, status
from tests.helpers.running_app import Opened, until
from tests.helpers.sessions import fitting, linears, make_session


async def test_copies_key_and_path(opened: Opened, state_home: Path) -> None:
    async with opened(linears(), size=(200, 30)) as (pilot, workspace):
        await pilot.press("Y")
        assert pilot.app.clipboard == "a\n.first"
        assert (state_home / "s2p-tui" / "copied.txt").read_text() == "a\n.first\n"
        assert "copied.txt" in status(workspace)
        await pilot.press("G", "Y")
        assert pilot.app.clipboard == "left.over"


async def test_what_is_copied_runs_nothing_where_it_is_pasted(opened: Opened) -> None:
    session = make_session([Entry("a\nrm -rf ~\n", (2,), "float32")], [Leaf(".a", (2,), "float32")])
    async with opened(session) as (pilot, _):
        await pilot.press("Y")
        assert pilot.app.clipboard == "a\\nrm -rf ~\\n\n.a"


async def test_no_place_for_the_file_is_told(opened: Opened, state_home: Path) -> None:
    (state_home / "s2p-tui").write_text("a file")
    async with opened(linears(), size=(200, 30)) as (pilot, workspace):
        await pilot.press("Y")
        assert "by OSC 52 alone" in status(workspace)


async def test_copies_the_code_that_loads(opened: Opened, tmp_path: Path, state_home: Path) -> None:
    async with opened(fitting(), output=tmp_path / "o.eqx", size=(200, 40)) as (pilot, _):
        await pilot.press("c", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, Result))
        await pilot.press("y")
        assert "tree_deserialise_leaves" in pilot.app.clipboard
        assert "copied.txt" in str(pilot.app.screen.query_one("#copied", Static).content)
        copied = (state_home / "s2p-tui" / "copied.txt").read_text()
        assert copied == f"{pilot.app.clipboard}\n"


@pytest.mark.slow("drives the app through many screens")
async def test_a_mapping_is_loaded_as_one_edit(opened: Opened, tmp_path: Path) -> None:
    async with opened(linears(), output=tmp_path / "o.eqx") as (pilot, workspace):
        await pilot.press("J", "ctrl+s", "u", "ctrl+o")
        assert isinstance(pilot.app.screen, LoadMapping)
        assert pilot.app.screen.query_one(Input).value == str(tmp_path / "o.mapping.json")
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.screen is workspace)
        assert keys(workspace) == ["b", "a", "c", "d", ".", "e"]
        assert "Loaded o.mapping.json" in status(workspace)
        await pilot.press("u")
        assert keys(workspace) == ["a", "b", "c", "d", ".", "e"]


@pytest.mark.parametrize("what", ["other", "missing", "broken"])
@pytest.mark.slow("opens the app for every case")
async def test_a_mapping_of_no_use_is_refused_with_why(
    opened: Opened, tmp_path: Path, what: str
) -> None:
    path = tmp_path / "m.json"
    if what == "other":
        async with opened(fitting(), mapping=path) as (pilot, _):
            await pilot.press("ctrl+s")
    if what == "broken":
        path.write_text(json.dumps({"format": "other"}))
    async with opened(linears(), output=tmp_path / "o.eqx") as (pilot, workspace):
        before = workspace.session.alignment
        await pilot.press("ctrl+o")
        pilot.app.screen.query_one(Input).value = str(path)
        await pilot.press("enter")
        remark = pilot.app.screen.query_one("#remark", Label)
        await until(pilot, lambda: str(remark.content) not in ("", "reading"))
        expected = {
            "other": "made for other files: .first: not in the mapping",
            "missing": "cannot be read: No such file",
            "broken": "is not a usable mapping file",
        }
        assert expected[what] in str(remark.content)
        await pilot.press("escape")
        assert pilot.app.screen is workspace
        assert workspace.session.alignment is before
