"""Recipes: what mappings become, and that nothing of them is lost."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.mapping_ends import Kind
from s2p_tui.alignment.mapping_file import End, SavedAlignment, to_text
from s2p_tui.alignment.recipe import Recipe, name_of, number_of, show_number, value_of
from s2p_tui.alignment.recipe_file import from_text
from s2p_tui.alignment.recipe_file import to_text as recipe_text
from s2p_tui.alignment.recipe_learning import learn
from s2p_tui.alignment.recipe_replay import Replay, expanded
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import (
    Expr,
    Permute,
    Reshape,
    Shape,
    Split,
    Stack,
    Take,
    rename,
)
from s2p_tui.errors import InputError
from tests.helpers.exprs import cases

Shapes = dict[str, Shape]


def mapping_between(entries: Shapes, leaves: Shapes, rows: dict[str, Row]) -> SavedAlignment:
    state_dict = StateDict(tuple(Entry(k, s, "float32") for k, s in entries.items()))
    skeleton = Skeleton(tuple(Leaf(p, s, "float32") for p, s in leaves.items()))
    used = {key for row in rows.values() for key in row.keys}
    return SavedAlignment(
        End("m.pt", 1, state_dict.digest, len(entries)),
        End("s.eqx", 1, skeleton.digest, len(leaves)),
        tuple(rows.items()),
        tuple(key for key in entries if key not in used),
        (),
        {key: Kind("float32", shape) for key, shape in entries.items()},
        {path: Kind("float32", shape) for path, shape in leaves.items()},
        "m.json",
    )


def by_hand(entries: Shapes, leaves: Shapes, sources: dict[str, Expr]) -> SavedAlignment:
    return mapping_between(entries, leaves, {p: Row(s, by="user") for p, s in sources.items()})


def again(recipe: Recipe, mapping: SavedAlignment) -> str:
    entries = StateDict(tuple(Entry(k, v.shape, v.dtype) for k, v in mapping.entries.items()))
    leaves = Skeleton(tuple(Leaf(p, v.shape, v.dtype) for p, v in mapping.leaves.items()))
    blank = replace(mapping, rows=(), bench=(), accepted=())
    return to_text(expanded(recipe, blank, entries, leaves))


def listed(recipe: Recipe) -> list[str]:
    return [
        f"{pattern.path} <- {', '.join(map(str, pattern.sources))}"
        + (f" {json.dumps(pattern.transform)}" if pattern.transform is not None else "")
        for pattern in recipe.patterns
    ]


def test_rows_alike_but_for_their_numbers_are_one_pattern() -> None:
    entries, leaves, sources = Shapes(), Shapes(), dict[str, Expr]()
    for n in range(3):
        entries |= {f"layer.{n}.q.weight": (4, 6), f"layer.{n}.qkv": (12, 4)}
        leaves |= {f".blocks[{n}].q": (6, 4), f".blocks[{n}].v": (4, 4)}
        sources[f".blocks[{n}].q"] = Permute(Take(f"layer.{n}.q.weight"), (1, 0))
        sources[f".blocks[{n}].v"] = Split(Take(f"layer.{n}.qkv"), 0, 8, 12)
    recipe = learn(by_hand(entries, leaves, sources), "r")
    assert listed(recipe) == [
        '.blocks[{i}].q <- layer.{i}.q.weight {"op": "permute", "of": 0, "axes": [1, 0]}',
        ".blocks[{i}].v <- layer.{i}.qkv"
        ' {"op": "split", "of": 0, "axis": 0, "start": "leaf[0]*2|leaf[1]*2|from[0]*2/3",'
        ' "stop": "leaf[0]*3|leaf[1]*3|from[0]"}',
    ]


def test_numbers_may_be_shifted_or_spread() -> None:
    keys = [f"net.{2 * n + 1}.weight" for n in range(3)] + [f"block{n + 1}.w" for n in range(2)]
    paths = [f".layers[{n}].w" for n in range(3)] + [f".blocks[{n}].w" for n in range(2)]
    pairs = list(zip(keys, paths, strict=True))
    mapping = by_hand(
        {key: (2,) for key, _ in pairs},
        {path: (2,) for _, path in pairs},
        {path: Take(key) for key, path in pairs},
    )
    assert listed(learn(mapping, "r")) == [
        ".layers[{i}].w <- net.{2i+1}.weight",
        ".blocks[{i}].w <- block{i+1}.w",
    ]


def test_two_numbers_show_no_more_than_a_shift() -> None:
    pairs = {".layers[0].w": "net.0.weight", ".layers[1].w": "net.3.weight"}
    mapping = by_hand(
        dict.fromkeys(pairs.values(), (2,)),
        dict.fromkeys(pairs, (2,)),
        {path: Take(key) for path, key in pairs.items()},
    )
    recipe = learn(mapping, "r")
    assert listed(recipe) == [
        ".layers[0].w <- net.0.weight",
        ".layers[1].w <- net.3.weight",
    ]
    assert dict(recipe.lists) == {".layers[": 2, "net.": 2}


def test_a_number_that_two_captures_explain_is_kept_as_both() -> None:
    pairs = {f".a[{n}].b[{n}].w": f"x.{n}.w" for n in range(2)}
    mapping = by_hand(
        dict.fromkeys(pairs.values(), (2,)),
        dict.fromkeys(pairs, (2,)),
        {path: Take(key) for path, key in pairs.items()},
    )
    recipe = learn(mapping, "r")
    assert listed(recipe) == [".a[{i}].b[{j}].w <- x.{i|j}.w"]
    entries = StateDict(tuple(Entry(f"x.{n}.w", (2,), "float32") for n in range(3)))
    leaves = Skeleton(
        (Leaf(".a[2].b[2].w", (2,), "float32"), Leaf(".a[0].b[1].w", (2,), "float32"))
    )
    rows = Replay(recipe, entries, leaves).applied().rows
    assert [row.by for row in rows.values()] == ["recipe", "pattern"]


def test_a_stack_takes_as_many_as_there_are() -> None:
    sources: dict[str, Expr] = {
        f".layers[{n}].w": Stack(
            tuple(Permute(Take(f"l.{n}.experts.{e}.w"), (1, 0)) for e in range(2)), 0
        )
        for n in range(2)
    }
    entries = {f"l.{n}.experts.{e}.w": (3, 4) for n in range(2) for e in range(2)}
    mapping = by_hand(entries, dict.fromkeys(sources, (2, 4, 3)), sources)
    recipe = learn(mapping, "r")
    assert len(recipe.patterns) == 1
    more = StateDict(tuple(Entry(f"l.0.experts.{e}.w", (5, 2), "float32") for e in range(3)))
    leaves = Skeleton((Leaf(".layers[0].w", (3, 2, 5), "float32"),))
    (row,) = Replay(recipe, more, leaves).applied().rows.values()
    assert row.keys == tuple(f"l.0.experts.{e}.w" for e in range(3))
    assert row.by == "recipe"


def test_blocks_filled_in_two_ways_are_told_apart() -> None:
    sources: dict[str, Expr] = {
        f".b[{n}].w": Permute(Take(f"b.{n}.w"), (1, 0)) if n % 2 else Take(f"b.{n}.w")
        for n in range(5)
    }
    mapping = by_hand(
        {f"b.{n}.w": (3, 3) for n in range(5)}, dict.fromkeys(sources, (3, 3)), sources
    )
    recipe = learn(mapping, "r")
    assert again(recipe, mapping) == to_text(mapping)
    assert len(recipe.patterns) == 3


names = st.sampled_from(
    ["a", "b.0", "b.1", "b.2", "b.03", "{x}", "b.1.c.0", "b.2.c.1", "q{", "7", "b.2.c.2.d"]
)


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(
        st.tuples(names, st.integers(0, 3)),
        st.one_of(
            cases(steps=3),
            st.sampled_from([Row(), Row(gap=True), Row(gap=True, by="rule", fixed=True)]),
        ),
        max_size=8,
    ),
    st.lists(names, max_size=3, unique=True),
    st.data(),
)
@pytest.mark.slow("tries many sequences")
def test_replayed_on_its_own_pair_it_gives_back_any_mapping(
    made: dict[tuple[str, int], Any], left: list[str], data: st.DataObject
) -> None:
    entries, leaves, rows = Shapes(), Shapes(), dict[str, Row]()
    for (name, number), one in made.items():
        path = f".{name}[{number}]"
        if isinstance(one, Row):
            leaves[path], rows[path] = (2,), one
            continue
        own = {key: f"{name}.{number}.{key}" for key in one.arrays}
        entries |= {own[key]: array.shape for key, array in one.arrays.items()}
        by = data.draw(st.sampled_from(["user", "matcher"]))
        why = data.draw(st.sampled_from(["", f"as {name}", "7 of 9"]))
        trusted = data.draw(st.booleans())
        leaves[path] = data.draw(st.sampled_from([one.result.shape, (3, 1)]))
        rows[path] = Row(rename(one.expr, own), by=by, why=why, trusted=trusted)
    entries |= {f"left.{name}": (1,) for name in left}
    if not entries or not leaves:
        return
    mapping = mapping_between(entries, leaves, rows)
    bench = tuple(data.draw(st.permutations(mapping.bench)))
    accepted = data.draw(st.sets(st.sampled_from(bench))) if bench else set()
    mapping = replace(mapping, bench=bench, accepted=tuple(k for k in bench if k in accepted))
    recipe = learn(mapping, "r")
    assert again(recipe, mapping) == to_text(mapping)
    text = recipe_text(recipe)
    assert from_text(text, "r.json") == recipe
    assert again(from_text(text, "r.json"), mapping) == to_text(mapping)


@given(st.text(alphabet="ab.[]{}0123 ", max_size=12))
def test_any_name_survives_its_text(text: str) -> None:
    escaped = text.replace("{", "{{").replace("}", "}}")
    assert str(name_of(escaped)) == escaped
    assert name_of(escaped).filled({}) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12), ("i", 5), ("2i+1", 11), ("i-5", 0), ("leaf[0]", 6), ("leaf[1]*2", 8),
        ("from[0]*2/3", 6), ("leaf[0]*(i+1)", 36), ("from[0]/3", 3), ("leaf[0]|from[0]*2/3", 6),
    ],
)  # fmt: skip
def test_a_number_is_read_as_it_is_written(text: str, value: int) -> None:
    number = number_of(text)
    assert show_number(number) == text
    assert value_of(number, {"i": 5}, {"leaf": (6, 4), "from": (9,)}) == value


@pytest.mark.parametrize(
    "text", ["", "x y", "leaf", "leaf[0", "i*2", "leaf[0]i", "i/0", "(i", "1|", "-1", "leaf[0]*"]
)
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no number"):
        number_of(text)


PATH = {"path": ".x[{i}]", "sources": ["x.{i}"]}
BAD: dict[str, Any] = {
    "unknown author": PATH | {"by": "god"},
    "a brace alone": PATH | {"sources": ["x.{i"]},
    "a path that counts": PATH | {"path": ".x[{i+1}]"},
    "one capture twice": PATH | {"path": ".x[{i}][{i}]"},
    "several sources": PATH | {"sources": ["a", "b"]},
    "gap with sources": PATH | {"gap": True},
    "op unknown": PATH | {"transform": {"op": "eval", "of": 0}},
    "source beyond": PATH | {"transform": {"op": "flip", "of": 1, "axes": []}},
    "size no text": PATH | {"transform": {"op": "reshape", "of": 0, "shape": [2]}},
    "a stack of nothing": PATH
    | {"transform": {"op": "stack", "axis": 0, "each": 0, "over": "n", "start": 0, "step": 0}},
    "axes of texts": PATH | {"transform": {"op": "permute", "of": 0, "axes": ["0"]}},
    "no path": {"sources": []},
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_recipe_is_refused(case: str) -> None:
    mapping = by_hand({"x.0": (2,)}, {".x[0]": (2,)}, {".x[0]": Take("x.0")})
    data = json.loads(recipe_text(learn(mapping, "r")))
    with pytest.raises(InputError, match=r"^r\.json is not a usable recipe file"):
        from_text(json.dumps(data | {"rows": [BAD[case]]}), "r.json")


@pytest.mark.parametrize("change", [{"format": "s2p-mapping"}, {"version": 9}, {"rows": 3}])
def test_other_files_are_no_recipes(change: dict[str, Any]) -> None:
    mapping = by_hand({"x.0": (2,)}, {".x[0]": (2,)}, {".x[0]": Take("x.0")})
    data = json.loads(recipe_text(learn(mapping, "r"))) | change
    with pytest.raises(InputError, match="not a usable recipe"):
        from_text(json.dumps(data), "r.json")


def test_a_stack_over_nothing_that_runs_ends() -> None:
    mapping = by_hand(
        {"x.0": (2,), "x.1": (2,)}, {".x": (2, 2)}, {".x": Stack((Take("x.0"), Take("x.1")), 0)}
    )
    data = json.loads(recipe_text(learn(mapping, "r")))
    data["rows"][0]["sources"] = ["x.0"]
    recipe = from_text(json.dumps(data), "r.json")
    entries = StateDict((Entry("x.0", (2,), "float32"),))
    applied = Replay(recipe, entries, Skeleton((Leaf(".x", (2, 2), "float32"),))).applied()
    assert applied.misfits == (0,)


def test_a_reshape_to_the_leaf_follows_the_leaf() -> None:
    sources: dict[str, Expr] = {".heads": Reshape(Take("w"), (2, 3, 6))}
    recipe = learn(by_hand({"w": (6, 6)}, {".heads": (2, 3, 6)}, sources), "r")
    entries = StateDict((Entry("w", (20, 8), "float32"),))
    leaves = Skeleton((Leaf(".heads", (4, 5, 8), "float32"),))
    (row,) = Replay(recipe, entries, leaves).applied().rows.values()
    assert (row.source, row.by) == (Reshape(Take("w"), (4, 5, 8)), "recipe")
