"""Entries that no leaf takes, on the command line: refused, accepted by what the message says."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import jax.numpy as jnp
import pytest
import torch

import s2p_tui
from s2p_tui.cli import run


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """A checkpoint with layer scales, a pooler and odd names that the model lacks."""
    state = {"fc.weight": torch.ones(2, 3), "fc.bias": torch.ones(2)}
    state |= {f"blocks.{n}.ls1.gamma": torch.ones(4) for n in range(12)}
    state |= {f"blocks.{n}.w": torch.full((6,), n) * 0.5 for n in range(12)}
    state |= {f"pooler.dense.{name}": torch.ones(3) for name in ("weight", "bias")}
    state |= {"it's [odd]*": torch.ones(5), "num_batches_tracked": torch.tensor(3)}
    torch.save(state, tmp_path / "m.pt")
    blocks = [{"w": jnp.zeros(6)} for _ in range(12)]
    tree = {"fc": {"weight": jnp.zeros((2, 3)), "bias": jnp.zeros(2)}, "blocks": blocks}
    s2p_tui.save_skeleton(tmp_path / "s.eqx", tree)
    return [
        "convert",
        str(tmp_path / "m.pt"),
        str(tmp_path / "s.eqx"),
        "-o",
        str(tmp_path / "o.eqx"),
    ]


def test_the_patterns_of_the_message_can_be_pasted(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, "--trust-all"]) == 3
    err = capsys.readouterr().err
    assert "15 unused entries." in err
    assert "  blocks.{0…11}.ls1.gamma: 12 entries: no leaf takes it\n" in err
    assert "  pooler.*: 2 entries: no leaf takes it\n" in err
    assert "num_batches_tracked" not in err
    assert "--allow-unused 'blocks.*.ls1.gamma' --allow-unused 'pooler.*' --allow" in err
    pasted = shlex.split(err.partition("does not need: ")[2].splitlines()[0])
    assert len(pasted) == 6
    assert run([*arguments, *pasted[:4]]) == 3
    assert not (tmp_path / "o.eqx").exists()
    assert run([*arguments, *pasted]) == 0
    out = capsys.readouterr().out
    assert "unused entries: 16 (accepted as unused: blocks.{0…11}.ls1.gamma," in out
    assert "a counter: num_batches_tracked" in out


def test_a_mapping_records_them_and_one_of_an_earlier_version_accepts_nothing(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mapping = tmp_path / "m.json"
    assert run([*arguments, "--allow-unused", "*", "--save-mapping", str(mapping)]) == 0
    follow = [*arguments, "--mapping", str(mapping)]
    assert run(follow) == 0
    verify = ["verify", str(tmp_path / "o.eqx"), "--checkpoint", arguments[1]]
    verify += ["--skeleton", arguments[2], "--mapping", str(mapping)]
    assert run(verify) == 0
    content = json.loads(mapping.read_text())
    assert len(content.pop("accepted")) == 15
    mapping.write_text(json.dumps(content))
    capsys.readouterr()
    assert run(follow) == 3
    assert "--allow-unused 'blocks.*.ls1.gamma'" in capsys.readouterr().err
    assert run(verify) == 3
    assert run([*follow, "--allow-unused", "*"]) == 0


def test_json_lists_all_of_them(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for options, status, blocks in (([], 3, True), (["--allow-unused", "blocks.*"], 3, False)):
        assert run([*arguments, "--json", *options]) == status
        unused = {one["key"]: one for one in json.loads(capsys.readouterr().out)["unused"]}
        assert len(unused) == 16
        assert unused["num_batches_tracked"]["why"] == "a counter"
        assert not unused["num_batches_tracked"]["blocks"]
        assert unused["blocks.3.ls1.gamma"]["blocks"] == blocks
        assert unused["pooler.dense.bias"] == {
            "key": "pooler.dense.bias",
            "why": "no leaf takes it",
            "blocks": True,
        }
