"""The session: files in, edits, files out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import (
    CloseGap,
    Edit,
    MoveBlock,
    MoveTo,
    OpenGap,
    PlaceFromBench,
    SendToBench,
    SetRows,
    Swap,
    Trust,
)
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.judge import judge
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry
from s2p_tui.alignment.transform import Flip, Permute, Split, Stack, Take
from s2p_tui.errors import (
    AlignmentError,
    InputError,
    OtherFilesError,
    OutputError,
    S2PError,
    UsageError,
)
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.formats.registry import open_checkpoint
from s2p_tui.session.opening import load_mapping
from s2p_tui.session.session import Session
from tests.helpers.files import open_below
from tests.helpers.sessions import checkpoint_of, make_session, open_pair, target_of

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b": torch.arange(6.0, 12.0).reshape(2, 3),
    "c": torch.ones(3, 2),
    "d": torch.ones(3),
    "e": torch.ones(3, dtype=torch.int64),
}
TREE = {
    "first": jnp.zeros((2, 3)), "p": 0.5, "second": jnp.zeros((2, 3)), "third": jnp.zeros((2, 3)),
    "vector": jnp.zeros((3, 1)), "whole": jnp.zeros(3, jnp.int32), "zero": jnp.zeros(4),
}  # fmt: skip


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    found = open_pair(tmp_path, TENSORS, TREE)
    yield found
    found.close()


def in_memory() -> Session:
    shapes = [(2, 3), (2, 3), (3, 2), (3,), (3, 1), (6,), (2,), (3, 2)]
    arrays = {f"e{n}": np.zeros(shape, np.float32) for n, shape in enumerate(shapes)}
    leaves = {
        f".l{n}": np.zeros(s, np.float16 if n % 3 else np.int32) for n, s in enumerate(shapes)
    }
    return Session(checkpoint_of(arrays), target_of(leaves))


rows = st.integers(0, 7)
edits = st.one_of(
    st.builds(Swap, rows, rows),
    st.builds(MoveTo, rows, rows),
    st.tuples(rows, rows, st.integers(-8, 8)).map(
        lambda t: MoveBlock(min(t[:2]), max(t[:2]) + 1, t[2])
    ),
    st.builds(OpenGap, rows),
    st.builds(CloseGap, rows),
    st.builds(SendToBench, st.lists(rows, max_size=3).map(tuple)),
    st.builds(Trust, st.lists(rows, max_size=3).map(tuple), st.booleans()),
    st.builds(
        lambda row, key: SetRows(((row, Row(Permute(Take(f"e{key}"), (1, 0)))),)), rows, rows
    ),
    st.sampled_from(["undo", "redo", "place"]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(edits, max_size=20), st.data())
def test_counts_are_those_of_a_fresh_judgement(todo: list[Edit | str], data: st.DataObject) -> None:
    session = in_memory()
    told: list[range] = []
    session.subscribe(told.append)
    for edit in todo:
        before = session.alignment
        told.clear()
        if edit == "undo":
            changed = session.undo()
        elif edit == "redo":
            changed = session.redo()
        elif isinstance(edit, str):
            if not session.alignment.bench:
                continue
            key = data.draw(st.sampled_from(session.alignment.bench))
            changed = session.edit(PlaceFromBench(key, data.draw(rows), data.draw(st.booleans())))
        else:
            changed = session.edit(edit)
        assert told == ([] if session.alignment is before else [changed])
        for position, (old, new) in enumerate(
            zip(before.rows, session.alignment.rows, strict=True)
        ):
            assert old == new or position in changed
    verdicts = [
        judge(leaf, row, session.checkpoint.state_dict)
        for leaf, row in zip(session.target.skeleton, session.alignment.rows, strict=True)
    ]
    assert [session.verdict(n) for n in range(8)] == verdicts
    assert +session.counts == Counter(verdict.fit for verdict in verdicts)
    assert session.blocking == sum(verdict.blocks for verdict in verdicts)
    blocked = [n for n, verdict in enumerate(verdicts) if verdict.blocks]
    assert [n for n, _ in session.problems()] == blocked
    blocked += range(len(session.alignment.rows), len(session))
    assert session.next_blocking(len(session) - 1, 1) == (blocked[0] if blocked else None)
    assert session.next_blocking(len(session), -1) == (blocked[-1] if blocked else None)


def test_it_starts_strictly_by_order(session: Session) -> None:
    assert [session.row(n).keys for n in range(7)] == [
        ("a",), (), ("b",), ("c",), ("d",), ("e",), (),
    ]  # fmt: skip
    fits = [session.verdict(n).fit for n in range(7)]
    assert fits == [
        Fit.EXACT, Fit.GAP, Fit.EXACT, Fit.DOUBTFUL, Fit.TRANSFORMED, Fit.TRANSFORMED,
        Fit.MISMATCHED,
    ]  # fmt: skip
    assert session.counts == {fit: fits.count(fit) for fit in Fit}
    assert session.blocking == 2


def test_positions_behind_the_rows_are_the_bench(session: Session) -> None:
    session.edit(SendToBench((0, 2)))
    assert len(session) == 9
    assert [session.benched(n) for n in (6, 7, 8)] == [None, "a", "b"]
    assert session.row(7) is None
    assert session.verdict(7) is None


def test_finding(session: Session) -> None:
    session.edit(SendToBench((0,)))
    assert session.find("2x3") == [0, 2, 3, 7]
    assert session.find("2×3 exact") == [2]
    assert session.find("mismatched") == [0, 6]
    assert session.find("VECT") == [4]
    assert session.find("a") == [7]
    assert session.find("nothing like that") == []


def test_finding_by_pattern_length_dtype_class_and_status() -> None:
    entries = [
        Entry("h.0.mix.weight", (4, 4), "float32"),
        Entry("h.0.mix.bias", (64,), "bfloat16"),
        Entry("h.64.w", (3,), "float32"),
        Entry("left", (9,), "float32"),
    ]
    leaves = [
        Leaf(".h[0].mix.weight", (4, 4), "float32", owner="equinox.nn.Linear"),
        Leaf(".h[0].mix.bias", (64,), "float32", owner="equinox.nn.Linear"),
        Leaf(".h[1].w", (5,), "float32"),
    ]
    session = make_session(entries, leaves)
    found = {
        "*.bias": [1],
        ".h[*].mix.*": [0, 1],
        "h[0].mix.?ias": [1],
        "*mix*": [0, 1],
        "mix*": [],
        "re:mix.(weight|bias)$": [0, 1],
        "re:h.\\d+.w$": [2],
        "64": [1, 2],
        "bfloat16": [1],
        "Linear": [0, 1],
        "linear !*.bias": [0],
        "blocking": [2, 3],
        "settled": [0, 1],
        "bench": [3],
        "4x4": [0],
    }
    assert {query: session.find(query) for query in found} == found
    with pytest.raises(UsageError, match="no regular expression"):
        session.find("re:(")


def test_trusted_rows_are_found_and_trust_takes_patterns() -> None:
    entries = [Entry(f"h.{n}.w", (6, 2), "float32") for n in range(3)]
    leaves = [Leaf(f".h[{n}].w", (2, 6), "float32") for n in range(3)]
    session = make_session(entries, leaves)
    assert session.find("doubtful") == [0, 1, 2]
    with pytest.raises(UsageError, match=r"not doubtful: \.x"):
        session.trust([".h[*].w", ".x"])
    session.trust([".h[[]0].w", ".h[2].*"])
    assert session.find("trusted") == [0, 2]
    session.trust([".h[*].w"])
    assert session.is_complete


def test_converting_with_rows_in_the_way_lists_all(session: Session, tmp_path: Path) -> None:
    with pytest.raises(AlignmentError, match="2 of 7 rows do not line up") as caught:
        session.convert(tmp_path / "out.eqx")
    assert [path for path, _ in caught.value.problems] == ["['third']", "['zero']"]
    assert not (tmp_path / "out.eqx").exists()


def line_up(session: Session) -> None:
    turned = Row(Permute(Take("c"), (1, 0)), by="matcher", why="turned")
    rows = [
        structs.replace(row, by="user") if row.source else row for row in session.alignment.rows
    ]
    session.edit(SetRows(tuple(enumerate([*rows[:3], turned, *rows[4:]]))))
    session.edit(Trust((3,)))
    session.edit(OpenGap(6))
    assert session.blocking == 0


def test_a_mapping_saved_is_a_mapping_replayed(session: Session, tmp_path: Path) -> None:
    line_up(session)
    result = session.convert(tmp_path / "out", mapping=tmp_path / "m.json")
    assert result.mapping == tmp_path / "m.json"
    assert result.written.path == tmp_path / "out.eqx"
    again = Session.open(
        tmp_path / "model.pt", tmp_path / "skeleton.eqx", mapping=tmp_path / "m.json"
    )
    assert again.alignment == session.alignment
    assert len(again.history) == 0
    again.convert(tmp_path / "again.eqx")
    assert (tmp_path / "again.eqx").read_bytes() == (tmp_path / "out.eqx").read_bytes()
    again.save_mapping(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "m.json").read_bytes()
    again.close()


def test_the_bench_survives_a_mapping(session: Session, tmp_path: Path) -> None:
    session.edit(SendToBench((4,)))
    session.edit(SendToBench((0, 2)))
    session.save_mapping(tmp_path / "m.json")
    assert load_mapping(tmp_path / "m.json").bench == session.alignment.bench == ("d", "a", "b")
    session.undo()
    session.undo()
    session.start_from(load_mapping(tmp_path / "m.json"))
    assert set(session.alignment.bench) == {"a", "b", "d"}
    assert session.alignment.rows[4].source is None


def test_a_mapping_for_other_files_is_refused(session: Session, tmp_path: Path) -> None:
    line_up(session)
    session.save_mapping(tmp_path / "m.json")
    other = dict(TENSORS) | {"b": torch.ones(2, 9)}
    del other["d"]
    torch.save(other, tmp_path / "other.pt")
    save_skeleton(tmp_path / "other.eqx", TREE | {"more": 1.0})
    with pytest.raises(OtherFilesError, match="made for other files") as caught:
        Session.open(tmp_path / "other.pt", tmp_path / "other.eqx", mapping=tmp_path / "m.json")
    found = dict(caught.value.problems)
    assert found == {
        "b": "made for 2×3, this one is 2×9",
        "['more']": "not in the mapping",
        "['second']": "expected 2×3, its source gives 2×9",
        "['vector']": "its source d is not in the checkpoint",
    }


def test_a_mapping_is_not_bound_to_the_numbers(session: Session, tmp_path: Path) -> None:
    line_up(session)
    session.save_mapping(tmp_path / "m.json")
    torch.save({key: value + 1 for key, value in TENSORS.items()}, tmp_path / "newer.pt")
    newer = Session.open(
        tmp_path / "newer.pt", tmp_path / "skeleton.eqx", mapping=tmp_path / "m.json"
    )
    assert newer.alignment == session.alignment
    newer.close()


def test_mappings_that_cannot_be_read_or_written(session: Session, tmp_path: Path) -> None:
    (tmp_path / "latin.json").write_bytes(b"\xff")
    for name, message in (("missing.json", "No such file"), ("latin.json", "not UTF-8")):
        with pytest.raises(InputError, match=message):
            load_mapping(tmp_path / name)
    with pytest.raises(InputError, match="is a folder, a file was expected"):
        load_mapping(tmp_path)
    with pytest.raises(OutputError, match="folder does not exist"):
        session.save_mapping(tmp_path / "missing" / "m.json")


@pytest.mark.parametrize("name", ["missing.eqx", "x" * 300, "x:" * 200])
@pytest.mark.usefixtures("session")
def test_skeletons_that_are_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(S2PError):
        Session.open(tmp_path / "model.pt", name)


@pytest.mark.usefixtures("session")
def test_two_entries_in_one_leaf(tmp_path: Path) -> None:
    save_skeleton(tmp_path / "stacked.eqx", [jnp.zeros((2, 2, 3))])
    stacked = Session.open(tmp_path / "model.pt", tmp_path / "stacked.eqx")
    stacked.edit(SetRows(((0, Row(Stack((Take("b"), Take("a")), 0), by="user")),)))
    assert stacked.verdict(0).fit is Fit.TRANSFORMED
    assert stacked.alignment.bench == ("c", "d", "e")
    with pytest.raises(AlignmentError, match="3 unused entries") as refused:
        stacked.convert(tmp_path / "out.eqx")
    assert refused.value.unused == ("c", "d", "e")
    stacked.allow_unused(refused.value.unused)
    stacked.convert(tmp_path / "out.eqx")
    with (tmp_path / "out.eqx").open("rb") as stream:
        assert np.array_equal(np.load(stream), np.arange(12.0).reshape(2, 2, 3)[::-1])
    stacked.close()


def test_files_are_closed_though_nobody_closes_them(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2, 3)}, tmp_path / "model.pt")
    (tmp_path / "broken.eqx").write_bytes(b"\x93NUMPY")
    for _ in range(20):
        with pytest.raises(InputError):
            Session.open(tmp_path / "model.pt", tmp_path / "broken.eqx")
        open_checkpoint(tmp_path / "model.pt").tensors.read("a", ((0, 2), (0, 3)))
    assert open_below(tmp_path) == []


def test_a_new_transform_is_judged_after_a_slice_was() -> None:
    entries = [Entry("w", (4, 2), "float32"), Entry("u", (2, 2), "float32")]
    leaves = [Leaf(f".{name}", (2, 2), "float32") for name in "abc"]
    session = make_session(entries, leaves)
    half = Split(Take("w"), 0, 0, 2)
    session.edit(SetRows(((0, Row(half, by="user")),)))
    assert session.verdict(0).fit is Fit.DOUBTFUL
    for index, source in ((1, Permute(Take("u"), (1, 0))), (2, Flip(Take("u"), (0,)))):
        session.edit(SetRows(((index, Row(source, by="user")),)))
        assert session.verdict(index).fit is Fit.TRANSFORMED
        assert session.verdict(0).fit is Fit.DOUBTFUL
    other = Split(Take("w"), 0, 2, 4)
    session.edit(SetRows(((0, Row(half, by="user")), (1, Row(other, by="user")))))
    assert session.verdict(0).fit is Fit.TRANSFORMED
