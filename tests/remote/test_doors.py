"""Addresses at every door: the commands, the calls from Python, the app; and what stays secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from textual.pilot import Pilot

import s2p_tui
from s2p_tui.app.screens.main import Workspace
from s2p_tui.app.start import S2PApp
from s2p_tui.cli import run
from s2p_tui.cli.demo import Pair, make_pair
from s2p_tui.conversion.output_names import default_output
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.formats.remote.address import is_address, name_of, shown
from s2p_tui.session.session import Session
from tests.helpers.orbax_pair import arrays_in
from tests.helpers.running_app import until
from tests.helpers.watched import watched
from tests.helpers.web_server import WebServer

SECRET = "hunter2"


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return make_pair(tmp_path)


def address_of(server: WebServer, pair: Pair) -> str:
    """With a login and a signature, both secret."""
    url = server.url.replace("//", f"//user-{SECRET}:password-{SECRET}@")
    return f"{url}/{pair.model.name}?signature={SECRET}&x=a//b"


@pytest.mark.slow("runs every command")
def test_every_command_takes_an_address_and_keeps_it_secret(
    tmp_path: Path,
    server: WebServer,
    pair: Pair,
    state_home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = address_of(server, pair)
    out, mapping = tmp_path / "far.eqx", tmp_path / "far.json"
    monkeypatch.chdir(tmp_path)
    ends = [address, str(pair.skeleton)]
    certificate = str(tmp_path / "c.json")
    convert = ["convert", *ends, "-o", str(out), "--save-mapping", str(mapping)]
    assert run([*convert, "--certificate", certificate]) == 0
    assert run(["convert", str(pair.model), str(pair.skeleton), "-o", "here.eqx"]) == 0
    assert out.read_bytes() == Path("here.eqx").read_bytes()
    assert run(["convert", *ends, "-o", "again.eqx", "--mapping", str(mapping), "--json"]) == 0
    # One mapping file is for both.
    here = ["convert", str(pair.model), str(pair.skeleton), "-o", "here2.eqx"]
    assert run([*here, "--mapping", str(mapping)]) == 0
    verify = ["verify", str(out), "--checkpoint", address, "--skeleton", str(pair.skeleton)]
    assert run([*verify, "--mapping", str(mapping)]) == 0
    assert run(["inspect", address, "--json"]) == 0
    assert run(["inspect", address]) == 0
    assert run(["chunk", address, "chunks"]) == 0
    assert run(["convert", "chunks", str(pair.skeleton), "-o", "here3.eqx"]) == 0
    assert out.read_bytes() == Path("here3.eqx").read_bytes()
    (tmp_path / pair.model.name).rename(tmp_path / "gone")
    assert run(["convert", *ends]) == 4
    printed = capsys.readouterr()
    assert SECRET not in printed.out + printed.err
    written = [*tmp_path.rglob("*"), *state_home.rglob("*")]
    files = [file for file in written if file.is_file()]
    assert [file for file in files if SECRET.encode() in file.read_bytes()] == []
    (file,) = json.loads(Path(certificate).read_text())["source"]["files"]
    assert file == f"{server.url}/{pair.model.name}?…"


@pytest.mark.slow("converts and exports a model seven times")
def test_an_address_goes_to_orbax_and_back(
    tmp_path: Path, server: WebServer, pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    address = address_of(server, pair)
    mapping, skeleton = str(tmp_path / "m.json"), str(pair.skeleton)
    outputs: dict[str, dict[str, np.ndarray]] = {}
    for name, source in (("here", str(pair.model)), ("far", address)):
        output = str(tmp_path / f"{name}.orbax")
        convert = ["convert", source, skeleton, "-o", output, "--save-mapping", mapping]
        assert run(convert) == 0
        sides = ["--checkpoint", source, "--skeleton", skeleton, "--mapping", mapping]
        assert run(["verify", output, *sides]) == 0
        outputs[name] = arrays_in(Path(output))
    assert outputs["far"].keys() == outputs["here"].keys()
    for key, array in outputs["here"].items():
        assert outputs["far"][key].tobytes() == array.tobytes()
    # By parts, and finished by another process.
    output = str(tmp_path / "parts.orbax")
    for part in ("0/2", "1/2"):
        convert = ["convert", address, skeleton, "-o", output, "--mapping", mapping]
        assert run([*convert, "--part", part]) == 0
    for step in (["finish"], ["verify"], ["finish", "--commit"]):
        assert run([step[0], output, *sides, *step[1:]]) == 0
    assert arrays_in(Path(output)).keys() == outputs["here"].keys()
    # And back, with what no leaf holds from the address.
    for name, file in (("eqx", "far.eqx"), ("orbax", "far.orbax")):
        if name == "eqx":
            ends = [address, skeleton, "-o", str(tmp_path / file), "--mapping", mapping]
            assert run(["convert", *ends]) == 0
        back = tmp_path / f"{name}.pt"
        certificate = ["--certificate", str(tmp_path / f"{name}.json")]
        assert run(["export", str(tmp_path / file), *sides, "-o", str(back), *certificate]) == 0
        found, wanted = (torch.load(one, weights_only=True) for one in (back, pair.model))
        assert list(found) == list(wanted)
        assert all(torch.equal(found[key], tensor) for key, tensor in wanted.items())
    state = s2p_tui.export(tmp_path / "far.orbax", mapping, address, skeleton=skeleton)
    assert all(torch.equal(state[key], tensor) for key, tensor in wanted.items())
    printed = capsys.readouterr()
    assert SECRET not in printed.out + printed.err
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert [file for file in written if SECRET.encode() in file.read_bytes()] == []


@pytest.mark.slow("asks a server on this machine many times")
def test_what_no_leaf_holds_comes_from_the_address(tmp_path: Path, server: WebServer) -> None:
    weights = {"w": torch.randn(30, 40), "unused": torch.randn(20_000), "steps": torch.tensor(7)}
    torch.save(weights, tmp_path / "model.pt")
    save_skeleton(tmp_path / "s.eqx", {"w": np.zeros((30, 40), np.float32)})
    address, out = f"{server.url}/model.pt", str(tmp_path / "out.eqx")
    options = [
        "--save-mapping",
        str(tmp_path / "m.json"),
        "--allow-unused",
        "unused",
        "--trust-all",
    ]
    assert run(["convert", address, str(tmp_path / "s.eqx"), "-o", out, *options]) == 0
    sides = ["--skeleton", str(tmp_path / "s.eqx"), "--mapping", str(tmp_path / "m.json")]
    for name in ("back.pt", "back.safetensors"):
        back = str(tmp_path / name)
        assert run(["export", out, *sides, "--checkpoint", address, "-o", back]) == 0
        load = torch.load if name.endswith("pt") else safetensors.torch.load_file
        found = load(back)
        assert {key: found[key].equal(tensor) for key, tensor in weights.items()} == (
            dict.fromkeys(weights, True)
        )


@pytest.mark.slow("asks a server on this machine many times")
def test_python_takes_an_address(server: WebServer, pair: Pair, tmp_path: Path) -> None:
    report = s2p_tui.convert(
        from_path=True,
        path_to_state_dict_object=f"{server.url}/{pair.model.name}",
        path_to_pytree_object=str(pair.skeleton),
        target_name="far.eqx",
        target_dir=tmp_path,
    )
    assert report is not None
    assert (tmp_path / "far.eqx").exists()


@pytest.mark.slow("asks a server on this machine many times")
def test_the_other_side_is_read_here_alone(
    server: WebServer, pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"{server.url}/{pair.skeleton.name}"
    assert run(["convert", str(pair.model), address]) == 2
    assert run(["inspect", address]) == 4
    first, second = capsys.readouterr().err.splitlines()
    assert "skeletons are read from this machine only. Download it" in first
    assert "a skeleton file, and of addresses only checkpoints are read. Download it" in second


@pytest.mark.slow("asks a server on this machine many times")
async def test_the_app_opens_an_address_and_journals_no_secret(
    server: WebServer, pair: Pair, state_home: Path
) -> None:
    address = address_of(server, pair)
    app = S2PApp(
        lambda key: Session.open(address, pair.skeleton, key=key),
        model_label=name_of(address),
        skeleton_label=pair.skeleton.name,
        output=Path("out.eqx"),
    )
    async with app.run_test() as pilot:
        await _opened(pilot, app)
        await pilot.press("J", "i")
        await pilot.pause()
    journals = [file for file in state_home.rglob("*") if file.is_file()]
    assert journals
    assert [file for file in journals if SECRET.encode() in file.read_bytes()] == []


async def _opened(pilot: Pilot[object], app: S2PApp) -> None:
    await until(pilot, lambda: isinstance(app.screen, Workspace))


@pytest.mark.slow("runs a command in a program of its own")
def test_nothing_but_the_address_is_contacted(
    server: WebServer, pair: Pair, tmp_path: Path
) -> None:
    address = f"{server.url}/{pair.model.name}"
    out = str(tmp_path / "far.eqx")
    found, _ = watched(tmp_path, [["convert", address, str(pair.skeleton), "-o", out]])
    assert found["statuses"] == [0]
    assert found["network"]
    assert [one for one in found["network"] if str(server.server_port) not in one] == []


@pytest.mark.parametrize(
    ("where", "is_one", "said", "name", "output"),
    [
        ("model.pt", False, "model.pt", "model.pt", "model.eqx"),
        ("pkg.mod:factory", False, "pkg.mod:factory", "pkg.mod:factory", None),
        ("https://a:b@h/x/m.pt?c=d", True, "https://h/x/m.pt?…", "m.pt", "m.eqx"),
        ("HTTPS://h/x/m%201.pt#d", True, "https://h/x/m 1.pt", "m 1.pt", "m 1.eqx"),
        ("gs://b/x/model.safetensors.index.json", True, None, None, "model.eqx"),
        ("hf://o/r", True, "hf://o/r", "r", "r.eqx"),
        ("hf://o/r@main/x/m.pt", True, None, "m.pt", "m.eqx"),
        ("s3://b", True, "s3://b", "b", "b.eqx"),
        (Path("https://h/m.pt"), True, "https://h/m.pt", "m.pt", "m.eqx"),
    ],
)
def test_addresses_are_told_from_paths(
    where: str | Path, is_one: bool, said: str | None, name: str | None, output: str | None
) -> None:
    assert is_address(where) == is_one
    assert shown(where) == (said or str(where))
    assert name is None or name_of(where) == name
    assert output is None or default_output(where) == Path(output)


def test_help_and_the_app_load_no_client() -> None:
    code = (
        "import s2p_tui.app.start, s2p_tui.formats.registry, sys;"
        "print([m for m in ('httpx2', 'obstore', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert done.stdout.strip() == "[]"
