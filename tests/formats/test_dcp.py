"""Folders of `torch.distributed.checkpoint`, compared with what torch makes of them."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.metadata import Metadata

import s2p_tui
from s2p_tui.alignment.dtypes import numpy_dtype
from s2p_tui.cli.listing import describe
from s2p_tui.errors import AmbiguousStateDictError, InputError, MissingEntriesError
from s2p_tui.formats.registry import open_checkpoint, open_target
from tests.helpers.dcp import (
    Box,
    as_torch_has_it,
    read_list,
    save_by_hand,
    save_in_processes,
    write_list,
)
from tests.helpers.files import (
    TORCH_DTYPES,
    array_bytes,
    assert_holds,
    folder,
    random_tensor,
    read,
    tensor_bytes,
)

pytestmark = pytest.mark.filterwarnings("ignore")


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = torch.nn.Linear(8, 12)
        self.fc2 = torch.nn.Linear(12, 5)


def in_order(checkpoint: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {entry.key: state[entry.key] for entry in checkpoint.state_dict}


def test_a_model_saved_by_one_process(tmp_path: Path) -> None:
    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    net.fc2(net.fc1(torch.ones(8))).sum().backward()
    optimizer.step()
    state = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    dcp.save(state, checkpoint_id=tmp_path / "c")
    expected = as_torch_has_it(tmp_path / "c")["model"]
    for path in (tmp_path / "c", tmp_path / "c" / ".metadata"):
        opened = open_checkpoint(path)
        assert (opened.key, opened.kind) == ("model", "dcp")
        assert len(opened.state_dict) == 4
        assert_holds(opened, in_order(opened, expected))
    listing = describe(tmp_path / "c")
    assert ": dcp, 4 entries" in listing.title


def test_a_flat_state_dict(tmp_path: Path) -> None:
    dcp.save(Net().state_dict(), checkpoint_id=tmp_path / "c")
    opened = open_checkpoint(tmp_path / "c")
    assert opened.key == ""
    assert_holds(opened, in_order(opened, as_torch_has_it(tmp_path / "c")))


def test_two_models_are_asked_about(tmp_path: Path) -> None:
    both = {"model": Net().state_dict(), "ema": Net().state_dict()}
    dcp.save(both, checkpoint_id=tmp_path / "c")
    with pytest.raises(AmbiguousStateDictError):
        open_checkpoint(tmp_path / "c")
    opened = open_checkpoint(tmp_path / "c", "ema")
    assert_holds(opened, in_order(opened, both["ema"]))


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_every_dtype(tmp_path: Path, dtype: str) -> None:
    tensor = random_tensor(dtype, (4, 6))
    boxes = [((0, 4), (0, 2)), ((0, 4), (2, 6))]
    save_by_hand({"whole": (tensor, [((0, 4), (0, 6))]), "parts": (tensor, boxes)}, tmp_path / "c")
    assert_holds(open_checkpoint(tmp_path / "c"), {"whole": tensor, "parts": tensor})


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """What four processes saved, each its part of every tensor."""
    torch.manual_seed(0)
    state = {
        "rows": torch.randn(8, 5), "columns": torch.randn(3, 8).to(torch.bfloat16),
        "grid": torch.randn(6, 10), "copies": torch.randn(4), "uneven": torch.randn(7, 2),
        "half": torch.randn(4, 4), "cube": torch.randn(4, 3, 6), "plain": torch.randn(2),
        "number": torch.tensor(3.0),
    }  # fmt: skip
    return save_in_processes(state, tmp_path_factory.mktemp("dcp") / "c", 4), state


@pytest.mark.slow("starts several processes of torch")
def test_tensors_of_many_processes_are_put_together(
    sharded: tuple[Path, dict[str, torch.Tensor]],
) -> None:
    path, state = sharded
    assert len(list(path.glob("*.distcp"))) == 4
    expected = as_torch_has_it(path)["model"]
    assert all(torch.equal(expected[name], tensor) for name, tensor in state.items())
    opened = open_checkpoint(path)
    assert_holds(opened, in_order(opened, expected))
    assert len(opened.state_dict) == len(state)
    assert opened.tensors.extent("grid") is None


@pytest.mark.slow("tries thousands of regions")
def test_any_region_of_them(sharded: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, state = sharded
    opened = open_checkpoint(path)
    for region in (((0, 1), (0, 1)), ((2, 5), (3, 9)), ((1, 6), (4, 5)), ((3, 3), (0, 10))):
        found = read(opened, "grid", region)
        assert np.array_equal(found, state["grid"].numpy()[tuple(slice(*r) for r in region)])
    opened.tensors.close()


def cut(draw: st.DrawFn, size: int) -> list[tuple[int, int]]:
    cuts = sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=3))})
    return list(pairwise(cuts)) or [(0, 0)]


@st.composite
def tilings(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Box]]:
    """A shape and boxes that cover it: a grid, or a box cut in two again and again."""
    shape = tuple(draw(st.lists(st.integers(0, 6), max_size=3)))
    if draw(st.booleans()):
        boxes: list[Box] = [()]
        for size in shape:
            boxes = [(*box, span) for box in boxes for span in cut(draw, size)]
    else:
        boxes = [tuple((0, size) for size in shape)]
        for _ in range(draw(st.integers(0, 5)) if shape else 0):
            box = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
            axis = draw(st.integers(0, len(shape) - 1))
            start, stop = box[axis]
            at = draw(st.integers(start, stop))
            halves = ((start, at), (at, stop))
            boxes += [(*box[:axis], half, *box[axis + 1 :]) for half in halves if half[0] < half[1]]
            if start == stop:
                boxes.append(box)
    return shape, draw(st.permutations(boxes))


@settings(max_examples=60, deadline=None)
@given(tilings(), st.integers(1, 3), st.data())
def test_any_tiling(tiling: tuple[tuple[int, ...], list[Box]], files: int, data: Any) -> None:
    shape, boxes = tiling
    tensor = torch.randn(shape)
    region = tuple(sorted((data.draw(st.integers(0, n)), data.draw(st.integers(0, n))))
                   for n in shape)  # fmt: skip
    with folder() as place:
        path = save_by_hand({"t": (tensor, boxes)}, place / "c", files)
        opened = open_checkpoint(path)
        assert array_bytes(read(opened, "t")) == tensor_bytes(tensor)
        part = read(opened, "t", tuple((a, b) for a, b in region))
        assert np.array_equal(part, tensor.numpy()[tuple(slice(*bounds) for bounds in region)])
        opened.tensors.close()


def convert(path: Path, state: dict[str, torch.Tensor], out: Path, **options: Any) -> list[Any]:
    like = [np.zeros(tuple(t.shape), numpy_dtype(options.pop("dtype", "float32"))) for t in
            state.values()]  # fmt: skip
    s2p_tui.convert(
        from_path=True, path_to_state_dict_object=path, path_to_pytree_object=skeleton(out, like),
        target_dir=out, target_name="out.eqx", arrange="order", trust=True, **options,
    )  # fmt: skip
    return eqx.tree_deserialise_leaves(out / "out.eqx", like)


def skeleton(out: Path, like: list[Any]) -> Path:
    out.mkdir(exist_ok=True)
    s2p_tui.save_skeleton(out / "skeleton.eqx", like)
    return out / "skeleton.eqx"


@pytest.mark.parametrize("axis", [0, 1])
def test_a_conversion_copies_or_gathers_chunks(tmp_path: Path, axis: int) -> None:
    tensor = torch.randn(64, 48)
    size = tensor.shape[axis]
    spans = [(start, min(start + 7, size)) for start in range(0, size, 7)]
    boxes = [((a, b), (0, 48)) if axis == 0 else ((0, 64), (a, b)) for a, b in spans]
    path = save_by_hand({"t": (tensor, boxes)}, tmp_path / "c")
    (found,) = convert(path, {"t": tensor}, tmp_path / "out")
    assert np.array_equal(found, tensor.numpy())


@pytest.mark.slow("reads or writes large files, or many")
def test_a_large_tensor_is_put_together_in_bounded_memory(tmp_path: Path) -> None:
    rows = 1 << 14
    tensor = torch.arange(rows * 512, dtype=torch.float32).reshape(rows, 512)
    boxes = [((0, rows), (start, start + 64)) for start in range(0, 512, 64)]
    path = save_by_hand({"t": (tensor, boxes)}, tmp_path / "c")
    target = skeleton(tmp_path / "out", [np.zeros((rows, 512), np.float32)])
    tracemalloc.start()
    try:
        s2p_tui.convert(
            from_path=True, path_to_state_dict_object=path, path_to_pytree_object=target,
            target_dir=tmp_path, target_name="o.eqx", arrange="order", trust=True, chunk_size=1,
        )  # fmt: skip
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()
    assert np.array_equal(np.load(tmp_path / "o.eqx"), tensor.numpy())


@pytest.mark.slow("starts several processes of torch")
def test_safetensors_of_several_processes_are_slices(tmp_path: Path) -> None:
    state = {"rows": torch.randn(4, 3), "plain": torch.ones(2)}
    path = save_in_processes(state, tmp_path / "c", 2, "safetensors")
    for file in (path, *path.glob("*.safetensors")):
        with pytest.raises(InputError, match=r"one of 2 parts .*consolidate_safetensors_files"):
            open_checkpoint(file)
    from torch.distributed.checkpoint._consolidate_hf_safetensors import (
        consolidate_safetensors_files,
    )

    (tmp_path / "whole").mkdir()
    names = dict.fromkeys(state, 1)
    consolidate_safetensors_files(str(path), str(tmp_path / "whole"), names)
    opened = open_checkpoint(tmp_path / "whole")
    assert_holds(opened, in_order(opened, state))


def small(tmp_path: Path) -> tuple[Path, torch.Tensor]:
    tensor = torch.randn(4, 6)
    boxes = [((0, 2), (0, 6)), ((2, 4), (0, 6))]
    tensors = {"t": (tensor, boxes), "u": (torch.ones(2), [((0, 2),)])}
    return save_by_hand(tensors, tmp_path / "c", files=3), tensor


def test_a_chunk_file_alone_says_what_it_is(tmp_path: Path) -> None:
    path, _ = small(tmp_path)
    with pytest.raises(InputError, match=rf"chunks of the tensors .*Give the folder, {path}"):
        open_checkpoint(path / "__0_0.distcp")
    (path / ".metadata").unlink()
    with pytest.raises(InputError, match=r"Give the whole folder; its \.metadata is missing"):
        open_checkpoint(path / "__0_0.distcp")
    with pytest.raises(InputError, match=r"__1_0\.distcp, __2_0\.distcp\), but not \.metadata"):
        open_checkpoint(path)
    (path / "__0.metadata").write_bytes(b"")
    with pytest.raises(InputError, match=r"list of their own \(__0\.metadata\)"):
        open_checkpoint(path)


def test_a_missing_file(tmp_path: Path) -> None:
    path, _ = small(tmp_path)
    (path / "__1_0.distcp").unlink()
    with pytest.raises(MissingEntriesError, match=r"\(__1_0\.distcp\): t") as caught:
        open_checkpoint(path)
    assert caught.value.entries == ("t",)
    opened = open_checkpoint(path, allow_missing=True)
    assert opened.notes[0].startswith("left out: 1 entries lie in files that are missing")
    assert_holds(opened, {"u": torch.ones(2)})


def test_a_target_is_something_else(tmp_path: Path) -> None:
    path, _ = small(tmp_path)
    with pytest.raises(InputError, match=r"torch\.distributed\.checkpoint folder, a skeleton"):
        open_target(path / ".metadata")


def _outside(metadata: Metadata) -> None:
    for info in metadata.storage_data.values():
        info.relative_path = "../secret.distcp"


def _shifted(metadata: Metadata) -> None:
    metadata.state_dict_metadata["t"].chunks[1].offsets = torch.Size([1, 0])


def _hole(metadata: Metadata) -> None:
    metadata.state_dict_metadata["t"].chunks.pop()


def _twice(metadata: Metadata) -> None:
    chunks = metadata.state_dict_metadata["t"].chunks
    chunks[1] = chunks[0]


def _beyond(metadata: Metadata) -> None:
    metadata.state_dict_metadata["t"].size = torch.Size([3, 6])


def _other_dtype(metadata: Metadata) -> None:
    metadata.state_dict_metadata["t"].properties.dtype = torch.float16


def _quantised(metadata: Metadata) -> None:
    metadata.state_dict_metadata["t"].properties.dtype = torch.qint8


def _other_place(metadata: Metadata) -> None:
    infos = list(metadata.storage_data.values())
    infos[0].offset, infos[0].relative_path = infos[2].offset, infos[2].relative_path
    infos[0].length = infos[2].length


def _cut(metadata: Metadata) -> None:
    next(iter(metadata.storage_data.values())).length += 1


def _packed(metadata: Metadata) -> None:
    next(iter(metadata.storage_data.values())).transform_descriptors = ["stream.zstd"]


LIES: dict[str, tuple[Callable[[Metadata], None], str]] = {
    "outside": (_outside, "outside the folder"),
    "shifted": (_shifted, "lies in no file"),
    "hole": (_hole, "12 elements, 24 were expected"),
    "twice": (_twice, "its chunks overlap"),
    "beyond": (_beyond, r"lies outside \[3, 6\]"),
    "other dtype": (_other_dtype, r"\[2, 6\] float32 at byte .* promises \[2, 6\] float16"),
    "quantised": (_quantised, "torch.qint8, which NumPy and JAX do not have"),
    "other place": (_other_place, r"holds \[2\] float32 .* promises \[2, 6\] float32 of t"),
    "cut": (_cut, "was cut short"),
    "packed": (_packed, "compressed by an extension"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_list_that_is_not_true(tmp_path: Path, lie: str) -> None:
    path, _ = small(tmp_path)
    (tmp_path / "secret.distcp").write_bytes((path / "__0_0.distcp").read_bytes())
    metadata = read_list(path)
    change, words = LIES[lie]
    change(metadata)
    write_list(path, metadata)

    def use() -> None:
        opened = open_checkpoint(path)
        read(opened, "t")

    with pytest.raises(InputError, match=words):
        use()


@pytest.mark.parametrize("value", [None, {}, [1], Metadata({}), ("Metadata",)])
def test_a_list_that_is_none(tmp_path: Path, value: Any) -> None:
    path, _ = small(tmp_path)
    write_list(path, value)
    if not isinstance(value, Metadata):
        (path / ".metadata").write_bytes(
            (path / ".metadata").read_bytes() + b"torch.distributed.checkpoint.metadata"
        )
    with pytest.raises(InputError, match=r"not a usable list|holds no state dict"):
        open_checkpoint(path)


@pytest.mark.parametrize("at", [0, 30, 200, -100, -22, -1])
def test_a_damaged_chunk(tmp_path: Path, at: int) -> None:
    """Whatever is damaged of an archive, its elements are found where they were, or refused."""
    path, tensor = small(tmp_path)
    content = bytearray((path / "__0_0.distcp").read_bytes())
    content[at] ^= 0xFF
    (path / "__0_0.distcp").write_bytes(content)
    opened = open_checkpoint(path)
    try:
        found = read(opened, "t")
    except InputError:
        return
    data = np.flatnonzero(found != tensor.numpy())
    assert len(data) <= 1


def test_what_runs_code_elsewhere_is_inert_here(tmp_path: Path) -> None:
    path, tensor = small(tmp_path)
    metadata = read_list(path)

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    metadata.planner_data = Evil()
    write_list(path, metadata)
    opened = open_checkpoint(path)
    assert np.array_equal(read(opened, "t"), tensor.numpy())
    assert not (tmp_path / "ran").exists()
