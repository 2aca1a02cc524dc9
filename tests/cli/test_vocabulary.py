"""Tables of other vocabularies: rows left out or made up, trusted, converted and brought back."""

from __future__ import annotations

from pathlib import Path

import equinox as eqx
import jax
import pytest
import torch
from torch import nn

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.choices import choices
from s2p_tui.alignment.edits import SetRows
from s2p_tui.cli import run
from s2p_tui.session.session import Session

MODELS = """
import equinox as eqx

class Net(eqx.Module):
    table: eqx.nn.Embedding
    scale: eqx.nn.LayerNorm

    def __init__(self, rows, *, key):
        self.table = eqx.nn.Embedding(rows, 4, key=key)
        self.scale = eqx.nn.LayerNorm(4)
"""


class Torch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.scale = nn.Embedding(10, 4), nn.LayerNorm(4)


def _converted(rows: int, folder: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Convert ten rows into a table of another size; the checkpoint, and options of `export`."""
    (folder / "vocabulary.py").write_text(MODELS)
    factory = f"{folder / 'vocabulary.py'}:Net"
    skeleton, mapping = folder / "skeleton.eqx", folder / "m.json"
    assert run(["skeleton", factory, "--kwargs", f'{{"rows": {rows}}}', "-o", str(skeleton)]) == 0
    weights = Torch().state_dict()
    torch.save(weights, folder / "model.pt")
    session = Session.open(folder / "model.pt", skeleton)
    (choice,) = choices(
        session.target.skeleton[0], ("table.weight",), session.checkpoint.state_dict
    )
    session.edit(SetRows(((0, Row(choice.expr, by="user")),)))
    session.save_mapping(mapping)
    session.close()
    convert = ["convert", str(folder / "model.pt"), str(skeleton), "--mapping", str(mapping)]
    convert += ["-o", str(folder / "model.eqx")]
    # Doubtful until somebody trusts it.
    assert run(convert) == 3
    assert run([*convert, "--trust", ".table.weight"]) == 0
    options = [str(folder / "model.eqx"), "--skeleton", str(skeleton), "--mapping", str(mapping)]
    return weights, [*options, "--trust", ".table.weight", "-o", str(folder / "back.pt")]


def _model(folder: Path) -> tuple[eqx.nn.Embedding, eqx.nn.LayerNorm]:
    """The converted model of twelve rows, as its two layers."""
    like = eqx.nn.Embedding(12, 4, key=jax.random.PRNGKey(0)), eqx.nn.LayerNorm(4)
    return eqx.tree_deserialise_leaves(folder / "model.eqx", like)


def test_rows_of_zeros_are_made_up_and_left_out_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, export = _converted(12, tmp_path)
    table = _model(tmp_path)[0].weight
    assert torch.equal(torch.tensor(table.tolist())[:10], weights["table.weight"])
    assert not table[10:].any()
    assert "its last rows are made up" in capsys.readouterr().err
    assert run(["export", *export]) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert {key: torch.equal(back[key], weights[key]) for key in weights} == dict.fromkeys(
        weights, True
    )


def test_made_up_rows_that_were_trained_do_not_get_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, export = _converted(12, tmp_path)
    model = _model(tmp_path)
    trained = eqx.tree_at(lambda tree: tree[0].weight, model, model[0].weight.at[11, 2].set(0.5))
    eqx.tree_serialise_leaves(tmp_path / "model.eqx", trained)
    assert run(["export", *export]) == 3
    assert ".table.weight" in capsys.readouterr().err
    assert not (tmp_path / "back.pt").exists()


def test_rows_that_were_left_out_come_back_from_the_original(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, export = _converted(8, tmp_path)
    assert "no row takes the rest of table.weight" in capsys.readouterr().err
    assert run(["export", *export]) == 0
    assert "missing: table.weight" in capsys.readouterr().out
    assert "table.weight" not in torch.load(tmp_path / "back.pt", weights_only=True)
    (tmp_path / "back.pt").unlink()
    assert run(["export", *export, "--checkpoint", str(tmp_path / "model.pt")]) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert torch.equal(back["table.weight"], weights["table.weight"])
