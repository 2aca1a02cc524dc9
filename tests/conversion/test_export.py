"""Exports, from file to file: what comes back, what is refused, what is left behind."""

from __future__ import annotations

import json
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2p_tui import AlignmentError, convert_tree, export
from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.dtypes import dtype_named
from s2p_tui.alignment.edits import SetRows
from s2p_tui.alignment.task import Job
from s2p_tui.alignment.transform import (
    Broadcast,
    Concat,
    Constant,
    Expr,
    Permute,
    Reshape,
    Split,
    Sum,
    Take,
)
from s2p_tui.cli import run
from s2p_tui.conversion.output import mapping_of
from s2p_tui.errors import CancelledError, InputError, OtherFilesError, UsageError
from s2p_tui.formats.memory import checkpoint_in_memory
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.formats.registry import open_checkpoint
from s2p_tui.formats.torch_archive import Tensor, archive_for
from s2p_tui.session.export import open_export
from s2p_tui.session.opening import load_mapping, target_in_memory
from s2p_tui.session.session import Session

Tree = dict[str, Any]
Entries = dict[str, torch.Tensor]


def made(folder: Path, entries: Any, tree: Tree, rows: Mapping[str, Expr | None]) -> Tree:
    """Convert by hand; the files are `model.pt`, `skeleton.eqx`, `m.json` and `model.eqx`."""
    torch.save(entries, folder / "model.pt")
    return aligned(folder, folder / "model.pt", tree, rows)


def aligned(folder: Path, checkpoint: Path, tree: Tree, rows: Mapping[str, Expr | None]) -> Tree:
    save_skeleton(folder / "skeleton.eqx", tree)
    session = Session.open(checkpoint, folder / "skeleton.eqx")
    wanted = [
        Row(source, gap=source is None, by="user", trusted=True)
        for source in (rows[leaf.path] for leaf in session.target.skeleton)
    ]
    session.edit(SetRows(tuple(enumerate(wanted))))
    session.allow_unused(None)
    session.convert(folder / "model.eqx", mapping=folder / "m.json")
    session.close()
    return eqx.tree_deserialise_leaves(folder / "model.eqx", tree)


def back(
    folder: Path,
    output: str,
    *more: str,
    checkpoint: str | None = "model.pt",
    file: str = "model.eqx",
) -> int:
    sides = ["--skeleton", str(folder / "skeleton.eqx"), "--mapping", str(folder / "m.json")]
    original = [] if checkpoint is None else ["--checkpoint", str(folder / checkpoint)]
    words = [*sides, *original, "-o", str(folder / output), *more]
    return run(["export", str(folder / file), *words])


def trained(folder: Path, tree: Tree) -> None:
    eqx.tree_serialise_leaves(folder / "model.eqx", tree)


def loaded(path: Path) -> Entries:
    if path.suffix == ".pt":
        return torch.load(path, weights_only=True)
    return safetensors.torch.load_file(path)


def numbers(*shape: int, start: float = 1, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    count = int(np.prod(shape, dtype=int))
    return (torch.arange(count) + start).reshape(shape).to(dtype)


def assert_same(found: Entries, wanted: Entries) -> None:
    assert list(found) == list(wanted)
    for key, tensor in wanted.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor), key


W, B = Take("w"), Take("b")


@pytest.fixture
def plain(tmp_path: Path) -> tuple[Path, Entries]:
    """Two entries, one turned and one cast, and one that no leaf takes."""
    entries = {
        "w": numbers(3, 4, dtype=torch.bfloat16),
        "b": numbers(3, start=50),
        "steps": torch.tensor(7),
    }
    tree = {"b": jnp.zeros(3), "w": jnp.zeros((4, 3))}
    made(tmp_path, entries, tree, {"['b']": B, "['w']": Permute(W, (1, 0))})
    return tmp_path, entries


@pytest.mark.parametrize("output", ["back.safetensors", "back.pt"])
def test_all_comes_back_in_its_own_order_and_dtype(
    plain: tuple[Path, Entries], output: str
) -> None:
    folder, entries = plain
    assert back(folder, output) == 0
    found = loaded(folder / output)
    assert_same({key: found[key] for key in entries}, entries)
    assert sorted(found) == sorted(entries)
    if output.endswith(".pt"):
        assert list(found) == list(entries)
    else:
        with safetensors.safe_open(folder / output, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}


def test_the_file_may_be_safetensors_or_of_another_floating_dtype(
    plain: tuple[Path, Entries],
) -> None:
    folder, entries = plain
    sides = [str(folder / "model.pt"), str(folder / "skeleton.eqx")]
    for output, dtype in (("half.eqx", "bfloat16"), ("named.safetensors", "float32")):
        again = ["--mapping", str(folder / "m.json"), "--allow-unused", "*", "--dtype", dtype]
        assert run(["convert", *sides, "-o", str(folder / output), *again]) == 0
        assert back(folder, "back.pt", file=output) == 0
        assert_same(loaded(folder / "back.pt"), entries)


def test_what_no_leaf_holds_is_from_the_original_or_missing(
    plain: tuple[Path, Entries], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, entries = plain
    assert back(folder, "back.pt") == 0
    assert "from the original: steps (a counter)" in capsys.readouterr().out
    assert back(folder, "alone.pt", checkpoint=None) == 0
    assert "missing: steps (a counter)" in capsys.readouterr().out
    assert_same(loaded(folder / "alone.pt"), {key: entries[key] for key in ("w", "b")})


def test_from_python(plain: tuple[Path, Entries]) -> None:
    folder, entries = plain
    tree = eqx.tree_deserialise_leaves(
        folder / "model.eqx", {"b": jnp.zeros(3), "w": jnp.zeros((4, 3))}
    )
    for original in (entries, folder / "model.pt", str(folder / "model.pt")):
        assert_same(export(tree, folder / "m.json", original), entries)
    with pytest.warns(UserWarning, match="No leaf holds these entries: steps"):
        found = export(tree, folder / "m.json")
    assert list(found) == ["w", "b"]


@pytest.mark.slow("compiles a gradient")
def test_a_model_that_was_trained_is_the_same_in_torch(tmp_path: Path) -> None:
    torch_side = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    tree = eqx.nn.MLP(4, 2, 8, 1, key=jax.random.key(0))
    torch.save(torch_side.state_dict(), tmp_path / "model.pt")
    save_skeleton(tmp_path / "skeleton.eqx", tree)
    session = Session.open(tmp_path / "model.pt", tmp_path / "skeleton.eqx")
    session.save_mapping(tmp_path / "m.json")
    model = convert_tree(torch_side.state_dict(), tree, mapping=tmp_path / "m.json")
    x = jnp.linspace(-1, 1, 4)
    gradient = eqx.filter_grad(lambda m: jnp.sum(m(x) ** 2))(model)
    model = eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, gradient))
    torch_side.load_state_dict(export(model, tmp_path / "m.json", torch_side), strict=True)
    with torch.no_grad():
        output = torch_side(torch.from_numpy(np.array(x)))
    np.testing.assert_allclose(output, model(x), rtol=1e-5, atol=1e-6)


def test_leaves_that_no_entry_holds_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = {"head": jnp.zeros(2), "w": jnp.zeros(3)}
    tree = made(tmp_path, {"w": numbers(3)}, tree, {"['head']": None, "['w']": W})
    assert back(tmp_path, "back.pt") == 0
    assert "no entry holds these leaves: ['head']" in capsys.readouterr().out
    with pytest.warns(UserWarning, match="No entry holds these leaves"):
        assert_same(export(tree, tmp_path / "m.json"), {"w": numbers(3)})


def test_only_the_state_dict_that_was_converted_comes_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": {"w": numbers(3)}, "epoch": 3}, tmp_path / "model.pt")
    aligned(tmp_path, tmp_path / "model.pt", {"w": jnp.zeros(3)}, {"['w']": W})
    assert back(tmp_path, "back.pt") == 0
    assert "only its state dict at 'model' is exported" in capsys.readouterr().out
    assert_same(loaded(tmp_path / "back.pt"), {"w": numbers(3)})


# --- choices ---


def test_a_sum_with_a_constant_comes_back_less_it(tmp_path: Path) -> None:
    rows = {"['w']": Sum((Constant(1.0, (3,)), W))}
    tree = made(tmp_path, {"w": numbers(3)}, {"w": jnp.zeros(3)}, rows)
    assert torch.equal(export({"w": 2 * tree["w"]}, tmp_path / "m.json")["w"], 2 * numbers(3) + 1)


def test_a_sum_goes_whole_into_the_bias_of_the_input(tmp_path: Path) -> None:
    ours, theirs = "lstm.bias_ih_l0", "lstm.bias_hh_l0"
    entries = {theirs: numbers(3), ours: numbers(3, start=9)}
    rows = {"['b']": Sum((Take(theirs), Take(ours)))}
    made(tmp_path, entries, {"b": jnp.zeros(3)}, rows)
    assert back(tmp_path, "back.pt", "--certificate", str(tmp_path / "c.json")) == 0
    assert_same(
        loaded(tmp_path / "back.pt"),
        {theirs: torch.zeros(3), ours: entries[ours] + entries[theirs]},
    )
    certificate = json.loads((tmp_path / "c.json").read_text())
    why = {one["key"]: one["why"] for one in certificate["entries"]}
    assert why == {theirs: f"0, as {ours} has the whole sum", ours: ""}


def test_parts_that_several_leaves_hold_are_put_together(tmp_path: Path) -> None:
    entries = {"qkv": numbers(12, 2), "pad": numbers(5, 2)}
    apart = Reshape(Take("qkv"), (2, 3, 2, 2))
    rows = {
        f"['{name}']": Reshape(Split(apart, 1, n, n + 1), (4, 2))
        for n, name in enumerate(("q", "k", "v"))
    }
    rows["['e']"] = Split(Take("pad"), 0, 0, 3)
    tree = {name: jnp.zeros((4, 2)) for name in ("q", "k", "v")} | {"e": jnp.zeros((3, 2))}
    tree = made(tmp_path, entries, tree, rows)
    trained(tmp_path, {key: 2 * value for key, value in tree.items()})
    assert back(tmp_path, "back.pt") == 0
    wanted = {"qkv": 2 * entries["qkv"], "pad": entries["pad"].clone()}
    wanted["pad"][:3] *= 2
    assert_same(loaded(tmp_path / "back.pt"), wanted)
    assert back(tmp_path, "alone.pt", checkpoint=None) == 0
    assert list(loaded(tmp_path / "alone.pt")) == ["qkv"]


def test_an_entry_tied_to_one_that_a_leaf_holds_follows_it(tmp_path: Path) -> None:
    table = numbers(4, 2)
    entries = {"embed": table, "head": table, "bias": torch.zeros(4), "other": torch.zeros(4)}
    tree = made(
        tmp_path, entries, {"b": jnp.zeros(4), "e": jnp.zeros((4, 2))},
        {"['b']": Take("bias"), "['e']": Take("embed")},
    )  # fmt: skip
    trained(tmp_path, {"b": tree["b"] + 1, "e": tree["e"] + 1})
    assert back(tmp_path, "back.pt") == 0
    found = loaded(tmp_path / "back.pt")
    one = table + 1
    assert_same(
        found, {"embed": one, "head": one, "bias": torch.ones(4), "other": entries["other"]}
    )
    assert found["embed"].data_ptr() == found["head"].data_ptr()
    # The same numbers twice are a copy, too, but equal zeros are not.
    copies = {key: tensor.clone() for key, tensor in entries.items()}
    safetensors.torch.save_file(copies, tmp_path / "model.safetensors")
    assert back(tmp_path, "again.pt", checkpoint="model.safetensors") == 0
    again = loaded(tmp_path / "again.pt")
    assert_same({key: again[key] for key in found}, found)


# --- running statistics ---


@pytest.mark.parametrize("steps", [0, 3])
def test_a_batch_norm_trained_from_scratch_comes_back_as_it_means(
    tmp_path: Path, steps: int
) -> None:
    make = eqx.nn.make_with_state(lambda: eqx.nn.BatchNorm(3, "batch", momentum=0.9, mode="batch"))
    torch_side = torch.nn.BatchNorm1d(3)
    torch.save(torch_side.state_dict(), tmp_path / "model.pt")
    save_skeleton(tmp_path / "skeleton.eqx", make())
    session = Session.open(tmp_path / "model.pt", tmp_path / "skeleton.eqx")
    session.convert(tmp_path / "model.eqx", mapping=tmp_path / "m.json")
    norm, state = make()
    x = jnp.asarray(np.random.default_rng(0).normal(2, 3, (8, 3)), jnp.float32)
    call = jax.vmap(norm, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    for _ in range(steps):
        _, state = call(x, state)
    torch_side.load_state_dict(export((norm, state), tmp_path / "m.json", torch_side))
    quiet = eqx.nn.inference_mode(norm)
    call = jax.vmap(quiet, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    with torch.no_grad():
        output = torch_side.eval()(torch.from_numpy(np.array(x)))
    np.testing.assert_allclose(output, call(x, state)[0], rtol=1e-5, atol=1e-5)


# --- refused ---


def refused(folder: Path, tree: Tree, *names: str) -> AlignmentError:
    """Export a tree in vain; the error names these."""
    trained(folder, tree)
    before = sorted(folder.iterdir())
    assert back(folder, "back.pt") == 3
    assert back(folder, "back.safetensors") == 3
    assert sorted(folder.iterdir()) == before
    with pytest.raises(AlignmentError) as raised:
        export(tree, folder / "m.json", folder / "model.pt")
    for name in names:
        assert name in str(raised.value)
    return raised.value


def test_leaves_that_hold_one_entry_must_agree(tmp_path: Path) -> None:
    tree = {"a": jnp.zeros(3), "b": jnp.zeros(3)}
    tree = made(tmp_path, {"w": numbers(3)}, tree, {"['a']": W, "['b']": W})
    both = {"a": tree["a"] * 2, "b": tree["b"] * 2}
    assert torch.equal(export(both, tmp_path / "m.json")["w"], 2 * numbers(3))
    refused(tmp_path, {"a": tree["a"] * 2, "b": tree["b"]}, "['b']", "['a']", "w")


def test_entries_that_are_one_tensor_must_agree(tmp_path: Path) -> None:
    tied = numbers(3)
    tree = {"a": jnp.zeros(3), "b": jnp.zeros(3)}
    tree = made(tmp_path, {"w": tied, "b": tied}, tree, {"['a']": W, "['b']": B})
    both = {"a": tree["a"] * 2, "b": tree["b"] * 2}
    assert len(export(both, tmp_path / "m.json", tmp_path / "model.pt")) == 2
    refused(tmp_path, {"a": tree["a"] * 2, "b": tree["b"]}, "one tensor", "w", "b")


def test_a_constant_that_was_trained_has_no_entry(tmp_path: Path) -> None:
    tree = {"b": jnp.zeros(3), "w": jnp.zeros(3)}
    tree = made(tmp_path, {"w": numbers(3)}, tree, {"['b']": Constant(0.0, (3,)), "['w']": W})
    assert back(tmp_path, "same.pt") == 0
    (tmp_path / "same.pt").unlink()
    refused(tmp_path, {"b": tree["b"] + 1e-7, "w": tree["w"]}, "['b']", "filled with 0")


def test_a_filled_up_part_that_was_trained_has_no_entry(tmp_path: Path) -> None:
    rows = {"['w']": Concat((W, Constant(0.0, (2,))), 0)}
    tree = made(tmp_path, {"w": numbers(3)}, {"w": jnp.zeros(5)}, rows)
    refused(tmp_path, {"w": tree["w"] + 1}, "['w']", "filled with 0")


def test_copies_of_one_slice_must_stay_equal(tmp_path: Path) -> None:
    tree = made(
        tmp_path, {"w": numbers(1, 3)}, {"w": jnp.zeros((2, 3))}, {"['w']": Broadcast(W, (2, 3))}
    )
    assert torch.equal(export({"w": tree["w"] * 2}, tmp_path / "m.json")["w"], 2 * numbers(1, 3))
    refused(tmp_path, {"w": tree["w"].at[1, 1].add(1)}, "['w']", "copies")


def test_a_summand_that_another_leaf_holds_is_refused(tmp_path: Path) -> None:
    tree = {"a": jnp.zeros(3), "s": jnp.zeros(3)}
    tree = made(
        tmp_path, {"w": numbers(3), "b": numbers(3)}, tree, {"['a']": B, "['s']": Sum((W, B))}
    )
    refused(tmp_path, tree, "['s']", "['a']")


def test_rows_that_nobody_trusted_are_refused(plain: tuple[Path, Entries]) -> None:
    folder, _ = plain
    mapping = json.loads((folder / "m.json").read_text())
    row = mapping["rows"][0]
    row |= {"sources": [], "gap": True, "by": "order"}
    del row["trusted"]
    (folder / "m.json").write_text(json.dumps(mapping))
    assert back(folder, "back.pt") == 3
    assert not (folder / "back.pt").exists()


def test_numbers_that_do_not_fit_are_refused_or_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = {"w": numbers(3, dtype=torch.float16)}
    tree = made(tmp_path, entries, {"w": jnp.zeros(3)}, {"['w']": W})
    trained(tmp_path, {"w": tree["w"].at[0].set(1e9).at[1].set(1e-30)})
    assert back(tmp_path, "back.pt") == 5
    assert "w: 1 number became infinite" in capsys.readouterr().err
    assert not (tmp_path / "back.pt").exists()
    assert back(tmp_path, "back.pt", "--allow-overflow", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["lost"] == {"w": {"overflowed": 1, "new_nan": 0, "flushed": 1}}
    assert said["casts"] == {"float32 to float16": 1}
    assert loaded(tmp_path / "back.pt")["w"].tolist() == [float("inf"), 0.0, 3.0]


def test_a_file_of_another_model_is_refused(plain: tuple[Path, Entries]) -> None:
    folder, _ = plain
    for number, tree in enumerate(
        (
            {"b": jnp.zeros(3), "w": jnp.zeros((3, 4))},
            {"b": jnp.zeros(3, int), "w": jnp.zeros((4, 3))},
            {"b": jnp.zeros(3)},
            {"b": jnp.zeros(3), "v": jnp.zeros(3), "w": jnp.zeros((4, 3))},
        )
    ):
        trained(folder, tree)
        assert back(folder, "back.pt") == 4, number
    save_skeleton(
        folder / "abstract.eqx", {"b": jnp.zeros(3), "w": jnp.zeros((4, 3))}, values=False
    )
    for file in ("model.pt", "m.json", "abstract.eqx", "none.eqx"):
        assert back(folder, "back.pt", file=file) == 4, file
    safetensors.torch.save_file({"['b']": torch.zeros(3)}, folder / "part.safetensors")
    assert back(folder, "back.pt", file="part.safetensors") == 4
    with pytest.raises(OtherFilesError):
        export({"b": jnp.zeros(3)}, folder / "m.json")
    with pytest.raises(UsageError, match="holds no numbers"):
        export(
            jax.eval_shape(lambda: {"b": jnp.zeros(3), "w": jnp.zeros((4, 3))}), folder / "m.json"
        )


def test_a_mapping_of_an_earlier_version_needs_the_original(
    plain: tuple[Path, Entries], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, entries = plain
    mapping = json.loads((folder / "m.json").read_text())
    del mapping["entries"]
    (folder / "m.json").write_text(json.dumps(mapping))
    assert back(folder, "back.pt", checkpoint=None) == 2
    assert "Give the original with --checkpoint." in capsys.readouterr().err
    assert back(folder, "back.pt") == 0
    assert_same(loaded(folder / "back.pt"), entries)


def test_nothing_that_is_read_is_replaced(plain: tuple[Path, Entries]) -> None:
    folder, _ = plain
    files = {file: file.read_bytes() for file in folder.iterdir()}
    assert back(folder, "model.pt") == 5
    (folder / "skeleton.eqx").rename(folder / "skeleton.pt")
    (folder / "skeleton.eqx").symlink_to("skeleton.pt")
    assert back(folder, "skeleton.pt") == 5
    (folder / "skeleton.pt").replace(folder / "skeleton.eqx")
    assert back(folder, "back.pt", "--certificate", str(folder / "m.json")) == 5
    assert back(folder, "back.onnx") == 2
    assert back(folder, "shards") == 2
    assert {file: file.read_bytes() for file in folder.iterdir()} == files


@pytest.mark.parametrize("output", ["back.pt", "back.safetensors"])
@pytest.mark.parametrize("phase", ["writing", "verifying"])
def test_a_cancelled_export_leaves_nothing_behind(
    plain: tuple[Path, Entries], output: str, phase: str
) -> None:
    class Stopped(Job):
        def check(self) -> None:
            if self.phase == phase:
                self.cancel()
            super().check()

    folder, _ = plain
    before = sorted(folder.iterdir())
    opened = open_export(
        folder / "model.eqx", folder / "skeleton.eqx", load_mapping(folder / "m.json"),
        folder / "model.pt",
    )  # fmt: skip
    with pytest.raises(CancelledError):
        opened.write(folder / output, job=Stopped())
    assert sorted(folder.iterdir()) == before


def test_a_source_that_changes_meanwhile_is_noticed(plain: tuple[Path, Entries]) -> None:
    folder, _ = plain
    opened = open_export(
        folder / "model.eqx", folder / "skeleton.eqx", load_mapping(folder / "m.json"),
        folder / "model.pt",
    )  # fmt: skip
    with (folder / "model.eqx").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"x")
    with pytest.raises(InputError, match="was changed while it was open"):
        opened.write(folder / "back.pt")
    assert not (folder / "back.pt").exists()


# --- shards ---


def test_shards_get_the_original_s_names_and_sizes(tmp_path: Path) -> None:
    entries = {f"layers.{n}.weight": numbers(4, 4, start=n) for n in range(6)}
    original = tmp_path / "original"
    original.mkdir()
    weight_map: dict[str, str] = {}
    for number, keys in enumerate((list(entries)[:2], list(entries)[2:]), 1):
        name = f"model-{number:05}-of-00002.safetensors"
        safetensors.torch.save_file(
            {k: entries[k] for k in keys}, original / name, {"format": "pt"}
        )
        weight_map |= dict.fromkeys(keys, name)
    index = {"metadata": {"total_size": 384}, "weight_map": weight_map}
    (original / "model.safetensors.index.json").write_text(json.dumps(index))
    tree = {"layers": [jnp.zeros((4, 4)) for _ in range(6)]}
    rows = {f"['layers'][{n}]": Permute(Take(key), (1, 0)) for n, key in enumerate(entries)}
    tree = aligned(tmp_path, original, tree, rows)
    assert back(tmp_path, "back", checkpoint="original") == 0
    for file in original.iterdir():
        copy = tmp_path / "back" / file.name
        if file.suffix == ".json":
            assert json.loads(copy.read_text()) == index
        else:
            assert copy.read_bytes() == file.read_bytes()
    assert (tmp_path / "back").stat().st_mode == original.stat().st_mode
    assert back(tmp_path, "back", checkpoint="original") == 5
    assert back(tmp_path, "one.safetensors", checkpoint="original") == 0
    assert_same(loaded(tmp_path / "one.safetensors"), entries)


def test_shards_of_torch_stay_torch_s(tmp_path: Path) -> None:
    original = tmp_path / "original"
    original.mkdir()
    shards = {"pytorch_model-00001-of-00002.bin": "a", "pytorch_model-00002-of-00002.bin": "b"}
    for name, key in shards.items():
        torch.save({key: numbers(3)}, original / name)
    weight_map = {key: name for name, key in shards.items()}
    index = {"metadata": {"total_size": 24}, "weight_map": weight_map}
    (original / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    rows = {"['a']": Take("a"), "['b']": Take("b")}
    aligned(tmp_path, original, {"a": jnp.zeros(3), "b": jnp.zeros(3)}, rows)
    assert back(tmp_path, "back", checkpoint="original") == 0
    folder = tmp_path / "back"
    assert json.loads((folder / "pytorch_model.bin.index.json").read_text()) == index
    for name, key in shards.items():
        assert_same(torch.load(folder / name, weights_only=True), {key: numbers(3)})


def test_a_refused_set_of_shards_leaves_nothing_behind(tmp_path: Path) -> None:
    original = tmp_path / "original"
    original.mkdir()
    for number in (1, 2):
        name = f"model-{number:05}-of-00002.safetensors"
        safetensors.torch.save_file({f"w{number}": numbers(3)}, original / name)
    tree = {"a": jnp.zeros(3), "b": jnp.zeros(3)}
    rows = {"['a']": Take("w1"), "['b']": Constant(0.0, (3,))}
    tree = aligned(tmp_path, original, tree, rows)
    trained(tmp_path, {"a": tree["a"], "b": tree["b"] + 1})
    before = sorted(tmp_path.iterdir())
    assert back(tmp_path, "back", checkpoint="original") == 3
    assert sorted(tmp_path.iterdir()) == before


# --- files of PyTorch ---


def test_every_dtype_of_torch_is_loaded(tmp_path: Path) -> None:
    kinds = [
        *("bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"),
        *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
        *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
    ]
    entries = {f"päth.{kind}\n": numbers(2, 3).to(getattr(torch, kind)) for kind in kinds}
    entries |= {"number": torch.tensor(3.0), "empty": torch.zeros(0, 3), "w": numbers(2)}
    made(tmp_path, entries, {"w": jnp.zeros(2)}, {"['w']": W})
    assert back(tmp_path, "back.pt") == 0
    for options in ({}, {"mmap": True}):
        found = torch.load(tmp_path / "back.pt", weights_only=True, **options)
        assert list(found) == list(entries)
        for key, tensor in entries.items():
            assert found[key].dtype == tensor.dtype
            first, second = (t.reshape(-1).view(torch.uint8) for t in (found[key], tensor))
            assert torch.equal(first, second) if tensor.numel() else first.numel() == 0


def test_the_archive_is_a_sound_zip_file(plain: tuple[Path, Entries]) -> None:
    folder, _ = plain
    assert back(folder, "back.pt") == 0
    with zipfile.ZipFile(folder / "back.pt") as archive:
        assert archive.testzip() is None
        assert {"archive/data.pkl", "archive/data/0"} <= {*archive.namelist()}
        raw = (folder / "back.pt").read_bytes()
        for member in archive.infolist():
            (checksum,) = struct.unpack_from("<I", raw, member.header_offset + 14)
            assert checksum == member.CRC


def test_tensors_of_odd_sizes_are_aligned(tmp_path: Path) -> None:
    entries = {"mask": torch.ones(3, dtype=torch.bool), "w": numbers(3), "d": numbers(1).double()}
    made(tmp_path, entries, {"w": jnp.zeros(3)}, {"['w']": W})
    for name in ("back.safetensors", "back.pt"):
        assert back(tmp_path, name) == 0
        found = loaded(tmp_path / name)
        assert_same({key: found[key] for key in entries}, entries)
        opened = open_checkpoint(tmp_path / name)
        for entry in opened.state_dict:
            extent = opened.tensors.extent(entry.key)
            assert extent is not None
            assert extent.offset % dtype_named(entry.dtype).itemsize == 0


@pytest.mark.slow("writes 70,000 tensors")
def test_more_tensors_than_a_plain_zip_file_can_list(tmp_path: Path) -> None:
    count = 70_000
    archive = archive_for([Tensor(f"t{n}", (1,), "uint8", n) for n in range(count)])
    with (tmp_path / "many.pt").open("wb") as stream:
        stream.write(archive.front)
        for number, member in enumerate(archive.storages):
            stream.write(member.head + bytes((number % 256,)))
        stream.write(archive.directory([0] * count))
    found = torch.load(tmp_path / "many.pt", weights_only=True)
    assert len(found) == count
    assert found["t69999"].item() == 69999 % 256


# --- casts ---


@given(
    st.lists(st.floats(width=32), min_size=1, max_size=64), st.sampled_from(["bfloat16", "float16"])
)
@pytest.mark.slow("casts many numbers")
def test_casts_are_those_of_torch(values: list[float], dtype: str) -> None:
    kind = getattr(torch, dtype)
    entries = {"w": torch.zeros(len(values), dtype=kind)}
    tree = {"w": np.array(values, np.float32)}
    session = Session.between(checkpoint_in_memory(entries), target_in_memory(tree))
    mapping = mapping_of(session.checkpoint, session.target, session.alignment)
    with warnings.catch_warnings(action="ignore"):
        found = export(tree, mapping, allow_overflow=True)["w"]
    wanted = torch.tensor(values, dtype=torch.float32).to(kind)
    assert torch.equal(found.isnan(), wanted.isnan())
    assert torch.equal(found[~found.isnan()], wanted[~wanted.isnan()])
