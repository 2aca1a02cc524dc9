"""`V`: both models run in a process of their own; keys in, signs of agreement out."""

from __future__ import annotations

import json
import os
import stat
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from textual.pilot import Pilot
from textual.widgets import Input, Label

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import SetRows, Swap, apply
from s2p_tui.alignment.mapping_file import to_text
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.transform import Permute, Take
from s2p_tui.app.checks import Typed
from s2p_tui.app.screens.check import CheckForm, Checking
from s2p_tui.app.screens.main import Workspace
from s2p_tui.app.screens.review import Review
from s2p_tui.app.theme import ASCII, UNICODE
from s2p_tui.cli import run as run_command
from s2p_tui.conversion.output import mapping_of
from s2p_tui.formats.memory import checkpoint_in_memory
from s2p_tui.formats.models import Factory, Models
from s2p_tui.formats.pytree.factory import import_object
from s2p_tui.formats.registry import open_checkpoint
from s2p_tui.formats.skeleton_file import Target
from s2p_tui.formats.tensors import ArrayTensors
from s2p_tui.session.session import Session
from tests.app.pairs import session_of
from tests.app.reading import screen_text, status
from tests.helpers.running_app import Opened, until
from tests.helpers.sessions import linears

Answer = Callable[..., None]
MODELS = Models(Factory("net.py:Net", {"width": 3}), Factory("net.py:TorchNet"))


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Let what is run instead of Python print steps and a result; its arguments go to a file."""
    program = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(program))

    def answers(
        *lines: object, status: int = 0, steps: tuple[str, ...] = (), then: str = ""
    ) -> None:
        said = "".join(
            f"cat <<'END' >&2\n{json.dumps({'step': step}) if step[0] != '!' else step[1:]}\nEND\n"
            for step in steps
        )
        printed = "".join(
            f"cat <<'END'\n{line if isinstance(line, str) else json.dumps(line)}\nEND\n"
            for line in lines
        )
        mapping = f'while [ "$1" != --mapping ]; do shift; done; cp "$2" {tmp_path}/mapping.json\n'
        program.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/arguments\necho "$TMPDIR" > '
            f"{tmp_path}/folder\n{mapping}{said}{then}\n{printed}exit {status}\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    return answers


def pair() -> Session:
    names = ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    sizes = [(4, 4), (4,), (4, 4), (4,)]
    return session_of(
        dict(zip(names, sizes, strict=True)),
        dict(zip((f".{name}" for name in names), sizes, strict=True)),
    )


def found(*agree: bool, status: str = "differ") -> dict[str, Any]:
    return {
        "status": status,
        "tolerance": 1e-4,
        "relative_difference": 0.25,
        "something_new": [1],
        "modules": [
            {
                "torch": f"fc{n}",
                "jax": f".fc{n}",
                "agrees": agrees,
                "relative_difference": 1e-7 if agrees else None,
                "inputs": {"relative_difference": 1e-7},
                "rows": [f".fc{n}.weight", f".fc{n}.bias"],
            }
            for n, agrees in enumerate(agree, 1)
        ],
    }


def signs(workspace: Workspace) -> list[str]:
    """The cells of the list where agreement is shown."""
    rows = len(workspace.session.alignment.rows)
    return [workspace.view.render_line(y).text[2] for y in range(rows)]


def remark(pilot: Pilot[object]) -> str:
    return str(pilot.app.screen.query_one("#remark", Label).content)


async def run(pilot: Pilot[object], workspace: Workspace) -> None:
    await pilot.press("V", "enter")
    await until(pilot, lambda: pilot.app.screen is workspace)


async def test_rows_show_if_their_module_agrees(
    opened: Opened, answer: Answer, tmp_path: Path
) -> None:
    answer("the factory prints", found(True, False), status=6)
    options: dict[str, Any] = {"checkpoint": tmp_path / "m.pt", "models": MODELS, "inputs": "4"}
    async with opened(pair(), **options) as (pilot, workspace):
        await run(pilot, workspace)
        assert signs(workspace) == ["=", "=", "≠", "≠"]
        assert workspace.cursor.index == 2
        assert "fc2 and .fc2 differ first, infinitely apart, called with equal" in status(workspace)
        assert "its module differed, infinitely apart, called with equal inputs; by" in screen_text(
            pilot
        )
        arguments = (tmp_path / "arguments").read_text().split("\n")
        assert arguments[:3] == ["-m", "s2p_tui", "check"]
        at = arguments.index("--torch")
        assert arguments[at : at + 8] == [
            *("--torch", "net.py:TorchNet", "--torch-kwargs", "{}"),
            *("--jax", "net.py:Net", "--jax-kwargs", '{"width": 3}'),
        ]
        assert arguments[at + 8 : at + 10] == ["--shape", "4"]
        # What the process wrote, and the mapping it read, are gone.
        assert not Path((tmp_path / "folder").read_text().strip()).exists()


async def test_signs_go_with_what_is_touched_and_come_back(
    opened: Opened, answer: Answer, tmp_path: Path
) -> None:
    answer(found(True, True, status="agree"))
    options: dict[str, Any] = {"checkpoint": tmp_path / "m.pt", "models": MODELS, "inputs": "4"}
    async with opened(pair(), **options) as (pilot, workspace):
        await run(pilot, workspace)
        assert signs(workspace) == ["="] * 4
        assert "Both models agree, 2.5e-01 apart: 2 pairs of modules" in status(workspace)
        await pilot.press("4", "enter", "delete")
        # The other row of that module says no more what it did either.
        assert signs(workspace) == ["=", "=", " ", " "]
        await pilot.press("u")
        assert signs(workspace) == ["="] * 4
        workspace.session.edit(Swap(1, 3))
        await pilot.press("g")
        assert signs(workspace) == [" "] * 4


async def test_the_alignment_is_run_as_it_is_now(
    opened: Opened, answer: Answer, tmp_path: Path
) -> None:
    answer(found(True, True, status="agree"))
    options: dict[str, Any] = {"checkpoint": tmp_path / "m.pt", "models": MODELS, "inputs": "4"}
    async with opened(pair(), **options) as (pilot, workspace):
        await pilot.press("g", "m", "3", "x")
        taken = [row.keys for row in workspace.session.alignment.rows]
        await run(pilot, workspace)
        rows = json.loads((tmp_path / "mapping.json").read_text())
        assert "fc2.weight" in str(rows)
        assert taken[0] == ("fc2.weight",)


@pytest.mark.parametrize(
    ("lines", "status_code", "steps", "said"),
    [
        (
            [{"status": "failed", "error": "No. Give --shape.", "message": "No shape fits."}],
            2,
            (),
            "Both models could not be run: No shape fits.",
        ),
        ([{"status": "failed", "error": "old"}], 4, (), "Both models could not be run: old"),
        (["nonsense"], 1, ("!Traceback", "!NameError: x"), "without a result: NameError: x"),
        ([], 0, (), "The check ended without a result"),
        (["[1, 2]"], 0, (), "without a result"),
        ([{"status": "agree"}], 0, (), "could not be run"),
    ],
)
async def test_failures_are_one_line(
    opened: Opened,
    answer: Answer,
    tmp_path: Path,
    lines: list[Any],
    status_code: int,
    steps: tuple[str, ...],
    said: str,
) -> None:
    answer(*lines, status=status_code, steps=steps)
    options: dict[str, Any] = {"checkpoint": tmp_path / "m.pt", "models": MODELS, "inputs": "4"}
    async with opened(pair(), **options) as (pilot, workspace):
        await run(pilot, workspace)
        assert said in status(workspace)
        assert workspace.view.agreement is None
        await pilot.press("J")
        assert len(workspace.session.history) == 1


async def test_a_process_that_is_killed_is_one_line(
    opened: Opened, answer: Answer, tmp_path: Path
) -> None:
    answer(then="kill -9 $$")
    options: dict[str, Any] = {"checkpoint": tmp_path / "m.pt", "models": MODELS, "inputs": "4"}
    async with opened(pair(), **options) as (pilot, workspace):
        await run(pilot, workspace)
        assert "ended by SIGKILL. The machine may have too little memory" in status(workspace)


async def test_steps_are_shown_and_escape_ends_the_process(
    opened: Opened, answer: Answer, tmp_path: Path
) -> None:
    answer(steps=("running torch's model",), then=f"echo $$ > {tmp_path}/pid; sleep 600")
    options: dict[str, Any] = {"checkpoint": tmp_path / "m.pt", "models": MODELS, "inputs": "4"}
    async with opened(pair(), **options) as (pilot, workspace):
        await pilot.press("V", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, Checking))
        await until(pilot, lambda: "running torch's model" in screen_text(pilot))
        await pilot.press("enter")  # once too often: it cancels nothing
        assert isinstance(pilot.app.screen, Checking)
        await until(pilot, lambda: bool((tmp_path / "pid").exists()))
        pid = int((tmp_path / "pid").read_text())
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is workspace)
        assert "Cancelled: nothing was changed." in status(workspace)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert not Path((tmp_path / "folder").read_text().strip()).exists()


@pytest.mark.slow("drives the app through several screens")
async def test_the_form_names_what_is_missing(opened: Opened, tmp_path: Path) -> None:
    async with opened(pair(), checkpoint=tmp_path / "m.pt") as (pilot, workspace):
        await pilot.press("V")
        form = pilot.app.screen
        assert isinstance(form, CheckForm)
        await pilot.press("enter")
        assert "factory of the PyTorch model is missing" in remark(pilot)
        await pilot.press(*"nothing", "enter")
        assert "nothing names no factory." in remark(pilot)
        form.query_one("#torch", Input).value = 'a.b:C {"x": 1'
        await pilot.press("enter")
        assert "The arguments of a.b:C are no JSON object" in remark(pilot)
        form.query_one("#torch", Input).value = "a.b:C"
        form.query_one("#jax", Input).value = "net.py:Net"
        await pilot.press("enter")
        assert "There is no input" in remark(pilot)
        await pilot.press(*"32 flat64", "enter")
        assert "flat64 is neither a shape nor a dtype" in remark(pilot)
        await pilot.press("escape")
        assert pilot.app.screen is workspace


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("3x8x8", ["--shape", "3x8x8"]),
        ("128 128 int32", ["--shape", "128", "--shape", "128", "--dtype", "int32"]),
        ("()", ["--shape", "()"]),
        ("net.py:example", ["--sample-input", "net.py:example"]),
        (
            "128 int32 --below 30000",
            ["--shape", "128", "--dtype", "int32", "--below", "30000"],
        ),
    ],
)
def test_inputs_become_options(text: str, wanted: list[str]) -> None:
    assert Typed("a:b", "c:d", text).arguments()[8:] == wanted


async def test_what_cannot_be_run_is_said(opened: Opened, tmp_path: Path) -> None:
    async with opened(linears(), checkpoint=tmp_path / "m.pt") as (pilot, workspace):
        await pilot.press("G", "V")
        assert "once no row is mismatched" in status(workspace)
        assert workspace.cursor.index == 0


def test_every_sign_of_agreement_is_told_from_the_others() -> None:
    for symbols in (UNICODE, ASCII):
        signs = {*symbols.fits.values(), *symbols.agreement.values()}
        assert len(set(symbols.agreement.values())) == 2
        assert len(signs) == len(symbols.fits) + 2
    assert all(sign.isascii() for sign in ASCII.agreement.values())


async def test_a_state_dict_in_memory_is_written_down_for_the_other_process(
    opened: Opened, answer: Answer, tmp_path: Path
) -> None:
    answer(found(True, True, status="agree"), then=f'cp "$TMPDIR/model.pt" {tmp_path}/seen.pt')
    shared = torch.arange(12.0).reshape(3, 4)
    state_dict = {
        "b.weight": shared, "a.weight": shared, "a.bias": torch.ones(3, dtype=torch.bfloat16),
        "steps": torch.tensor(7), "turned": torch.arange(6).reshape(2, 3).T,
    }  # fmt: skip
    checkpoint = checkpoint_in_memory(state_dict)
    leaves = [Leaf(f".{e.key}", e.shape, e.dtype) for e in checkpoint.state_dict]
    target = Target("tree", (), 0, Skeleton(tuple(leaves)), ArrayTensors({}))
    session = Session(checkpoint, target)
    async with opened(session, models=MODELS, inputs="4") as (pilot, workspace):
        await run(pilot, workspace)
        assert "Both models agree" in status(workspace)
    read = torch.load(tmp_path / "seen.pt", weights_only=True)
    assert list(read) == list(state_dict)
    for key, tensor in state_dict.items():
        assert read[key].dtype == tensor.dtype
        assert torch.equal(read[key], tensor)
    assert read["a.weight"].data_ptr() == read["b.weight"].data_ptr()
    with zipfile.ZipFile(tmp_path / "seen.pt") as archive:
        assert archive.testzip() is None
    rows = json.loads((tmp_path / "mapping.json").read_text())
    assert rows["source"]["digest"] == open_checkpoint(tmp_path / "seen.pt").state_dict.digest


async def test_addresses_and_adapters_are_named_to_the_other_process(
    opened: Opened, answer: Answer, tmp_path: Path
) -> None:
    answer(found(True, True, status="agree"))
    options: dict[str, Any] = {"models": MODELS, "inputs": "4", "adapter": tmp_path / "lora"}
    async with opened(pair(), checkpoint="https://host/m.pt", **options) as (pilot, workspace):
        await run(pilot, workspace)
    arguments = (tmp_path / "arguments").read_text().split("\n")
    at = arguments.index("--checkpoint")
    assert arguments[at : at + 4] == [
        "--checkpoint", "https://host/m.pt", "--adapter", str(tmp_path / "lora"),
    ]  # fmt: skip


PROOF = "forward: agrees within 3e-07, next best 0.4, inputs 0123 4567"


def settled(session: Session, rows: dict[int, Row], folder: Path) -> str:
    """Write the mapping with which both models agree; a shell command that puts it in place."""
    edit = SetRows(tuple(rows.items()))
    whole = apply(session.alignment, edit)
    mapping = mapping_of(session.checkpoint, session.target, whole)
    (folder / "fixed.json").write_text(to_text(mapping))
    return f'cp {folder}/fixed.json "$TMPDIR/settled.mapping.json"'


async def settle(pilot: Pilot[object]) -> Review:
    await pilot.press("S", "enter")
    await until(pilot, lambda: isinstance(pilot.app.screen, Review))
    assert isinstance(pilot.app.screen, Review)
    return pilot.app.screen


@pytest.mark.slow("drives the app through several screens")
async def test_what_the_forward_decides_is_reviewed_and_kept(
    opened: Opened, answer: Answer, tmp_path: Path
) -> None:
    session = pair()
    session.edit(Swap(0, 2))
    proven = {
        0: Row(Take("fc1.weight"), by="forward", why=PROOF),
        2: Row(Take("fc2.weight"), by="forward", why=PROOF),
    }
    said = found(True, True, status="agree") | {
        "settled": [{"path": ".fc1.weight", "why": PROOF, "sources": []}],
        "open": [{"path": ".fc2.bias", "why": "the numbers make no difference"}],
    }
    answer(said, then=settled(session, proven, tmp_path))
    options: dict[str, Any] = {"checkpoint": tmp_path / "m.pt", "models": MODELS, "inputs": "4"}
    options["output"] = tmp_path / "model.eqx"
    async with opened(session, **options) as (pilot, workspace):
        screen = await settle(pilot)
        arguments = (tmp_path / "arguments").read_text().split("\n")
        assert "--settle" in arguments
        assert "--trust-all" not in arguments
        text = screen_text(pilot)
        assert "proposed by the forward" in text
        assert "agrees within 3e-07, next best 0.4" in text
        assert "Not settled: .fc2.bias: the numbers make no difference." in text
        assert {change.index for change in screen.reviewing.proposal.changes} == {0, 2}
        assert all(c.confidence == "certain" for c in screen.reviewing.proposal.changes)
        # Nothing is changed before it is taken.
        assert session.alignment.rows[0].keys == ("fc2.weight",)
        await pilot.press("enter")
        assert [row.keys for row in session.alignment.rows[:3:2]] == [
            ("fc1.weight",), ("fc2.weight",),
        ]  # fmt: skip
        assert session.alignment.rows[0].why == PROOF
        assert signs(workspace) == ["="] * 4
        assert "2 rows changed; u takes it back." in status(workspace)
        # The proof is in the mapping, and it is gone when it is undone.
        await pilot.press("ctrl+s")
        rows = json.loads(workspace.mapping_path.read_text())["rows"]
        assert [row["by"] for row in rows] == ["forward", "order", "forward", "order"]
        assert rows[0]["why"] == PROOF
        await pilot.press("u")
        assert session.alignment.rows[0].keys == ("fc2.weight",)
        assert signs(workspace) == [" "] * 4
        await pilot.press("ctrl+y")
    # So it is in the journal.
    async with opened(pair(), **options, resume="go on") as (_, workspace):
        rows = workspace.session.alignment.rows
        assert [row.by for row in rows] == ["forward", "order", "forward", "order"]
        assert rows[0].why == PROOF
        assert rows[0].keys == ("fc1.weight",)


@pytest.mark.slow("drives the app through several screens")
async def test_a_part_of_what_the_forward_decides_may_be_taken(
    opened: Opened, answer: Answer, tmp_path: Path
) -> None:
    session = pair()
    turned = Permute(Take("fc2.weight"), (1, 0))
    proven = {
        0: Row(Take("fc1.weight"), by="forward", why=PROOF),
        2: Row(turned, by="pattern", why="the forward does not decide it: so do others"),
    }
    answer(found(True, True, status="agree"), then=settled(session, proven, tmp_path))
    options: dict[str, Any] = {"checkpoint": tmp_path / "m.pt", "models": MODELS, "inputs": "4"}
    async with opened(session, **options) as (pilot, workspace):
        screen = await settle(pilot)
        await pilot.press("j", "j")
        assert "proposed, not settled: the forward does not decide it" in screen_text(pilot)
        assert [str(c.confidence) for c in screen.reviewing.proposal.changes] == [
            "certain", "unsure",
        ]  # fmt: skip
        await pilot.press("f", "f", "r", "enter")
        assert session.alignment.rows[0].by == "forward"
        assert session.alignment.rows[2].source == Take("fc2.weight")
        # What was run had the other row otherwise: nothing is known of that module.
        assert signs(workspace) == ["=", "=", " ", " "]


async def test_nothing_is_proposed_where_no_change_makes_both_agree(
    opened: Opened, answer: Answer, tmp_path: Path
) -> None:
    answer(found(True, False), status=6)
    options: dict[str, Any] = {"checkpoint": tmp_path / "m.pt", "models": MODELS, "inputs": "4"}
    async with opened(pair(), **options) as (pilot, workspace):
        await pilot.press("S")
        assert "Other sources are tried" in screen_text(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.screen is workspace)
        assert "Nothing was settled, as no small change makes both models agree." in status(
            workspace
        )
        assert signs(workspace) == ["=", "=", "≠", "≠"]
        assert not workspace.session.history


NET = """
import equinox as eqx
import jax
import torch

class TorchNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(6, 6)
        self.second = torch.nn.Linear(6, 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))

class Net(eqx.Module):
    first: eqx.nn.Linear
    second: eqx.nn.Linear

    def __init__(self, *, key):
        self.first = eqx.nn.Linear(6, 6, key=key)
        self.second = eqx.nn.Linear(6, 3, key=key)

    def __call__(self, x):
        return self.second(jax.nn.relu(self.first(x)))
"""


@pytest.mark.slow("runs models in both frameworks, in processes of their own")
async def test_models_are_run_and_the_wrong_module_is_found(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Recorded from the folder of the code, opened from another one.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "twins.py").write_text(NET)
    run_command(["skeleton", "twins.py:Net", "--torch", "twins.py:TorchNet"])
    torch.save(import_object("twins.py:TorchNet")().state_dict(), "m.pt")
    monkeypatch.chdir(tmp_path.parent)
    session = Session.open(tmp_path / "m.pt", tmp_path / "model_skeleton.eqx")
    async with opened(session, checkpoint=tmp_path / "m.pt") as (pilot, workspace):
        await pilot.press("V", *"6", "enter")
        await until(pilot, lambda: pilot.app.screen is workspace, 600)
        assert "Both models agree" in status(workspace)
        assert signs(workspace) == ["="] * 4
        # A square weight that is transposed still has its shape.
        await pilot.press("g", "t", "2", "enter")
        assert workspace.session.alignment.rows[0].source == Permute(Take("first.weight"), (1, 0))
        assert signs(workspace) == [" ", " ", "=", "="]
        await pilot.press("G", "V", "enter")
        await until(pilot, lambda: pilot.app.screen is workspace, 600)
        assert signs(workspace) == ["≠", "≠", "≠", "≠"]
        assert workspace.cursor.index == 0
        assert status(workspace).startswith("first and .first differ first")
        assert "called with equal inputs. S tries to settle it." in status(workspace)
        await pilot.press("S", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, Review), 600)
        await until(pilot, lambda: "forward: agrees within" in screen_text(pilot), 60)
        await pilot.press("enter")
        row = session.alignment.rows[0]
        assert (row.source, row.by) == (Take("first.weight"), "forward")
        assert signs(workspace) == ["="] * 4
        assert session.is_complete
    session.close()


def test_an_option_that_names_no_factory_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["m.pt", "s.eqx", "--torch", "nothing"]) == 2
    assert "nothing names no factory. Write it as pkg.module:factory" in capsys.readouterr().err
