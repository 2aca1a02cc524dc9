"""Small files that would take hours or all memory are refused at once, as are names without end."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from math import prod
from pathlib import Path

import pytest
import torch

from s2p_tui.cli.listing import describe
from s2p_tui.errors import AmbiguousStateDictError, InputError
from s2p_tui.formats.registry import open_checkpoint, open_target
from s2p_tui.session.opening import load_mapping
from tests.formats.hostile import as_legacy, as_zip, members, zipped
from tests.fuzz.trial import limited_memory, limited_time
from tests.helpers.files import read, save_safetensors, save_zip

MANY = 100_000


def spelt(text: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text


LARGE_TUPLE = b"(" + b"N" * MANY + b"tq\x00"
DEVICE = LARGE_TUPLE + b"ctorch\ndevice\nq\x01"
LARGE_NUMBER = b"\x8b" + struct.pack("<i", MANY * 10) + b"\x7f" * MANY * 10
COSTLY: dict[str, tuple[bytes, str]] = {
    "many arguments": (DEVICE + b"h\x01h\x00R0" * MANY + b"N", "no state dict"),
    "new object": (DEVICE + b"h\x01h\x00\x810" * MANY + b"N", "no state dict"),
    "many arguments of a tensor": (
        LARGE_TUPLE + b"ctorch._utils\n_rebuild_tensor\nq\x01" + b"h\x01h\x00R0" * MANY,
        "arguments",
    ),
    "copied again": (
        b"](" + b"NN\x86" * MANY + b"e\x85q\x00ccollections\nOrderedDict\nq\x01"
        + b"h\x01h\x00R0" * MANY, "again and again",
    ),
    "long key": (LARGE_TUPLE + b"}" + b"h\x00Ns" * MANY, "no state dict"),
    "long key of a set": (LARGE_TUPLE + b"\x8f" + b"(h\x00\x90" * MANY, "no state dict"),
    "large number": (LARGE_NUMBER + b"q\x00}" + b"h\x00Ns" * MANY, "no state dict"),
    "large number in a key": (
        LARGE_NUMBER + b"\x85q\x00}" + b"h\x00Ns" * MANY, "no state dict",
    ),
    "one state of many objects": (
        b"}(" + b"".join(b"K\x01M" + struct.pack("<H", n) for n in range(2)) + b"u0"
        + b"}(" + b"".join(b"J" + struct.pack("<i", n) + b"]" for n in range(MANY)) + b"uq\x00"
        + b"0](" + b"cm\nC\n)\x81h\x00b" * MANY + b"e", "no state dict",
    ),
    "one list of many objects": (
        b"](" + b"]" * MANY + b"eq\x000](" + b"cm\nC\nh\x00\x85R" * MANY + b"e", "no state dict",
    ),
    "modules in modules": (
        b"}(" + spelt(b"_parameters") + b"}" + spelt(b"_buffers") + b"}" + spelt(b"_modules")
        + b"}uq\x000cm\nC\n)\x81h\x00bq\x010"
        + b"".join(
            b"cm\nC\n)\x81}(" + spelt(b"_parameters") + b"}" + spelt(b"_buffers") + b"}"
            + spelt(b"_modules") + b"}(" + spelt(b"a") + b"h\x01" + spelt(b"b") + b"h\x01u"
            + b"ubq\x010" for _ in range(60)
        ) + b"h\x01", "without end",
    ),
    "deep objects": (b"cm\nC\nq\x000N" + b"q\x010h\x00h\x01\x85R" * MANY, "no state dict"),
    "deep states": (b"cm\nC\nq\x000N" + b"q\x010h\x00)Rh\x01b" * MANY, "no state dict"),
}  # fmt: skip


@pytest.mark.parametrize("wrap", [as_zip, as_legacy])
@pytest.mark.parametrize("case", COSTLY)
@pytest.mark.slow("reads pickles of many megabytes")
def test_pickles_of_quadratic_cost(tmp_path: Path, case: str, wrap: type) -> None:
    payload, message = COSTLY[case]
    path = wrap(b"\x80\x04" + payload + b".", tmp_path / "model.pt")
    with limited_time(), pytest.raises(InputError, match=message):
        open_checkpoint(path)


def tensor() -> bytes:
    """A tensor that is pushed from the memo by `h` and 1."""
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x0ctQK\x00K\x0c\x85K\x01\x85\x89}tRq\x010"
    )


def name(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def test_one_large_state_dict_in_many_places(tmp_path: Path) -> None:
    large = b"}(" + b"".join(name(str(n)) + b"h\x01" for n in range(20_000)) + b"uq\x02"
    places = b"".join(name(f"at{n}") + b"h\x02" for n in range(20_000))
    path = as_zip(b"\x80\x02" + tensor() + large + b"}(" + places + b"u.", tmp_path / "model.pt")
    with limited_time():
        assert open_checkpoint(path).key == "at0"


@pytest.mark.slow("reads or writes large files, or many")
def test_places_that_read_alike(tmp_path: Path) -> None:
    places = b"".join(b"C\x04" + struct.pack("<I", n) + b"}" + name("w") + b"h\x01s"
                      for n in range(20_000))  # fmt: skip
    path = as_zip(b"\x80\x03" + tensor() + b"}(" + places + b"u.", tmp_path / "model.pt")
    with limited_time(), pytest.raises(AmbiguousStateDictError, match="#20"):
        open_checkpoint(path)


def test_long_names_around_many_state_dicts(tmp_path: Path) -> None:
    inner = b"}(" + b"".join(name(f"at{n}") + b"}" for n in range(20_000)) + b"u"
    path = as_zip(b"\x80\x02}" + name("x" * 1_000_000) + inner + b"s.", tmp_path / "model.pt")
    with limited_time(), limited_memory(path.stat().st_size), pytest.raises(InputError):
        open_checkpoint(path)


def with_header(path: Path, text: bytes, data: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.mark.parametrize("piece", [b"[],", b"{},", b"[[1]],"])
def test_headers_of_brackets(tmp_path: Path, piece: bytes) -> None:
    brackets = piece * 3_000_000
    text = b'{"a":[' + brackets[:-1] + b"]}"
    weights = tmp_path / "model.index.json"
    weights.write_bytes(b'{"weight_map":' + text + b"}")
    skeleton = tmp_path / "skeleton.eqx"
    skeleton.write_bytes(b'{"format":"s2p-skeleton","version":1,"leaves":[' + brackets + b"1]}\n")
    mapping = tmp_path / "m.json"
    mapping.write_bytes(b'{"format":"s2p-mapping","version":1,"rows":[' + brackets + b"1]}")
    with limited_time(), limited_memory(10_000_000):
        with pytest.raises(InputError, match="brackets"):
            open_checkpoint(with_header(tmp_path / "m.safetensors", text))
        with pytest.raises(InputError, match="weight_map"):
            open_checkpoint(weights)
        with pytest.raises(InputError, match="brackets"):
            open_target(skeleton)
        with pytest.raises(InputError, match="brackets"):
            load_mapping(mapping)


LARGE = {
    "blanks": (b'{"a":1', b" ", b"}"),
    "depth": (b'{"a":', b"[", b"}"),
    "a name": (b'{"', b"a", b'":1}'),
}


@pytest.mark.parametrize("case", LARGE)
@pytest.mark.slow("reads or writes large files, or many")
def test_headers_of_a_hundred_megabytes(tmp_path: Path, case: str) -> None:
    before, piece, after = LARGE[case]
    path = with_header(tmp_path / "model.safetensors", before + piece * 99_000_000 + after)
    with limited_time(), pytest.raises(InputError) as caught:
        open_checkpoint(path)
    path.unlink()
    assert len(str(caught.value)) < 4500


TENSOR = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
ESCAPED = b'{"\\u0064type":"F32","\\u0073hape":[1],"data\\u005foffsets":[0,4]}'
TWICE = {
    "plain": b'{"a":' + TENSOR + b',"a":' + TENSOR + b"}",
    "no tensor first": b'{"a":0,"a":' + TENSOR + b"}",
    "escaped first": b'{"a":' + ESCAPED + b',"a":' + TENSOR + b"}",
    "escaped name": b'{"a":' + TENSOR + b',"\\u0061":' + TENSOR + b"}",
    "empty first": b'{"a":{},"a":' + TENSOR + b"}",
    "metadata": b'{"__metadata__":{},"a":' + TENSOR + b',"__metadata__":{}}',
    "within": b'{"a":{"dtype":"I32",' + TENSOR[1:] + b"}",
}


@pytest.mark.parametrize("case", TWICE)
def test_safetensors_headers_name_nothing_twice(tmp_path: Path, case: str) -> None:
    with pytest.raises(InputError, match="twice"):
        open_checkpoint(with_header(tmp_path / "model.safetensors", TWICE[case], bytes(4)))


def test_names_with_colons_are_names(tmp_path: Path) -> None:
    state = {"a:b": torch.ones(2), ":": torch.zeros(1)}
    checkpoint = open_checkpoint(save_safetensors(state, tmp_path / "model.safetensors"))
    assert {entry.key for entry in checkpoint.state_dict} == set(state)


def test_skeletons_and_mappings_name_nothing_twice(tmp_path: Path) -> None:
    skeleton, mapping = tmp_path / "s.eqx", tmp_path / "m.json"
    skeleton.write_bytes(b'{"format":"s2p-skeleton","version":1,"leaves":[],"leaves":[]}\n')
    with pytest.raises(InputError, match="leaves"):
        open_target(skeleton)
    mapping.write_bytes(b'{"format":"s2p-mapping","version":1,"rows":[],"rows":[]}')
    with pytest.raises(InputError, match="rows"):
        load_mapping(mapping)


HUGE = [[2**62 - 1, 4], [2**31, 2**31, 2**31], [0, 2**61, 2**61], [2**58]]


@pytest.mark.parametrize("shape", HUGE)
def test_arrays_larger_than_any_can_be(tmp_path: Path, shape: list[int]) -> None:
    described = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * prod(shape)]}
    text = json.dumps({"a": described}).encode()
    with pytest.raises(InputError):
        open_checkpoint(with_header(tmp_path / "m.safetensors", text))
    leaf = {"path": ".a", "shape": shape, "dtype": "float32", "kind": "array", "value": False}
    head = {"format": "s2p-skeleton", "version": 1, "leaves": [leaf]}
    (tmp_path / "s.eqx").write_text(json.dumps(head) + "\n")
    with pytest.raises(InputError, match="larger than any can be"):
        open_target(tmp_path / "s.eqx")
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {tuple(shape)}, }}"
    text = header.ljust(117).encode() + b"\n"
    (tmp_path / "p.eqx").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)
    with pytest.raises(InputError):
        open_target(tmp_path / "p.eqx")


def test_archives_whose_files_overlap(tmp_path: Path) -> None:
    path = save_zip({"w": torch.zeros(64), "v": torch.ones(64)}, tmp_path / "good.pt")
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        first, second = (info for info in archive.infolist() if "/data/" in info.filename)
    directory = raw.rindex(b"good/data/1") - 46
    raw[directory + 42 : directory + 46] = struct.pack("<I", first.header_offset)
    assert second.header_offset != first.header_offset
    (tmp_path / "bad.pt").write_bytes(raw)
    with pytest.raises(InputError, match="overlap"):
        open_checkpoint(tmp_path / "bad.pt")


def test_archives_in_archives_are_only_bytes(tmp_path: Path) -> None:
    inner = io.BytesIO()
    torch.save({"w": torch.ones(3)}, inner)
    good = members(save_zip({"w": torch.zeros(12)}, tmp_path / "good.pt"))
    files = [(n, inner.getvalue() if n.endswith("data.pkl") else d) for n, d in good.items()]
    with pytest.raises(InputError, match="torch checkpoint"):
        open_checkpoint(zipped(tmp_path / "pickle.pt", files))
    storage = inner.getvalue()[:48]
    files = [(n, storage if n.endswith("data/0") else d) for n, d in good.items()]
    checkpoint = open_checkpoint(zipped(tmp_path / "storage.pt", files))
    assert read(checkpoint, "w").tobytes() == storage
    checkpoint.tensors.close()


@pytest.mark.parametrize("make", ["fifo", "null", "zero", "loop", "socket folder"])
def test_what_is_no_file(tmp_path: Path, make: str) -> None:
    path = tmp_path / "model.pt"
    if make == "fifo":
        os.mkfifo(path)
    elif make == "loop":
        path.symlink_to(path)
    else:
        path.symlink_to({"null": "/dev/null", "zero": "/dev/zero"}.get(make, "/proc/self/fd"))
    for open_it in (open_checkpoint, open_target, describe, load_mapping):
        with limited_time(), pytest.raises(InputError):
            open_it(path)


def shard_set(folder: Path, file: str = "a.safetensors") -> Path:
    save_safetensors({"w": torch.ones(2)}, folder / "a.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": file}}))
    return index


@pytest.mark.parametrize(
    "file", ["../a.safetensors", "/etc/passwd", "sub/../a.safetensors", "", ".", "..", "\0", "a\n",
             "model.safetensors.index.json", "missing.safetensors", "x" * 5000, "loop", "pipe"]
)  # fmt: skip
def test_shards_that_are_none(tmp_path: Path, file: str) -> None:
    index = shard_set(tmp_path, file)
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    with limited_time(), pytest.raises(InputError) as caught:
        open_checkpoint(index)
    assert caught.value.message.isprintable()


def test_shards_may_be_links_as_downloads_keep_them(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    index = shard_set(tmp_path / "snapshot")
    shard = tmp_path / "snapshot" / "a.safetensors"
    shard.rename(tmp_path / "blobs" / "0123")
    shard.symlink_to("../blobs/0123")
    checkpoint = open_checkpoint(index)
    assert read(checkpoint, "w").tolist() == [1, 1]
    checkpoint.tensors.close()


def test_a_pickle_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2p_tui.formats.pickle_machine.MOST_OPCODES", 1000)
    for opcode in (b"N", b"K\x01", b"}", b"(", b"0"):
        path = as_legacy(b"\x80\x02" + opcode * 2000 + b".", tmp_path / "model.pt")
        with pytest.raises(InputError, match=r"opcodes|pop from empty"):
            open_checkpoint(path)
