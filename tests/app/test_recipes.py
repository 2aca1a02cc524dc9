"""Recipes in the app: saved, offered, reviewed."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.widgets import Input

from s2p_tui.alignment.recipe_learning import learn
from s2p_tui.alignment.transform import Permute
from s2p_tui.app.screens.main import Workspace
from s2p_tui.app.screens.questions import SaveRecipe
from s2p_tui.app.screens.review import Review
from s2p_tui.conversion.output import mapping_of
from s2p_tui.session.recipes import SUFFIX, folder, load_recipe, save_recipe
from tests.app.reading import said, status
from tests.helpers.recipes import blocks, learned, pair, turned
from tests.helpers.running_app import Opened, until
from tests.helpers.sessions import fitting


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def save(name: str) -> None:
    """A recipe of the small pair in the user's folder."""
    session = blocks(2, 4)
    learned(session, turned(2))
    save_recipe(
        mapping_of(session.checkpoint, session.target, session.alignment),
        folder() / f"{name}{SUFFIX}",
    )


async def test_saving_twice_asks_for_a_recipe(opened: Opened, tmp_path: Path) -> None:
    async with opened(fitting(), output=tmp_path / "o.eqx") as (pilot, workspace):
        await pilot.press("ctrl+s")
        assert "Mapping saved" in status(workspace)
        await pilot.press("ctrl+s")
        await until(pilot, lambda: isinstance(pilot.app.screen, SaveRecipe))
        pilot.app.screen.query_one(Input).value = "mine"
        await pilot.press("enter")
        await until(pilot, lambda: "Recipe saved: mine, 1 pattern" in said(workspace))
        assert len(load_recipe("mine").patterns) == 1
        # An edit between the two saves the mapping again.
        await pilot.press("J", "ctrl+s")
        assert isinstance(pilot.app.screen, Workspace)
        assert "Mapping saved" in status(workspace)
        await pilot.press("ctrl+s", "escape")
        assert isinstance(pilot.app.screen, Workspace)


async def test_a_recipe_that_fits_is_offered_and_reviewed(opened: Opened, tmp_path: Path) -> None:
    save("mine")
    session = blocks(3, 8)
    assert session.blocking
    async with opened(session, size=(120, 30), output=tmp_path / "o.eqx") as (pilot, workspace):
        assert "Recipes that fit: mine; ctrl+o takes one by name" in said(workspace)
        await pilot.press("ctrl+o")
        pilot.app.screen.query_one(Input).value = "mine"
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, Review))
        assert session.blocking
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, Workspace))
        assert not session.blocking
        row = session.alignment.rows[0]
        assert (isinstance(row.source, Permute), row.by) == (True, "recipe")
        await pilot.press("u")
        assert session.blocking


async def test_a_recipe_of_another_model_is_not_offered(opened: Opened, tmp_path: Path) -> None:
    save("mine")
    async with opened(fitting(), output=tmp_path / "o.eqx") as (_, workspace):
        assert "Recipes" not in said(workspace)


async def test_a_recipe_of_this_very_pair_gives_its_mapping_back(
    opened: Opened, tmp_path: Path
) -> None:
    save("mine")
    session = blocks(2, 4)
    async with opened(session, output=tmp_path / "o.eqx") as (pilot, workspace):
        await pilot.press("ctrl+o")
        pilot.app.screen.query_one(Input).value = "mine"
        await pilot.press("enter")
        await until(pilot, lambda: "As recipe mine has it" in said(workspace))
        assert [row.by for row in session.alignment.rows] == ["user"] * 4
        mapping = mapping_of(session.checkpoint, session.target, session.alignment)
        assert learn(mapping, "mine") == load_recipe("mine")


async def test_differences_from_the_mappings_pair_are_told(opened: Opened, tmp_path: Path) -> None:
    session = blocks(2, 4)
    session.save_mapping(tmp_path / "m.json")
    half = pair(
        {entry.key: entry.shape for entry in session.checkpoint.state_dict},
        {leaf.path: leaf.shape for leaf in session.target.skeleton},
        dtype="float16",
    )
    half.begin_from(tmp_path / "m.json")
    options = {"mapping": tmp_path / "m.json", "has_mapping": True}
    async with opened(half, size=(160, 30), **options) as (_, workspace):
        assert "4 entries are float16, float32 in the mapping" in said(workspace)
