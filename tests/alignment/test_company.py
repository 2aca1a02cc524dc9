"""Doubts that other rows give rise to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2p_tui.alignment.alignment import EMPTY, Alignment, Row, Rows
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.layers import layers_of, module_of
from s2p_tui.alignment.sharing import covered_keys
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Concat, Expr, Permute, Reshape, Split, Stack, Sum, Take
from s2p_tui.alignment.verdicts import Verdicts


@pytest.mark.parametrize(
    ("paths", "owner", "layers"),
    [
        ((".a.weight", ".a.bias", ".b.weight", ".c"), None, [0, 0, -1, -1]),
        ((".cell.weight_ih", ".cell.weight_hh", ".cell.bias"), "equinox.nn.LSTMCell", [0] * 3),
        ((".attn.q_w", ".attn.k_w"), "mine.Attention", [-1, -1]),
        (("[0].n.weight", "[1].n.ema_state_index[0]"), "equinox.nn.BatchNorm", [0, 0]),
        (("['params']['n']['scale']", "['batch_stats']['n']['mean']"), None, [0, 0]),
        (("[0].n.weight", "[1].n.weight", "[0].n.bias", "[1].n.bias"), None, [0, 1, 0, 1]),
        (("[0].n.weight", "[1].n.weight", "[2].n.mean", "[2].n.var"), None, [-1, -1, 0, 0]),
    ],
)
def test_leaves_of_one_layer(paths: tuple[str, ...], owner: str | None, layers: list[int]) -> None:
    assert layers_of((path, owner) for path in paths).tolist() == layers


@pytest.mark.parametrize(
    ("key", "module"),
    [
        ("layers.0.conv.weight", "layers.0.conv"),
        ("conv.parametrizations.weight.original0", "conv"),
        ("parametrizations.weight.original0", ""),
        ("weight", ""),
        ("lstm.weight_ih_l0", "lstm_l0"),
        ("lstm.bias_hh_l1_reverse", "lstm_l1_reverse"),
    ],
)
def test_modules_of_entries(key: str, module: str) -> None:
    assert module_of(key) == module


ENTRIES = StateDict(
    tuple(
        Entry(f"{module}.{role}", (4, 4) if role == "weight" else (4,), "float32")
        for module in ("a", "b")
        for role in ("weight", "bias", "running_mean")
    )
)
SKELETON = Skeleton(
    tuple(
        Leaf(f".{layer}.{role}", (4, 4) if role == "weight" else (4,), "float32")
        for layer in ("p", "q")
        for role in ("weight", "bias", "running_mean")
    )
)
KEYS = [entry.key for entry in ENTRIES]


def test_the_order_of_stacked_layers_is_one_for_all_leaves() -> None:
    entries = StateDict(
        tuple(Entry(f"l.{n}.{role}", (4,), "float32") for n in (0, 1) for role in ("w", "b"))
    )
    leaves = Skeleton(tuple(Leaf(f".s.{role}", (2, 4), "float32") for role in ("w", "b")))

    def stacked(role: str, order: tuple[int, int]) -> Row:
        return Row(Stack(tuple(Take(f"l.{n}.{role}") for n in order), 0), by="user")

    for order, fit in (((0, 1), Fit.TRANSFORMED), ((1, 0), Fit.DOUBTFUL)):
        rows = Rows.of((stacked("w", (0, 1)), stacked("b", order)), entries.numbering)
        assert Verdicts(entries, leaves, rows, None).fit(1) is fit


def test_what_slices_use_up() -> None:
    half = [Split(Take("a.bias"), 0, start, start + 2) for start in (0, 2)]
    turned = Permute(Take("a.weight"), (1, 0))
    assert covered_keys(half, ENTRIES) == {"a.bias"}
    assert covered_keys(half[:1], ENTRIES) == set()
    assert covered_keys([Split(half[0], 0, 0, 1), half[1]], ENTRIES) == set()
    assert covered_keys([Split(half[0].of, axis, 0, 9) for axis in (1, 9, -1)], ENTRIES) == set()
    assert covered_keys([Sum((half[0], half[1]))], ENTRIES) == {"a.bias"}
    assert covered_keys([Split(turned, 0, 0, 3)], ENTRIES) == set()
    parts = (Split(turned, 0, 0, 3), Split(turned, 0, 3, 4), Take("b.bias"))
    assert covered_keys(parts, ENTRIES) == {"a.weight", "b.bias"}
    across = (Split(Take("a.weight"), 0, 0, 2), Split(Take("a.weight"), 1, 2, 4))
    assert covered_keys(across, ENTRIES) == set()


def _sources() -> st.SearchStrategy[Expr | None]:
    takes = st.sampled_from(KEYS).map(Take)
    halves = st.builds(
        lambda key, first: Split(Take(key), 0, 0 if first else 2, 2 if first else 4),
        st.sampled_from(KEYS),
        st.booleans(),
    )
    joined = st.builds(lambda one, other: Concat((one, other), 0), halves, halves)
    return st.one_of(st.none(), takes, takes, halves, joined, takes.map(lambda t: Reshape(t, (4,))))


rows_strategy = st.lists(
    st.tuples(_sources(), st.sampled_from(("user", "matcher", "order")), st.booleans()),
    min_size=6,
    max_size=6,
)


@given(rows_strategy, rows_strategy)
@pytest.mark.slow("tries many sequences")
def test_all_rows_at_once_are_judged_as_each(
    first: list[tuple[Expr | None, str, bool]], second: list[tuple[Expr | None, str, bool]]
) -> None:
    verdicts: Verdicts | None = None
    for said in (first, second):
        made = [
            EMPTY if source is None else Row(source, by=by, trusted=trusted)
            for source, by, trusted in said
        ]
        rows = Alignment.of(made, (), ENTRIES.numbering).rows
        if verdicts is None:
            verdicts = Verdicts(ENTRIES, SKELETON, rows, None)
        else:
            verdicts.changed(rows, range(6))
        for index in range(6):
            one = verdicts.of(index, rows)
            blocks = verdicts.blocking_in(range(index, index + 1)) is not None
            assert (verdicts.fit(index), blocks) == (one.fit, one.blocks), (index, made)
