"""Conversions from checkpoints on other machines: the same output, and each byte asked for once."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import SetRows
from s2p_tui.alignment.task import Job
from s2p_tui.alignment.transform import (
    Concat,
    Expr,
    Permute,
    Reshape,
    Split,
    Stack,
    Sum,
    Take,
    WeightNorm,
    shape_of,
)
from s2p_tui.errors import CancelledError, InputError, OutputError
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.session.session import Session
from tests.helpers.files import SAVE, save_safetensors
from tests.helpers.web_server import Answer, Exchange, WebServer

MEBIBYTE = 1 << 20


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    big = {
        "plain": torch.randn(350, 450),
        "turned": torch.randn(300, 400),
        "conv": torch.randn(80, 60, 3, 3),
        "half": torch.randn(250, 350).half(),
        "rows": torch.randn(450, 200),
        "columns": torch.randn(200, 450),
        "g": torch.rand(150, 1) + 1,
        "v": torch.randn(150, 1000),
        "a": torch.randn(150, 250),
        "b": torch.randn(150, 250),
    }
    stacked = {f"block.{i}.w": torch.randn(100, 150) for i in range(6)}
    return big | stacked | {f"block.{i}.b": torch.randn(100) for i in range(6)}


EXPRS: dict[str, Expr] = {
    "plain": Take("plain"),
    "turned": Permute(Take("turned"), (1, 0)),
    "conv": Permute(Take("conv"), (2, 3, 1, 0)),
    "half": Take("half"),
    "cast": Take("half"),
    "upper": Split(Take("rows"), 0, 0, 150),
    "lower": Split(Take("rows"), 0, 150, 450),
    "left": Split(Take("columns"), 1, 0, 225),
    "right": Permute(Split(Take("columns"), 1, 225, 450), (1, 0)),
    "stacked": Stack(tuple(Take(f"block.{i}.w") for i in range(6)), 0),
    "turned_stack": Stack(tuple(Permute(Take(f"block.{i}.w"), (1, 0)) for i in range(6)), 0),
    "biases": Stack(tuple(Take(f"block.{i}.b") for i in range(6)), 1),
    "sum": Sum((Take("a"), Take("b"))),
    "joined": Concat((Take("a"), Take("b")), 1),
    "folded": Reshape(Permute(Take("turned"), (1, 0)), (40, 3000)),
    "norm": WeightNorm((Take("g"), Take("v"))),
}


def skeleton_and_rows(
    folder: Path, used: dict[str, torch.Tensor], names: Iterable[str] = tuple(EXPRS)
) -> tuple[Path, list[Row]]:
    shapes = {key: tuple(one.shape) for key, one in used.items()}
    tree: dict[str, Any] = {}
    for name in names:
        expr = EXPRS[name]
        dtype = {"half": np.float16, "cast": np.float32}.get(name, np.float32)
        tree[name] = jax.ShapeDtypeStruct(shape_of(expr, lambda key: shapes[key]), dtype)
    tree["kept"] = np.arange(5000.0)
    save_skeleton(folder / "skeleton.eqx", tree)
    rows = [Row(EXPRS.get(name), gap=name == "kept") for name in sorted(tree)]
    return folder / "skeleton.eqx", rows


def opened(where: str | Path, skeleton: Path, rows: list[Row]) -> Session:
    session = Session.open(str(where), skeleton, arrange="order")
    session.edit(SetRows(tuple(enumerate(rows))))
    session.trust(None)
    session.allow_unused(("*",))
    return session


@pytest.mark.parametrize(
    ("form", "chunk"), [("zip", 64), ("legacy", 64), ("safetensors", 64), ("safetensors", 2)]
)
@pytest.mark.slow("converts every format twice")
def test_the_output_is_that_of_the_same_file_here(
    tmp_path: Path, server: WebServer, form: str, chunk: int
) -> None:
    used = tensors()
    model = {**SAVE, "safetensors": save_safetensors}[form](used, tmp_path / "model")
    skeleton, rows = skeleton_and_rows(tmp_path, used)
    here = opened(model, skeleton, rows)
    here.convert(tmp_path / "here.eqx", certificate=tmp_path / "here.json", mapping=None)
    far = opened(f"{server.url}/model", skeleton, rows)
    far.convert(
        tmp_path / "far.eqx",
        chunk_bytes=chunk * MEBIBYTE,
        certificate=tmp_path / "far.json",
        mapping=None,
    )
    assert (tmp_path / "far.eqx").read_bytes() == (tmp_path / "here.eqx").read_bytes()
    ours, theirs = (
        {leaf["path"]: leaf for leaf in json.loads((tmp_path / name).read_text())["leaves"]}
        for name in ("far.json", "here.json")
    )
    assert ours == theirs
    far.verify(tmp_path / "far.eqx", job=Job())
    with (tmp_path / "far.eqx").open("r+b") as stream:
        stream.seek(MEBIBYTE)
        byte = stream.read(1)[0]
        stream.seek(MEBIBYTE)
        stream.write(bytes([byte ^ 1]))
    with pytest.raises(OutputError, match="differs from its source"):
        far.verify(tmp_path / "far.eqx", job=Job())


ONCE = ("plain", "turned", "conv", "cast", "upper", "lower", "stacked", "biases", "sum", "norm")
"""Leaves that use no entry twice, nor a part of one that lies in strips."""


@pytest.mark.parametrize("chunk", [1, 64])
@pytest.mark.slow("converts from a server")
def test_each_byte_is_asked_for_about_once(tmp_path: Path, server: WebServer, chunk: int) -> None:
    used = tensors()
    del used["columns"]
    save_safetensors(used, tmp_path / "model")
    skeleton, rows = skeleton_and_rows(tmp_path, used, ONCE)
    session = opened(f"{server.url}/model", skeleton, rows)
    # The header, and the first numbers of entries that may be copies of others.
    assert server.requests <= 2 + len(used)
    server.forget()
    session.convert(tmp_path / "far.eqx", chunk_bytes=chunk * MEBIBYTE, mapping=None)
    needed = sum(one.numel() * one.element_size() for one in used.values())
    assert server.sent <= 1.05 * needed
    # A thread of eight holds an eighth of the memory: its half is asked for at once.
    planned = needed // (chunk * MEBIBYTE // 16) + len(used) + len(rows)
    assert server.requests <= planned


@pytest.mark.parametrize("axes", [(1, 0, 2), (2, 0, 1), (2, 1, 0), (1, 2, 0), (0, 2, 1)])
@pytest.mark.slow("asks a server on this machine many times")
def test_a_permuted_chunk_takes_few_requests(
    tmp_path: Path, server: WebServer, axes: tuple[int, ...]
) -> None:
    entry = torch.randn(64, 128, 160)
    save_safetensors({"w": entry}, tmp_path / "model")
    save_skeleton(tmp_path / "s.eqx", {"w": np.zeros([entry.shape[axis] for axis in axes], "f4")})
    session = Session.open(f"{server.url}/model", tmp_path / "s.eqx", arrange="order")
    session.edit(SetRows(((0, Row(Permute(Take("w"), axes))),)))
    session.trust(None)
    server.forget()
    session.convert(tmp_path / "far.safetensors", chunk_bytes=16 * MEBIBYTE, mapping=None)
    found = load_file(tmp_path / "far.safetensors")["['w']"]
    assert np.array_equal(found, entry.numpy().transpose(axes))
    assert server.requests <= 3 * entry.numel() * 4 // (2 * MEBIBYTE)
    assert server.sent <= 1.01 * entry.numel() * 4


@pytest.mark.slow("asks a server on this machine many times")
def test_many_threads_ask_for_few_things_at_once(tmp_path: Path, server: WebServer) -> None:
    used = tensors()
    save_safetensors(used, tmp_path / "model")
    skeleton, rows = skeleton_and_rows(tmp_path, used)
    session = opened(f"{server.url}/model", skeleton, rows)
    server.most_at_once = 0
    session.convert(tmp_path / "far.eqx", chunk_bytes=MEBIBYTE, jobs=3, mapping=None)
    assert 1 < server.most_at_once <= 3 + 8


@pytest.mark.slow("converts from a server")
def test_a_source_replaced_midway_leaves_nothing(tmp_path: Path, server: WebServer) -> None:
    used = tensors()
    save_safetensors(used, tmp_path / "model")
    skeleton, rows = skeleton_and_rows(tmp_path, used)
    session = opened(f"{server.url}/model", skeleton, rows)
    changed = {key: one + 1 for key, one in used.items()}
    left = [5]

    def replace(it: Exchange) -> Answer:
        left[0] -= 1
        if left[0] == 0:
            save_safetensors(changed, tmp_path / "model")
        return it.answer

    server.behaviours["/model"] = replace
    with pytest.raises(InputError, match=r"/model was replaced while it was read"):
        session.convert(tmp_path / "far.eqx", chunk_bytes=MEBIBYTE, mapping=None)
    assert not (tmp_path / "far.eqx").exists()
    assert [file.name for file in tmp_path.glob("*far*")] == []


def test_it_can_be_cancelled(tmp_path: Path, server: WebServer) -> None:
    used = tensors()
    save_safetensors(used, tmp_path / "model")
    skeleton, rows = skeleton_and_rows(tmp_path, used)
    session = opened(f"{server.url}/model", skeleton, rows)
    job, left = Job(), [4]

    def cancel(it: Exchange) -> Answer:
        left[0] -= 1
        if left[0] == 0:
            job.cancel()
        return it.answer

    server.behaviours["/model"] = cancel
    with pytest.raises(CancelledError):
        session.convert(tmp_path / "far.eqx", chunk_bytes=MEBIBYTE, mapping=None, job=job)
    assert server.requests < 60
    assert not (tmp_path / "far.eqx").exists()


@pytest.mark.slow("converts large files")
def test_memory_does_not_grow_with_the_checkpoint(tmp_path: Path, server: WebServer) -> None:
    peaks: list[int] = []
    for rows in (1000, 8000):
        save_safetensors({"w": torch.zeros(rows, 1000)}, tmp_path / "model")
        save_skeleton(tmp_path / "s.eqx", {"w": jax.ShapeDtypeStruct((1000, rows), np.float32)})
        session = Session.open(f"{server.url}/model", tmp_path / "s.eqx", arrange="order")
        session.edit(SetRows(((0, Row(Permute(Take("w"), (1, 0)))),)))
        session.trust(None)
        tracemalloc.start()
        session.convert(tmp_path / "far.eqx", chunk_bytes=4 * MEBIBYTE, mapping=None)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The server lives in this process, and holds what it sends.
    assert max(peaks) <= 4 * 4 * MEBIBYTE
