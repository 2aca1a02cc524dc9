"""Skeleton files and plain `.eqx` files, read without JAX."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.errors import InputError
from s2p_tui.formats.models import Factory, Models
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.formats.skeleton_file import Target, head_line, open_target
from tests.helpers.files import array_bytes

TREE = {
    "bf16": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3),
    "column-major": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "empty": jnp.zeros((0, 2)),
    "flag": True,
    "number": 0.25,
    "row": np.arange(4, dtype=np.uint16)[::-2],
    "scalar": np.float16(2),
}


def value(target: Target, path: str) -> np.ndarray:
    leaf = target.skeleton[target.skeleton.index(path)]
    return target.values.read(path, tuple((0, size) for size in leaf.shape))


def test_a_skeleton_file_brings_leaves_and_values_back(tmp_path: Path) -> None:
    save_skeleton(tmp_path / "s.eqx", TREE)
    target = open_target(tmp_path / "s.eqx")
    assert [(leaf.path, leaf.shape, leaf.dtype, leaf.kind) for leaf in target.skeleton] == [
        ("['bf16']", (2, 3), "bfloat16", "array"),
        ("['column-major']", (2, 3), "float64", "array"),
        ("['empty']", (0, 2), "float32", "array"),
        ("['flag']", (), "bool", "scalar"),
        ("['number']", (), "float64", "scalar"),
        ("['row']", (2,), "uint16", "array"),
        ("['scalar']", (), "float16", "scalar"),
    ]
    for key, leaf in TREE.items():
        assert array_bytes(value(target, f"[{key!r}]")) == array_bytes(np.asarray(leaf))
    target.values.close()


@given(
    models=st.builds(Models, *[st.none() | st.builds(
        Factory,
        st.sampled_from(["net.py:Net", "pkg.mod:Outer.make", "my folder/ñet.py:Net"]),
        st.dictionaries(
            st.sampled_from(["width", "keys", "leaves", "größe"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.text(),
                lambda inner: st.lists(inner, max_size=3)
                | st.dictionaries(st.text(), inner, max_size=3),
                max_leaves=5,
            ),
        ),
        st.booleans(),
        st.booleans(),
    )] * 2),
    keys=st.sampled_from([(), (".key",)]),
)  # fmt: skip
@pytest.mark.slow("makes models of other libraries")
def test_a_skeleton_file_records_the_factories(
    tmp_path_factory: pytest.TempPathFactory, models: Models, keys: tuple[str, ...]
) -> None:
    path = tmp_path_factory.getbasetemp() / "factories.eqx"
    path.write_bytes(head_line([Leaf(".a", (2,), "float32", has_value=False)], keys, b"[]", models))
    target = open_target(path)
    assert target.models == models
    assert target.skeleton.keys == keys
    assert target.tree == b"[]"


def test_a_plain_eqx_has_numbers_for_names(tmp_path: Path) -> None:
    eqx.tree_serialise_leaves(tmp_path / "plain.eqx", TREE)
    target = open_target(tmp_path / "plain.eqx")
    dtypes = ["bfloat16", "float64", "float32", "bool", "float64", "uint16", "float16"]
    assert [leaf.path for leaf in target.skeleton] == [f"[{n}]" for n in range(7)]
    assert [leaf.dtype for leaf in target.skeleton] == dtypes
    kinds = ["scalar" if isinstance(leaf, bool | float) else "array" for leaf in TREE.values()]
    assert [leaf.kind for leaf in target.skeleton] == kinds
    assert all(leaf.has_value for leaf in target.skeleton)
    for number, leaf in enumerate(TREE.values()):
        assert array_bytes(value(target, f"[{number}]")) == array_bytes(np.asarray(leaf))
    target.values.close()


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "int4"])
def test_types_numpy_has_no_name_for(tmp_path: Path, dtype: str) -> None:
    array = np.arange(1, 4).astype(getattr(ml_dtypes, dtype))
    save_skeleton(tmp_path / "s.eqx", [array])
    target = open_target(tmp_path / "s.eqx")
    assert target.skeleton[0].dtype == dtype
    assert array_bytes(value(target, "[0]")) == array_bytes(array)
    target.values.close()
    with (tmp_path / "plain.eqx").open("wb") as stream:
        np.save(stream, array)
    with pytest.raises(InputError, match="could be any of several"):
        open_target(tmp_path / "plain.eqx")


def head(*nodes: dict[str, Any], **changes: Any) -> bytes:
    data = {"format": "s2p-skeleton", "version": 1, "leaves": list(nodes)} | changes
    return json.dumps(data).encode() + b"\n"


def node(**changes: Any) -> dict[str, Any]:
    return {
        "path": ".a",
        "shape": [2],
        "dtype": "float32",
        "kind": "array",
        "value": False,
    } | changes


DAMAGED: dict[str, tuple[bytes, str]] = {
    "no end": (head(node())[:-3], "damaged skeleton"),
    "version": (head(node(), version=9), "of version 9, this reads 2"),
    "no leaves": (b'{"format": "s2p-skeleton", "version": 1}\n', "damaged skeleton"),
    "leaves no list": (head(leaves=3), "damaged skeleton"),
    "leaf no object": (head(leaves=[3]), "damaged skeleton"),
    "shape": (head(node(shape=[-1])), "damaged skeleton"),
    "shape of floats": (head(node(shape=[1.0])), "damaged skeleton"),
    "shape of truths": (head(node(shape=[True])), "damaged skeleton"),
    "axes": (head(node(shape=[1] * 65)), "65 axes"),
    "dtype": (head(node(dtype="float99")), "damaged skeleton"),
    "dtype a list": (head(node(dtype=[])), "damaged skeleton"),
    "kind": (head(node(kind="tensor")), "damaged skeleton"),
    "path": (head(node(path=3)), "damaged skeleton"),
    "surrogate": (head(node(path="\ud800")), "damaged skeleton"),
    "owner": (head(node(owner=3)), "damaged skeleton"),
    "config": (head(node(config=[])), "damaged skeleton"),
    "twice": (head(node(), node()), "names .a twice"),
    "models no object": (head(node(), models=[]), "damaged skeleton"),
    "factory no name": (head(node(), models={"jax": {"name": "import os"}}), "is no factory"),
    "factory of two lines": (head(node(), models={"torch": {"name": "a:b\nc"}}), "is no factory"),
    "argument no name": (
        head(node(), models={"jax": {"name": "a:b", "kwargs": {"x)": 1}}}),
        "is no factory",
    ),
    "factory twice": (head(node())[:-2] + b',"models":{"jax":null,"jax":null}}\n', "damaged"),
    "value missing": (head(node(value=True)), "describes 1 values and holds 0"),
    "deep": (b'{"format": "s2p-skeleton", "version": 1, "leaves": ' + b"[" * 99_999, "damaged"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_heads_are_refused(tmp_path: Path, case: str) -> None:
    content, message = DAMAGED[case]
    path = tmp_path / "s.eqx"
    path.write_bytes(head(node()))
    assert len(open_target(path).skeleton) == 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_target(path)


def records(*arrays: np.ndarray) -> bytes:
    import io

    stream = io.BytesIO()
    for array in arrays:
        np.save(stream, array)
    return stream.getvalue()


def test_values_that_contradict_the_head_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.eqx"
    for wrong in (np.zeros(3, np.float32), np.zeros(2, np.float64), np.zeros(2, np.int32)):
        path.write_bytes(head(node(value=True)) + records(wrong))
        with pytest.raises(InputError, match=r"contradicts itself: \.a is"):
            open_target(path)
    path.write_bytes(head(node()) + records(np.zeros(2, np.float32)))
    with pytest.raises(InputError, match="describes 0 values and holds 1"):
        open_target(path)


def test_records_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plain.eqx"
    good = records(np.zeros(2, np.float32))
    odd = {
        "object": records(np.array([None], object)),
        "text": records(np.array(["a"])),
        "dates": records(np.array(["2020-01-01"], "M8[D]")),
        "fields": records(np.zeros(1, [("a", "<f4")])),
        "big-endian": records(np.zeros(2, ">f4")),
        "version": good[:6] + b"\x09\x00" + good[8:],
        "long header": good[:8] + b"\xff\xff" + good[10:],
        "code": good.replace(b"False, 'shape'", b"f(), 'shape'  "),
        "negative": good.replace(b"(2,)", b"(-2,)"),
        "huge": good.replace(b"(2,), }" + b" " * 19, b"(" + b"9" * 18 + b",), }  "),
        "backtracking": good.replace(b"(2,), }" + b" " * 40, b"(" + b"1" * 46),
        "trailing": good + b"x",
    }
    for name, content in odd.items():
        assert content != good, name
        path.write_bytes(good + content)
        with pytest.raises(InputError, match=r"record|byte"):
            open_target(path)


def test_the_head_is_one_line_whatever_the_names() -> None:
    leaves = [Leaf('["a\n\u2028b"]', (1,), "float32", config={"text": "x\ny"})]
    line = head_line(leaves)
    assert line.count(b"\n") == 1
    assert json.loads(line)["leaves"][0]["path"] == leaves[0].path


@pytest.mark.parametrize("content", [b"PK\x03\x04", b'{"weight_map": {}}', b"hello"])
def test_other_files_are_no_skeletons(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(InputError, match="skeleton"):
        open_target(path)


def test_a_first_line_without_end_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "s.eqx"
    file.write_bytes(b'{"format": "s2p-skeleton", "version": 1, "leaves": [')
    with file.open("ab") as stream:
        stream.truncate(150_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"first line has more than 67,108,864 bytes"):
            open_target(file)
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()


def test_a_first_line_longer_than_what_is_read_at_once(tmp_path: Path) -> None:
    line = head(node(shape=[1], value=True)).rstrip(b"\n") + b" " * (3 << 20) + b"\n"
    with (tmp_path / "s.eqx").open("wb") as stream:
        stream.write(line)
        np.save(stream, np.float32([7]))
    assert value(open_target(tmp_path / "s.eqx"), ".a") == 7


@pytest.mark.parametrize("version", [b"\x00\x00", b"\x01\x01", b"\x04\x00", b"\xff\xff"])
@pytest.mark.parametrize("line", [b"", head(node(value=True))], ids=["plain", "skeleton"])
def test_a_version_of_npy_that_is_not_known(tmp_path: Path, line: bytes, version: bytes) -> None:
    with (tmp_path / "s.eqx").open("wb") as stream:
        np.save(stream, np.zeros(2, np.float32))
    record = (tmp_path / "s.eqx").read_bytes()
    (tmp_path / "s.eqx").write_bytes(line + record[:6] + version + record[8:])
    words = rf"of \.npy version {version[0]}\.{version[1]}, of which nothing is known"
    with pytest.raises(InputError, match=words):
        open_target(tmp_path / "s.eqx")


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_npy_that_is_known(tmp_path: Path, version: tuple[int, int]) -> None:
    with (tmp_path / "s.eqx").open("wb") as stream:
        np.lib.format.write_array(stream, np.float32([1, 2]), version=version)
    assert (
        array_bytes(value(open_target(tmp_path / "s.eqx"), "[0]")) == np.float32([1, 2]).tobytes()
    )
