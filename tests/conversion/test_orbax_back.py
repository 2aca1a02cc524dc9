"""Exports of Orbax checkpoints: ours, and those that Orbax itself wrote of a trained model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as v0
import orbax.checkpoint.experimental.v1 as v1
import pytest
import safetensors.numpy

from s2p_tui import export
from s2p_tui.cli import run
from s2p_tui.errors import InputError, UsageError
from s2p_tui.session.export import leaves_in
from s2p_tui.session.opening import open_any_target
from s2p_tui.session.orbax import convert_to_orbax
from tests.helpers import orbax_net
from tests.helpers.orbax_pair import Pair, pair_in

SMALL = 1 << 14


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair_in(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def outputs(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The pair as `.eqx` and as a checkpoint of this program."""
    folder = tmp_path_factory.mktemp("outputs")
    session = pair.session()
    session.convert(folder / "model.eqx")
    convert_to_orbax(session, folder / "model.orbax", chunk_bytes=SMALL)
    return folder / "model.eqx", folder / "model.orbax"


def back(pair: Pair, file: Path, output: Path, *more: str) -> int:
    return run(["export", str(file), *pair.options, "-o", str(output), *more])


def bytes_in(file: Path) -> dict[str, tuple[Any, ...]]:
    found = safetensors.numpy.load_file(file)
    return {key: (a.dtype, a.shape, a.tobytes()) for key, a in found.items()}


def test_ours_goes_back_as_its_eqx_does(
    pair: Pair, outputs: tuple[Path, Path], tmp_path: Path
) -> None:
    for file, output in zip(outputs, ("eqx", "orbax"), strict=True):
        assert back(pair, file, tmp_path / f"{output}.safetensors") == 0
    found = bytes_in(tmp_path / "orbax.safetensors")
    assert found == bytes_in(tmp_path / "eqx.safetensors")
    assert found.keys() == orbax_net.entries().keys()


def with_v0(where: Path, arrays: Any) -> Path:
    with v0.StandardCheckpointer() as checkpointer:
        checkpointer.save(where, arrays)
    return where


def with_v1(where: Path, arrays: Any) -> Path:
    # Orbax 0.11 has it under its older name.
    (v1.save if hasattr(v1, "save") else v1.save_pytree)(where, arrays)
    return where


def without_database(where: Path, arrays: Any) -> Path:
    v0.PyTreeCheckpointer(use_ocdbt=False).save(where, arrays)
    return where


def with_manager(where: Path, arrays: Any) -> Path:
    with v0.CheckpointManager(where) as manager:
        manager.save(7, args=v0.args.StandardSave(arrays))
    return where / "7"


def trained(outputs: tuple[Path, Path]) -> Any:
    """The model after a step: every number of what is trained is another one."""
    model, state = eqx.tree_deserialise_leaves(outputs[0], orbax_net.make())
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)
    # Neither the bias that two entries make nor their sum has one place to go.
    return eqx.combine(jax.tree.map(lambda a: a + jnp.asarray(0.5, a.dtype), arrays), rest), state


@pytest.mark.parametrize("save", [with_v0, with_v1, without_database, with_manager])
@pytest.mark.slow("writes several checkpoints")
def test_what_orbax_wrote_goes_back_as_the_eqx_does(
    pair: Pair, outputs: tuple[Path, Path], tmp_path: Path, save: Callable[[Path, Any], Path]
) -> None:
    tree = trained(outputs)
    eqx.tree_serialise_leaves(tmp_path / "model.eqx", tree)
    written = save(tmp_path / "trained", eqx.filter(tree, eqx.is_array))
    assert back(pair, tmp_path / "model.eqx", tmp_path / "eqx.safetensors") == 0
    assert back(pair, written, tmp_path / "orbax.safetensors") == 0
    found = bytes_in(tmp_path / "orbax.safetensors")
    assert found == bytes_in(tmp_path / "eqx.safetensors")
    embed = np.asarray(tree[0].embed)
    assert found["embed.weight"] == (embed.dtype, embed.shape, embed.tobytes())
    assert embed.tobytes() != orbax_net.entries()["embed.weight"].tobytes()


def test_in_python_with_a_skeleton_file_or_an_abstract_tree(
    pair: Pair, outputs: tuple[Path, Path]
) -> None:
    expected = {key: array.tobytes() for key, array in orbax_net.entries().items()}
    for skeleton in (pair.skeleton, orbax_net.make()):
        with pytest.warns(UserWarning, match="No entry holds these leaves"):
            found = export(outputs[1], pair.mapping, pair.model, skeleton=skeleton)
        same = {key for key in expected if found[key].numpy().tobytes() == expected[key]}
        assert set(expected) - same == {
            "head.weight", "qkv.weight", "last.bias", "last.more", "norm.mean", "norm.var",
        }  # fmt: skip
    with pytest.raises(UsageError, match="skeleton="):
        export(outputs[1], pair.mapping, pair.model)
    with pytest.raises(UsageError, match="names its own leaves"):
        export(orbax_net.make(), pair.mapping, pair.model, skeleton=pair.skeleton)


def test_it_is_read_in_parts(pair: Pair, outputs: tuple[Path, Path]) -> None:
    leaves = leaves_in(outputs[1], open_any_target(pair.skeleton))
    assert not leaves.tensors.in_memory
    region = ((10, 12), (5, 9))
    tree = eqx.tree_deserialise_leaves(outputs[0], orbax_net.make())
    np.testing.assert_array_equal(
        leaves.tensors.read("[0].embed", region), np.asarray(tree[0].embed)[10:12, 5:9]
    )


def test_another_tree_is_refused_by_every_name(
    pair: Pair, outputs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = eqx.filter(trained(outputs)[0], eqx.is_array)
    written = with_v0(tmp_path / "other", {"model": arrays})
    assert back(pair, written, tmp_path / "out.safetensors") == 4
    assert "[0].embed is not in the file" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


def test_a_damaged_array_is_named(
    pair: Pair, outputs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.orbax"
    shutil.copytree(outputs[1], copy)
    data = max(copy.rglob("d/*"), key=lambda file: file.stat().st_size)
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    assert back(pair, copy, tmp_path / "out.safetensors") == 4
    message = capsys.readouterr().err
    assert "is damaged" in message
    assert "[0]." in message
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"[]", "cannot be read"),
        (b'{"tree_metadata": {"a": 1}}', "cannot be read"),
        (
            json.dumps(
                {
                    "tree_metadata": {
                        "x": {
                            "key_metadata": [{"key": "../../secret", "key_type": 2}],
                            "value_metadata": {"value_type": "jax.Array"},
                        }
                    },
                    "use_ocdbt": False,
                }
            ).encode(),
            "secret",
        ),
    ],
)
def test_hostile_metadata_is_one_line(
    pair: Pair, tmp_path: Path, content: bytes, message: str
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "_METADATA").write_bytes(content)
    with pytest.raises(InputError, match=message):
        leaves_in(folder, open_any_target(pair.skeleton))


def test_folders_of_several_say_so(pair: Pair, tmp_path: Path) -> None:
    target = open_any_target(pair.skeleton)
    with pytest.raises(InputError, match="no Orbax checkpoint"):
        leaves_in(tmp_path, target)
    for step in ("7", "8"):
        (tmp_path / step / "default").mkdir(parents=True)
        (tmp_path / step / "default" / "_METADATA").write_text("{}")
    with pytest.raises(InputError, match=r"several steps: .*7, .*8"):
        leaves_in(tmp_path, target)
