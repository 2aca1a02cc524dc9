"""JSON headers, read strictly: names come once, and every description is as the format asks."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.errors import InputError
from s2p_tui.formats.safetensors import open_safetensors, tensors_of
from s2p_tui.formats.skeleton_file import head_line, leaves_of, open_target

_LEAF: dict[str, Any] = {
    "path": ".w",
    "shape": [2, 3],
    "dtype": "float32",
    "kind": "array",
    "owner": "equinox.nn.Linear",
    "config": {"groups": 1},
    "value": False,
}


def _tensor(begin: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [begin, begin + 8]}


def _head(*leaves: str) -> bytes:
    listed = ",".join(leaves)
    return f'{{"format":"s2p-skeleton","version":1,"leaves":[{listed}]}}\n'.encode()


def _safetensors(folder: Path, header: str, nbytes: int) -> Path:
    path = folder / "model.safetensors"
    text = header.encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(nbytes))
    return path


def test_plain_headers_are_read() -> None:
    header = {"__metadata__": {"format": "pt", "by": "x"}, "a": _tensor(0), "b": _tensor(8)}
    found = tensors_of(json.dumps(header).encode())
    assert found == (["a", "b"], ["F32"] * 2, [(2,)] * 2, [0, 8], [8, 16])
    leaves = (
        Leaf(".a", (2, 3), "float32", owner="equinox.nn.Linear", config={"groups": 1}),
        Leaf(".b", (), "float64", kind="scalar", has_value=False, fill=0.5),
    )
    assert leaves_of(head_line(leaves)) == leaves


def test_leaves_that_are_alike_share_their_layers_settings() -> None:
    leaves = leaves_of(_head(*(json.dumps({**_LEAF, "path": f".w{n}"}) for n in range(2))))
    assert not isinstance(leaves, int)
    assert leaves[0].config is leaves[1].config
    assert leaves[0].shape is leaves[1].shape


def test_names_with_colons_are_read_all_the_same(tmp_path: Path) -> None:
    header = json.dumps({"a:b": _tensor(0)})
    path = _safetensors(tmp_path, header, 8)
    assert [entry.key for entry in open_safetensors(path).state_dict] == ["a:b"]
    skeleton = tmp_path / "skeleton.eqx"
    skeleton.write_bytes(_head(json.dumps({**_LEAF, "path": "['a:b']", "more": "x"})))
    assert [leaf.path for leaf in open_target(skeleton).skeleton] == ["['a:b']"]


@pytest.mark.parametrize(
    "header",
    [
        f'{{"a": {json.dumps(_tensor(0))}, "a": {json.dumps(_tensor(0))}}}',
        '{"a": {"dtype": "F32", "dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
        '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], "data_offsets": [0, 8]}}',
        '{"a": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}}',
        '{"a": {"dtype": "F32", "shape": [true, 2], "data_offsets": [0, 8]}}',
        '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}',
        '{"a": {"dtype": "F32", "shape": [2], "shape": [2]}}',
        '{"a": {"shape": [2], "data_offsets": [0, 8], "more": 1}}',
        '{"a": [0, 8]}',
    ],
)
def test_tensors_that_are_not_plainly_right_are_refused(tmp_path: Path, header: str) -> None:
    with pytest.raises(InputError):
        open_safetensors(_safetensors(tmp_path, header, 8))


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [2.0, 3]},
        {"shape": [-1]},
        {"shape": [2**61, 2**61]},
        {"dtype": "float33"},
        {"kind": "list"},
        {"owner": 3},
        {"config": []},
        {"fill": 1},
        {"path": 3},
    ],
)
def test_leaves_that_are_not_plainly_right_are_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    skeleton = tmp_path / "skeleton.eqx"
    skeleton.write_bytes(_head(json.dumps(_LEAF | change)))
    with pytest.raises(InputError):
        open_target(skeleton)


@pytest.mark.parametrize("twice", ['"path":".v"', '"config":{}', '"fill":null,"fill":null'])
def test_what_a_leaf_says_twice_is_refused(tmp_path: Path, twice: str) -> None:
    skeleton = tmp_path / "skeleton.eqx"
    skeleton.write_bytes(_head(f"{json.dumps(_LEAF)[:-1]},{twice}}}"))
    with pytest.raises(InputError):
        open_target(skeleton)


def test_settings_that_name_something_twice_are_refused(tmp_path: Path) -> None:
    skeleton = tmp_path / "skeleton.eqx"
    leaf = json.dumps(_LEAF).replace('"groups": 1', '"groups": 1, "groups": 2')
    skeleton.write_bytes(_head(leaf))
    with pytest.raises(InputError):
        open_target(skeleton)
