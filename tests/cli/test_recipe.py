"""`recipe` and `convert --recipe`: files and options in; files, output and exit status out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from s2p_tui import AlignmentError, convert, convert_tree
from s2p_tui.cli import run
from s2p_tui.errors import InputError
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.session.recipes import SUFFIX, folder, load_recipe


def save(depth: int, width: int, name: str, **more: torch.Tensor) -> None:
    """A checkpoint and a skeleton that go by other names, one weight of each block square."""
    rng = np.random.default_rng(depth)
    state = {
        f"h.{n}.{key}.w": torch.from_numpy(rng.normal(size=shape).astype("f4"))
        for n in range(depth)
        for key, shape in (("mix", (width, width)), ("up", (width, 3)))
    }
    torch.save(state | more, f"{name}.pt")
    blocks = [
        {
            "attention": np.zeros((width, width), np.float32),
            "widen": np.zeros((width, 3), np.float32),
        }
        for _ in range(depth)
    ]
    save_skeleton(f"{name}.eqx", {"layers": blocks})


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small pair with its mapping, in which a hand transposed the square weights; a large one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    save(2, 4, "small")
    save(5, 6, "large")
    order = ["--arrange", "order", "--trust-all", "--save-mapping", "m.json"]
    assert run(["convert", "small.pt", "small.eqx", "-o", "first.eqx", *order]) == 0
    mapping = json.loads(Path("m.json").read_text())
    for row in mapping["rows"]:
        row |= {"by": "user", "trusted": False}
        if "attention" in row["path"]:
            row["transform"] = {"op": "permute", "of": 0, "axes": [1, 0]}
    Path("m.json").write_text(json.dumps(mapping))
    assert run(["convert", "small.pt", "small.eqx", "-o", "s.eqx", "--mapping", "m.json"]) == 0
    return tmp_path


LARGE = ["convert", "large.pt", "large.eqx", "-o", "large.safetensors"]


@pytest.mark.usefixtures("pairs")
def test_what_a_small_model_taught_converts_a_large_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["recipe", "m.json", "-o", "r.json"]) == 0
    assert capsys.readouterr().out.endswith("r.json: 4 rows as 2 patterns\n")
    assert run(LARGE) == 3
    assert run([*LARGE, "--mapping", "m.json"]) == 4
    assert "s2p-tui recipe, then convert --recipe" in capsys.readouterr().err
    assert run([*LARGE, "--recipe", "r.json", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["doubtful"], result["mismatched"], result["notes"]) == ([], [], [])
    found, state = load_file("large.safetensors"), torch.load("large.pt")
    for n in range(5):
        block = f"['layers'][{n}]"
        assert (found[f"{block}['attention']"] == state[f"h.{n}.mix.w"].numpy().T).all()
        assert (found[f"{block}['widen']"] == state[f"h.{n}.up.w"].numpy()).all()


@pytest.mark.usefixtures("pairs")
def test_a_recipe_kept_under_a_name_is_known_by_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipe", "m.json", "--keep", "mine"]) == 0
    assert (folder() / f"mine{SUFFIX}").is_file()
    assert run([*LARGE, "--recipe", "mine"]) == 0
    assert run(["recipe", "m.json", "--keep", "mine"]) == 0
    capsys.readouterr()
    assert run([*LARGE, "--recipe", "yours"]) == 4
    assert "Known are: bert, gpt2, llama, resnet, vit and 2 more" in capsys.readouterr().err


@pytest.mark.usefixtures("pairs")
def test_rows_that_no_pattern_covers_keep_their_doubts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipe", "m.json", "-o", "r.json"]) == 0
    recipe = json.loads(Path("r.json").read_text())
    recipe["rows"] = [row for row in recipe["rows"] if "widen" in row["path"]]
    Path("r.json").write_text(json.dumps(recipe))
    capsys.readouterr()
    assert run([*LARGE, "--recipe", "r.json", "--json"]) == 3
    result = json.loads(capsys.readouterr().out)
    blocking = {row["path"] for row in (*result["doubtful"], *result["mismatched"])}
    assert blocking == {f"['layers'][{n}]['attention']" for n in range(5)}
    assert any("says nothing of ['layers'][0]['attention']" in note for note in result["notes"])


@pytest.mark.usefixtures("pairs")
def test_its_own_pair_gets_its_mapping_back() -> None:
    assert run(["recipe", "m.json", "-o", "r.json"]) == 0
    own = ["convert", "small.pt", "small.eqx", "-o", "own.eqx"]
    assert run([*own, "--recipe", "r.json", "--save-mapping", "own.json"]) == 0
    assert Path("own.eqx").read_bytes() == Path("s.eqx").read_bytes()
    again, before = (json.loads(Path(name).read_text()) for name in ("own.json", "m.json"))
    for row in before["rows"]:
        del row["trusted"]
    assert again == before


@pytest.mark.usefixtures("pairs")
def test_a_mapping_without_shapes_needs_its_files(capsys: pytest.CaptureFixture[str]) -> None:
    mapping = json.loads(Path("m.json").read_text())
    del mapping["entries"], mapping["leaves"]
    Path("old.json").write_text(json.dumps(mapping))
    assert run(["recipe", "old.json", "-o", "r.json"]) == 2
    assert "Give the --checkpoint and --skeleton" in capsys.readouterr().err
    ends = ["--checkpoint", "small.pt", "--skeleton", "small.eqx"]
    assert run(["recipe", "old.json", "-o", "old.recipe.json", *ends]) == 0
    assert run(["recipe", "m.json", "-o", "new.recipe.json"]) == 0
    old, new = (json.loads(Path(f"{n}.recipe.json").read_text()) for n in ("old", "new"))
    assert old["rows"] == new["rows"]


@pytest.mark.usefixtures("pairs")
@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["recipe", "m.json"], 2, "Give one of -o and --keep."),
        (["recipe", "m.json", "-o", "r.json", "--keep", "r"], 2, "Give one of -o and --keep."),
        (["recipe", "m.json", "--keep", "a/b"], 2, "Give a plain name"),
        (["recipe", "m.json", "-o", "r", "--skeleton", "small.eqx"], 2, "Give both --checkpoint"),
        (["recipe", "m.json", "-o", "m.json"], 5, "Choose another name."),
        (["recipe", "m.json", "-o", "no/r.json"], 5, "Create the folder first."),
        (["recipe", "missing.json", "-o", "r.json"], 4, "missing.json cannot be read"),
        ([*LARGE, "--recipe", "m.json"], 4, "m.json is not a usable recipe file"),
        ([*LARGE, "--recipe", "r.json", "--mapping", "m.json"], 2, "--mapping and --recipe both"),
        ([*LARGE, "--recipe", "r.json", "--arrange", "auto"], 2, "--recipe and --arrange both"),
    ],
)
def test_wrong_use_is_told(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(arguments) == status
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("pairs")
def test_inspect_lists_the_patterns(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipe", "m.json", "-o", "r.json"]) == 0
    capsys.readouterr()
    assert run(["inspect", "r.json"]) == 0
    title, _, *rows, made_from = capsys.readouterr().out.splitlines()
    assert title == "r.json: recipe r, 2 patterns"
    turned, plain = sorted(rows)
    assert turned.split(maxsplit=2)[:2] == ["['layers'][{i}]['attention']", "h.{i}.mix.w"]
    assert "permute axes (1, 0)" in turned
    assert plain.split() == ["['layers'][{i}]['widen']", "h.{i}.up.w", "user"]
    assert made_from == "made from small.pt and small.eqx"
    assert run(["inspect", "r.json", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], len(found["rows"])) == ("recipe", 2)
    assert run(["chunk", "r.json", "chunks"]) == 2
    assert "is a recipe file, which holds no arrays" in capsys.readouterr().err
    assert run(["convert", "r.json", "small.eqx"]) == 4
    assert "is a recipe file, a checkpoint was expected" in capsys.readouterr().err


@pytest.mark.usefixtures("pairs")
def test_python_follows_a_recipe_as_the_command_does() -> None:
    assert run(["recipe", "m.json", "-o", "r.json"]) == 0
    assert run([*LARGE, "--recipe", "r.json"]) == 0
    skeleton = {"path_to_pytree_object": "large.eqx", "path_to_state_dict_object": "large.pt"}
    for recipe in ("r.json", Path("r.json"), load_recipe("r.json")):
        report = convert(from_path=True, **skeleton, recipe=recipe, target_name="again.safetensors")
        assert report.path.read_bytes() == Path("large.safetensors").read_bytes()
    assert run(["recipe", "m.json", "--keep", "net"]) == 0
    convert(from_path=True, **skeleton, recipe="net", target_name="again.safetensors")
    blocks = [{"attention": np.zeros((6, 6), "f4"), "widen": np.zeros((6, 3), "f4")}] * 5
    filled = convert_tree("large.pt", {"layers": blocks}, recipe="net")
    expected = load_file("large.safetensors")
    for n, block in enumerate(filled["layers"]):
        for name, array in block.items():
            np.testing.assert_array_equal(array, expected[f"['layers'][{n}]['{name}']"])
    with pytest.raises(InputError, match="Give a recipe file"):
        convert_tree("large.pt", {"layers": blocks}, recipe="nothing")
    with pytest.raises(AlignmentError, match="doubtful"):
        convert_tree("large.pt", {"layers": blocks})
