"""Quantised and pruned weights: no row takes them as they are, and none offers to be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
import torch
from torch.nn.utils import prune

import s2p_tui
from s2p_tui.alignment.fit import Fit
from s2p_tui.errors import AlignmentError, UsageError
from s2p_tui.session.opening import target_in_memory
from s2p_tui.session.session import Session
from tests.helpers.files import save_zip


class Net(eqx.Module):
    fc: eqx.nn.Linear

    def __init__(self) -> None:
        self.fc = eqx.nn.Linear(8, 4, key=jax.random.PRNGKey(0))


class TorchNet(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(8, 4)


BIAS = torch.ones(4)
CODES = torch.randint(-128, 127, (4, 8), dtype=torch.int8)
FP8 = torch.randn(4, 8).to(torch.float8_e4m3fn)
PACKED = torch.randint(0, 255, (16, 1), dtype=torch.uint8)
QUANTISED: Mapping[str, Mapping[str, torch.Tensor]] = {
    "bitsandbytes 8 bits": {"fc.weight": CODES, "fc.SCB": torch.ones(4)},
    "bitsandbytes 4 bits": {
        "fc.weight": PACKED,
        "fc.weight.absmax": torch.ones(1),
        "fc.weight.quant_map": torch.ones(16),
    },
    "compressed-tensors": {"fc.weight": FP8, "fc.weight_scale": torch.ones(4, 1)},
    "compressed-tensors int8": {"fc.weight": CODES, "fc.weight_scale": torch.ones(4, 1)},
    "deepseek": {"fc.weight": FP8, "fc.weight_scale_inv": torch.ones(1, 1)},
    "comfy": {"fc.weight": FP8, "fc.scale_weight": torch.ones(())},
    "packed": {
        "fc.weight_packed": torch.ones(4, 1, dtype=torch.int32),
        "fc.weight_scale": torch.ones(4, 1),
    },
    "gptq": {
        "fc.qweight": torch.ones(1, 4, dtype=torch.int32),
        "fc.qzeros": torch.ones(1, 1, dtype=torch.int32),
        "fc.scales": torch.ones(1, 4),
    },
    "mxfp4": {
        "fc.weight_blocks": torch.ones(4, 1, 4, dtype=torch.uint8),
        "fc.weight_scales": torch.ones(4, 1, dtype=torch.uint8),
    },
}


def refused(tmp_path: Path, state: Mapping[str, Any], key: str) -> AlignmentError:
    """What is said of a row that takes an entry, by the matcher's choice or by the user's."""
    model = save_zip(dict(state), tmp_path / "model.pt")
    s2p_tui.save_skeleton(tmp_path / "skeleton.eqx", Net())
    session = Session.open(model, tmp_path / "skeleton.eqx")
    from s2p_tui.alignment.alignment import Row
    from s2p_tui.alignment.edits import SetRows
    from s2p_tui.alignment.transform import Take

    session.edit(SetRows(((0, Row(Take(key), by="user")), (1, Row(Take("fc.bias"), by="user")))))
    verdict = session.verdict(0)
    assert verdict is not None
    assert verdict.fit is Fit.MISMATCHED
    with pytest.raises(UsageError, match="not doubtful"):
        session.trust([".fc.weight"])
    with pytest.raises(AlignmentError) as caught:
        session.convert(tmp_path / "out.eqx")
    session.close()
    assert "--trust" not in caught.value.hint
    assert not (tmp_path / "out.eqx").exists()
    return caught.value


@pytest.mark.parametrize("kind", QUANTISED)
def test_a_quantised_weight_is_to_be_dequantised(tmp_path: Path, kind: str) -> None:
    weight = next(iter(QUANTISED[kind]))
    error = refused(tmp_path, {**QUANTISED[kind], "fc.bias": BIAS}, weight)
    (path, why), *_ = error.problems
    assert path == ".fc.weight"
    assert "dequantise first (weight × scale)" in why
    scale = [key for key in QUANTISED[kind] if key != weight]
    assert any(f"{key} is its scale" in why for key in scale)


def test_the_way_out_of_a_quantised_one(tmp_path: Path) -> None:
    scale = torch.rand(4, 1)
    weight = FP8.float() * scale
    save_zip({"fc.weight": weight, "fc.bias": BIAS}, tmp_path / "m.pt")
    found = s2p_tui.convert_tree(tmp_path / "m.pt", Net())
    assert np.array_equal(found.fc.weight, weight.numpy())


def test_a_pruned_weight_is_to_be_made_whole(tmp_path: Path) -> None:
    net = TorchNet()
    prune.l1_unstructured(net.fc, "weight", amount=0.5)
    error = refused(tmp_path, net.state_dict(), "fc.weight_orig")
    (_, why), *_ = error.problems
    assert "fc.weight_mask says where it is 0" in why
    assert "prune.remove(module, 'weight')" in why
    prune.remove(net.fc, "weight")
    found = s2p_tui.convert_tree(net.state_dict(), Net())
    assert np.array_equal(found.fc.weight, net.fc.weight.detach().numpy())


def test_a_quantised_model_takes_quantised_weights() -> None:
    state = {"fc.weight": CODES, "fc.weight_scale": torch.ones(4, 1)}
    like = {"fc": {"weight": np.zeros((4, 8), np.int8), "weight_scale": np.zeros((4, 1), "f4")}}
    found = s2p_tui.convert_tree(state, like)
    assert np.array_equal(found["fc"]["weight"], CODES.numpy())


@pytest.mark.parametrize(
    "state",
    [
        {"fc.weight": torch.ones(4, 8), "fc.weight_scale": torch.ones(4, 1), "fc.bias": BIAS},
        {"fc.weight": torch.ones(4, 8).half(), "fc.scales": torch.ones(4), "fc.bias": BIAS},
        {"fc.weight": torch.ones(4, 8), "fc.attn_mask": torch.ones(2, 2), "fc.bias": BIAS},
    ],
)
def test_names_that_only_look_like_scales(state: Mapping[str, torch.Tensor]) -> None:
    session = Session.between(
        s2p_tui.session.opening.checkpoint_in_memory(state), target_in_memory(Net())
    )
    assert not session.checkpoint.state_dict.encoded
