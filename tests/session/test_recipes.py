"""Recipes used on other pairs: what they settle, and where they stop with doubt."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import SetRows
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.proof import Answer, Question
from s2p_tui.alignment.transform import Expr, Permute, Reshape, Split, Take
from s2p_tui.conversion.output import mapping_of
from s2p_tui.errors import InputError
from s2p_tui.session.recipes import SUFFIX, fitting, folder, follow, known, load_recipe, save_recipe
from s2p_tui.session.session import Session
from tests.helpers.recipes import blocks, learned, pair, turned


def test_what_a_hand_settled_is_settled_at_other_depths_and_widths() -> None:
    recipe = learned(blocks(2, 4), turned(2))
    assert len(recipe.patterns) == 2
    session = blocks(5, 8)
    follow(session, recipe)
    assert not session.blocking
    assert [row.source for row in session.alignment.rows] == list(turned(5).values())
    assert session.is_complete
    mixed = session.target.skeleton.index(".blocks[4].mix.kernel")
    assert session.alignment.rows[mixed].by == "recipe"
    assert getattr(session.proof(mixed), Question.AXES) is Answer.RECIPE
    session.undo()
    assert session.alignment.rows[mixed].by != "recipe"


def test_it_outlives_the_recipe_in_a_mapping(tmp_path: Path) -> None:
    session = blocks(3, 8)
    follow(session, learned(blocks(2, 4), turned(2)))
    session.save_mapping(tmp_path / "m.json")
    again = blocks(3, 8)
    again.begin_from(tmp_path / "m.json")
    assert again.alignment.says_as(session.alignment)
    assert not again.blocking


def test_one_shape_that_does_not_fit_speaks_against_all() -> None:
    recipe = learned(blocks(2, 4), turned(2))
    session = blocks(2, 8, swapped=True)
    follow(session, recipe)
    skeleton = session.target.skeleton
    # The square ones would have been transposed without anybody noticing.
    assert {skeleton[index].path for index, _ in session.problems()} == set(turned(2))
    assert any("another model" in told for told in session.told)


def test_a_length_of_a_list_that_differs_is_a_doubt() -> None:
    def chain(length: int) -> Session:
        entries = {f"net.{n}.w": (3, 3) for n in range(length)}
        return pair(entries, {".first.w": (3, 3), ".last.w": (3, 3)})

    sources: dict[str, Expr] = {".first.w": Take("net.0.w"), ".last.w": Take("net.2.w")}
    small = chain(3)
    recipe = learned(small, sources)
    for length, status in ((3, "recipe"), (4, "pattern")):
        session = pair(
            {f"net.{n}.w": (3, 3) for n in range(length)} | {"more": (1,)},
            {".first.w": (3, 3), ".last.w": (3, 3)},
        )
        follow(session, recipe)
        last = session.alignment.rows[1]
        assert (last.source, last.by) == (Take("net.2.w"), status)
        assert bool(session.blocking) == (status == "pattern")


def test_a_number_of_heads_that_no_shape_shows_is_a_doubt() -> None:
    def interleaved(width: int, more: int = 1) -> Session:
        return pair({"q": (width, width), "more": (more,)}, {".q.w": (width, width)})

    source = Reshape(Permute(Reshape(Take("q"), (2, 4, 2, 16)), (0, 2, 1, 3)), (16, 16))
    recipe = learned(interleaved(16), {".q.w": source})
    # Of the same width, it may have any number of heads.
    session = interleaved(16, 2)
    follow(session, recipe)
    assert session.alignment.rows[0].source == source
    (problem,) = session.problems()
    assert "a size of 2 is taken over as it was" in problem[1]
    wide = interleaved(32)
    follow(wide, recipe)
    assert wide.verdicts.fit(0) is Fit.MISMATCHED


def test_shares_of_a_fused_weight_follow_its_width() -> None:
    def fused(width: int, rows: int) -> Session:
        leaves = {f".{name}.kernel": (width, width) for name in "qkv"}
        return pair({"qkv": (rows, width)}, leaves)

    def parts(width: int) -> dict[str, Expr]:
        return {
            f".{name}.kernel": Split(Take("qkv"), 0, n * width, (n + 1) * width)
            for n, name in enumerate("qkv")
        }

    recipe = learned(fused(4, 12), parts(4))
    session = fused(6, 18)
    follow(session, recipe)
    assert {
        leaf.path: row.source
        for leaf, row in zip(session.target.skeleton, session.alignment.rows, strict=True)
    } == parts(6)
    four = fused(6, 24)
    follow(four, recipe)
    assert four.blocking


def test_trust_is_not_passed_on() -> None:
    def lone(rows: int) -> Session:
        return pair({"w": (rows, 6)}, {".w.kernel": (6, rows)})

    session = lone(4)
    session.edit(SetRows(((0, Row(Take("w"), by="user")),)))
    assert session.verdicts.fit(0) is Fit.DOUBTFUL
    session.trust(None)
    recipe = learned(session)
    own = lone(4)
    follow(own, recipe)
    assert own.alignment.says_as(session.alignment)
    assert own.alignment.rows[0].trusted
    other = lone(5)
    follow(other, recipe)
    assert not other.alignment.rows[0].trusted
    assert other.blocking == 1


def test_what_the_matcher_chose_is_the_matchers_to_prove_again() -> None:
    recipe = learned(pair({"a.w": (3, 4)}, {".a.w": (3, 4)}))
    session = pair({"a.w": (5, 4)}, {".a.w": (5, 4)})
    follow(session, recipe)
    assert (session.blocking, session.alignment.rows[0].by) == (0, "matcher")


def test_names_that_speak_against_it_are_heard() -> None:
    recipe = learned(
        pair({"a.w": (3, 4), "b.w": (3, 4)}, {".a.w": (3, 4), ".b.w": (3, 4)}),
        {".a.w": Take("a.w"), ".b.w": Take("b.w")},
    )
    patterns = {str(p.path): p for p in recipe.patterns}
    crossed = learned(pair({"a.w": (3, 4), "b.w": (3, 4)}, {".a.w": (3, 4), ".b.w": (3, 4)}), {})
    assert set(patterns) == {str(p.path) for p in crossed.patterns}
    from dataclasses import replace

    from msgspec import structs

    swapped = replace(
        recipe,
        patterns=tuple(
            structs.replace(
                p, sources=patterns[".b.w" if str(p.path) == ".a.w" else ".a.w"].sources
            )
            for p in recipe.patterns
        ),
    )
    session = pair({"a.w": (5, 4), "b.w": (5, 4)}, {".a.w": (5, 4), ".b.w": (5, 4)})
    follow(session, swapped)
    assert session.blocking == 2


def test_a_layer_of_another_class_is_a_doubt() -> None:
    recipe = learned(blocks(2, 4), turned(2))
    session = blocks(2, 8)
    leaves = [(leaf.path, leaf.shape) for leaf in session.target.skeleton]
    other = pair(
        {entry.key: entry.shape for entry in session.checkpoint.state_dict},
        dict(leaves),
        owner="net.Other",
    )
    follow(other, recipe)
    assert {row.by for row in other.alignment.rows} <= {"pattern", "matcher"}


def test_leaves_without_a_pattern_are_the_matchers() -> None:
    recipe = learned(blocks(2, 4), turned(2))
    session = pair(
        {f"h.{n}.mix.w": (8, 8) for n in range(2)} | {"head.bias": (5,), "zz": (9,)},
        {f".blocks[{n}].mix.kernel": (8, 8) for n in range(2)}
        | {".head.bias": (5,), ".unknown.w": (7,)},
    )
    follow(session, recipe)
    by = {
        leaf.path: row.by
        for leaf, row in zip(session.target.skeleton, session.alignment.rows, strict=True)
    }
    assert by[".blocks[1].mix.kernel"] == "recipe"
    assert by[".head.bias"] == "matcher"
    assert session.blocking == 1
    assert [one.key for one in session.unused.blocking_entries()] == ["zz"]


def test_entries_accepted_as_unused_are_accepted_again() -> None:
    def with_pooler(depth: int) -> Session:
        return pair(
            {f"b.{n}.w": (3, 4) for n in range(depth)}
            | {f"pooler.{n}.dense": (7,) for n in range(depth)},
            {f".b[{n}].w": (3, 4) for n in range(depth)},
        )

    session = with_pooler(2)
    session.allow_unused(["pooler.*"])
    recipe = learned(session)
    assert [str(name) for name in recipe.accepted] == ["pooler.{i}.dense"]
    other = with_pooler(4)
    follow(other, recipe)
    assert other.is_complete
    assert other.alignment.accepted == {f"pooler.{n}.dense" for n in range(4)}


def test_another_dtype_is_no_other_model() -> None:
    recipe = learned(blocks(2, 4), turned(2))
    session = blocks(2, 4)
    entries = {entry.key: entry.shape for entry in session.checkpoint.state_dict}
    leaves = {leaf.path: leaf.shape for leaf in session.target.skeleton}
    half = pair(entries, leaves, dtype="float16")
    follow(half, recipe)
    assert not half.blocking


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config"


def test_recipes_of_the_users_folder_are_known_and_offered(config: Path) -> None:
    session = blocks(2, 4)
    learned(session, turned(2))
    mapping = mapping_of(session.checkpoint, session.target, session.alignment)
    path = folder() / f"mine{SUFFIX}"
    assert config in path.parents
    made, kept = save_recipe(mapping, path)
    assert (made.name, kept) == ("mine", None)
    (folder() / "broken.json").write_text("{")
    assert {"mine", "broken"} <= set(known())
    assert fitting(blocks(7, 6)) == ["mine"]
    assert fitting(blocks(2, 8, swapped=True)) == []
    assert fitting(pair({"a": (2,)}, {".a.w": (2,)})) == []
    assert load_recipe("mine") == load_recipe(path) == made


@pytest.mark.usefixtures("config")
def test_a_recipe_that_is_not_there_is_told() -> None:
    with pytest.raises(InputError, match="no recipe file and no recipe's name"):
        load_recipe("nothing")


def test_a_list_put_in_reverse_by_hand_is_not_put_straight_where_it_is_shorter() -> None:
    def chain(length: int) -> Session:
        leaves = {f".blocks[{n}].w": (3, 3) for n in range(length)}
        return pair({f"layers.{n}.w": (3, 3) for n in range(length)}, leaves)

    deep = chain(6)
    recipe = learned(deep, {f".blocks[{n}].w": Take(f"layers.{5 - n}.w") for n in range(6)})
    for length in (2, 3, 4):
        session = chain(length)
        session.trust(["*"])
        follow(session, recipe)
        empty = session.alignment.rows[0]
        assert empty.source is None
        assert empty.why == "recipe net takes layers.5.w, which is not in this checkpoint"
        assert session.blocking
        assert any("the list is shorter here" in note for note in session.told)
