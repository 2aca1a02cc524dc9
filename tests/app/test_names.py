"""Names that a terminal, or Rich, would obey are shown as text by every command and in the app."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry
from s2p_tui.cli import run
from s2p_tui.formats.skeleton_file import head_line
from tests.helpers.files import save_legacy, save_safetensors, save_zip
from tests.helpers.killing import Program
from tests.helpers.running_app import Opened
from tests.helpers.sessions import make_session

NAMES = [
    "\x1b]0;pwned\x07.w", "\x1b[2J\x1b[H.w", "[red]m[/red].w", "[/].w", "[@click=app.quit]q[/].w",
    "two\nlines.w", "back\r\x08.w", "../../etc/passwd", "/abs/olute", "nul\x00.w", "\u202eltr.w",
    "\x9b31m.w", "\u2028.w", "{0}%s$HOME`id`.w", "'; rm -rf .w", "日本.w", "\ud800.w",
]  # fmt: skip
TEXT = [name for name in NAMES if name != "\ud800.w"]
"""Those that can be written in UTF-8."""


def skeleton_of(path: Path, names: list[str]) -> Path:
    path.write_bytes(head_line([Leaf(f".{n}", (3,), "float32", owner=n, config={n: n},
                                     has_value=False) for n in names]))  # fmt: skip
    return path


@pytest.mark.parametrize("save", [save_zip, save_legacy, save_safetensors])
def test_commands_print_names_as_text(
    tmp_path: Path, save: type, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {name: torch.full((3,), float(n)) for n, name in enumerate(TEXT)}
    state |= {"left[bold]over\x1b[31m": torch.zeros(99)}
    model = save(state, tmp_path / "model")
    skeleton = skeleton_of(tmp_path / "s.eqx", TEXT)
    out, mapping = tmp_path / "model.eqx", tmp_path / "m.json"
    convert = ["convert", str(model), str(skeleton), "-o", str(out)]
    verify = ["--model", str(model), "--skeleton", str(skeleton), "--mapping", str(mapping)]
    commands = {
        "convert": [*convert, "--trust-all", "--allow-unused", "left*", "--save-mapping",
                    str(mapping), "--report", str(tmp_path / "r.json")],
        "json": [*convert, "--mapping", str(mapping), "--json"],
        "verify": ["verify", str(out), *verify],
        "chunk": ["chunk", str(model), str(tmp_path / "chunks")],
        "no key": ["inspect", str(model), "--key", NAMES[0]],
        "no leaf": [*convert, "--trust", NAMES[0]],
        **{f"inspect {file.name}": ["inspect", str(file)] for file in (model, skeleton, mapping)},
        "inspect chunks": ["inspect", str(tmp_path / "chunks")],
        "as JSON": ["inspect", str(model), "--json"],
    }  # fmt: skip
    statuses = {what: run(arguments) for what, arguments in commands.items()}
    expected = dict.fromkeys(commands, 0) | {"no key": 4, "no leaf": 2}
    assert {**statuses, "no key": 4} == expected
    printed = capsys.readouterr()
    lines = (printed.out + printed.err).split("\n")
    assert [line for line in lines if not line.isprintable()] == []
    assert "[red]m[/red].w" in printed.out
    assert r"\x1b]0;pwned\x07.w" in printed.out
    listed = json.loads(lines[-2 - printed.err.count("\n")])
    assert {entry["key"] for entry in listed["entries"]} == set(state)


def test_chunks_stay_in_their_folder(tmp_path: Path) -> None:
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    state = {name: torch.full((3,), float(n)) for n, name in enumerate(TEXT)}
    model = save_zip(state, tmp_path / "model.pt")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert run(["chunk", str(model), str(inside)]) == 0
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert len(made) == len(state) + 1
    assert all(inside in path.parents for path in made)


@pytest.mark.parametrize("name", ["x" * 1_000_000, "\x1b" * 1_000_000, "[" * 100_000])
@pytest.mark.slow("prints names of a million characters")
def test_names_without_end(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_zip({name: torch.zeros(3), "w": torch.zeros(3)}, tmp_path / "model.pt")
    assert run(["inspect", str(model)]) == 0
    skeleton = skeleton_of(tmp_path / "s.eqx", ["w", "v"])
    out = str(tmp_path / "model.eqx")
    assert run(["convert", str(model), str(skeleton), "-o", out, "--trust", name]) == 2
    printed = capsys.readouterr()
    assert max(map(len, (printed.out + printed.err).split("\n"))) < 20_000


KEYS = ["d", "j", "d", "enter", "escape", "t", "escape", "slash", "r", "e", "d", "enter", "s", "u",
        "question_mark", "escape", "a", "escape", "c", "escape", "G", "g", "q"]  # fmt: skip


@pytest.mark.slow("drives the app through many screens")
async def test_every_screen_shows_names_as_text(opened: Opened) -> None:
    session = make_session(
        (Entry(name, (3,), "float32") for name in [*NAMES, "[bold]bench[/]"]),
        (Leaf(f".{name}", (3,), "float32", owner=name) for name in NAMES),
    )
    async with opened(session) as (pilot, workspace):
        shown = ""
        for key in KEYS:
            await pilot.press(key)
            await pilot.pause()
            shown += workspace.app.export_screenshot()
    for control in "\x1b\x07\x9b\x00\u202e\u2028\ud800":
        assert control not in shown
    plain = re.sub(r"<[^>]*>", "", shown).replace("&#160;", " ").replace("&#x27;", "'")
    assert "[red]m[/red].w" in plain
    assert "[@click=app.quit]q[/].w" in plain


@pytest.mark.slow("drives the app through several screens")
def test_the_terminal_is_never_told_what_names_say(tmp_path: Path) -> None:
    state = {name: torch.full((3,), 1.0) for name in TEXT}
    model = save_zip(state, tmp_path / "model.pt")
    skeleton = skeleton_of(tmp_path / "s.eqx", TEXT)
    program = Program(str(model), str(skeleton), state_home=tmp_path / "state")
    try:
        while rb"\x1b]0;pwned" not in program.output or b"[red]m[/red]" not in program.output:
            assert program._read(60), program.output[-2000:]
        drawn = program.output
    finally:
        program.kill_after(0)
    assert b"\x1b]0;pwned" not in drawn
    assert b"\x9b31m" not in drawn
