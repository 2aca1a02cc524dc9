"""Ways to a file that loads and is wrong, each right or refused."""

from __future__ import annotations

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import OpenGap, SetRows, Swap
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.transform import Concat, Constant, Expr, Scale, Sum, Take
from s2p_tui.errors import OtherFilesError, OutputError, UsageError
from s2p_tui.formats.pytree.skeleton import save_skeleton, target_of
from s2p_tui.session.session import Session


class Net(eqx.Module):
    norm: eqx.nn.BatchNorm

    def __init__(self, momentum: float):
        self.norm = eqx.nn.BatchNorm(3, "batch", momentum=momentum, mode="batch")


def _pair(momentum: float) -> tuple[Net, eqx.nn.State]:
    return eqx.nn.make_with_state(Net)(momentum)


def test_states_of_one_class_are_told_apart() -> None:
    target = target_of({"gen": _pair(0.999), "ref": _pair(0.5)}, "both")
    found = {
        leaf.path: leaf.config["momentum"]
        for leaf in target.skeleton
        if leaf.path.endswith("batch_counter")
    }
    assert found == {
        "['gen'][1].norm.batch_counter": 0.999,
        "['ref'][1].norm.batch_counter": 0.5,
    }


def test_states_that_cannot_be_told_apart_are_refused() -> None:
    (first, first_state), (second, second_state) = _pair(0.999), _pair(0.5)
    with pytest.raises(UsageError, match="2 models of the same class"):
        target_of((first, second, first_state, second_state), "mixed")


def test_a_state_alone_keeps_its_names_apart() -> None:
    def make() -> dict[str, eqx.nn.BatchNorm]:
        return {name: eqx.nn.BatchNorm(3, "batch", mode="ema") for name in ("a", "b")}

    state = eqx.nn.make_with_state(make)()[1]
    paths = [leaf.path for leaf in target_of(state, "state").skeleton]
    assert len(set(paths)) == len(paths) == 6
    assert paths[0] == "['a'].ema_first_time_index"


class Key:
    def __init__(self, number: int):
        self.number = number

    def __lt__(self, other: Key) -> bool:
        return self.number < other.number

    def __repr__(self) -> str:
        return "key"


def test_leaves_whose_paths_read_alike_keep_their_own_values(tmp_path: Path) -> None:
    tree = {Key(1): np.full(2, 11.0), Key(2): np.full(2, 22.0)}
    save_skeleton(tmp_path / "sk.eqx", tree)
    torch.save({"w": torch.zeros(2)}, tmp_path / "m.pt")
    session = Session.open(tmp_path / "m.pt", tmp_path / "sk.eqx", arrange="order")
    assert [leaf.path for leaf in session.target.skeleton] == ["[key]", "[key]#2"]
    session.edit(OpenGap(0))
    session.edit(OpenGap(1))
    session.allow_unused(["w"])
    session.convert(tmp_path / "out.eqx")
    loaded = eqx.tree_deserialise_leaves(tmp_path / "out.eqx", tree)
    assert [float(value[0]) for value in loaded.values()] == [11.0, 22.0]


@pytest.mark.parametrize(
    "source",
    [
        Concat((Take("i"), Take("u")), 0),
        Concat((Take("i"), Constant(0.0, (2,))), 0),
        Sum((Take("four"), Take("four"))),
        Scale(Take("four"), 4.0),
    ],
)
def test_whole_numbers_stay_exact_or_are_refused(tmp_path: Path, source: Expr) -> None:
    big = torch.full((2,), 2**53 + 1, dtype=torch.int64)
    torch.save({"i": big, "u": big.to(torch.uint64), "four": torch.ones(4).long()}, tmp_path / "m")
    save_skeleton(tmp_path / "sk.eqx", np.zeros(4, np.int64))
    session = Session.open(tmp_path / "m", tmp_path / "sk.eqx")
    session.edit(SetRows(((0, Row(source, by="user", trusted=True)),)))
    verdict = session.verdict(0)
    assert verdict is not None
    assert (verdict.fit, verdict.blocks) == (Fit.MISMATCHED, True)


def test_sums_that_overflow_are_counted(tmp_path: Path) -> None:
    torch.save({"w": torch.tensor([3e38, 1.0])}, tmp_path / "m.pt")
    save_skeleton(tmp_path / "sk.eqx", jnp.zeros(2))
    session = Session.open(tmp_path / "m.pt", tmp_path / "sk.eqx")
    session.edit(SetRows(((0, Row(Sum((Take("w"), Take("w"))), by="user")),)))
    with pytest.raises(OutputError, match="1 number became infinite"):
        session.convert(tmp_path / "out.eqx")
    losses = session.convert(tmp_path / "out.eqx", allow_overflow=True).written.losses
    assert [loss.overflowed for loss in losses.values()] == [1]


def test_a_rule_does_not_travel_with_an_entry_after_a_replay(tmp_path: Path) -> None:
    key = jax.random.PRNGKey(0)
    layers = [
        eqx.nn.ConvTranspose1d(4, 4, 3, use_bias=False, key=key),
        eqx.nn.Conv1d(4, 4, 3, use_bias=False, key=key),
    ]
    save_skeleton(tmp_path / "sk.eqx", layers)
    torch.save({"a": torch.randn(4, 4, 3), "b": torch.randn(4, 4, 3)}, tmp_path / "m.pt")
    first = Session.open(tmp_path / "m.pt", tmp_path / "sk.eqx")
    first.save_mapping(tmp_path / "m.json")
    again = Session.open(tmp_path / "m.pt", tmp_path / "sk.eqx", mapping=tmp_path / "m.json")
    for session, name in ((first, "first"), (again, "again")):
        session.edit(Swap(0, 1))
        session.convert(tmp_path / f"{name}.eqx")
    assert (tmp_path / "first.eqx").read_bytes() == (tmp_path / "again.eqx").read_bytes()


@pytest.mark.slow("converts many times, or much")
def test_stacked_transposed_convolutions_are_doubtful(tmp_path: Path) -> None:
    def make(key: jax.Array) -> eqx.nn.ConvTranspose1d:
        return eqx.nn.ConvTranspose1d(4, 4, 4, use_bias=False, key=key)

    stacked = eqx.filter_vmap(make)(jax.random.split(jax.random.PRNGKey(0), 4))
    save_skeleton(tmp_path / "sk.eqx", stacked)
    torch.save({"w": torch.randn(4, 4, 4, 4)}, tmp_path / "m.pt")
    verdict = Session.open(tmp_path / "m.pt", tmp_path / "sk.eqx").verdict(0)
    assert verdict is not None
    assert (verdict.fit, verdict.blocks) == (Fit.DOUBTFUL, True)


@pytest.mark.parametrize("cell", [eqx.nn.LSTMCell, eqx.nn.GRUCell])
@pytest.mark.slow("converts many times, or much")
def test_one_recurrent_bias_alone_is_doubtful(tmp_path: Path, cell: type) -> None:
    save_skeleton(tmp_path / "sk.eqx", cell(3, 4, key=jax.random.PRNGKey(0)))
    twin = {eqx.nn.LSTMCell: torch.nn.LSTMCell, eqx.nn.GRUCell: torch.nn.GRUCell}[cell](3, 4)
    torch.save(twin.state_dict(), tmp_path / "m.pt")
    session = Session.open(tmp_path / "m.pt", tmp_path / "sk.eqx", arrange="order")
    verdict = session.verdict(session.target.skeleton.index(".bias"))
    assert verdict is not None
    assert (verdict.fit, verdict.blocks) == (Fit.DOUBTFUL, True)


def test_a_row_by_a_rule_with_nothing_to_note(tmp_path: Path) -> None:
    save_skeleton(tmp_path / "sk.eqx", jnp.zeros(2))
    torch.save({"w": torch.zeros(2, dtype=torch.float64)}, tmp_path / "m.pt")
    session = Session.open(tmp_path / "m.pt", tmp_path / "sk.eqx")
    session.edit(SetRows(((0, Row(Take("w"), by="rule", why="so it is")),)))
    verdict = session.verdict(0)
    assert verdict is not None
    assert verdict.why == "so it is; cast float64 to float32"


def test_a_mapping_made_for_another_momentum_does_not_convert(tmp_path: Path) -> None:
    norm = torch.nn.BatchNorm1d(3)
    torch.save(
        {f"norm.{key}": value for key, value in norm.state_dict().items()}, tmp_path / "m.pt"
    )
    ends: list[Path] = []
    for momentum in (0.5, 0.99):
        ends.append(tmp_path / f"{momentum}.eqx")
        save_skeleton(ends[-1], _pair(momentum))
    mapping = tmp_path / "m.mapping.json"
    Session.open(tmp_path / "m.pt", ends[0]).save_mapping(mapping)
    assert not list(Session.open(tmp_path / "m.pt", ends[0], mapping=mapping).problems())
    with pytest.raises(OtherFilesError, match=r"equinox\.nn\.BatchNorm: other layers"):
        Session.open(tmp_path / "m.pt", ends[1], mapping=mapping)


@pytest.mark.parametrize("window", [1, 4])
def test_a_kernel_turned_for_a_layer_without_a_name_is_doubtful(
    tmp_path: Path, window: int
) -> None:
    torch.save({"up.weight": torch.randn(3, 8, window, window)}, tmp_path / "m.pt")
    eqx.tree_serialise_leaves(tmp_path / "plain.eqx", [jnp.zeros((8, 3, window, window))])
    session = Session.open(tmp_path / "m.pt", tmp_path / "plain.eqx")
    assert session.verdict(0).fit is (Fit.DOUBTFUL if window > 1 else Fit.TRANSFORMED)
