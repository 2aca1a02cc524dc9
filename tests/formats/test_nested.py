"""State dicts inside training checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from s2p_tui.errors import AmbiguousStateDictError, InputError
from s2p_tui.formats.registry import open_checkpoint
from tests.helpers.files import SAVE, assert_holds

STATE = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(3)}
OTHER = {"w": torch.ones(2, 3)}


def trained() -> dict[str, Any]:
    """What a training script saves: the optimizer holds tensors too."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer)
    return {
        "model": STATE,
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "epoch": 3,
        "args": {"lr": 0.1},
    }


FOUND: list[tuple[str, Any]] = [
    ("model", {"model": STATE, "epoch": 3}),
    ("state_dict", {"state_dict": STATE, "hyper_parameters": {"w": torch.ones(1)}}),
    ("model", {"model": STATE, "optimizer": {"momentum": torch.ones(2)}}),
    ("a.b.c", {"a": {"b": {"c": STATE}}}),
    ("", {**STATE, "epoch": 3}),
    ("", {**STATE, "extra": {"deep": torch.ones(1)}}),
]


@pytest.mark.parametrize("form", SAVE)
@pytest.mark.parametrize(("place", "value"), FOUND)
def test_the_state_dict_is_found(tmp_path: Path, form: str, place: str, value: Any) -> None:
    checkpoint = open_checkpoint(SAVE[form](value, tmp_path / "model.pt"))
    assert checkpoint.key == place
    assert_holds(checkpoint, STATE)


@pytest.mark.parametrize("form", SAVE)
def test_an_optimizer_is_not_taken_for_the_model(tmp_path: Path, form: str) -> None:
    checkpoint = open_checkpoint(SAVE[form](trained(), tmp_path / "model.pt"))
    assert checkpoint.key == "model"
    assert_holds(checkpoint, STATE)


@pytest.mark.parametrize("form", SAVE)
def test_several_state_dicts_are_a_question(tmp_path: Path, form: str) -> None:
    path = SAVE[form]({"model": STATE, "ema": OTHER, "epoch": 3}, tmp_path / "model.pt")
    with pytest.raises(AmbiguousStateDictError, match="several state dicts") as caught:
        open_checkpoint(path)
    assert caught.value.choices == (("model", 2), ("ema", 1))
    assert caught.value.hint == "Choose one of them: 'model', 'ema'."
    assert_holds(open_checkpoint(path, "model"), STATE)
    assert_holds(open_checkpoint(path, "ema"), OTHER)
    assert open_checkpoint(path, "ema").key == "ema"


def test_a_wrong_key_is_refused_with_the_right_ones(tmp_path: Path) -> None:
    path = SAVE["zip"]({"model": STATE, "ema": OTHER}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"no state dict at 'mode'") as caught:
        open_checkpoint(path, "mode")
    assert caught.value.hint == "Choose one of them: model (2 items), ema (1 items)."


def test_even_an_unlikely_place_can_be_asked_for(tmp_path: Path) -> None:
    path = SAVE["zip"](trained(), tmp_path / "model.pt")
    checkpoint = open_checkpoint(path, "optimizer.state.0")
    assert {entry.key for entry in checkpoint.state_dict} == {"step", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize(
    "value", [{}, {"epoch": 3}, [torch.ones(2)], 3, torch.ones(2), {1: STATE["w"]}]
)
def test_no_state_dict_at_all(tmp_path: Path, value: Any) -> None:
    path = SAVE["zip"](value, tmp_path / "model.pt")
    with pytest.raises(InputError, match="holds no state dict"):
        open_checkpoint(path)


def test_a_state_dict_saved_twice_under_two_names_is_one(tmp_path: Path) -> None:
    path = SAVE["zip"]({"model": STATE, "state_dict": STATE}, tmp_path / "model.pt")
    assert_holds(open_checkpoint(path), STATE)


def test_a_state_dict_that_holds_itself(tmp_path: Path) -> None:
    value: dict[str, Any] = {"model": dict(STATE)}
    value["model"]["parent"] = value
    assert open_checkpoint(SAVE["zip"](value, tmp_path / "model.pt")).key == "model"
