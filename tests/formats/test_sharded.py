"""Checkpoints in several files with an index."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from s2p_tui.errors import InputError
from s2p_tui.formats.registry import open_checkpoint
from tests.helpers.files import assert_holds, save_legacy, save_safetensors, save_zip

FIRST = {"z": torch.arange(6.0).reshape(2, 3), "a": torch.ones(4, dtype=torch.bfloat16)}
SECOND = {"m": torch.zeros((), dtype=torch.int64), "nothing": torch.ones(0, 2)}
FORMS: dict[str, tuple[str, Callable[[Any, Path], Path]]] = {
    "safetensors": ("model-0000{}-of-00002.safetensors", save_safetensors),
    "zip": ("pytorch_model-0000{}-of-00002.bin", save_zip),
    "legacy": ("pytorch_model-0000{}-of-00002.bin", save_legacy),
}


def write_set(folder: Path, form: str = "safetensors") -> tuple[Path, dict[str, str]]:
    name, save = FORMS[form]
    weight_map: dict[str, str] = {}
    for number, state in enumerate((FIRST, SECOND), 1):
        file = name.format(number)
        save(state, folder / file)
        weight_map |= dict.fromkeys(state, file)
    return write_index(folder, dict(sorted(weight_map.items()))), weight_map


def write_index(folder: Path, weight_map: Mapping[str, object]) -> Path:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("form", FORMS)
def test_a_set_reads_as_one(tmp_path: Path, form: str) -> None:
    index, _ = write_set(tmp_path, form)
    for given in (index, tmp_path, str(tmp_path)):
        checkpoint = open_checkpoint(given)
        order = [entry.key for entry in checkpoint.state_dict]
        both = FIRST | SECOND
        assert_holds(checkpoint, {key: both[key] for key in order})
        assert len(checkpoint.files) == 3
        if form != "safetensors":
            assert order == list(both)


def test_names_tie_only_within_a_shard(tmp_path: Path) -> None:
    write_set(tmp_path, "zip")
    storages = [entry.storage for entry in open_checkpoint(tmp_path).state_dict]
    assert len(set(storages)) == 4


def refused(index: Path, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_checkpoint(index)


def test_a_missing_shard(tmp_path: Path) -> None:
    index, weight_map = write_set(tmp_path)
    (tmp_path / weight_map["m"]).unlink()
    refused(index, f"shard {weight_map['m']} is missing")


def test_all_disagreements_are_named_together(tmp_path: Path) -> None:
    _, weight_map = write_set(tmp_path)
    file = weight_map.pop("a")
    index = write_index(tmp_path, weight_map | {"ghost": file, "lost": "gone.safetensors"})
    with pytest.raises(InputError, match=r"gone\.safetensors is missing") as caught:
        open_checkpoint(index)
    assert f"ghost is not in {file}" in caught.value.message
    assert f"a of {file} is not in the index" in caught.value.message


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "sub/x.safetensors", ".."]
)
def test_an_index_that_points_outside_its_folder(tmp_path: Path, name: str) -> None:
    inner = tmp_path / "set"
    (inner / "sub").mkdir(parents=True)
    for secret in (tmp_path / "secret.safetensors", inner / "sub" / "x.safetensors"):
        save_safetensors({"a": torch.ones(1)}, secret)
    refused(write_index(inner, {"a": name}), "lies outside the index's folder|is missing")


def test_a_shard_that_is_no_checkpoint(tmp_path: Path) -> None:
    index = write_index(tmp_path, {"a": "model.safetensors.index.json"})
    refused(index, "is not a checkpoint")


def test_an_index_that_names_a_key_twice(tmp_path: Path) -> None:
    _, weight_map = write_set(tmp_path)
    pairs = [*weight_map.items(), ("a", weight_map["m"])]
    body = ",".join(f"{json.dumps(key)}:{json.dumps(file)}" for key, file in pairs)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map":{' + body + "}}")
    refused(index, "twice")


@pytest.mark.parametrize(
    "text",
    [
        '{"weight_map": {}}',
        '{"weight_map": []}',
        '{"weight_map": {"a": 3}}',
        '{"metadata": {}}',
        '{"weight_map": ' + "[" * 100_000,
        '{"weight_map": {"a": "b"}',
    ],
    ids=lambda text: text[:30],
)
def test_an_index_that_is_none(tmp_path: Path, text: str) -> None:
    index = tmp_path / "model.index.json"
    index.write_text(text)
    refused(index, "not an index of a sharded checkpoint")


def test_folders_need_exactly_one_index(tmp_path: Path) -> None:
    refused(tmp_path, r"folder without a \*\.index\.json")
    write_set(tmp_path)
    (tmp_path / "other.index.json").write_text("{}")
    refused(tmp_path, r"several indexes: model\.safetensors\.index\.json, other\.index\.json")
