"""Errors as a user meets them: the thing, its problem, expected against got, and a way out that
works, in one line and with the right exit status.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from s2p_tui.cli import run
from s2p_tui.converter import convert_tree
from s2p_tui.errors import AlignmentError, S2PError, SettingsError, one_line
from s2p_tui.formats.atomic import output_error
from s2p_tui.formats.pytree.skeleton import save_skeleton

PAIR = ["model.pt", "skeleton.eqx"]
ENDS = ["--checkpoint", "model.pt", "--skeleton", "skeleton.eqx", "--mapping", "m.json"]
CODE = """
def broken():
    raise ValueError("no weights here")
def number():
    return 7
"""
# What a traceback says, and no sentence of ours.
_PYTHON = re.compile(
    r"Traceback|NoneType|Errno|\bself\b|object at 0x|\bassert|\b(?:S2P|Input|Output|Usage)Error"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pair that converts, and files that are wrong in one way each."""
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.ones(2, 3)}, "model.pt")
    torch.save({"w": torch.ones(2, 4)}, "other.pt")
    torch.save({"step": 3}, "none.pt")
    save_skeleton("skeleton.eqx", {"w": np.zeros((2, 3), np.float32)})
    Path("net.py").write_text(CODE)
    Path("empty.pt").touch()
    Path("text.pt").write_text("hello, this is text")
    Path("cut.safetensors").write_bytes((100).to_bytes(8, "little") + b"{}")
    Path("cut.eqx").write_bytes(Path("skeleton.eqx").read_bytes()[:-5])
    Path("cut.pt").write_bytes(Path("model.pt").read_bytes()[:300])
    Path("pickled.pt").write_bytes(pickle.dumps({"a": print}))
    Path("bad.json").write_text('{"format": "s2p-mapping", "version": 99}')
    shards = {"weight_map": {"w": "missing.safetensors"}}
    Path("set.safetensors.index.json").write_text(json.dumps(shards))
    Path("folder").mkdir()
    assert run(["convert", *PAIR, "-o", "out.eqx", "--save-mapping", "m.json"]) == 0
    Path("wrong.eqx").write_bytes(Path("out.eqx").read_bytes()[:-1] + b"\x07")
    return tmp_path


CASES: list[tuple[int, str, list[str]]] = [
    (4, "inspect missing.pt", ["missing.pt does not exist.", "Check the path"]),
    (4, "inspect empty.pt", ["empty.pt is empty.", "Copy or download it again."]),
    (4, "inspect text.pt", ["text.pt is a text, no checkpoint", "Give a torch.save file"]),
    (4, "inspect cut.safetensors", ["header claims 100 bytes of 10", "Copy or download"]),
    (4, "inspect pickled.pt", ["names builtins.print", "Nothing in it was run.", "Save model."]),
    (4, "inspect cut.pt", ["cut.pt is a damaged zip archive", "Copy or download it again."]),
    (4, "inspect folder", ["folder is a folder without a checkpoint", "Pass a checkpoint file"]),
    (4, "inspect set.safetensors.index.json", ["missing.safetensors is missing", "whole set"]),
    (4, "inspect none.pt", ["none.pt holds no state dict", "Save model.state_dict()"]),
    (4, "inspect cut.eqx", ["record 0 claims 24 bytes of data, 19 are left", "copy it again"]),
    (4, "inspect bad.json", ["it is of version 99, this reads 1", "Give a mapping file"]),
    (4, "convert model.pt missing.eqx", ["missing.eqx does not exist.", "Check the path"]),
    (4, "convert other.pt skeleton.eqx",
     ["skeleton.eqx describes another model than other.pt holds", "of one model"]),
    (4, "convert other.pt skeleton.eqx --mapping m.json",
     ["expected 2×3, its source gives 2×4", "Use the files it names"]),
    (5, "convert model.pt skeleton.eqx -o folder",
     ["folder is a folder, a file was expected.", "Give the name of a file in it."]),
    (5, "convert model.pt skeleton.eqx -o nowhere/out.eqx",
     ["nowhere/out.eqx cannot be written: its folder does not exist", "Create the folder"]),
    (5, "convert model.pt skeleton.eqx -o model.pt",
     ["model.pt would overwrite a file that this", "Choose another name."]),
    (2, "convert model.pt skeleton.eqx -o out.npz",
     ["out.npz ends in .npz, a format that is not written here.", ".eqx, .safetensors or .orbax"]),
    (5, "convert model.pt skeleton.eqx -o new.eqx --save-mapping nowhere/m.json",
     ["nowhere/m.json cannot be written", "Create the folder first."]),
    (2, "convert model.pt skeleton.eqx -o new.eqx --trust .x",
     ["These rows are not doubtful: .x.", "there are none"]),
    (2, "convert model.pt skeleton.eqx --mapping m.json --arrange order",
     ["--mapping and --arrange both say", "Give one of them."]),
    (2, "convert model.pt skeleton.eqx --yes",
     ["--claude-model and --yes go with --arrange claude", "or leave them out"]),
    (4, "convert model.pt net.py:broken",
     ["net.py:broken raised ValueError: no weights here.", "Call it yourself"]),
    (2, "convert model.pt net.py:nothing", ["net.py has no 'nothing'.", "Check the name."]),
    (2, "convert model.pt nomodule:x", ["nomodule cannot be imported", "importable from here"]),
    (2, "skeleton net.py:broken --kwargs [1]", ["a JSON object was expected", "--kwargs '{"]),
    (2, "skeleton net.py:broken --kwargs {", ["--kwargs is not JSON", "Quote it"]),
    (5, f"verify wrong.eqx {' '.join(ENDS)}",
     ["wrong.eqx does not match the alignment: ['w'] differs", "--checkpoint, --key"]),
    (4, f"verify missing.eqx {' '.join(ENDS)}", ["missing.eqx does not exist", "Give the file"]),
    (2, "check --torch net.py:number --jax net.py:number", ["Neither --shape nor", "3x32x32"]),
    (2, "check --torch net.py:number --jax net.py:number --shape 3xx",
     ["--shape 3xx is not a shape", "3x32x32"]),
    (4, "check --torch net.py:number --jax net.py:number --shape 3",
     ["net.py:number made a int, a torch.nn.Module was expected", "Give the factory"]),
    (2, "check --torch a:b --jax a:b --shape 3 --key x",
     ["no checkpoint is given", "--checkpoint, or leave --key out"]),
    (2, "chunk m.json chunks", ["m.json is a mapping file", "Give a checkpoint or a skeleton."]),
    (5, "chunk model.pt text.pt", ["text.pt cannot be written", "Choose another folder"]),
    (2, "model.pt skeleton.eqx", ["standard input is not one", "Use s2p-tui convert"]),
    (2, "model.pt skeleton.eqx --resume --fresh", ["contradict each other", "Give one of them."]),
    (2, "", ["A checkpoint and a skeleton are needed", "s2p-tui demo"]),
    (2, "convert model.pt", ["SKELETON requires an argument", "convert --help"]),
    (2, "convert model.pt skeleton.eqx --jobs 99", ["99", "Must be <= 64", "convert --help"]),
]  # fmt: skip


@pytest.mark.parametrize(("status", "arguments", "told"), CASES, ids=[case[1] for case in CASES])
@pytest.mark.usefixtures("folder")
def test_one_line_says_what_is_wrong_and_what_to_do(
    status: int, arguments: str, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run(arguments.split()) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    line = captured.err.removesuffix("\n")
    assert line.startswith("s2p-tui: ")
    assert "\n" not in line
    assert line.endswith(".")
    assert not _PYTHON.search(line)
    assert [part for part in told if part not in line] == [], line
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == before


@pytest.mark.usefixtures("folder")
def test_all_rows_that_block_are_listed_with_expected_and_got(
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.save({f"e{n}": torch.ones(n + 2) for n in range(30)}, "many.pt")
    save_skeleton("many.eqx", {f"l{n:02}": np.zeros(n + 3, np.float32) for n in range(30)})
    assert run(["convert", "many.pt", "many.eqx", "--arrange", "order"]) == 3
    first, *rows, last = capsys.readouterr().err.splitlines()
    assert first.startswith("s2p-tui: 30 of 30 rows do not line up. ")
    assert len(rows) == 20
    assert "['l00']: e0: expected 3" in rows[0]
    assert "got 2" in rows[0]
    assert last == "  and 10 more"


# --- the way out works ---


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        (["convert", "skeleton.eqx", "model.pt"], ["convert", "model.pt", "skeleton.eqx"]),
        (["inspect", "model.safetensors", "--key", "x"], ["inspect", "model.safetensors"]),
        (["convert", "two.pt", "skeleton.eqx"],
         ["convert", "two.pt", "skeleton.eqx", "--key", "a"]),
        (["chunk", "model.pt", "chunks"], ["chunk", "model.pt", "chunks", "--overwrite"]),
        (["convert", *PAIR, "--certificate", "c.json", "--no-verify"],
         ["convert", *PAIR, "--certificate", "c.json"]),
        (["convert", "fp8.pt", "fp8.eqx"], ["convert", "fp8.pt", "fp8.eqx", "-o", "a.safetensors"]),
        (["convert", "fp8.pt", "fp8.eqx", "-o", "b.eqx"],
         ["convert", "fp8.pt", "fp8.eqx", "-o", "b.eqx", "--dtype", "bfloat16"]),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("folder")
def test_the_way_out_works(
    wrong: list[str], right: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import save_file

    weights = {"w": torch.ones(2, 3)}
    save_file(weights, "model.safetensors")
    torch.save({"a": weights, "b": {"w": torch.zeros(2, 3)}}, "two.pt")
    torch.save({"w": torch.zeros(3).to(torch.float8_e4m3fn)}, "fp8.pt")
    import ml_dtypes

    save_skeleton("fp8.eqx", {"w": np.zeros(3, ml_dtypes.float8_e4m3fn)})
    assert run(["chunk", "model.pt", "chunks"]) == 0
    assert run(wrong) > 1
    assert run(right) == 0, capsys.readouterr().err


def test_trusting_the_rows_that_are_listed_works() -> None:
    state = {"x": torch.ones(2, 2), "y": torch.zeros(2, 2)}
    tree = {"a": np.zeros((2, 2), np.float32), "b": np.zeros((2, 2), np.float32)}
    with pytest.raises(AlignmentError, match=r"trust=\[") as caught:
        convert_tree(state, tree, arrange="order")
    listed = [path for path, _ in caught.value.problems]
    filled = convert_tree(state, tree, arrange="order", trust=listed)
    assert float(filled["a"].sum()) == 4.0


def test_each_error_of_the_operating_system_has_a_way_out(tmp_path: Path) -> None:
    for number in errno.errorcode:
        error = output_error(OSError(number, os.strerror(number)), tmp_path)
        assert str(tmp_path) in error.message
        assert error.message.endswith(".")
        assert error.hint.endswith(".")


# --- the errors themselves ---


def _kinds(kind: type[S2PError]) -> list[type[S2PError]]:
    return [kind, *(found for below in kind.__subclasses__() for found in _kinds(below))]


def test_help_shows_every_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    told = capsys.readouterr().out.partition("Exit status:")[2]
    for status in {kind.exit_code for kind in _kinds(S2PError)} | {0, 6, 130}:
        assert re.search(rf"^  {status} ", told, re.MULTILINE), status


def test_text_from_files_cannot_steer_a_terminal_or_flood_it() -> None:
    error = AlignmentError("\x1b[2J is wrong.", [("\u202ew", "a\nb")], "x" * 10_000)
    assert "\x1b" not in str(error)
    assert "\u202e" not in str(error)
    assert str(error).count("\n") == 2
    assert len(error.hint) < 2100
    assert one_line("a\tb", 10) == "a\\tb"
    assert SettingsError("It is wrong.", [("1", "no")]).exit_code == 2
