"""Every twin in orders and under names that mislead: what is converted is right, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import equinox as eqx
import pytest
import torch

from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.session.session import Session
from tests.models.misleading import SEEING, misleading
from tests.models.twin import Twin, relative_error


@pytest.mark.parametrize("twin", SEEING, ids=lambda twin: twin.name)
@pytest.mark.slow("converts every twin sixteen times")
def test_no_order_and_no_names_make_a_wrong_file(twin: Twin, tmp_path: Path) -> None:
    module = twin.make_torch()
    tensors = twin.checkpoint(module)
    if not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        tensors = module.state_dict()
    with twin.precision():
        save_skeleton(tmp_path / "skeleton.eqx", twin.make_eqx())
        shapes = twin.eqx_shapes()
        wanted = twin.torch_forward(module)
    arrangements: tuple[Literal["auto", "order"], ...] = ("auto", "order")
    wrong: list[str] = []
    for name, variant in misleading(dict(tensors)):
        torch.save(variant, tmp_path / "model.pt")
        for arrange in arrangements:
            session = Session.open(
                tmp_path / "model.pt", tmp_path / "skeleton.eqx", arrange=arrange
            )
            if not session.blocking:
                session.convert(tmp_path / "out.eqx")
                with twin.precision():
                    converted = eqx.tree_deserialise_leaves(tmp_path / "out.eqx", shapes)
                    found = twin.eqx_forward(converted)
                if not relative_error(found, wanted) <= twin.tolerance:
                    wrong.append(f"{name}, arranged by {arrange}")
            session.close()
    assert wrong == []


DOUBTED = {
    "conv_hwio_square": "a square kernel whose orientation nothing shows",
    "attention_biases_lost": "the biases of the checkpoint have no leaf",
    "untied_one_key": "one table in the checkpoint for two leaves",
    "conv_norm_folded": "a batch norm folded into a convolution needs its epsilon",
    "mlp_scan_no_bias": "weights of one shape, named by numbers alone, in one stack",
    "experts_apart": "`w1` and `w2` fit either layer of an expert, turned or not",
}


@pytest.mark.parametrize("twin", SEEING, ids=lambda twin: twin.name)
@pytest.mark.slow("makes every twin in both frameworks")
def test_a_twin_is_settled_unless_it_cannot_be(twin: Twin, tmp_path: Path) -> None:
    """So that refusing everything is no way to pass the test above."""
    torch.save(twin.checkpoint(twin.make_torch()), tmp_path / "model.pt")
    with twin.precision():
        save_skeleton(tmp_path / "skeleton.eqx", twin.make_eqx())
    session = Session.open(tmp_path / "model.pt", tmp_path / "skeleton.eqx")
    blocking = list(session.problems())
    session.close()
    assert bool(blocking) == (twin.name in DOUBTED), blocking
