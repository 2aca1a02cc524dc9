"""Files made to do harm, or harmed on the way: a clear refusal, never anything else."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from s2p_tui.errors import InputError
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.formats.registry import open_checkpoint
from s2p_tui.formats.skeleton_file import open_target
from tests.formats.hostile import (
    CANARY,
    PAYLOADS,
    Calls,
    as_legacy,
    as_zip,
    members,
    text,
    zipped,
)
from tests.helpers.files import (
    assert_holds,
    folder,
    outcome,
    read,
    save_legacy,
    save_safetensors,
    save_zip,
)

STATE = {"w": torch.arange(12.0).reshape(3, 4), "b": torch.zeros(4, dtype=torch.bfloat16)}


@pytest.mark.parametrize("wrap", [as_zip, as_legacy])
@pytest.mark.parametrize("case", PAYLOADS)
def test_nothing_in_a_pickle_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, wrap: Callable[..., Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    payload, name = PAYLOADS[case]
    path = wrap(payload, tmp_path / "model.pt")
    before = set(os.listdir())
    with pytest.raises(InputError, match=name):
        open_checkpoint(path)
    assert set(os.listdir()) == before


def beside_a_model(payload: bytes) -> bytes:
    """A training checkpoint in which the payload lies beside a model."""
    body = payload[2:].removesuffix(b".")
    rebuild = tensor_pickle(0, (3, 4), (4, 1))[2:].removesuffix(b".")
    return b"\x80\x04}(" + text(b"settings") + body + text(b"model") + rebuild + b"u."


@pytest.mark.parametrize("wrap", [as_zip, as_legacy])
@pytest.mark.parametrize("case", sorted(PAYLOADS.keys() - {"extension", "nested module"}))
def test_beside_a_model_it_is_inert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, wrap: Callable[..., Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = wrap(beside_a_model(PAYLOADS[case][0]), tmp_path / "model.pt")
    before = set(os.listdir())
    checkpoint = open_checkpoint(path)
    assert checkpoint.key == "model"
    assert not read(checkpoint, "w").any()
    checkpoint.tensors.close()
    package = PAYLOADS[case][1].partition(".")[0]
    if package not in ("_reconstruct", "runstring", "system", "torch"):
        assert any(note.startswith("passed over") for note in checkpoint.notes)
    assert set(os.listdir()) == before


def test_the_canary_would_sing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for case in ("os.system", "exec 4", "INST"):
        pickle.loads(PAYLOADS[case][0])
        (tmp_path / CANARY).unlink()


def doubled(levels: int) -> bytes:
    """A tuple that holds a tuple twice, and so on: 2 ** levels items if anyone walks it."""
    return b"\x80\x02)" + b"0)" + b"q\x00h\x00\x86" * levels


ABSURD: dict[str, bytes] = {
    "hash": b"\x80\x02}" + doubled(60)[2:] + b"Ns.",
    "hash in a set": b"\x80\x04\x8f(" + doubled(60)[2:] + b"\x90.",
    "hash in a frozenset": b"\x80\x04(" + doubled(60)[2:] + b"\x91.",
    "ordered": b"\x80\x02ccollections\nOrderedDict\n](" + doubled(60)[2:] + b"Nl\x85R.",
    "name": b"\x80\x04" + doubled(60)[2:] + b"\x8c\x01x\x93.",
    "deep key": b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"Ns.",
    "long string": b"\x80\x02X\xff\xff\xff\x7f.",
    "longer string": b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b".",
    "longest string": b"\x80\x04\x8d" + struct.pack("<Q", 2**64 - 1) + b".",
    "long number": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "memo": b"\x80\x02Nq\x01h\x02.",
    "no stack": b"\x80\x02R.",
    "no mark": b"\x80\x02Nt.",
    "no end": b"\x80\x02N",
    "call a string": b"\x80\x02X\x01\x00\x00\x00a)R.",
    "list as dict": b"\x80\x02]NNs.",
    "append to a tuple": b"\x80\x02)Na.",
    "unhashable": b"\x80\x02}]Ns.",
    "odd items": b"\x80\x02}(Nu.",
    "bad storage": b"\x80\x02}NQ.",
}


@pytest.mark.parametrize("wrap", [as_zip, as_legacy])
@pytest.mark.parametrize("case", ABSURD)
@pytest.mark.slow("reads or writes large files, or many")
def test_absurd_pickles_are_refused_at_once(
    tmp_path: Path, case: str, wrap: Callable[..., Path]
) -> None:
    with pytest.raises(InputError):
        open_checkpoint(wrap(ABSURD[case], tmp_path / "model.pt"))


def tensor_pickle(
    offset: int, shape: tuple, stride: tuple, numel: int = 12, key: str = "0"
) -> bytes:
    """The pickle of `{"w": tensor}` over a float32 storage."""

    class Storage:
        pass

    class Writer(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if isinstance(value, Storage):
                return ("storage", torch.FloatStorage, key, "cpu", numel)
            return None

    buffer = io.BytesIO()
    rebuild = Calls(torch._utils._rebuild_tensor_v2, Storage(), offset, shape, stride, False, {})
    Writer(buffer, 2).dump({"w": rebuild})
    return buffer.getvalue()


LIES = {
    "beyond": (0, (13,), (1,)),
    "offset": (1, (12,), (1,)),
    "stride": (0, (3, 4), (5, 1)),
    "negative offset": (-1, (2,), (1,)),
    "negative stride": (11, (3,), (-1,)),
    "negative size": (0, (-3,), (1,)),
    "huge": (0, (2**62,), (1,)),
    "ranks": (0, (3, 4), (1,)),
    "numel": (0, (100,), (1,), 100),
    "no storage": (0, (3,), (1,), 12, "9"),
    "outside": (0, (3,), (1,), 12, "../version"),
    "floats": (0, (3.0,), (1,)),
}


@pytest.mark.parametrize("wrap", [as_zip, as_legacy])
@pytest.mark.parametrize("case", LIES)
def test_tensors_outside_their_storage(tmp_path: Path, case: str, wrap: Any) -> None:
    honest = wrap(tensor_pickle(0, (3, 4), (4, 1)), tmp_path / "honest.pt")
    assert not read(open_checkpoint(honest), "w").any()
    with pytest.raises(InputError):
        open_checkpoint(wrap(tensor_pickle(*LIES[case]), tmp_path / "model.pt"))


@pytest.mark.parametrize("how", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_archives_are_refused(tmp_path: Path, how: int) -> None:
    files = list(members(save_zip(STATE, tmp_path / "a.pt")).items())
    with pytest.raises(InputError, match="compressed"):
        open_checkpoint(zipped(tmp_path / "b.pt", files, how))


def test_a_compressed_and_damaged_byte_order(tmp_path: Path) -> None:
    path = zipped(tmp_path / "b.pt", [("a/data.pkl", b"N.")])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/byteorder", b"little")
    raw = path.read_bytes()
    at = raw.index(b"a/byteorder") + len(b"a/byteorder")
    path.write_bytes(raw[:at] + b"\xff" + raw[at + 1 :])
    with pytest.raises(InputError):
        open_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_odd_archives_are_refused(tmp_path: Path) -> None:
    files = members(save_zip(STATE, tmp_path / "model.pt"))
    good = list(files.items())
    big = [(name, b"big" if name.endswith("byteorder") else data) for name, data in good]
    cases = {
        "big-endian": big,
        "share one name": [*good, ("model/data/0", b"other")],
        "not one written by": [("readme.txt", b"hello")],
        "Unpack it with": [*good, ("second/data.pkl", b"N.")],
        "missing or too short": [item for item in good if not item[0].endswith("data/1")],
    }
    for message, content in cases.items():
        with pytest.raises(InputError, match=message):
            open_checkpoint(zipped(tmp_path / "odd.pt", content))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_torchscript_archives_and_pickled_modules(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    script = tmp_path / "script.pt"
    torch.jit.save(torch.jit.script(module), script)
    with pytest.raises(InputError, match="TorchScript") as caught:
        open_checkpoint(script)
    assert "state_dict()" in caught.value.hint
    for save in (save_zip, save_legacy):
        checkpoint = open_checkpoint(save(module, tmp_path / "whole.pt"))
        assert_holds(checkpoint, module.state_dict())
        assert "torch.nn.modules.linear.Linear" in checkpoint.notes[0]
        assert "no code of it was run" in checkpoint.notes[0]


def test_things_that_are_no_checkpoints(tmp_path: Path) -> None:
    skeleton = tmp_path / "s.eqx"
    save_skeleton(skeleton, [np.ones(3)])
    cases: dict[str, bytes] = {
        "is empty": b"",
        "is a text, no checkpoint": b"hello there, this is a text file\n",
        "gzip": gzip.compress(b"weights"),
        "web page": b"<!DOCTYPE html><html><body>404</body></html>",
        "git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "GGUF": b"GGUF\x03\x00\x00\x00",
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(20),
        "a skeleton file": skeleton.read_bytes(),
        "a mapping file": b'{"format": "s2p-mapping"}',
        "an .eqx file": skeleton.read_bytes().partition(b"\n")[2],
        "not a usable torch checkpoint": b"\x80",
        "holds no state dict": pickle.dumps({"a": 1}, 2),
    }
    for message, content in cases.items():
        path = tmp_path / "file"
        path.write_bytes(content)
        with pytest.raises(InputError, match=message if content != b"\x80" else "checkpoint"):
            open_checkpoint(path)
    with pytest.raises(InputError, match="does not exist"):
        open_checkpoint(tmp_path / "missing.pt")
    with pytest.raises(InputError, match=r"cannot be read|does not exist"):
        open_checkpoint(skeleton / "inside a file")
    with pytest.raises(InputError):
        open_checkpoint(tmp_path / ("x" * 300))
    with pytest.raises(InputError, match="folder"):
        open_target(tmp_path)


def _valid_files() -> dict[str, bytes]:
    with folder() as where:
        tree = {"w": np.ones((2, 3), np.float32), "p": 0.5, "h": np.asfortranarray(np.eye(3))}
        save_skeleton(where / "s", tree)
        skeleton = (where / "s").read_bytes()
        return {
            "zip": save_zip({"model": STATE, "step": 3}, where / "z").read_bytes(),
            "legacy": save_legacy({"model": STATE, "step": 3}, where / "l").read_bytes(),
            "safetensors": save_safetensors(STATE, where / "t").read_bytes(),
            "skeleton": skeleton,
            "eqx": skeleton.partition(b"\n")[2],
        }


VALID = _valid_files()
OPEN: dict[str, Callable[[Path], Any]] = {"skeleton": open_target, "eqx": open_target}


def try_open(kind: str, content: bytes) -> Any:
    """Open the bytes as a file of that kind and read everything in it, or be refused."""

    def action() -> None:
        if kind in OPEN:
            target = open_target(path)
            for leaf in target.skeleton:
                if leaf.has_value:
                    target.values.read(leaf.path, tuple((0, size) for size in leaf.shape))
            target.values.close()
        else:
            checkpoint = open_checkpoint(path)
            for entry in checkpoint.state_dict:
                if entry.nbytes < 1 << 20:
                    read(checkpoint, entry.key)
            checkpoint.tensors.close()

    with folder() as where:
        path = where / "file"
        path.write_bytes(content)
        return outcome(action)


@pytest.mark.parametrize("kind", VALID)
def test_the_files_are_sound_before_they_are_harmed(kind: str) -> None:
    assert try_open(kind, VALID[kind]) is None


@pytest.mark.parametrize("kind", VALID)
def test_files_cut_short_are_refused(kind: str) -> None:
    @settings(max_examples=60, deadline=None)
    @example(length=1)
    @example(length=2)
    @example(length=len(VALID[kind]) - 1)
    @given(st.integers(0, len(VALID[kind]) - 1))
    def check(length: int) -> None:
        error = try_open(kind, VALID[kind][:length])
        boundary = kind == "eqx" and VALID[kind][length:].startswith(b"\x93NUMPY")
        assert boundary or isinstance(error, InputError)

    check()


@pytest.mark.parametrize("kind", VALID)
@pytest.mark.slow("opens thousands of changed files")
def test_changed_bytes_never_raise_anything_else(kind: str) -> None:
    valid = VALID[kind]
    place = st.integers(0, len(valid) - 1)
    token = st.sampled_from([b"\x00", b"\xff", b".", b"(", b"9", b"-", b'"', b"\n", b"R", b"\x85"])
    change = st.tuples(place, token | st.binary(min_size=1, max_size=4), st.booleans())

    @settings(max_examples=250, deadline=None)
    @given(st.lists(change, min_size=1, max_size=4))
    def check(changes: list[tuple[int, bytes, bool]]) -> None:
        content = bytearray(valid)
        for at, data, insert in changes:
            content[at : at + (0 if insert else len(data))] = data
        try_open(kind, bytes(content))

    check()
