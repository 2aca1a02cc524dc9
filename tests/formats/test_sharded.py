"""Checkpoints in several files with an index."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from s2p_tui.errors import InputError, MissingEntriesError
from s2p_tui.formats.registry import open_checkpoint
from tests.helpers.files import (
    array_bytes,
    assert_holds,
    open_below,
    read,
    save_legacy,
    save_safetensors,
    save_zip,
    tensor_bytes,
)

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
    with pytest.raises(MissingEntriesError) as caught:
        open_checkpoint(index)
    assert f"2 entries that the index promises: m, nothing; shard {weight_map['m']} is missing" in (
        caught.value.message
    )
    assert caught.value.entries == ("m", "nothing")
    opened = open_checkpoint(index, allow_missing=True)
    assert opened.notes == (
        "left out, as no shard holds them: 2 entries that the index promises: m, nothing; shard "
        f"{weight_map['m']} is missing",
    )
    assert_holds(opened, {entry.key: FIRST[entry.key] for entry in opened.state_dict})
    assert {entry.key for entry in opened.state_dict} == {*FIRST}


def test_entries_that_no_shard_holds_are_left_out_when_allowed(tmp_path: Path) -> None:
    _, weight_map = write_set(tmp_path)
    ghosts = {f"ghost.{number}": weight_map["m"] for number in range(7)}
    index = write_index(tmp_path, weight_map | ghosts)
    with pytest.raises(MissingEntriesError, match="or allow that they are missing"):
        open_checkpoint(index)
    opened = open_checkpoint(index, allow_missing=True)
    assert opened.notes[0].endswith("ghost.3, ghost.4 and 2 more")
    both = FIRST | SECOND
    assert_holds(opened, {entry.key: both[entry.key] for entry in opened.state_dict})
    assert len(opened.state_dict) == len(both)


def test_an_index_of_nothing_that_is_there_is_refused_all_the_same(tmp_path: Path) -> None:
    index = write_index(tmp_path, {"a": "gone.safetensors"})
    for allow_missing in (False, True):
        with pytest.raises(MissingEntriesError):
            open_checkpoint(index, allow_missing=allow_missing)


def test_entries_that_the_index_does_not_name_are_passed_over(tmp_path: Path) -> None:
    _, weight_map = write_set(tmp_path)
    weight_map.pop("a")
    opened = open_checkpoint(write_index(tmp_path, weight_map))
    assert opened.notes == ("passed over, as the index does not name them: a",)
    kept = FIRST | SECOND
    assert_holds(opened, {entry.key: kept[entry.key] for entry in opened.state_dict})
    assert {entry.key for entry in opened.state_dict} == {"z", "m", "nothing"}


def test_an_entry_in_another_shard_than_the_index_says(tmp_path: Path) -> None:
    _, weight_map = write_set(tmp_path)
    opened = open_checkpoint(write_index(tmp_path, weight_map | {"a": weight_map["m"]}))
    assert opened.notes == ("in another shard than the index says: a",)
    both = FIRST | SECOND
    assert_holds(opened, {entry.key: both[entry.key] for entry in opened.state_dict})


def test_of_an_entry_in_two_shards_the_indexs_is_taken(tmp_path: Path) -> None:
    files = ["one.safetensors", "two.safetensors", "three.safetensors"]
    tensors = [torch.full((2,), float(number)) for number in range(3)]
    for file, tensor in zip(files, tensors, strict=True):
        save_safetensors({"a": tensor, file: tensor.clone()}, tmp_path / file)
    weight_map = {file: file for file in files}
    opened = open_checkpoint(write_index(tmp_path, weight_map | {"a": files[1]}))
    held = {entry.key: tensors[1] for entry in opened.state_dict if entry.key == "a"}
    for key, tensor in held.items():
        assert array_bytes(read(opened, key)) == tensor_bytes(tensor)
    elsewhere = tmp_path / "four.safetensors"
    save_safetensors({"b": tensors[0]}, elsewhere)
    index = write_index(tmp_path, weight_map | {"b": elsewhere.name, "a": elsewhere.name})
    refused(index, "a is not in four.safetensors but in one.safetensors, three.safetensors, two")


def test_shards_in_subfolders(tmp_path: Path) -> None:
    for name, state in (("first", FIRST), ("deep/second", SECOND)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).mkdir()
        save_zip(state, tmp_path / name / "weights.bin")
    weight_map = dict.fromkeys(FIRST, "first/weights.bin")
    index = write_index(tmp_path, weight_map | dict.fromkeys(SECOND, "./deep/second/weights.bin"))
    opened = open_checkpoint(index)
    both = FIRST | SECOND
    assert_holds(opened, {entry.key: both[entry.key] for entry in opened.state_dict})


def test_all_disagreements_are_named_together(tmp_path: Path) -> None:
    _, weight_map = write_set(tmp_path)
    (tmp_path / "text").write_text("hello " * 99)
    lying = {"x": "../x.safetensors", "y": "/y.safetensors"}
    with pytest.raises(InputError) as caught:
        open_checkpoint(write_index(tmp_path, weight_map | lying))
    for name in lying.values():
        assert f"shard {name!r} lies outside the index's folder" in caught.value.message


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "sub/../../secret.safetensors", "..", ""]
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


def test_folders_with_two_indexes(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "other.index.json").write_text("{}")
    refused(tmp_path, r"several indexes: model\.safetensors\.index\.json, other\.index\.json")


@pytest.mark.slow("writes two hundred shards")
def test_more_shards_than_may_be_open_at_once(tmp_path: Path) -> None:
    shards = {f"{n:03}.safetensors": torch.full((3,), float(n)) for n in range(200)}
    for name, tensor in shards.items():
        save_safetensors({f"t.{name}": tensor}, tmp_path / name)
    opened = open_checkpoint(write_index(tmp_path, {f"t.{name}": name for name in shards}))
    for name in [*shards, *reversed(shards)]:
        assert array_bytes(read(opened, f"t.{name}")) == tensor_bytes(shards[name])
    assert 0 < len(open_below(tmp_path)) <= 65
    opened.tensors.close()
    assert open_below(tmp_path) == []


def test_threads_do_not_close_each_others_files(tmp_path: Path) -> None:
    """A descriptor stays good until its thread asks for another, whatever other threads open."""
    names = [f"{n:03}.safetensors" for n in range(150)]
    for number, name in enumerate(names):
        save_safetensors({name: torch.full((3,), float(number))}, tmp_path / name)
    tensors = open_checkpoint(write_index(tmp_path, {name: name for name in names})).tensors
    extent = tensors.extent(names[0])
    assert extent is not None
    descriptor = tensors.descriptor(extent)
    other = threading.Thread(target=lambda: [tensors.read(name, ((0, 3),)) for name in names[1:]])
    other.start()
    other.join()
    data = os.pread(descriptor, extent.nbytes, extent.offset)
    assert data == tensor_bytes(torch.zeros(3))
    tensors.close()
