"""One mapping to `.eqx` and to an Orbax checkpoint: the same numbers, restored by Orbax itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from s2p_tui import convert
from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import SetRows
from s2p_tui.cli import run
from s2p_tui.conversion.orbax_metadata import CHECKPOINT, TREE
from s2p_tui.errors import AlignmentError, InputError, UsageError
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.session.orbax import convert_to_orbax
from s2p_tui.session.session import Session
from tests.helpers import orbax_net
from tests.helpers.orbax_pair import Pair, arrays_in, keys_in, pair_in, restored
from tests.helpers.sessions import open_pair

SMALL = 1 << 14
"""Bytes of a chunk: the larger leaves become several, with smaller ones inside."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair_in(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def outputs(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The pair as `.eqx` and as a checkpoint."""
    folder = tmp_path_factory.mktemp("outputs")
    session = pair.session()
    session.convert(folder / "model.eqx")
    convert_to_orbax(session, folder / "model.orbax", chunk_bytes=SMALL)
    return folder / "model.eqx", folder / "model.orbax"


def names_of(tree: Any) -> dict[str, np.ndarray]:
    """Arrays by the names that Orbax gives them."""

    def one(key: Any) -> str:
        names = (getattr(key, name, None) for name in ("idx", "key", "name"))
        return str(next(name for name in names if name is not None))

    found = jax.tree_util.tree_leaves_with_path(tree)
    return {
        ".".join(map(one, path)): np.asarray(leaf) for path, leaf in found if hasattr(leaf, "dtype")
    }


@pytest.mark.slow("writes several checkpoints")
def test_every_array_is_that_of_the_eqx(outputs: tuple[Path, Path]) -> None:
    """Read by NumPy: neither Orbax nor JAX, nor TensorStore's zarr, takes part."""
    file, checkpoint = outputs
    expected = names_of(eqx.tree_deserialise_leaves(file, orbax_net.make()))
    found = arrays_in(checkpoint)
    assert found.keys() == expected.keys()
    assert len(found) == 18
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name
    chunks = [key for key in keys_in(checkpoint) if key.startswith("0.stacked/c/")]
    assert len(chunks) == LARGE_CHUNKS


LARGE_CHUNKS = orbax_net.LAYERS * orbax_net.WIDTH * 2 * orbax_net.WIDTH * 4 // SMALL


LAYOUTS = {1: ("1:none", "4:both"), 2: ("2:rows",), 3: ("1:columns", "2:both")}
"""By the number of processes: devices of each, and how arrays lie on them."""


@pytest.mark.slow("starts JAX in up to three processes")
@pytest.mark.parametrize("processes", LAYOUTS)
def test_orbax_restores_it_strictly(outputs: tuple[Path, Path], processes: int) -> None:
    """With v0 and v1, in several processes; functions, scalars and empty nodes from the model."""
    file, checkpoint = outputs
    for found in restored(checkpoint, file, *LAYOUTS[processes], processes=processes):
        assert found["differing"] == []


@pytest.mark.slow("starts JAX")
def test_loading_reads_little_more_than_is_held(tmp_path: Path) -> None:
    """Inner chunks can be read alone, so no sharding is asked for at conversion."""
    width = 512
    env = f"import os; os.environ['S2P_TEST_WIDTH'] = '{width}'"
    code = (
        f"{env}\nfrom pathlib import Path\nfrom tests.helpers.orbax_pair import pair_in\n"
        "from s2p_tui.session.orbax import convert_to_orbax\n"
        f"folder = Path({str(tmp_path)!r})\nsession = pair_in(folder).session()\n"
        "session.convert(folder / 'model.eqx')\n"
        "convert_to_orbax(session, folder / 'model.orbax', chunk_bytes=4 << 20)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    checkpoint, file = tmp_path / "model.orbax", tmp_path / "model.eqx"
    layouts = "1:none", "4:rows", "4:columns", "8:both"
    for found in restored(checkpoint, file, *layouts, processes=1, width=width):
        assert found["differing"] == []
        assert found["held"] > 15 << 20
        assert found["read"] <= 1.05 * found["held"]


def rubbed(metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata of an array without chunk shapes and compression."""
    copied = json.loads(json.dumps(metadata))
    copied["chunk_grid"]["configuration"]["chunk_shape"] = 0
    (sharding,) = copied["codecs"]
    sharding["configuration"]["chunk_shape"] = 0
    codecs = sharding["configuration"]["codecs"]
    sharding["configuration"]["codecs"] = [one for one in codecs if one["name"] != "zstd"]
    return copied


@pytest.mark.slow("Orbax takes seconds to start")
def test_metadata_are_what_orbax_writes(outputs: tuple[Path, Path], tmp_path: Path) -> None:
    """The installed Orbax, of the same tree: all but chunk shapes, times and the certificate."""
    file, ours = outputs
    code = (
        "import sys, equinox as eqx, orbax.checkpoint as ocp\n"
        "from tests.helpers.orbax_net import make\n"
        f"tree = eqx.filter(eqx.tree_deserialise_leaves({str(file)!r}, make()), eqx.is_array)\n"
        "handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=True)\n"
        f"ocp.Checkpointer(handler).save({str(tmp_path / 'theirs')!r}, "
        "args=ocp.args.PyTreeSave(tree))\n"
    )
    environment = {"JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], env={
            **os.environ, **environment},
    )  # fmt: skip
    theirs = tmp_path / "theirs"

    def loaded(folder: Path, name: str) -> dict[str, Any]:
        return json.loads((folder / name).read_text())

    tree, other = loaded(ours, TREE), loaded(theirs, TREE)
    nodes, others = tree.pop("tree_metadata"), other.pop("tree_metadata")
    assert tree == other
    assert list(nodes) == list(others)
    for name, node in nodes.items():
        node["value_metadata"].pop("write_shape", None)
        others[name]["value_metadata"].pop("write_shape", None)
        # A NumPy array is restored as a JAX array, as the abstract tree has it.
        kind = others[name]["value_metadata"]["value_type"].replace("np.ndarray", "jax.Array")
        others[name]["value_metadata"]["value_type"] = kind
        assert node == others[name], name
    facts, other = loaded(ours, CHECKPOINT), loaded(theirs, CHECKPOINT)
    assert facts.keys() == other.keys()
    same = {name for name in facts if not name.endswith("nsecs")} - {"custom_metadata"}
    # Theirs names the handler it was made with; ours the one that `StandardCheckpointer` has.
    assert {name for name in same if facts[name] != other[name]} <= {"item_handlers"}
    mine, their = keys_in(ours), keys_in(theirs)
    described = [key for key in their if key.endswith("zarr.json")]
    assert sorted(described) == sorted(key for key in mine if key.endswith("zarr.json"))
    for key in described:
        assert rubbed(json.loads(mine[key])) == rubbed(json.loads(their[key])), key
    assert {path.name for path in ours.iterdir() if path.is_file()} == {
        path.name for path in theirs.iterdir() if path.is_file() and path.name != "_sharding"
    } | {"commit_success.txt"}


@pytest.mark.slow("writes several checkpoints")
def test_nothing_of_the_work_is_left(outputs: tuple[Path, Path]) -> None:
    checkpoint = outputs[1]
    assert {path.name.split("_")[0] for path in checkpoint.iterdir()} == {
        "", "commit", "d", "manifest.ocdbt", "ocdbt.process",
    }  # fmt: skip
    assert [path.name for path in checkpoint.parent.iterdir() if "s2p" in path.name] == []


def test_the_certificate_names_both_ends(outputs: tuple[Path, Path], pair: Pair) -> None:
    facts = json.loads((outputs[1] / CHECKPOINT).read_text())["custom_metadata"]["s2p"]
    session = pair.session()
    assert facts["verified"] is True
    assert facts["source"]["digest"] == session.checkpoint.state_dict.digest
    assert facts["target"]["digest"] == session.target.skeleton.digest
    arrays = [leaf.path for leaf in session.target.skeleton if leaf.kind == "array"]
    assert list(facts["leaves"]) == arrays


def test_a_certificate_beside_it_is_as_that_of_a_file(pair: Pair, tmp_path: Path) -> None:
    session = pair.session()
    convert_to_orbax(session, tmp_path / "m.orbax", certificate=tmp_path / "orbax.json")
    session.convert(tmp_path / "m.eqx", certificate=tmp_path / "eqx.json")
    ours, other = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("orbax", "eqx"))
    assert ours["source"] == other["source"]
    assert ours["target"] == other["target"]
    for leaf, its in zip(ours["leaves"], other["leaves"], strict=True):
        same = leaf.keys() - {"bytes", "sha256"}
        assert {name: leaf[name] for name in same} == {name: its[name] for name in same}


def test_python_writes_it_by_name(tmp_path: Path) -> None:
    numbers = torch.arange(6.0).reshape(2, 3)
    report = convert(
        from_memory=True, state_dict={"w": numbers}, pytree={"w": jnp.zeros((2, 3))},
        target_name="m.orbax", target_dir=tmp_path,
    )  # fmt: skip
    assert report.verified
    assert np.array_equal(arrays_in(tmp_path / "m.orbax")["w"], numbers.numpy())


def test_restoring_needs_no_file_of_ours(pair: Pair, tmp_path: Path) -> None:
    """A checkpoint that is moved and whose sources are gone is still whole."""
    convert_to_orbax(pair.session(), tmp_path / "m.orbax", chunk_bytes=SMALL)
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "m.orbax").rename(tmp_path / "elsewhere" / "m")
    assert len(arrays_in(moved)) == 18


def test_dtypes_can_be_written_narrower(pair: Pair, tmp_path: Path) -> None:
    session = pair.session()
    convert_to_orbax(session, tmp_path / "m.orbax", dtype="bfloat16")
    session.convert(tmp_path / "m.safetensors", dtype="bfloat16")
    from safetensors.flax import load_file

    found = arrays_in(tmp_path / "m.orbax")
    expected = load_file(tmp_path / "m.safetensors")
    for leaf in session.target.skeleton:
        if leaf.path in orbax_net.sources() and leaf.path.startswith("[0].l"):
            name = leaf.path.replace("[", ".").replace("]", "").lstrip(".")
            assert found[name].tobytes() == np.asarray(expected[leaf.path]).tobytes()


def test_numbers_that_do_not_fit_are_not_written(tmp_path: Path) -> None:
    session = open_pair(
        tmp_path, {"w": torch.tensor([1.0, 1e30])}, {"w": jnp.zeros(2, jnp.float16)}
    )
    with pytest.raises(Exception, match="1 number became infinite"):
        convert_to_orbax(session, tmp_path / "m.orbax")
    assert not (tmp_path / "m.orbax").exists()
    written = convert_to_orbax(session, tmp_path / "m.orbax", allow_overflow=True).written
    assert written.losses["['w']"].overflowed == 1


def test_a_scalar_that_would_not_be_restored_is_refused(tmp_path: Path) -> None:
    """Orbax restores arrays; a float is what the model's own code makes it."""
    tensors = {"w": torch.ones(3), "rate": torch.tensor(0.5, dtype=torch.float64)}
    session = open_pair(tmp_path, tensors, {"w": jnp.zeros(3), "rate": 0.25}, arrange="auto")
    session.trust(None)
    assert session.is_complete
    with pytest.raises(AlignmentError, match="1 Python scalar") as caught:
        convert_to_orbax(session, tmp_path / "m.orbax")
    assert caught.value.problems[0][0] == "['rate']"
    same = open_pair(tmp_path, tensors, {"w": jnp.zeros(3), "rate": 0.5}, arrange="auto")
    same.trust(None)
    convert_to_orbax(same, tmp_path / "m.orbax")
    assert arrays_in(tmp_path / "m.orbax").keys() == {"w"}


def keeping(folder: Path, tree: Any) -> Session:
    """A session that keeps all values of a pytree."""
    session = open_pair(folder, {"unused": torch.ones(1)}, tree)
    gaps = enumerate(Row(gap=True, by="user", trusted=True) for _ in session.target.skeleton)
    session.edit(SetRows(tuple(gaps)))
    session.allow_unused(None)
    return session


REFUSED: dict[str, tuple[Any, str]] = {
    "no elements": ({"w": jnp.zeros((0, 3))}, r"no arrays without elements.*\['w'\]"),
    "one name twice": ({"a": {"b": jnp.ones(1)}, "a.b": jnp.ones(1)}, "one name, a.b"),
    "float8_e4m3": ({"w": jnp.zeros(3, jnp.float8_e4m3)}, "float8_e4m3: TensorStore"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_orbax_cannot_hold_is_refused_by_name(case: str, tmp_path: Path) -> None:
    tree, message = REFUSED[case]
    session = keeping(tmp_path, tree)
    with pytest.raises(UsageError, match=message):
        convert_to_orbax(session, tmp_path / "m.orbax")
    assert not list(tmp_path.glob("m.orbax*"))


def test_an_older_skeleton_says_how_to_renew_it(tmp_path: Path) -> None:
    save_skeleton(tmp_path / "skeleton.eqx", {"w": jnp.zeros(3)})
    text = (tmp_path / "skeleton.eqx").read_bytes()
    head, _, values = text.partition(b"\n")
    old = head.replace(b'"version":2', b'"version":1').partition(b',"tree":')[0] + b"}"
    (tmp_path / "old.eqx").write_bytes(old + b"\n" + values)
    torch.save({"w": torch.ones(3)}, tmp_path / "model.pt")
    session = Session.open(tmp_path / "model.pt", tmp_path / "old.eqx")
    session.convert(tmp_path / "model.eqx")
    with pytest.raises(InputError, match=r"since version 2\. Write the skeleton again"):
        convert_to_orbax(session, tmp_path / "m.orbax")


def test_without_tensorstore_it_says_what_to_install(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    assert run(pair.convert(tmp_path / "m.orbax")) == 2
    assert "pip install 's2p-tui[scale]'" in capsys.readouterr().err
    assert run(pair.convert(tmp_path / "m.eqx")) == 0


def test_s3_is_refused_with_the_reason(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(pair.convert(Path("s3://bucket/m"), "--format", "orbax")) == 2
    assert "s3://bucket/m cannot be written: Orbax" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [
    "bool", "int4", "int8", "uint8", "int16", "uint16", "int32", "uint32", "float16", "bfloat16",
    "float32", "complex64", "float8_e5m2", "float8_e4m3fn", "float4_e2m1fn",
])  # fmt: skip
def test_each_dtype_goes_through(dtype: str, tmp_path: Path) -> None:
    """Kept from the skeleton, so that no cast takes part."""
    array = jnp.arange(-3, 4).astype(dtype)
    session = keeping(tmp_path, {"w": array})
    convert_to_orbax(session, tmp_path / "m.orbax")
    found = arrays_in(tmp_path / "m.orbax")["w"]
    assert found.dtype == array.dtype
    assert found.tobytes() == np.asarray(array).tobytes()


def test_its_arrays_are_listed(
    outputs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", str(outputs[1])]) == 0
    first, _, *arrays = capsys.readouterr().out.splitlines()
    assert "Orbax checkpoint, 18 arrays, " in first
    assert len(arrays) == 18
