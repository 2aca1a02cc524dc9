"""Entries that a file holds twice: explained where they are the same bit for bit, else not."""

from __future__ import annotations

from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
import safetensors.torch
import torch

from s2p_tui import AlignmentError, convert_tree
from s2p_tui.formats.copies import copies
from s2p_tui.formats.memory import checkpoint_in_memory
from s2p_tui.formats.registry import open_checkpoint

EMBED = torch.randn(300, 7)


def tree() -> dict[str, object]:
    keys = jax.random.split(jax.random.PRNGKey(0), 2)
    return {
        "embed": eqx.nn.Embedding(300, 7, key=keys[0]),
        "fc": eqx.nn.Linear(7, 7, key=keys[1]),
    }


def saved(tmp_path: Path, **more: torch.Tensor) -> Path:
    """A checkpoint with more entries than the pytree has leaves."""
    linear = torch.nn.Linear(7, 7).state_dict(prefix="fc.")
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"embed.weight": EMBED, **linear, **more}, path)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.slow("reads or writes large files, or many")
def test_a_tied_weight_that_was_saved_twice_is_left_out(tmp_path: Path, dtype: torch.dtype) -> None:
    embed = EMBED.to(dtype)
    path = saved(tmp_path, **{"embed.weight": embed, "lm_head.weight": embed.clone()})
    filled = convert_tree(path, tree())
    assert np.array_equal(filled["embed"].weight, embed.float().numpy())


@pytest.mark.slow("reads or writes large files, or many")
def test_one_number_that_differs_makes_it_another_entry(tmp_path: Path) -> None:
    other = EMBED.clone()
    other[-1, -1] += 1
    path = saved(tmp_path, **{"lm_head.weight": other})
    with pytest.raises(AlignmentError, match=r"lm_head\.weight: no leaf takes it"):
        convert_tree(path, tree())


def test_numbers_that_are_all_the_same_make_no_copy(tmp_path: Path) -> None:
    # Two layers that nobody trained yet are alike.
    path = saved(tmp_path, **{"fc.bias": torch.zeros(7), "norm.bias": torch.zeros(7)})
    with pytest.raises(AlignmentError, match=r"norm\.bias: no leaf takes it"):
        convert_tree(path, tree())


def test_only_entries_of_one_shape_and_dtype_are_compared(tmp_path: Path) -> None:
    path = saved(tmp_path, again=EMBED.clone(), turned=EMBED.T.contiguous(), half=EMBED.half())
    with_files = open_checkpoint(path)
    unused = ("again", "turned", "half")
    assert copies(with_files, unused, {"embed.weight", "fc.weight"}) == {"again": "embed.weight"}
    with_files.tensors.close()


def test_bits_count_and_not_numbers() -> None:
    nan = np.array([[np.nan, 1.0, 0.0]], "float32")
    zero = np.array([[np.nan, 1.0, -0.0]], "float32")
    checkpoint = checkpoint_in_memory({"a": nan, "b": nan.copy(), "c": zero})
    assert copies(checkpoint, ("b", "c"), {"a"}) == {"b": "a"}


def test_large_entries_are_compared_to_the_end() -> None:
    rows = np.random.default_rng(0).random((3000, 500), "float32")
    other = rows.copy()
    other[-1, -1] = 2
    checkpoint = checkpoint_in_memory({"a": rows, "b": rows.copy(), "c": other})
    assert copies(checkpoint, ("b", "c"), {"a"}) == {"b": "a"}
