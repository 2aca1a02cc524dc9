"""What the program leaves alone: the network, accelerators, the key, other people's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s2p_tui.cli.demo import make_pair
from tests.helpers.watched import CANARY, watched

pytestmark = pytest.mark.slow("runs every command in a program of its own")
FACTORIES = """
from s2p_tui.cli.demo import EqxNet, TorchNet
def torch_net():
    return TorchNet()
def eqx_net(key):
    return EqxNet(key=key)
"""


def every_command(folder: Path) -> list[list[str]]:
    pair = make_pair(folder)
    code = folder / "made.py"
    code.write_text(FACTORIES)
    model, skeleton, out = str(pair.model), str(pair.skeleton), str(pair.output)
    mapping, report = str(folder / "m.json"), str(folder / "r.json")
    return [
        ["convert", model, skeleton, "-o", out, "--save-mapping", mapping, "--report", report],
        ["convert", model, skeleton, "-o", out, "--mapping", mapping, "--json"],
        ["convert", model, "missing", "-o", out],
        ["verify", out, "--model", model, "--skeleton", skeleton, "--mapping", mapping],
        ["export", out, "--skeleton", skeleton, "--mapping", mapping, "--checkpoint", model, "-o",
         str(folder / "back.pt")],
        *(["inspect", file] for file in (model, skeleton, out, mapping)),
        ["chunk", model, str(folder / "chunks")],
        ["skeleton", f"{code}:eqx_net", "-o", str(folder / "s.eqx")],
        ["check", "--torch", f"{code}:torch_net", "--jax", f"{code}:eqx_net", "--mapping", mapping,
         "--shape", "3x16x16"],
        ["demo", "--headless", "--directory", str(folder / "demo")],
        ["--help"],
    ]  # fmt: skip


@pytest.fixture(scope="module")
def afterwards(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    folder = tmp_path_factory.mktemp("manners")
    return *watched(folder, every_command(folder)), folder


Afterwards = tuple[dict[str, Any], str, Path]


def test_every_command_did_its_work(afterwards: Afterwards) -> None:
    assert afterwards[0]["statuses"] == [0, 0, 4, *[0] * 11]


def test_no_command_uses_the_network(afterwards: Afterwards) -> None:
    assert afterwards[0]["network"] == []


def test_no_accelerator_is_touched(afterwards: Afterwards) -> None:
    found = afterwards[0]
    assert found["devices"] == []
    assert found["backends"] == ["cpu"]
    assert found["platforms"] == "cpu"
    assert {name for name in found["environment"] if name.startswith(("XLA", "CUDA"))} == set()


def test_the_key_is_nowhere(afterwards: Afterwards) -> None:
    _, printed, folder = afterwards
    assert CANARY not in printed
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 15
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []


def test_the_watch_sees_what_it_looks_for(tmp_path: Path) -> None:
    found, _ = watched(
        tmp_path,
        [
            ["raw", "import socket; socket.create_connection(('127.0.0.1', 9), 0.1)"],
            ["raw", "open('/dev/nvidiactl')"],
        ],
    )
    assert "socket.connect" in str(found["network"])
    assert found["devices"] == ["/dev/nvidiactl"]
