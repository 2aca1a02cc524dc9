"""Layers whose leaves are not simply the twin's tensors, filled by the rules and plain entries."""

from __future__ import annotations

from pathlib import Path

import equinox as eqx
import pytest
import torch

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import SetRows
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.layer_rules import rule_for
from s2p_tui.alignment.transform import Constant, Take
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.session.opening import load_mapping
from s2p_tui.session.session import Session
from tests.models.twin import Twin, relative_error
from tests.models.twins import TWINS

RULED = [
    twin
    for twin in TWINS
    if twin.truth is not None
    and twin.name.startswith(
        ("conv_transpose", "batch_norm", "spectral_norm_conv_transpose", "resnet", "u_net")
    )
    and not twin.name.endswith(("_folded", "_folded_old"))
]


@pytest.fixture
def session(twin: Twin, tmp_path: Path) -> Session:
    """The twin's files, every leaf with a rule left to it, the others as the truth has them."""
    torch.save(twin.checkpoint(twin.make_torch()), tmp_path / "model.pt")
    tree = twin.make_eqx()
    save_skeleton(tmp_path / "skeleton.eqx", tree)
    session = Session.open(tmp_path / "model.pt", tmp_path / "skeleton.eqx")
    assert twin.truth is not None
    rows: list[tuple[int, Row]] = []
    for position, leaf in enumerate(session.target.skeleton):
        truth = twin.truth[leaf.path]
        ruled = rule_for(leaf) is not None
        if ruled and session.alignment.rows[position].by == "rule":
            rows.append((position, session.alignment.rows[position]))
        elif truth is None:
            rows.append((position, Row(gap=True, by="user")))
        else:
            (key,) = Row(truth).keys if ruled else ("",)
            rows.append((position, Row(Take(key) if ruled else truth, by="user")))
    session.edit(SetRows(tuple(rows)))
    return session


@pytest.mark.parametrize("twin", RULED, ids=lambda twin: twin.name)
@pytest.mark.slow("compiles and runs every twin in both frameworks")
def test_rules_give_what_torch_computes(twin: Twin, session: Session, tmp_path: Path) -> None:
    assert list(session.problems()) == []
    session.convert(tmp_path / "out.eqx", chunk_bytes=64)
    like = twin.eqx_shapes()
    converted = eqx.tree_deserialise_leaves(tmp_path / "out.eqx", like)
    module = twin.make_torch()
    assert relative_error(twin.eqx_forward(converted), twin.torch_forward(module)) <= twin.tolerance
    if twin.train is not None:
        found, wanted = twin.eqx_train_step(converted), twin.torch_train_step(module)
        assert relative_error(found, wanted) <= twin.tolerance


@pytest.mark.parametrize("twin", RULED[:4], ids=lambda twin: twin.name)
@pytest.mark.slow("makes models in both frameworks")
def test_a_mapping_spells_out_what_a_rule_does(
    twin: Twin, session: Session, tmp_path: Path
) -> None:
    out = tmp_path / f"{twin.name}.eqx"
    session.convert(out, mapping=tmp_path / "m.json")
    paths = tmp_path / "model.pt", tmp_path / "skeleton.eqx"
    again = Session.open(*paths, mapping=tmp_path / "m.json")
    ruled = [n for n, leaf in enumerate(again.target.skeleton) if rule_for(leaf) is not None]
    assert ruled
    saved = load_mapping(tmp_path / "m.json").rows
    assert not any(isinstance(saved[n][1].source, Take) for n in ruled)
    assert again.alignment.rows == session.alignment.rows
    again.convert(tmp_path / "again.eqx")
    assert (tmp_path / "again.eqx").read_bytes() == out.read_bytes()


def test_an_entry_the_twin_does_not_have_there_is_doubtful(tmp_path: Path) -> None:
    tree = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode="batch")
    save_skeleton(tmp_path / "skeleton.eqx", tree)
    torch.save({"n": torch.tensor(37)}, tmp_path / "model.pt")
    session = Session.open(tmp_path / "model.pt", tmp_path / "skeleton.eqx")
    counter = session.target.skeleton.index("[1].batch_counter")
    assert isinstance(session.alignment.rows[counter].source, Constant)
    session.edit(SetRows(((counter, Row(Take("n"), by="user")),)))
    verdict = session.verdict(counter)
    assert verdict is not None
    assert (verdict.fit, verdict.blocks) == (Fit.DOUBTFUL, True)
    assert "the running statistics are used as they are" in verdict.why
