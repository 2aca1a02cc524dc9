"""Claude asked without the app: from Python and on the command line."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from s2p_tui.cli import run
from s2p_tui.errors import CancelledError, ProposerError, UsageError
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.proposals.claude import account
from s2p_tui.session.ask_claude import propose_with_claude
from s2p_tui.session.session import Session
from tests.helpers.claude_server import Script, fails, hangs, rows, says
from tests.helpers.sessions import reordered
from tests.helpers.unlike import RIGHT, RIGHT_KEYS, unlike


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """A pair on disk that only a reader could line up, and where to write."""
    entries, _ = unlike()
    tensors = {e.key: torch.full(e.shape, n + 1.0) for n, e in enumerate(entries)}
    torch.save(tensors, tmp_path / "model.pt")
    pytree = {"one": {"w": jnp.zeros((4, 4)), "x": jnp.zeros(4)}, "two": {"w": jnp.zeros((4, 4))}}
    pytree["two"]["x"] = jnp.zeros(4)
    save_skeleton(tmp_path / "skeleton.eqx", pytree)
    return [
        str(tmp_path / "model.pt"),
        str(tmp_path / "skeleton.eqx"),
        "-o",
        str(tmp_path / "o.eqx"),
    ]


class Confirming:
    """Answers questions and keeps them."""

    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)
        self.questions: list[str] = []

    def __call__(self, question: str) -> bool:
        self.questions.append(question)
        return self.answers.pop(0)


def taken(session: Session) -> list[str]:
    return ["+".join(row.keys) for row in session.alignment.rows]


def test_accepted(script: Script, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    confirm = Confirming(True, True)
    assert propose_with_claude(session, model="opus", confirm=confirm)
    assert confirm.questions == ["Send this to claude-opus-5-5?", "Accept these 4 rows?"]
    assert taken(session) == RIGHT_KEYS
    assert len(session.history) == 1
    assert not session.blocking
    out, err = capsys.readouterr()
    assert out == ""
    assert "  | E1 alpha.w 4x4\n" in err
    assert "To claude-opus-5-5: 4 rows in 1 request, " in err
    assert " tokens by estimate. Names, shapes, dtypes and layer classes; no numbers" in err
    assert ".one and 1 more: they are named so\n" in err
    assert "  .one.weight: alpha.w -> beta.w  [likely]; but the matcher takes alpha.w" in err
    assert script.asked[0].json["model"] == "claude-opus-5-5"
    assert account.last_choice() == "opus"


@pytest.mark.parametrize(("answers", "sent"), [((False,), 0), ((True, False), 1)])
def test_declined(script: Script, session: Session, answers: tuple[bool, ...], sent: int) -> None:
    before = session.alignment
    assert not propose_with_claude(session, model="haiku", confirm=Confirming(*answers))
    assert session.alignment is before
    assert len(script.asked) == sent
    assert bool(script.received) == bool(sent)


def test_without_a_terminal_it_says_the_way_out(script: Script, session: Session) -> None:
    with pytest.raises(UsageError, match=r"no terminal to ask on\. Run it in a terminal"):
        propose_with_claude(session, model="haiku")
    assert script.received == []


def test_nothing_to_ask_sends_nothing(
    script: Script, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert propose_with_claude(reordered(), model="haiku", confirm=Confirming())
    assert "there is nothing to ask Claude, and nothing was sent" in capsys.readouterr().err
    assert script.received == []


def test_everything_is_asked_about_if_insisted(script: Script) -> None:
    session = reordered()
    script.plays = [says('{"groups": []}')]
    assert propose_with_claude(session, model="haiku", confirm=Confirming(True), everything=True)
    assert len(script.asked) == 2


def test_failure_is_raised_and_changes_nothing(script: Script, session: Session) -> None:
    script.plays = [fails(401)]
    before = session.alignment
    with pytest.raises(ProposerError, match="does not accept the key") as caught:
        propose_with_claude(session, model="haiku", confirm=Confirming(True))
    assert caught.value.exit_code == 7
    assert session.alignment is before


def test_wrong_model_is_wrong_usage(session: Session) -> None:
    with pytest.raises(UsageError, match="'so net' is no model"):
        propose_with_claude(session, model="so net", confirm=Confirming())


def test_retired_alias_is_told(
    script: Script, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    assert propose_with_claude(session, model="sonnet3.5", confirm=Confirming(True, True))
    assert "Claude 3.5 Sonnet is retired: claude-sonnet-5-5 instead." in capsys.readouterr().err
    assert script.asked[0].json["model"] == "claude-sonnet-5-5"


def test_yes_leaves_out_what_claude_is_unsure_of(
    script: Script, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    script.plays = [says(rows(("guess", RIGHT), confidence="unsure"))]
    before = session.alignment
    assert propose_with_claude(session, model="haiku", yes=True)
    assert session.alignment is before
    assert "Left out, as Claude itself is unsure of them: 4 rows." in capsys.readouterr().err


def test_interruption_cancels(
    script: Script, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.plays = [hangs()]
    join = threading.Thread.join

    def interrupted(self: threading.Thread, timeout: float | None = None) -> None:
        join(self, timeout)
        if self.name == "asking" and script.hanging.is_set():
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(CancelledError, match="nothing was changed") as caught:
        propose_with_claude(session, model="haiku", confirm=Confirming(True))
    assert caught.value.exit_code == 130


def converted(files: list[str]) -> list[float]:
    """The first number of each leaf of the output."""
    with open(files[-1], "rb") as file:
        return [float(np.load(file).reshape(-1)[0]) for _ in range(4)]


def test_command_line_with_yes(
    script: Script, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    square = rows(("so", [("L1", ["E2"]), ("L2", ["E4"]), ("L3", ["E1"]), ("L4", ["E3"])]))
    script.plays = [says(square)]
    arguments = ["convert", *files, "--arrange", "claude", "--model", "opus", "--yes", "--json"]
    status = run(arguments)
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert (status, report["status"]) == (3, "refused")
    assert [row["path"] for row in report["doubtful"]] == ["['one']['w']", "['two']['w']"]
    assert "transposed" in report["doubtful"][0]["why"]
    assert "Accept these 4 rows? Yes." in err
    assert "  | " not in err
    assert not Path(files[-1]).exists()
    paths = [argument for row in report["doubtful"] for argument in ("--trust", row["path"])]
    assert run([*arguments, *paths]) == 0
    assert converted(files) == [2, 4, 1, 3]


def test_command_line_without_a_terminal(
    script: Script, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["convert", *files, "--arrange", "claude"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "--yes" in err
    assert script.received == []


def test_command_line_failure_has_its_own_status(
    script: Script, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    script.plays = [fails(529, retry_after="0.01")]
    assert run(["convert", *files, "--arrange", "claude", "--yes"]) == 7
    assert "s2p-tui: Claude is overloaded, 3 times in a row." in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--yes"], ["--model", "opus"]])
def test_options_of_claude_go_with_claude(
    files: list[str], option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["convert", *files, *option]) == 2
    assert "go with --arrange claude" in capsys.readouterr().err


def on_terminal(
    arguments: list[str], folder: Path, answer: Callable[[str], str | None]
) -> tuple[int, str]:
    """Run the command on a terminal; `answer` is given all that was shown so far."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "s2p_tui", *arguments],
        stdin=theirs, stderr=theirs, stdout=subprocess.DEVNULL, cwd=folder, close_fds=True,
    )  # fmt: skip
    os.close(theirs)
    shown = ""
    with open(ours, "r+b", buffering=0) as terminal:
        while True:
            try:
                shown += terminal.read(4096).decode()
            except OSError:
                break
            if (typed := answer(shown)) is not None:
                terminal.write(typed.encode())
    return process.wait(300), shown


@pytest.mark.parametrize(("answers", "status"), [("n", 130), ("yn", 130), ("yy", 3)])
@pytest.mark.slow("starts programs in a terminal")
def test_command_line_asks_on_the_terminal(
    script: Script, files: list[str], tmp_path: Path, answers: str, status: int
) -> None:
    left = io.StringIO(answers)
    asked = 0

    def answer(shown: str) -> str | None:
        nonlocal asked
        if shown.count("[y/N]") <= asked:
            return None
        asked += 1
        return f"{left.read(1)}\n"

    code, shown = on_terminal(["convert", *files, "--arrange", "claude"], tmp_path, answer)
    assert code == status, shown
    assert shown.count("[y/N]") == len(answers)
    assert len(script.asked) == ("y" in answers)
    assert ("Declined; nothing was written." in shown) == (status == 130)
    assert not Path(files[-1]).exists()
