"""State dicts in memory: what the tensors are, without copying them."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2p_tui.errors import AmbiguousStateDictError, InputError, UsageError
from s2p_tui.formats.memory import checkpoint_in_memory
from s2p_tui.formats.registry import open_checkpoint
from tests.helpers.files import TORCH_DTYPES, assert_holds, random_tensor, read, tensor_bytes
from tests.helpers.files import save_zip as save


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (3, 4)])
def test_every_dtype_is_viewed_bit_by_bit(dtype: str, shape: tuple[int, ...]) -> None:
    tensor = random_tensor(dtype, shape)
    checkpoint = checkpoint_in_memory({"w": tensor})
    assert_holds(checkpoint, {"w": tensor})
    if tensor.numel():
        address = read(checkpoint, "w").__array_interface__["data"][0]
        assert address == tensor.data_ptr()


views = st.sampled_from(["t", "step", "column", "expand", "narrow", "squeeze"])


def viewed(tensor: torch.Tensor, view: str) -> torch.Tensor:
    match view:
        case "t":
            return tensor.t()
        case "step":
            return tensor[::2, 1::3]
        case "column":
            return tensor[:, 1]
        case "expand":
            return tensor[:1].expand(5, -1)
        case "narrow":
            return tensor.narrow(1, 1, 3)
        case _:
            return tensor[None, :, None]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(TORCH_DTYPES), views), min_size=1, max_size=6))
def test_strided_tensors_are_what_a_file_of_them_holds(
    tmp_path_factory: pytest.TempPathFactory, chosen: list[tuple[str, str]]
) -> None:
    state = {
        f"w{n}": viewed(random_tensor(dtype, (6, 7), n), view)
        for n, (dtype, view) in enumerate(chosen)
    }
    assert_holds(checkpoint_in_memory(state), state)
    file = save(state, tmp_path_factory.mktemp("state") / "model.pt")
    opened = open_checkpoint(file)
    assert opened.state_dict.digest == checkpoint_in_memory(state).state_dict.digest
    opened.tensors.close()


def test_tied_tensors_share_a_storage_and_others_do_not() -> None:
    tensor = torch.arange(12.0).reshape(3, 4)
    state = {"a": tensor, "tied": tensor, "same bytes": tensor.clone(), "turned": tensor.t(),
             "empty": torch.zeros(0), "empty too": torch.zeros(0)}  # fmt: skip
    entries = checkpoint_in_memory(state).state_dict
    assert entries["a"].storage == entries["tied"].storage is not None
    assert len({entries[key].storage for key in ("a", "same bytes", "turned")}) == 3
    assert entries["empty"].storage is None


def test_lazily_conjugated_and_negated_views_are_resolved_region_by_region() -> None:
    tensor = torch.randn(4, 3, dtype=torch.complex64)
    state = {"conj": tensor.conj(), "imag of conj": tensor.conj().imag}
    assert state["conj"].is_conj()
    assert state["imag of conj"].is_neg()
    checkpoint = checkpoint_in_memory(state)
    for key, lazy in state.items():
        part = read(checkpoint, key, ((1, 3), (0, 2)))
        assert np.array_equal(part, lazy.resolve_conj().resolve_neg()[1:3, :2].numpy())


def test_parameters_that_want_gradients_are_read() -> None:
    module = torch.nn.Linear(3, 2)
    state = dict(module.named_parameters())
    assert_holds(checkpoint_in_memory(state), {key: p.detach() for key, p in state.items()})
    assert_holds(checkpoint_in_memory(module), module.state_dict())


def refused() -> dict[str, tuple[Any, str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Torch means to drop them; checkpoints still hold them.
        quantised = torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.zeros(3)
    return {
        "quantised": (quantised, "is quantised; call .dequantize()"),
        "meta": (torch.zeros(3, device="meta"), "is on the meta device and holds no numbers"),
        "sparse": (torch.eye(3).to_sparse(), "is sparse; call .to_dense()"),
        "lazy": (torch.nn.LazyLinear(3).weight, "is not initialised yet; run the model once"),
        "fake": (fake, "is a tensor subclass that wraps others; convert it to a plain tensor"),
        "objects": (np.array([None, "x"], object), "is of dtype object, which holds no plain"),
        "text": (np.array(["a", "b"]), "is of dtype <U1, which holds no plain numbers"),
        "swapped": (np.zeros(3, ">f4"), "is big-endian; call .astype('float32')"),
        "masked": (np.ma.masked_array([1.0], [True]), "is a masked array; call .filled()"),
    }


@pytest.mark.parametrize("name", sorted(refused()))
def test_what_holds_no_plain_numbers_is_refused_with_the_way_out(name: str) -> None:
    tensor, reason = refused()[name]
    with pytest.raises(InputError, match="1 tensors that cannot be converted") as caught:
        checkpoint_in_memory({"fine": torch.zeros(2), name: tensor})
    assert f"{name} {reason}" in caught.value.message


def test_all_that_is_refused_is_named_at_once() -> None:
    state = {name: tensor for name, (tensor, _) in list(refused().items())[:4]}
    with pytest.raises(InputError) as caught:
        checkpoint_in_memory(state)
    assert all(name in caught.value.message for name in state)


def test_packed_tensors_are_listed_and_their_numbers_refused() -> None:
    checkpoint = checkpoint_in_memory(
        {"w": torch.zeros(3, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)}
    )
    assert [entry.dtype for entry in checkpoint.state_dict] == ["float4_e2m1fn_x2"]
    with pytest.raises(InputError, match="float4_e2m1fn_x2 tensors cannot be converted"):
        read(checkpoint, "w")


def test_numpy_and_jax_arrays_count_as_tensors() -> None:
    arrays = {
        "turned": np.arange(6.0).reshape(2, 3).T,
        "backwards": np.arange(6, dtype=np.int16)[::-1],
        "bfloat16": np.arange(4).astype(ml_dtypes.bfloat16),
        "zero-d": np.array(1.5),
        "jax": jnp.arange(3.0),
        "read-only": np.broadcast_to(np.float32(2), (2, 2)),
    }
    checkpoint = checkpoint_in_memory(arrays)
    assert [(e.key, e.shape, e.dtype) for e in checkpoint.state_dict] == [
        ("turned", (3, 2), "float64"), ("backwards", (6,), "int16"), ("bfloat16", (4,), "bfloat16"),
        ("zero-d", (), "float64"), ("jax", (3,), "float32"), ("read-only", (2, 2), "float32"),
    ]  # fmt: skip
    for key, array in arrays.items():
        assert np.array_equal(read(checkpoint, key), array)


def test_a_training_checkpoint_is_looked_into() -> None:
    weights = OrderedDict(w=torch.zeros(2))
    found = checkpoint_in_memory({"epoch": 3, "model": weights, "optimizer": {"state": {}}})
    assert (found.key, [e.key for e in found.state_dict]) == ("model", ["w"])
    both = {"model": weights, "ema": {"w": torch.ones(2)}}
    with pytest.raises(AmbiguousStateDictError):
        checkpoint_in_memory(both)
    assert read(checkpoint_in_memory(both, key="ema"), "w").tolist() == [1, 1]


@pytest.mark.parametrize("given", [None, [torch.zeros(2)], torch.zeros(2), "model.pt", 3])
def test_what_is_no_mapping_is_refused(given: Any) -> None:
    with pytest.raises(UsageError, match=r"Give model.state_dict\(\)"):
        checkpoint_in_memory(given)
    with pytest.raises(InputError, match="no mapping from names to tensors"):
        checkpoint_in_memory({"epoch": 1})


def test_writing_to_a_tensor_meanwhile_is_noticed() -> None:
    tensor = torch.zeros(3)
    checkpoint = checkpoint_in_memory({"a": torch.zeros(2), "b": tensor})
    checkpoint.tensors.check_unchanged()
    tensor.add_(1)
    with pytest.raises(InputError, match="written to meanwhile: b"):
        checkpoint.tensors.check_unchanged()


GROWTH = """
import sys
from pathlib import Path
import jax, torch
from s2p_tui.converter import convert

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(l.split()[1]) * 1024 for l in lines if l.startswith(field + ":"))

def pair(mib):
    side = (mib << 20) // 4 // 4
    state = {"plain.weight": torch.full((side // 1024, 1024), 1.5),
             "turned.weight": torch.full((1024, side // 1024), 2.5).t(),
             "half.weight": torch.full((side // 1024, 2048), 3.5, dtype=torch.bfloat16),
             "cast.weight": torch.full((side // 1024, 2048), 4.5, dtype=torch.bfloat16)}
    kept = {"half": "bfloat16"}
    tree = {key.removesuffix(".weight"): {"weight": jax.ShapeDtypeStruct(
        tuple(t.shape), kept.get(key.removesuffix(".weight"), "float32"))}
        for key, t in state.items()}
    return state, tree

def run(mib):
    state, tree = pair(mib)
    Path("/proc/self/clear_refs").write_text("5")
    idle = status("VmRSS")
    found = convert(from_memory=True, state_dict=state, pytree=tree, chunk_size=8,
                    target_dir=sys.argv[1])
    assert found.verified and found.bytes > (mib << 20)
    return status("VmHWM") - idle

run(1)
print(run(256))
"""


@pytest.mark.slow("starts a program that imports torch and JAX")
def test_memory_grows_by_at_most_two_chunks(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 2 * (8 << 20)


def test_converting_leaves_the_tensors_as_they_were() -> None:
    from s2p_tui import convert_tree

    tensor = torch.randn(3, 4).t().requires_grad_()
    before = tensor_bytes(tensor)
    tree = convert_tree({"w": tensor}, {"w": jnp.zeros((4, 3))})
    assert tensor_bytes(tensor) == before
    assert tensor.requires_grad
    assert np.array_equal(tree["w"], tensor.detach().numpy())
    with torch.no_grad():
        tensor.zero_()
    assert np.count_nonzero(tree["w"])
