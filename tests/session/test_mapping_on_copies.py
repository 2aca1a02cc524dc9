"""A mapping on copies of the files it was made for: names and shapes of what it uses decide."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from s2p_tui.cli import run
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.session.opening import load_mapping
from s2p_tui.session.session import Session

State = dict[str, torch.Tensor]
MODEL: State = {
    "stem.weight": torch.arange(12.0).reshape(3, 4),
    "stem.bias": torch.tensor([1.0, 2.0, 3.0]),
    "square": torch.arange(9.0).reshape(3, 3),
    "head.scale": torch.tensor([1, 2, 3]),
    "left.over": torch.ones(7),
    "stem.inv_freq": torch.ones(5),
}
TREE = {
    "stem": {"weight": np.zeros((3, 4), np.float32), "bias": np.zeros(3, np.float32)},
    "square": np.zeros((3, 3), np.float32),
    "head": {"scale": np.zeros(3, np.float32)},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pair and its mapping, with a doubtful row and an unused entry that the user accepted."""
    monkeypatch.chdir(tmp_path)
    torch.save(MODEL, "model.pt")
    save_skeleton("skeleton.eqx", TREE)
    arguments = ["--trust-all", "--allow-unused", "left.over", "--save-mapping", "m.json"]
    assert run(["convert", "model.pt", "skeleton.eqx", "-o", "out.safetensors", *arguments]) == 0
    return tmp_path


def converted(
    change: Callable[[State], State], capsys: pytest.CaptureFixture[str], *more: str
) -> tuple[int, dict[str, Any]]:
    """The status and the result of following the mapping on a changed copy."""
    torch.save(change(dict(MODEL)), "copy.pt")
    capsys.readouterr()
    paths = ["copy.pt", "skeleton.eqx", "-o", "copy.safetensors", "--mapping", "m.json"]
    status = run(["convert", *paths, "--json", *more])
    return status, json.loads(capsys.readouterr().out)


def halved(state: State) -> State:
    return {k: v.bfloat16() if v.is_floating_point() else v for k, v in state.items()}


@pytest.mark.usefixtures("folder")
def test_it_replays_on_the_bfloat16_copy(capsys: pytest.CaptureFixture[str]) -> None:
    status, result = converted(halved, capsys)
    assert status == 0
    assert result["notes"] == [
        "3 entries are bfloat16, float32 in the mapping: stem.weight, stem.bias, square"
    ]
    assert result["doubtful"] != []
    found, wanted = load_file("copy.safetensors"), load_file("out.safetensors")
    assert {name: array.tolist() for name, array in found.items()} == {
        name: array.tolist() for name, array in wanted.items()
    }


@pytest.mark.usefixtures("folder")
def test_it_replays_on_a_skeleton_of_another_dtype(capsys: pytest.CaptureFixture[str]) -> None:
    halves = {"stem": TREE["stem"], "square": np.zeros((3, 3), np.float16), "head": TREE["head"]}
    save_skeleton("skeleton.eqx", halves)
    status, result = converted(dict, capsys)
    assert status == 0
    assert result["notes"] == ["1 leaf is float16, float32 in the mapping: ['square']"]
    assert load_file("copy.safetensors")["['square']"].dtype == np.float16


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("key", ["stem.inv_freq", "left.over"])
def test_unused_entries_may_be_fewer(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, result = converted(lambda s: {k: v for k, v in s.items() if k != key}, capsys)
    assert status == 0
    assert result["notes"] == [f"1 unused entry of the mapping is not here: {key}"]


@pytest.mark.usefixtures("folder")
def test_another_order_of_entries_is_the_same_checkpoint(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, result = converted(lambda s: dict(reversed(s.items())), capsys)
    assert (status, result["notes"]) == (0, [])


@pytest.mark.usefixtures("folder")
def test_a_new_entry_that_nothing_explains_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    more = {"head.bias": torch.zeros(3), "head.inv_freq": torch.zeros(3)}
    status, result = converted(lambda state: state | more, capsys)
    assert status == 3
    assert [one["key"] for one in result["unused"] if one["blocks"]] == ["head.bias"]
    assert result["notes"] == ["2 entries are not in the mapping: head.bias, head.inv_freq"]
    status, _ = converted(lambda state: state | more, capsys, "--allow-unused", "head.bias")
    assert status == 0


@pytest.mark.usefixtures("folder")
def test_what_was_accepted_as_unused_is_not_where_its_shape_differs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, result = converted(lambda state: state | {"left.over": torch.ones(9)}, capsys)
    assert status == 3
    assert [one["key"] for one in result["unused"] if one["blocks"]] == ["left.over"]
    assert result["notes"] == ["1 unused entry has another shape: left.over"]


@pytest.mark.usefixtures("folder")
def test_trust_lapses_where_the_numbers_are_of_another_kind(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shorter = MODEL["head.scale"].to(torch.int32)
    status, result = converted(lambda state: state | {"head.scale": shorter}, capsys)
    assert status == 3
    assert result["error"].startswith("1 of 4 rows does not line up.")
    session = Session.open("copy.pt", "skeleton.eqx", mapping="m.json")
    rows = {row.keys: row.trusted for row in session.alignment.rows}
    assert not rows["head.scale",]
    session.close()
    own = Session.open("model.pt", "skeleton.eqx", mapping="m.json")
    assert {row.keys: row.trusted for row in own.alignment.rows}["head.scale",]
    own.close()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda s: s | {"square": torch.ones(5, 5)}, "square: made for 3×3, this one is 5×5"),
        (lambda s: s | {"stem.weight": torch.ones(4, 3)}, "made for 3×4, this one is 4×3"),
        (lambda s: {k: v for k, v in s.items() if k != "square"}, "its source square is not in"),
    ],
)
def test_other_shapes_and_missing_sources_are_refused(
    change: Callable[[State], State], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, result = converted(change, capsys)
    assert status == 4
    assert why in result["error"]
    assert "For another depth or width make a recipe" in result["error"]


@pytest.mark.usefixtures("folder")
def test_both_ends_wider_are_another_pair(capsys: pytest.CaptureFixture[str]) -> None:
    save_skeleton("skeleton.eqx", TREE | {"square": np.zeros((5, 5), np.float32)})
    status, result = converted(lambda state: state | {"square": torch.ones(5, 5)}, capsys)
    assert status == 4
    assert "['square']: made for 3×3, this one is 5×5" in result["error"]


@pytest.mark.usefixtures("folder")
def test_a_mapping_that_names_no_shapes_belongs_to_its_own_files_alone() -> None:
    data = json.loads(Path("m.json").read_text())
    del data["entries"], data["leaves"]
    Path("old.json").write_text(json.dumps(data))
    assert load_mapping("old.json").rows == load_mapping("m.json").rows
    torch.save(halved(dict(MODEL)), "copy.pt")
    ends = ["skeleton.eqx", "-o", "old.eqx", "--mapping", "old.json"]
    assert run(["convert", "model.pt", *ends]) == 0
    assert run(["convert", "copy.pt", *ends]) == 4
