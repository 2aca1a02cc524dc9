"""Folders as people have them, and files of which there are more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
import torch

from s2p_tui.cli.listing import describe
from s2p_tui.errors import AmbiguousStateDictError, InputError, NoStateDictError
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.formats.registry import open_checkpoint
from tests.helpers.files import assert_holds, save_legacy, save_safetensors, save_zip

STATE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.ones(2)}
MORE = {"out.weight": torch.arange(4.0).reshape(2, 2), "out.bias": torch.zeros(2)}
SAVE = {".safetensors": save_safetensors, ".bin": save_zip, ".pth": save_legacy}


def refused(path: Path, *words: str) -> InputError:
    with pytest.raises(InputError) as caught:
        open_checkpoint(path)
    for word in words:
        assert word in caught.value.line
    return caught.value


def beside(folder: Path) -> None:
    """What lies beside the weights in repositories and in folders of training runs."""
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("# A model\n" * 99)
    (folder / ".gitattributes").write_text("*.bin filter=lfs")
    (folder / "logs").mkdir()
    save_zip({"state": {0: {"step": torch.ones(1)}}, "param_groups": []}, folder / "optimizer.pt")
    save_zip({"last_epoch": 3}, folder / "scheduler.pt")
    np.save(folder / "mean.npy", np.zeros(3))


@pytest.mark.parametrize("suffix", SAVE)
def test_a_folder_with_one_checkpoint(tmp_path: Path, suffix: str) -> None:
    beside(tmp_path)
    SAVE[suffix](STATE, tmp_path / f"model{suffix}")
    opened = open_checkpoint(tmp_path)
    assert opened.label == f"model{suffix}"
    assert opened.notes[-1] == "passed over: optimizer.pt, scheduler.pt, without a state dict"
    assert_holds(opened, {entry.key: STATE[entry.key] for entry in opened.state_dict})
    kinds = {".safetensors": "safetensors", ".bin": "torch", ".pth": "torch-legacy"}
    assert f": {kinds[suffix]}, 2 entries" in describe(tmp_path).title


@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "manifest.ocdbt", ".zarray", "zarr.json"])
def test_a_folder_of_the_other_side(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    (tmp_path / "d").mkdir()
    refused(tmp_path, "is a folder of Orbax, TensorStore or Zarr", "given as a skeleton")


def test_a_link_to_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    save_zip(STATE, tmp_path / "blobs" / "4d7a")
    (tmp_path / "snapshot" / "model.bin").symlink_to("../blobs/4d7a")
    assert_holds(open_checkpoint(tmp_path / "snapshot"), STATE)


def test_a_key_is_looked_up_in_the_one_checkpoint_of_a_folder(tmp_path: Path) -> None:
    save_zip({"model": STATE, "ema": {"fc.weight": torch.ones(2, 3)}}, tmp_path / "a.ckpt")
    with pytest.raises(AmbiguousStateDictError):
        open_checkpoint(tmp_path)
    assert_holds(open_checkpoint(tmp_path, "model"), STATE)


def test_a_folder_with_several_checkpoints_names_them(tmp_path: Path) -> None:
    beside(tmp_path)
    for number in range(8):
        save_zip(STATE, tmp_path / f"epoch_{number}.pt")
    refused(tmp_path, "several checkpoints: epoch_0.pt, epoch_1.pt", "and 1 more", "Pass the one")


def test_a_damaged_checkpoint_counts_as_one(tmp_path: Path) -> None:
    save_zip(STATE, tmp_path / "good.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "good.pt").read_bytes()[:-40])
    refused(tmp_path, "several checkpoints: cut.pt, good.pt")
    (tmp_path / "good.pt").unlink()
    refused(tmp_path, "cut.pt", "damaged")


def test_a_folder_without_a_checkpoint(tmp_path: Path) -> None:
    refused(tmp_path, "a folder without a checkpoint.")
    beside(tmp_path)
    refused(tmp_path, "without a checkpoint, only optimizer.pt, scheduler.pt without a state dict")


def test_checkpoints_in_subfolders_are_named(tmp_path: Path) -> None:
    for name in ("unet", "vae/deep"):
        (tmp_path / name).mkdir(parents=True)
        save_safetensors(STATE, tmp_path / name / "model.safetensors")
    (tmp_path / "model_index.json").write_text("{}")
    refused(tmp_path, "unet/model.safetensors, vae/deep/model.safetensors", "Pass the one")


def write_parts(folder: Path, first: int = 1, suffix: str = ".safetensors") -> list[Path]:
    """Three parts without an index."""
    third = {"norm.weight": torch.ones(3)}
    files = [folder / f"model-{first + n:05}-of-00003{suffix}" for n in range(3)]
    for state, file in zip((STATE, MORE, third), files, strict=True):
        SAVE[suffix](state, file)
    return files


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("suffix", SAVE)
def test_complete_parts_are_read_as_one(tmp_path: Path, first: int, suffix: str) -> None:
    beside(tmp_path)
    write_parts(tmp_path, first, suffix)
    opened = open_checkpoint(tmp_path)
    every = STATE | MORE | {"norm.weight": torch.ones(3)}
    assert {entry.key for entry in opened.state_dict} == {*every}
    assert_holds(opened, {entry.key: every[entry.key] for entry in opened.state_dict})
    assert len(opened.files) == 3
    assert ": sharded, 5 entries" in describe(tmp_path).title


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    files = write_parts(tmp_path)
    files[1].unlink()
    refused(tmp_path, "2 of 3 numbered parts", "without model-00002-of-00003.safetensors")
    files[2].unlink()
    refused(tmp_path, "without model-00002-of-00003.safetensors, model-00003-of-00003.safetensors")


def test_parts_that_name_an_entry_twice_are_no_parts_of_one_state_dict(tmp_path: Path) -> None:
    for number in (1, 2):
        save_zip(STATE, tmp_path / f"w-{number}-of-2.bin")
    refused(tmp_path, "fc.weight is in w-1-of-2.bin and in w-2-of-2.bin", "slice of every tensor")


def test_two_sets_of_parts(tmp_path: Path) -> None:
    write_parts(tmp_path)
    write_parts(tmp_path, suffix=".bin")
    refused(tmp_path, "several checkpoints: model-00001-of-00003.bin … model-00003-of-00003.bin")


def test_a_part_alone_is_read_with_a_note(tmp_path: Path) -> None:
    file = write_parts(tmp_path)[0]
    opened = open_checkpoint(file)
    assert "is one of 3 parts: entries of the others are not read" in opened.notes[0]
    assert_holds(opened, dict(sorted(STATE.items())))


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("consolidated.00.pth", "consolidated.01.pth"),
        ("mp_rank_00_model_states.pt", "mp_rank_01_model_states.pt"),
        ("mp_rank_00/model_optim_rng.pt", "mp_rank_01/model_optim_rng.pt"),
        ("model-rank-0-part-0.safetensors", "model-rank-1-part-0.safetensors"),
    ],
)
def test_parts_of_a_model_split_over_devices(tmp_path: Path, name: str, other: str) -> None:
    for file in (tmp_path / name, tmp_path / other):
        file.parent.mkdir(exist_ok=True)
        save_zip({"layers.0.weight": torch.ones(4, 2)}, file)
    ranks = f"{name.partition('/')[0]}, {other.partition('/')[0]}"
    refused(tmp_path / name, "is one of 2 parts", ranks, "torch.cat")
    if "/" not in name:
        refused(tmp_path, "is one of 2 parts", ranks)
    (tmp_path / other).unlink()
    if "/" in name:
        (tmp_path / other).parent.rmdir()
    assert_holds(open_checkpoint(tmp_path / name), {"layers.0.weight": torch.ones(4, 2)})


@pytest.mark.parametrize("name", ["epoch.00.pth", "consolidated.safetensors", "rank_0.pt"])
def test_numbers_that_are_no_devices(tmp_path: Path, name: str) -> None:
    save_zip(STATE, tmp_path / name)
    save_zip(STATE, tmp_path / name.replace("0.", "1."))
    assert_holds(open_checkpoint(tmp_path / name), STATE)


def write_zero(folder: Path, stage: int) -> Path:
    """What DeepSpeed writes of a model in two processes."""
    tag = folder / "global_step100"
    tag.mkdir(parents=True)
    (folder / "zero_to_fp32.py").write_text("print('joins them')")
    (folder / "latest").write_text("global_step100")
    module = {name: torch.empty(0) for name in STATE} if stage == 3 else STATE
    for rank in range(2):
        flat = {"optimizer_state_dict": {"fp32_flat_groups": [torch.ones(4)], "zero_stage": stage}}
        save_zip(flat, tag / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
        if stage == 3:
            name = f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt"
            save_zip({"module": module, "param_shapes": []}, tag / name)
    if stage < 3:
        save_zip({"module": module}, tag / "mp_rank_00_model_states.pt")
    return tag


def test_zero_3_names_the_script_that_joins_its_parts(tmp_path: Path) -> None:
    tag = write_zero(tmp_path, 3)
    command = f"python {tmp_path / 'zero_to_fp32.py'} {tmp_path} {tmp_path / 'joined'}"
    for path in (tmp_path, tag, *tag.iterdir()):
        error = refused(path, "ZeRO", command)
    done = subprocess.run(command.split(), capture_output=True, text=True, check=True)
    assert done.stdout == "joins them\n"
    renamed = tmp_path / "model.pt"
    next(tag.glob("*model_states.pt")).rename(renamed)
    error = refused(renamed, "1 of 1 weights are empty", "ZeRO-3")
    assert "zero_to_fp32.py" in error.hint


def test_of_zero_1_and_2_the_model_is_read(tmp_path: Path) -> None:
    assert_holds(open_checkpoint(write_zero(tmp_path, 2)), STATE)


def test_zero_without_its_script(tmp_path: Path) -> None:
    tag = write_zero(tmp_path, 3)
    (tmp_path / "zero_to_fp32.py").unlink()
    refused(tag, "deepspeed.utils.zero_to_fp32")
    with pytest.raises(NoStateDictError):
        open_checkpoint(next(tag.glob("*optim_states.pt")))


class Extra(torch.nn.Linear):
    """A layer that saves more than its tensors, as Transformer Engine's do."""

    def get_extra_state(self) -> Any:
        return torch.zeros(4, dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        pass


@pytest.mark.parametrize("suffix", SAVE)
def test_extra_state_is_passed_over(tmp_path: Path, suffix: str) -> None:
    state = torch.nn.Sequential(torch.nn.Linear(2, 2), Extra(2, 2)).state_dict()
    assert "1._extra_state" in state
    file = SAVE[suffix](state, tmp_path / f"model{suffix}")
    opened = open_checkpoint(file)
    assert "_extra_state" in opened.notes[0]
    assert_holds(opened, {entry.key: state[entry.key] for entry in opened.state_dict})
    assert len(opened.state_dict) == 4


class Net(eqx.Module):
    fc: eqx.nn.Linear
    out: eqx.nn.Linear

    def __init__(self) -> None:
        first, second = jax.random.split(jax.random.PRNGKey(0))
        self.fc = eqx.nn.Linear(3, 2, key=first)
        self.out = eqx.nn.Linear(2, 2, key=second)


def run(*arguments: object) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "s2p_tui", *map(str, arguments)], capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow("starts programs that import JAX")
def test_what_no_shard_holds_from_the_command_line(tmp_path: Path) -> None:
    save_skeleton(tmp_path / "skeleton.eqx", Net())
    save_safetensors(STATE | MORE, tmp_path / "model.safetensors")
    weight_map = dict.fromkeys((*STATE, *MORE, "lm_head.weight"), "model.safetensors")
    (tmp_path / "m.index.json").write_text(json.dumps({"weight_map": weight_map}))
    arguments = ("convert", tmp_path, tmp_path / "skeleton.eqx", "-o", tmp_path / "out.eqx")
    status, said = run(*arguments)
    assert status == 4
    assert "lm_head.weight" in said
    assert "--allow-missing" in said
    status, said = run(*arguments, "--allow-missing")
    assert status == 0, said
    assert "left out, as no shard holds them: 1 entries that the index promises: lm_head" in said
    converted = eqx.tree_deserialise_leaves(tmp_path / "out.eqx", Net())
    assert np.array_equal(converted.fc.weight, STATE["fc.weight"].numpy())
    assert np.array_equal(converted.out.weight, MORE["out.weight"].numpy())
    status, said = run(*arguments, "--allow-missing", "--force", "--json")
    assert json.loads(said)["notes"][0].startswith("left out")
    status, said = run("inspect", tmp_path, "--allow-missing")
    assert (status, said.splitlines()[-1][:8]) == (0, "left out")
