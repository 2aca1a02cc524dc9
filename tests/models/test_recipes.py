"""Recipes of the twins and of the shipped families, on their own pairs and on other depths."""

from __future__ import annotations

from pathlib import Path

import equinox as eqx
import numpy as np
import pytest

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import SetRows
from s2p_tui.alignment.mapping_file import to_text
from s2p_tui.alignment.recipe_file import from_text
from s2p_tui.alignment.recipe_file import to_text as recipe_text
from s2p_tui.alignment.recipe_learning import learn
from s2p_tui.alignment.transform import Take
from s2p_tui.conversion.output import mapping_of
from s2p_tui.formats.memory import checkpoint_in_memory
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.session.opening import target_in_memory
from s2p_tui.session.recipes import SUFFIX, fitting, follow, known, load_recipe, own_mapping
from s2p_tui.session.session import Session
from tests.models.bert import make_minilm, minilm_folder, minilm_sources
from tests.models.shipped_recipes import FOLDER, PAIRS, bert, mapping_by_truth, text_of
from tests.models.twin import Twin
from tests.models.twins import TWINS

TOLD = [twin for twin in TWINS if twin.truth is not None]


def in_memory(twin: Twin) -> Session:
    with twin.precision():
        target = target_in_memory(twin.eqx_shapes())
    return Session.between(checkpoint_in_memory(twin.checkpoint(twin.make_torch())), target)


@pytest.mark.parametrize("twin", TOLD, ids=lambda twin: twin.name)
@pytest.mark.slow("makes every twin in both frameworks")
def test_a_recipe_gives_its_own_mapping_back(twin: Twin) -> None:
    session = in_memory(twin)
    by_matcher = mapping_of(session.checkpoint, session.target, session.alignment)
    assert twin.truth is not None
    truth = [twin.truth[leaf.path] for leaf in session.target.skeleton]
    rows = [Row(one, gap=one is None, by="user", trusted=True) for one in truth]
    session.edit(SetRows(tuple(enumerate(rows))))
    session.allow_unused(None)
    by_hand = mapping_of(session.checkpoint, session.target, session.alignment)
    for mapping in (by_matcher, by_hand):
        recipe = from_text(recipe_text(learn(mapping, twin.name)), "r.json")
        assert len(recipe.patterns) <= len(mapping.rows)
        again = own_mapping(session, recipe)
        assert again is not None
        assert to_text(again) == to_text(mapping)


@pytest.mark.parametrize("family", PAIRS)
def test_the_shipped_recipe_is_up_to_date(family: str) -> None:
    shipped = FOLDER / f"{family}{SUFFIX}"
    assert shipped.read_text() == text_of(family), "python -m tests.models.shipped_recipes"
    assert family in known()


@pytest.mark.parametrize("family", PAIRS)
def test_the_shipped_recipe_covers_its_family(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    state, tree, truth = PAIRS[family]()
    wider = {f"{key}": value for key, value in state.items()} | {"nobody.inv_freq": np.ones(3)}
    session = Session.between(checkpoint_in_memory(wider), target_in_memory(tree))
    assert fitting(session) == [family]
    follow(session, load_recipe(family))
    assert list(session.problems()) == []
    for leaf, row in zip(session.target.skeleton, session.alignment.rows, strict=True):
        if not row.fixed:
            assert row.source == truth(leaf.path), leaf.path


def test_a_recipe_of_two_layers_fits_five() -> None:
    recipe = learn(mapping_by_truth(bert(2)), "bert")
    state, tree, truth = bert(5)
    session = Session.between(checkpoint_in_memory(state), target_in_memory(tree))
    follow(session, recipe)
    assert session.is_complete
    sources = [row.source for row in session.alignment.rows]
    assert sources == [truth(leaf.path) for leaf in session.target.skeleton]


def test_a_recipe_of_a_two_layer_bert_converts_minilm(tmp_path: Path) -> None:
    save_skeleton(tmp_path / "skeleton.eqx", eqx.filter_eval_shape(make_minilm))
    session = Session.open(minilm_folder() / "model.safetensors", tmp_path / "skeleton.eqx")
    follow(session, learn(mapping_by_truth(bert(2)), "bert"))
    assert session.is_complete
    for leaf, row in zip(session.target.skeleton, session.alignment.rows, strict=True):
        assert row.source == Take(minilm_sources(leaf.path))
    session.close()
