from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import SetRows
from s2p_tui.alignment.fit import Fit, Verdict
from s2p_tui.alignment.mapping_file import End, SavedAlignment, from_text, replay, to_text
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Permute, Stack, Sum, Take
from s2p_tui.conversion.output import mapping_of
from s2p_tui.errors import Code, InputError, OtherFilesError
from s2p_tui.session.session import Session
from tests.helpers.exprs import cases
from tests.helpers.sessions import make_session

ENTRIES = StateDict(tuple(Entry(key, (2, 3), "float32") for key in ("a", "b", "c", "d")))
LEAVES = Skeleton(
    (
        Leaf(".x", (2, 3), "float32"),
        Leaf(".y", (2, 2, 3), "float32"),
        Leaf(".z", (), "float64", "scalar"),
        Leaf(".e", (4,), "float32"),
    )
)
ROWS = (
    Row(Take("b"), by="user", why="chosen “so”\n", trusted=True),
    Row(Stack((Take("d"), Take("a")), 0), by="matcher"),
    Row(gap=True, by="rule", fixed=True),
    Row(),
)
MAPPING = SavedAlignment(
    End("model.pt", 123, ENTRIES.digest, 4),
    End("skeleton.eqx", 45, LEAVES.digest, 4),
    tuple(zip((leaf.path for leaf in LEAVES), ROWS, strict=True)),
    ("c",),
)


def test_saved_and_loaded_it_is_the_same() -> None:
    text = to_text(MAPPING)
    assert from_text(text, "m.json") == MAPPING
    assert to_text(from_text(text, "m.json")) == text


def test_what_was_accepted_as_unused_is_kept_and_replayed() -> None:
    mapping = replace(MAPPING, accepted=("c",))
    text = to_text(mapping)
    assert json.loads(text)["accepted"] == ["c"]
    assert from_text(text, "m.json") == mapping
    assert replay(mapping, ENTRIES, LEAVES).accepted == {"c"}
    assert replay(MAPPING, ENTRIES, LEAVES).accepted == set()


LAYERS = Skeleton(
    (
        Leaf(".a.weight", (2, 3), "float32", owner="equinox.nn.Linear", config={"use_bias": False}),
        Leaf(".b.weight", (2, 3), "float32", owner="net.Dense"),
    )
)


@pytest.mark.parametrize(
    ("index", "changes", "name"),
    [
        (0, {"owner": "net.Dense"}, "equinox.nn.Linear"),
        (0, {"config": {"use_bias": True}}, "equinox.nn.Linear"),
        (1, {"owner": "net.Other"}, "Other"),
        (1, {"owner": "other.Dense"}, None),
        (1, {"config": {"heads": 2}}, "Dense"),
    ],
)
def test_layers_of_other_classes_or_settings_are_refused(
    index: int, changes: dict[str, Any], name: str | None
) -> None:
    rows = tuple((leaf.path, Row(Take(key))) for leaf, key in zip(LAYERS, "ab", strict=True))
    end = End("skeleton.eqx", 45, LAYERS.digest, 2, LAYERS.classes)
    mapping = from_text(to_text(SavedAlignment(MAPPING.source, end, rows, ("c", "d"))), "m.json")
    leaves = list(LAYERS)
    leaves[index] = structs.replace(leaves[index], **changes)
    assert replay(mapping, ENTRIES, LAYERS).rows.keys == ["a", "b"]
    if name is None:
        assert replay(mapping, ENTRIES, Skeleton(tuple(leaves))).rows.keys == ["a", "b"]
        return
    with pytest.raises(OtherFilesError, match=name):
        replay(mapping, ENTRIES, Skeleton(tuple(leaves)))
    older = replace(mapping, target=structs.replace(end, classes={}))
    assert replay(older, ENTRIES, Skeleton(tuple(leaves))).rows.keys == ["a", "b"]


def test_the_text_is_json_with_one_row_a_line() -> None:
    text = to_text(MAPPING)
    data = json.loads(text)
    assert list(data) == ["format", "version", "source", "target", "rows", "bench"]
    assert [line.strip().startswith('{"path"') for line in text.splitlines()].count(True) == 4
    assert data["rows"][1] == {
        "path": ".y",
        "sources": ["d", "a"],
        "transform": {"op": "stack", "of": [0, 1], "axis": 0},
        "by": "matcher",
    }


names = st.text(max_size=5)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        names,
        st.builds(Row, cases(steps=2).map(lambda case: case.expr), why=names, trusted=st.booleans())
        | st.builds(Row, gap=st.booleans(), by=st.sampled_from(["order", "claude", "rule"])),
        max_size=4,
    ),
    st.lists(names, max_size=3),
)
def test_any_mapping_survives_its_text(rows: dict[str, Row], bench: list[str]) -> None:
    mapping = replace(MAPPING, rows=tuple(rows.items()), bench=tuple(bench))
    assert from_text(to_text(mapping), "m.json") == mapping


def change(**changes: Any) -> str:
    return json.dumps(json.loads(to_text(MAPPING)) | changes)


def row(**changes: Any) -> str:
    return change(rows=[{"path": ".x", "sources": ["a"]} | changes])


BAD = {
    "no JSON": "{",
    "a list": "[]",
    "deep": "[" * 100_000,
    "another format": change(format="other"),
    "another version": change(version=2),
    "rows missing": '{"format": "s2p-mapping", "version": 1}',
    "rows no list": change(rows={}),
    "row no object": change(rows=[3]),
    "no end": change(source=None),
    "size no number": change(source={"file": "", "size": "1", "digest": "", "entries": 1}),
    "bench of numbers": change(bench=[1]),
    "sources no list": row(sources="a"),
    "unknown author": row(by="god"),
    "author a list": row(by=[]),
    "several sources": row(sources=["a", "b"]),
    "gap with sources": row(gap=True),
    "why a number": row(why=3),
    "path a number": row(path=3),
    "op a list": row(transform={"op": []}),
    "op unknown": row(transform={"op": "eval", "of": 0}),
    "source beyond": row(transform={"op": "flip", "of": 1, "axes": []}),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_mapping_is_refused(case: str) -> None:
    with pytest.raises(InputError, match=r"^m\.json is not a usable mapping file") as caught:
        from_text(BAD[case], "m.json")
    assert caught.value.hint == Code.SAVED_MAPPING.value


def test_replaying_gives_the_alignment() -> None:
    alignment = replay(MAPPING, ENTRIES, LEAVES)
    assert tuple(alignment.rows) == ROWS
    assert alignment.bench == ("c",)


def differences(mapping: SavedAlignment, entries: StateDict, leaves: Skeleton) -> dict[str, str]:
    with pytest.raises(OtherFilesError, match="made for other files") as caught:
        replay(mapping, entries, leaves)
    return dict(caught.value.problems)


def test_other_files_are_refused_with_what_differs() -> None:
    fewer = StateDict(ENTRIES.entries[:3])
    assert differences(MAPPING, fewer, LEAVES) == {
        "checkpoint": "made for model.pt with 4, this one has 3",
        ".y": "its source d is not in the checkpoint",
    }
    others = Skeleton((structs.replace(LEAVES[0], path=".new"), *LEAVES.leaves[1:]))
    assert differences(MAPPING, ENTRIES, others) == {
        "skeleton": "made for skeleton.eqx with 4, this one has 4",
        ".new": "not in the mapping",
        ".x": "not in the skeleton",
    }


def test_other_shapes_are_named() -> None:
    larger = StateDict((ENTRIES.entries[0], Entry("b", (2, 5), "float32"), *ENTRIES.entries[2:]))
    found = differences(MAPPING, larger, LEAVES)
    assert found[".x"] == "expected 2×3, its source gives 2×5"
    assert set(found) == {"checkpoint", ".x"}


def test_a_transform_that_no_longer_applies_is_a_difference_too() -> None:
    rows = ((".x", Row(Permute(Take("b"), (1, 0)))), *MAPPING.rows[1:])
    flat = StateDict((ENTRIES.entries[0], Entry("b", (6,), "float32"), *ENTRIES.entries[2:]))
    found = differences(replace(MAPPING, rows=rows), flat, LEAVES)
    assert "does not reorder" in found[".x"]


def test_only_a_dtype_differs() -> None:
    half = StateDict((structs.replace(ENTRIES.entries[0], dtype="float16"), *ENTRIES.entries[1:]))
    assert set(differences(MAPPING, half, LEAVES)) == {"checkpoint"}


def test_leaves_named_twice_or_in_another_order_are_refused() -> None:
    twice = replace(MAPPING, rows=(*MAPPING.rows, MAPPING.rows[0]))
    assert set(differences(twice, ENTRIES, LEAVES)) == {"skeleton"}
    turned = replace(MAPPING, rows=MAPPING.rows[::-1])
    assert set(differences(turned, ENTRIES, LEAVES)) == {"skeleton"}


@pytest.mark.parametrize(
    ("dtype", "is_kept"),
    [("float32", True), ("bfloat16", True), ("float8_e4m3fn", False), ("int16", False)],
)
def test_what_the_forward_settled_stays_so_until_its_entries_are_others(
    dtype: str, is_kept: bool
) -> None:
    """Inputs' digest and error included; names and structure alone would leave it doubtful."""
    leaves = [Leaf(".one", (3, 3), "float32"), Leaf(".two", (3, 3), "float32")]
    why = "forward: agrees within 3e-07, next best 0.4, inputs 0123456789abcdef 0123456789abcdef"
    names = "a.kernel", "b.kernel"
    session = make_session((Entry(key, (3, 3), "float32") for key in names), leaves, arrange="auto")
    assert session.blocking == 2
    session.edit(SetRows(((0, Row(Take("b.kernel"), by="forward", why=why)),)))
    assert (session.blocking, session.verdict(0)) == (1, Verdict(Fit.EXACT))
    saved = from_text(
        to_text(mapping_of(session.checkpoint, session.target, session.alignment)), ""
    )
    other = make_session(
        (Entry(key, (3, 3), dtype if key == "b.kernel" else "float32") for key in names), leaves
    )
    again = Session.between(other.checkpoint, other.target, mapping=saved)
    row = again.alignment.rows[0]
    assert row.keys == ("b.kernel",)
    assert (row.by, row.why) == (("forward", why) if is_kept else ("moved", ""))
    verdict = again.verdict(0)
    assert verdict is not None
    assert verdict.blocks is not is_kept


def test_the_order_of_a_sum_is_kept() -> None:
    rows = ((".x", Row(Sum((Take("b"), Take("a"))))),)
    again = from_text(to_text(replace(MAPPING, rows=rows)), "m.json")
    assert again.rows == rows
