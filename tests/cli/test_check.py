"""Both models are run on one input, and the first module that differs is named."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import pytest
import torch
import torch.distributed.checkpoint as dcp

from s2p_tui.cli import run
from s2p_tui.formats.registry import open_checkpoint
from tests.cli.twin_files import JAX, TORCH, swap_rows, twin_files
from tests.helpers.files import save_legacy, save_safetensors, save_zip
from tests.models.twins import BY_NAME


def _save_shards(value: dict[str, torch.Tensor], folder: Path) -> Path:
    """Two `.safetensors` shards and their index; the index."""
    folder.mkdir()
    keys = list(value)
    weight_map: dict[str, str] = {}
    for name, part in (("one.safetensors", keys[:3]), ("two.safetensors", keys[3:])):
        save_safetensors({key: value[key] for key in part}, folder / name)
        weight_map |= dict.fromkeys(part, name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def _check(name: str, *arguments: str | Path) -> int:
    return run(
        ["check", "--torch", f"{TORCH}:{name}", "--jax", f"{JAX}:{name}", *map(str, arguments)]
    )


AGREEING = [
    ("linear", ["--shape", "4"]),
    ("resnet", ["--shape", "3x8x8"]),
    ("resnet_ema", ["--shape", "3x8x8", "--batch", "3"]),
    ("llama", ["--shape", "5", "--dtype", "int32"]),
    ("gru_cell", ["--shape", "3", "--shape", "4"]),
    ("sequential_with_dropout", ["--shape", "8", "--seed", "5"]),
    ("scan", ["--shape", "4", "--batch", "1"]),
    ("data_parallel", ["--shape", "3"]),
    ("nested", ["--shape", "3"]),
]


@pytest.mark.parametrize(("name", "arguments"), AGREEING, ids=[name for name, _ in AGREEING])
@pytest.mark.slow("compiles and runs models in both frameworks")
def test_twins_agree(
    name: str, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, mapping = twin_files(name, tmp_path)
    assert _check(name, "--mapping", mapping, "--model", model, *arguments) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{TORCH}:{name} and {JAX}:{name} agree: max |Δ| ")
    assert (out.count("\n"), err) == (1, "")


def _save_dcp(value: dict[str, torch.Tensor], folder: Path) -> Path:
    """A folder of torch.distributed.checkpoint."""
    dcp.save(value, checkpoint_id=folder)
    return folder


def _save_module(value: dict[str, torch.Tensor], path: Path) -> Path:
    """A whole module, which torch's own safe loading refuses."""
    root = torch.nn.Module()
    root.add_module("module", BY_NAME["blocks"].make_torch())
    root.load_state_dict(value)
    torch.save(root, path)
    return path


def _save_pickled(value: dict[str, torch.Tensor], path: Path) -> Path:
    path.write_bytes(pickle.dumps(value))
    return path


def _save_arrays(value: dict[str, torch.Tensor], path: Path) -> Path:
    path.write_bytes(pickle.dumps({key: tensor.numpy() for key, tensor in value.items()}))
    return path


SAVERS = [save_zip, save_legacy, save_safetensors, _save_shards, _save_dcp]
SAVERS += [_save_module, _save_pickled, _save_arrays]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("save", SAVERS)
@pytest.mark.slow("compiles and runs models in both frameworks")
def test_both_sides_get_the_weights_of_the_checkpoint(
    save: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = BY_NAME["blocks"].make_torch().state_dict()
    doubled = {f"module.{key}": tensor * 2 for key, tensor in weights.items()}
    model = save(doubled, tmp_path / "doubled")
    _, mapping = twin_files("blocks", tmp_path)
    content = json.loads(mapping.read_text())
    for row in content["rows"]:
        row["sources"] = [f"module.{key}" for key in row["sources"]]
    checkpoint = open_checkpoint(model)
    content["source"]["digest"] = checkpoint.state_dict.digest
    checkpoint.tensors.close()
    mapping.write_text(json.dumps(content))
    assert _check("blocks", "--model", model, "--mapping", mapping, "--shape", "4") == 0
    swap_rows(mapping, "module.layers.1.fc2.weight", "module.layers.2.fc2.weight")
    assert _check("blocks", "--model", model, "--mapping", mapping, "--shape", "4") == 6
    assert "first difference: layers.1.fc2 ↔ .blocks[1].down" in capsys.readouterr().out


SWAPPED = [
    (
        "resnet", "3x8x8", "float32",
        ("layer4.1.bn1.running_var", "layer4.1.bn2.running_var"),
        ("layer4.1.bn1", ".blocks[7].bn1"), ("layer4.1.conv1", ".blocks[7].conv1"),
    ),
    (
        "resnet", "3x8x8", "float32",
        ("layer1.0.conv1.weight", "layer1.1.conv1.weight"),
        ("layer1.0.conv1", ".blocks[1].conv1"), ("bn1", ".stem_norm"),
    ),
    (
        "gpt2", "5", "int32",
        ("transformer.h.1.ln_2.weight", "transformer.ln_f.weight"),
        ("transformer.h.1.ln_2", ".blocks[1].mlp_norm"),
        ("transformer.h.1.attn.c_proj", ".blocks[1].out"),
    ),
    (
        "blocks", "4", "float32",
        ("layers.1.fc2.weight", "layers.2.fc2.weight"),
        ("layers.1.fc2", ".blocks[1].down"), ("layers.1.fc1", ".blocks[1].up"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "shape", "dtype", "swap", "first", "before"), SWAPPED)
@pytest.mark.slow("compiles and runs models in both frameworks")
def test_the_first_module_that_differs_is_named(
    name: str,
    shape: str,
    dtype: str,
    swap: tuple[str, str],
    first: tuple[str, str],
    before: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, mapping = twin_files(name, tmp_path)
    swap_rows(mapping, *swap)
    arguments = ["--mapping", mapping, "--shape", shape, "--dtype", dtype]
    assert _check(name, *arguments) == 6
    out = capsys.readouterr().out
    assert " DIFFER: max |Δ| " in out
    assert f"\nfirst difference: {first[0]} ↔ {first[1]} (max |Δ| " in out
    assert f"\nbefore it {before[0]} ↔ {before[1]} agreed to " in out
    assert _check(name, *arguments, "--json") == 6
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "differ"
    assert found["relative_difference"] > found["tolerance"] == 1e-4
    assert (found["first_difference"]["torch"], found["first_difference"]["jax"]) == first
    assert (found["agreed_before"]["torch"], found["agreed_before"]["jax"]) == before
    assert found["agreed_before"]["relative_difference"] < 1e-5
    assert _check(name, *arguments, "--tolerance", "1e9") == 0


def _report(suffix: str, folder: Path, *arguments: str | Path) -> tuple[int, str]:
    """Check the pair of blocks with two rows swapped; the exit status and the report."""
    _, mapping = twin_files("blocks", folder)
    swap_rows(mapping, "layers.1.fc2.weight", "layers.2.fc2.weight")
    report = folder / f"parity{suffix}"
    code = _check("blocks", "--mapping", mapping, "--shape", "4", "--report", report, *arguments)
    return code, report.read_text()


@pytest.mark.slow("compiles and runs models in both frameworks")
def test_the_report_names_every_pair_and_its_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = _report(".json", tmp_path, "--json", "--progress")
    out, err = capsys.readouterr()
    assert (code, json.loads(text)) == (6, json.loads(out))
    steps = [json.loads(line) for line in err.splitlines()]
    assert len(steps) > 4
    assert {frozenset(step) for step in steps} == {frozenset(["step"])}
    modules = {module["torch"]: module for module in json.loads(text)["modules"]}
    assert list(modules)[:2] == ["layers.0.norm", "layers.0.fc1"]
    wrong = modules["layers.1.fc2"]
    assert (wrong["jax"], wrong["agrees"]) == (".blocks[1].down", False)
    assert wrong["rows"] == [".blocks[1].down.weight", ".blocks[1].down.bias"]
    assert wrong["relative_difference"] > 1e-4 > 1 - modules["layers.0.fc2"]["cosine"]
    assert wrong["inputs"]["relative_difference"] < 1e-5
    assert wrong["dtypes"] == {"torch": "float32", "jax": "float32"}
    assert modules["layers.1"]["rows"] == []
    assert modules["layers.0"]["agrees"]


@pytest.mark.slow("compiles and runs models in both frameworks")
@pytest.mark.parametrize("suffix", [".md", ".html"])
def test_reports_for_people_begin_with_the_first_that_differs(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = _report(suffix, tmp_path)
    out = capsys.readouterr().out
    assert code == 6
    places = [text.index(f">{name}<" if suffix == ".html" else f"`{name}`") for name in (
        "layers.1.fc2", "layers.2.fc2", "layers.0.fc1"
    )]  # fmt: skip
    assert places == sorted(places)
    assert ".blocks[1].down.bias" in text
    table = out[out.index("forward  ") :].splitlines()
    assert re.fullmatch("forward  [▁▂]{4,}█+", table[0])
    assert table[2].startswith("✗  layers.1.fc2")


def test_a_report_of_another_format_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "parity.pdf"
    assert _check("linear", "--shape", "4", "--report", report) == 2
    assert "has no known suffix: expected .md, .html, .json." in capsys.readouterr().err
    assert not report.exists()


def test_json_of_agreement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, mapping = twin_files("linear", tmp_path)
    assert _check("linear", "--mapping", mapping, "--shape", "4", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    (output,) = found.pop("outputs")
    apart = {"max_abs_difference", "relative_difference"}
    assert all(0 <= output[name] == found.pop(name) < 1e-6 for name in apart)
    assert output["shape"][0] == 2
    assert found == {
        "status": "agree",
        "tolerance": 1e-4,
        "examples": 2,
        "returned": {"torch": 1, "jax": 1},
        "first_difference": None,
        "agreed_before": None,
        "modules_agreed": None,
        "error": None,
    }


def test_without_a_mapping_names_and_structure_decide() -> None:
    models = ["--torch", "tests.models.linears:TorchNet", "--jax", "tests.models.linears:EqxNet"]
    assert run(["check", *models, "--shape", "10"]) == 0
    assert _check("linear", "--shape", "4") == 0


MODELS = """
import dataclasses
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

class Torch(nn.Module):
    def __init__(self, form="dict"):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 5)
        self.relu = nn.ReLU(inplace=True)
        self.form = form
    def forward(self, x):
        hidden = self.relu(self.first(x))
        out = self.second(hidden)
        if self.form == "dict":
            return {"out": out, "hidden": (hidden, None)}
        if self.form == "nan":
            return out * float("nan")
        if self.form == "raises":
            raise RuntimeError("torch is\\n unwell")
        return out

@dataclasses.dataclass
class Result:
    hidden: object
    out: object
jax.tree_util.register_dataclass(Result, ["hidden", "out"], [])

class Jax(eqx.Module):
    first: eqx.nn.Linear
    second: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    form: str = eqx.field(static=True)
    def __init__(self, form="dict", *, key):
        if form == "unmade":
            raise ValueError("jax is\\n unwell")
        one, two = jax.random.split(key)
        self.first = eqx.nn.Linear(3, 4, key=one)
        self.second = eqx.nn.Linear(4, 5, key=two)
        self.dropout = eqx.nn.Dropout(0.5)
        self.form = form
    def __call__(self, x, *, key):
        hidden = jax.nn.relu(self.first(self.dropout(x, key=key)))
        out = self.second(hidden + (self.form == "other"))
        if self.form == "twice":
            return self.second(self.first(x))
        if self.form == "raises":
            raise ValueError("jax is\\n unwell")
        if self.form == "imprecise":
            return out + 1e-3 * (jax.config.jax_default_matmul_precision != "highest")
        return Result((None, hidden), out) if self.form == "dict" else out

def example():
    return torch.linspace(-1, 1, 3)
def examples():
    return (np.ones(3, np.float32), np.ones(3, np.float32))
def text():
    return "text"
torch_model = Torch("plain")
def not_a_module():
    return 3
class Bare(eqx.Module):
    weight: jax.Array = eqx.field(default_factory=lambda: jnp.zeros(3))
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file with a pair of models."""
    file = tmp_path / "pair_of_models.py"
    file.write_text(MODELS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return str(file)


def _pair(models: str, torch_form: str, jax_form: str, *arguments: str) -> int:
    sides = ["--torch", f"{models}:Torch", "--jax", f"{models}:Jax"]
    forms = ["--torch-kwargs", json.dumps({"form": torch_form})]
    forms += ["--jax-kwargs", json.dumps({"form": jax_form})]
    return run(["check", *sides, *forms, *arguments])


@pytest.mark.slow("makes or compiles models")
def test_outputs_may_be_nested_and_keys_required(
    models: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _pair(models, "dict", "dict", "--shape", "3") == 0
    assert _pair(models, "dict", "dict", "--shape", "3", "--batch", "0") == 0
    assert _pair(models, "dict", "dict", "--sample-input", f"{models}:example", "--json") == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [output["shape"] for output in found["outputs"]] == [[1, 4], [1, 5]]
    same = ["--torch", f"{models}:torch_model", "--jax", f"{models}:Jax"]
    assert run(["check", *same, "--jax-kwargs", '{"form": "plain"}', "--shape", "3"]) == 0


@pytest.mark.slow("makes or compiles models")
def test_a_difference_between_the_modules_is_told_as_one(
    models: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {cls: vars(cls)["__call__"] for cls in (eqx.nn.Linear, eqx.nn.Dropout)}
    assert _pair(models, "plain", "other", "--shape", "3") == 6
    assert {cls: vars(cls)["__call__"] for cls in before} == before
    out = capsys.readouterr().out
    assert "first difference: second ↔ .second" in out
    assert "called with inputs that differ already" in out
    assert "before it first ↔ .first agreed to " in out
    assert _pair(models, "plain", "twice", "--shape", "3") == 6
    assert "no module is called alike on both sides" in capsys.readouterr().out


def test_numbers_that_are_none_prove_nothing(
    models: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _pair(models, "nan", "plain", "--shape", "3", "--json") == 6
    found = json.loads(capsys.readouterr().out)
    assert found["max_abs_difference"] is None
    assert found["first_difference"] is None
    assert found["modules_agreed"] == 2
    assert _pair(models, "nan", "plain", "--shape", "3") == 6
    assert "every pair of modules that could be compared agrees" in capsys.readouterr().out


def test_a_gap_that_the_precision_of_products_explains_is_called_that(
    models: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _pair(models, "plain", "imprecise", "--shape", "3") == 6
    assert 'with jax.default_matmul_precision("highest") both agree' in capsys.readouterr().out
    assert _pair(models, "plain", "other", "--shape", "3", "--json") == 6
    assert "note" not in json.loads(capsys.readouterr().out)


def test_the_tolerance_is_that_of_the_narrowest_dtype(
    models: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(models, "a") as file:
        file.write("\ndef Half(form):\n    return Torch(form).bfloat16()\n")
    sides = ["--torch", f"{models}:Half", "--jax", f"{models}:Jax"]
    forms = ["--torch-kwargs", '{"form": "plain"}', "--jax-kwargs", '{"form": "plain"}']
    assert run(["check", *sides, *forms, "--shape", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tolerance"] == 2**-5


REFUSED = [
    (
        "raises",
        "plain",
        ["--shape", "3"],
        4,
        "The torch model's forward raised RuntimeError: torch is",
    ),
    (
        "plain",
        "raises",
        ["--shape", "3"],
        4,
        "The Equinox model's forward raised ValueError: jax is",
    ),
    ("plain", "unmade", ["--shape", "3"], 4, "The JAX side: "),
    ("plain", "plain", ["--shape", "4"], 4, "The torch model's forward raised RuntimeError: "),
    ("plain", "dict", ["--shape", "3"], 4, "return other shapes: torch 2×5, Equinox 2×4"),
    ("plain", "plain", [], 2, "Neither --shape nor --sample-input says what to run"),
    ("plain", "plain", ["--shape", "3", "--sample-input", "a:b"], 2, "both say what to run"),
    ("plain", "plain", ["--shape", "3by3"], 2, "--shape 3by3 is not a shape: "),
    ("plain", "plain", ["--shape", "0"], 2, "--shape 0 has no elements."),
    ("plain", "plain", ["--shape", "3", "--dtype", "float31"], 4, "dtype 'float31' is not known"),
    ("plain", "plain", ["--shape", "3", "--dtype", "int8", "--dtype", "int8"], 2, "2 dtypes"),
    ("plain", "plain", ["--sample-input", "{models}:text"], 4, "is not an array"),
    ("plain", "plain", ["--sample-input", "{models}:missing"], 2, "has no 'missing'"),
    (
        "plain",
        "plain",
        ["--sample-input", "{models}:examples"],
        4,
        "The torch model's forward raised",
    ),
    ("plain", "plain", ["--shape", "3", "--key", "ema"], 2, "--key ema is a path in a checkpoint"),
]


@pytest.mark.parametrize(("torch_form", "jax_form", "arguments", "status", "reason"), REFUSED)
def test_what_cannot_be_checked_is_one_line(
    models: str,
    torch_form: str,
    jax_form: str,
    arguments: list[str],
    status: int,
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [argument.format(models=models) for argument in arguments]
    assert _pair(models, torch_form, jax_form, *arguments) == status
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert reason in err
    assert _pair(models, torch_form, jax_form, *arguments, "--json") == status
    found = json.loads(capsys.readouterr().out)
    assert (found["status"], reason in found["error"]) == ("failed", True)


@pytest.mark.parametrize(
    ("torch_side", "jax_side", "reason"),
    [
        ("not_a_module", "Jax", "The torch side: {models}:not_a_module made a int"),
        ("Torch", "Bare", "The JAX side: {models}:Bare made a Bare, which cannot be called."),
        ("missing", "Jax", "The torch side: {models} has no 'missing'."),
        ("Torch", "missing", "The JAX side: {models} has no 'missing'."),
    ],
)
def test_a_side_that_is_no_model_is_named(
    models: str, torch_side: str, jax_side: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = ["--torch", f"{models}:{torch_side}", "--jax", f"{models}:{jax_side}"]
    assert run(["check", *sides, "--shape", "3"]) in (2, 4)
    err = capsys.readouterr().err
    assert err.startswith(f"s2p-tui: {reason.format(models=models)}")
    assert err.count("\n") == 1


@pytest.mark.slow("makes or compiles models")
def test_files_of_other_models_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, mapping = twin_files("blocks", tmp_path)
    shape = ["--shape", "4"]
    assert _check("linear", "--mapping", mapping, *shape) == 4
    assert "was made for other files" in capsys.readouterr().err
    other = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(1, 2), "more": torch.zeros(3)}, other)
    assert _check("linear", "--model", other, *shape) == 4
    err = capsys.readouterr().err
    assert "Loading other.pt into the torch model raised RuntimeError: " in err
    assert 'Unexpected key(s) in state_dict: "more"' in err
    assert err.count("\n") == 1


def test_rows_that_do_not_line_up_are_listed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _check("dense_square", "--shape", "4") == 3
    assert "1 of 2 rows does not line up." in capsys.readouterr().err


@pytest.mark.slow("makes or compiles models")
def test_what_only_one_side_returns_is_told_and_not_compared(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sides = ["--torch", f"{TORCH}:lstm", "--jax", f"{JAX}:lstm", "--shape", "5x3"]
    assert run(["check", *sides]) == 0
    assert (
        "torch returns 3 arrays and the JAX model 1: the first 1 of both" in capsys.readouterr().out
    )
    assert run(["check", *sides, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["returned"] == {"torch": 3, "jax": 1}


@pytest.mark.slow("makes or compiles models")
def test_torch_gets_numbers_in_its_own_precision() -> None:
    sides = ["--torch", f"{TORCH}:bfloat16_to_float32", "--jax", f"{JAX}:bfloat16_to_float32"]
    shape = "x".join(map(str, BY_NAME["bfloat16_to_float32"].inputs[0].shape[1:]))
    assert run(["check", *sides, "--shape", shape, "--tolerance", "0.01"]) == 0
