from __future__ import annotations

import pytest

from s2p_tui.alignment.alignment import Alignment, Row, in_order
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Reshape, Take
from s2p_tui.conversion.plan import Instruction, make_plan
from s2p_tui.errors import AlignmentError, UsageError

ENTRIES = StateDict((Entry("w", (3,), "float32"), Entry("n", (), "int64")))
LEAVES = Skeleton(
    (
        Leaf(".w", (3, 1), "float32"),
        Leaf(".p", (), "float64", "scalar"),
        Leaf(".n", (), "int32"),
        Leaf(".c", (2,), "complex64"),
    )
)
GAP = Row(gap=True)
ROWS = (Row(Take("w")), GAP, Row(Take("n")), GAP)


def test_one_instruction_a_leaf() -> None:
    plan = make_plan(ENTRIES, LEAVES, Alignment.of(ROWS))
    assert plan.format == "eqx"
    assert plan.instructions == (
        Instruction(LEAVES[0], Reshape(Take("w"), (3, 1)), "float32"),
        Instruction(LEAVES[1], None, "float64"),
        Instruction(LEAVES[2], Take("n"), "int32"),
        Instruction(LEAVES[3], None, "complex64"),
    )


def test_a_dtype_applies_to_real_float_arrays_only() -> None:
    plan = make_plan(ENTRIES, LEAVES, Alignment.of(ROWS), dtype="bfloat16")
    assert [i.dtype for i in plan.instructions] == ["bfloat16", "float64", "int32", "complex64"]


@pytest.mark.parametrize("dtype", ["int32", "complex64", "bool"])
def test_only_floats_can_be_asked_for(dtype: str) -> None:
    with pytest.raises(UsageError, match="not a floating-point dtype"):
        make_plan(ENTRIES, LEAVES, Alignment.of(ROWS), dtype=dtype)


def test_all_rows_in_the_way_are_listed() -> None:
    rows = (Row(Take("n")), GAP, Row(), Row(Take("w")))
    with pytest.raises(AlignmentError, match="3 of 4 rows do not line up") as caught:
        make_plan(ENTRIES, LEAVES, Alignment.of(rows))
    assert caught.value.exit_code == 3
    assert caught.value.problems == (
        (".w", "n: expected 3×1 (3 elements), got () (1)"),
        (".n", "nothing from the checkpoint is here yet"),
        (".c", "w: expected 2 (2 elements), got 3 (3)"),
    )
    with pytest.raises(AlignmentError, match="1 of 4 rows does not line up"):
        make_plan(ENTRIES, LEAVES, Alignment.of((*ROWS[:3], Row())))


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "int4"])
def test_what_equinox_cannot_load_is_refused_for_eqx_only(dtype: str) -> None:
    leaves = Skeleton((Leaf(".f", (3,), dtype),))
    alignment = Alignment.of((Row(Take("f")),))
    entries = StateDict((Entry("f", (3,), dtype),))
    with pytest.raises(UsageError, match=rf"1 leaves, \.f the first, are {dtype}") as caught:
        make_plan(entries, leaves, alignment)
    assert ".safetensors" in caught.value.hint
    assert make_plan(entries, leaves, alignment, file_format="safetensors").instructions
    if dtype.startswith("float"):
        assert make_plan(entries, leaves, alignment, dtype="bfloat16").instructions


def test_alignments_of_another_skeleton_are_a_defect_of_the_caller() -> None:
    with pytest.raises(ValueError, match="zip"):
        make_plan(ENTRIES, LEAVES, in_order(ENTRIES, Skeleton(LEAVES.leaves[:2])))
