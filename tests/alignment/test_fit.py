from __future__ import annotations

import pytest

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.fit import Fit, Verdict
from s2p_tui.alignment.judge import NOTHING_YET, judge, landing
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Concat, Expr, Flip, Permute, Reshape, Split, Take

ENTRIES = StateDict(
    (
        Entry("w", (2, 3), "float32"),
        Entry("b", (3,), "float32"),
        Entry("h", (2, 3), "bfloat16"),
        Entry("i", (2, 3), "int64"),
        Entry("c", (2, 3), "complex64"),
        Entry("p", (2, 3), "complex32"),
    )
)
W, B = Take("w"), Take("b")
JUDGED: list[tuple[tuple[int, ...], str, Expr, Fit, bool, str]] = [
    ((2, 3), "float32", W, Fit.EXACT, False, ""),
    ((2, 3), "bfloat16", W, Fit.TRANSFORMED, False, "cast float32 to bfloat16"),
    ((2, 3), "float32", Take("h"), Fit.TRANSFORMED, False, "cast bfloat16 to float32"),
    ((2, 3), "int32", Take("i"), Fit.TRANSFORMED, False, "cast int64 to int32"),
    ((2, 3), "complex64", W, Fit.TRANSFORMED, False, "cast float32 to complex64"),
    ((2, 3), "float32", Take("i"), Fit.DOUBTFUL, True, "cast int64 to float32 changes what"),
    ((2, 3), "bool", Take("i"), Fit.DOUBTFUL, True, "cast int64 to bool changes what"),
    ((2, 3), "int32", W, Fit.DOUBTFUL, True, "cast float32 to int32 changes what"),
    ((2, 3), "float32", Take("c"), Fit.MISMATCHED, True, "complex64 to float32 is not possible"),
    ((2, 3), "float32", Take("p"), Fit.MISMATCHED, True, "complex32 to float32 is not possible"),
    ((2, 1, 3), "float32", W, Fit.TRANSFORMED, False, "reshape 2×3 to 2×1×3"),
    ((3, 1), "float32", B, Fit.TRANSFORMED, False, "reshape 3 to 3×1"),
    ((3, 2), "float32", W, Fit.DOUBTFUL, True, "reshape 2×3 to 3×2 has the right size but may"),
    ((6,), "float32", W, Fit.DOUBTFUL, True, "may mix the elements"),
    ((3, 2), "float32", Permute(W, (1, 0)), Fit.TRANSFORMED, False, "permute axes to (1, 0)"),
    ((4,), "float32", B, Fit.MISMATCHED, True, "expected 4 (4 elements), got 3 (3)"),
    ((2, 3), "float32", Flip(W, (5,)), Fit.MISMATCHED, True, "names axes that 2×3 does not have"),
    ((1, 3), "float32", Split(W, 0, 0, 1), Fit.TRANSFORMED, False, "take 0:1 of axis 0"),
    ((4, 3), "float32", Concat((W, Take("h")), 0), Fit.TRANSFORMED, False, "cast bfloat16"),
    ((4, 3), "float32", Concat((W, Take("i")), 0), Fit.MISMATCHED, True, "joining float32, int64"),
]


@pytest.mark.parametrize(("shape", "dtype", "source", "fit", "blocks", "why"), JUDGED)
def test_judgements(
    shape: tuple[int, ...], dtype: str, source: Expr, fit: Fit, blocks: bool, why: str
) -> None:
    verdict = judge(Leaf(".x", shape, dtype), Row(source), ENTRIES)
    assert (verdict.fit, verdict.blocks) == (fit, blocks)
    assert why in verdict.why
    assert bool(why) == bool(verdict.why)


@pytest.mark.parametrize(("shape", "dtype", "source", "fit", "blocks", "why"), JUDGED)
def test_trust_lets_doubtful_rows_pass_and_no_others(
    shape: tuple[int, ...], dtype: str, source: Expr, fit: Fit, blocks: bool, why: str
) -> None:
    trusted = judge(Leaf(".x", shape, dtype), Row(source, trusted=True), ENTRIES)
    assert trusted.fit is fit
    assert why in trusted.why
    assert trusted.blocks is (blocks and fit is not Fit.DOUBTFUL)


def test_gaps() -> None:
    leaf = Leaf(".x", (2,), "float32")
    valueless = Leaf(".x", (2,), "float32", has_value=False)
    assert judge(leaf, Row(gap=True), ENTRIES) == Verdict(Fit.GAP, "keeps the skeleton's value")
    assert judge(leaf, Row(gap=True, why="a buffer"), ENTRIES).why == "a buffer"
    assert judge(leaf, Row(), ENTRIES) == Verdict(Fit.MISMATCHED, NOTHING_YET, blocks=True)
    refused = judge(valueless, Row(gap=True), ENTRIES)
    assert (refused.fit, refused.blocks) == (Fit.MISMATCHED, True)
    assert "saved without values" in refused.why


def test_an_entry_for_a_python_scalar_is_no_exact_fit_by_shortcut() -> None:
    scalar = Leaf(".p", (), "float64", "scalar")
    entries = StateDict((Entry("p", (1,), "float32"),))
    assert judge(scalar, Row(Take("p")), entries).fit is Fit.TRANSFORMED


def test_landing_writes_the_last_reshape_out() -> None:
    assert landing(W, Leaf(".x", (2, 3), "float32"), ENTRIES) is W
    assert landing(W, Leaf(".x", (2, 1, 3), "float32"), ENTRIES) == Reshape(W, (2, 1, 3))
