"""Nothing that is still needed is ever replaced."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from s2p_tui.alignment.edits import OpenGap
from s2p_tui.cli import run
from s2p_tui.cli.demo import Pair
from s2p_tui.session.session import Session
from tests.models.linears import make_pair


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return make_pair(tmp_path)


def _convert(pair: Pair, *options: str) -> int:
    return run(["convert", str(pair.model), str(pair.skeleton), *options])


def _contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.mark.parametrize("victim", ["model.pt", "model_skeleton.eqx", "link.pt"])
@pytest.mark.parametrize("option", ["-o", "--save-mapping"])
def test_sources_are_never_replaced(
    pair: Pair, victim: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pair.model.parent
    (folder / "link.pt").symlink_to(pair.model)
    before = _contents(folder)
    name = str(folder / victim)
    options = ["-o", name] if option == "-o" else ["-o", str(pair.output), option, name]
    assert _convert(pair, "--arrange", "order", "--trust-all", *options) == 5
    assert "that this conversion reads or writes" in capsys.readouterr().err
    assert _contents(folder) == before


def test_output_and_mapping_are_never_one_file(pair: Pair) -> None:
    out, mapping = str(pair.output), str(pair.model.parent / "m.json")
    assert (
        _convert(pair, "--arrange", "order", "--trust-all", "-o", out, "--save-mapping", out) == 5
    )
    assert not pair.output.exists()
    assert (
        _convert(pair, "--arrange", "order", "--trust-all", "-o", out, "--save-mapping", mapping)
        == 0
    )
    text = Path(mapping).read_text()
    assert _convert(pair, "--mapping", mapping, "-o", mapping) == 5
    assert Path(mapping).read_text() == text


def test_a_mapping_of_another_session_is_kept_aside(pair: Pair) -> None:
    mapping = pair.model.parent / "m.json"
    first = Session.open(pair.model, pair.skeleton)
    first.edit(OpenGap(0))
    first.save_mapping(mapping)
    kept = mapping.read_text()
    second = Session.open(pair.model, pair.skeleton)
    second.save_mapping(mapping)
    assert mapping.with_name("m.json~").read_text() == kept
    second.edit(OpenGap(1))
    second.save_mapping(mapping)
    assert mapping.with_name("m.json~").read_text() == kept

    third = Session.open(pair.model, pair.skeleton, mapping=mapping)
    third.edit(OpenGap(2))
    third.save_mapping(mapping)
    assert mapping.with_name("m.json~").read_text() == kept
    assert len(json.loads(mapping.read_text())["rows"]) == 6

    last = mapping.read_text()
    fourth = Session.open(pair.model, pair.skeleton)
    assert fourth.save_mapping(mapping) == mapping.with_name("m.json~2")
    assert mapping.with_name("m.json~2").read_text() == last
    assert mapping.with_name("m.json~").read_text() == kept


@pytest.mark.parametrize("name", [".", "/", "..", "folder", "folder/"])
def test_folders_are_no_outputs(pair: Pair, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pair.model.parent)
    (pair.model.parent / "folder").mkdir()
    before = sorted(pair.model.parent.iterdir())
    assert _convert(pair, "--arrange", "order", "--trust-all", "-o", name) == 5
    assert sorted(pair.model.parent.iterdir()) == before


def test_a_pipe_is_no_output(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = pair.model.parent / "pipe.eqx"
    os.mkfifo(pipe)
    assert _convert(pair, "--arrange", "order", "--trust-all", "-o", str(pipe)) == 5
    assert "is a device or pipe" in capsys.readouterr().err
    assert pipe.is_fifo()
