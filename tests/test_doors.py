"""The same error at each door: the command line, the Python calls, the app. Each has its own words
for the way out, and no room below them knows an option or a key.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ml_dtypes import float8_e4m3fn
from textual.widgets import Input, Label

import s2p_tui
from s2p_tui.app.failures import WAYS_OUT as APP
from s2p_tui.app.screens.main import Workspace
from s2p_tui.app.start import S2PApp
from s2p_tui.app.widgets.lines import Lines
from s2p_tui.cli import run
from s2p_tui.cli.options import WAYS_OUT as COMMAND_LINE
from s2p_tui.converter import chunkify_state_dict, convert, convert_tree
from s2p_tui.converter.ways_out import WAYS_OUT as PYTHON
from s2p_tui.errors import Code, Hint, S2PError
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.session.journal import Journal
from s2p_tui.session.session import Session
from tests.helpers.running_app import make_app, until

PACKAGE = Path(__file__).parent.parent / "s2p_tui"
ROOMS = ("alignment", "formats", "proposals", "conversion", "session")
OPTION = re.compile(r"(?<![\w-])--[a-z]|(?<![\w-])-[a-z]\b|\b(?:MODEL|CHECKPOINT|SKELETON)\b")
KEY = re.compile(
    r"\b(?:ctrl|shift|alt)\+|\b(?:Esc|PgUp|PgDn)\b|\b(?:[Pp]ress|[Ww]ith|[Kk]ey|[Hh]it) [b-zB-Z]\b"
    r"|\bEnter (?:takes|sends|puts|converts)\b|\b[b-z] in the app\b"
)
ARGUMENT = re.compile(r"(?<![\w.(])[a-z_]+=(?![=\s]|$)")


def strings(source: str) -> Iterator[tuple[int, str]]:
    """Every text in a module that is not a docstring, with its line."""
    tree = ast.parse(source)
    described = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(statement.value)
        for node in ast.walk(tree)
        if isinstance(node, described)
        for statement in node.body
        if isinstance(statement, ast.Expr)
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docstrings
        ):
            yield node.lineno, node.value


def named(text: str) -> bool:
    """Return True if a text names an option, a key or an argument."""
    return any(pattern.search(text) for pattern in (OPTION, KEY, ARGUMENT))


OTHER_PROGRAMS = ("torch.", "git lfs ", "python -m ")


def spoken(source: str) -> list[str]:
    """Texts of a module that name an option, a key or an argument of this program."""
    return [
        f"{line}: {text}"
        for line, text in strings(source)
        if named(text) and not any(other in text for other in OTHER_PROGRAMS)
    ]


@pytest.mark.slow("reads all of the code")
def test_no_room_below_the_doors_names_an_option_a_key_or_an_argument() -> None:
    found = {
        str(path.relative_to(PACKAGE)): lines
        for room in ROOMS
        for path in sorted((PACKAGE / room).rglob("*.py"))
        if (lines := spoken(path.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "Leave --key out.", "Give it with -o.", "Save with ctrl+s.", "Choose with t in the app.",
        "Press y to trust it.", "Esc cancels.", "Pass key=.", "Give like='a:b'.",
        "The order is MODEL, then the rest.",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(text: str) -> None:
    assert spoken(f"raise InputError(f'{{x}} is wrong.', {text!r})")


@pytest.mark.parametrize(
    "text", ["Give a file of that name.", "x == y", "s2p-tui chunk", "Save model.state_dict()."]
)
def test_and_nothing_else(text: str) -> None:
    assert spoken(f"print({text!r})") == []


def test_a_door_without_words_for_a_code_uses_the_codes_own() -> None:
    error = S2PError("It is wrong.", Hint(Code.CHOOSE_STATE_DICT, {"choices": "{a}, b"}))
    assert error.put_into({Code.CHOOSE_STATE_DICT: "-> {choices}"}).line == "It is wrong. -> {a}, b"
    assert error.put_into({}).line == "It is wrong. Choose one of them: {a}, b."
    assert S2PError("It is wrong.", "Fix {it}.").put_into(PYTHON).line == "It is wrong. Fix {it}."


def test_every_code_is_worded_by_a_door_and_in_its_language() -> None:
    assert set(COMMAND_LINE) | set(PYTHON) | set(APP) == set(Code)
    for words in Code:
        assert not named(words), words
    for words in COMMAND_LINE.values():
        assert not ARGUMENT.search(words), words
    for words in PYTHON.values():
        assert not OPTION.search(words), words
    for words in APP.values():
        assert not OPTION.search(words), words
        assert not ARGUMENT.search(words), words


# --- the command line and Python ---

NET = """
import jax.numpy as jnp
def tree():
    return {"w": jnp.zeros((2, 2))}
def state():
    import torch
    return {"w": torch.ones(2, 2)}
"""


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a pair, and with files that are wrong in one way each."""
    monkeypatch.chdir(tmp_path)
    weights = {"w": torch.ones(2, 2)}
    torch.save({"w": torch.ones(2, 3)}, "model.pt")
    torch.save({"model": weights, "ema": {"w": torch.zeros(2, 2)}}, "two.pt")
    torch.save({"x": torch.ones(2, 2), "y": torch.zeros(2, 2)}, "strangers.pt")
    save_skeleton("skeleton.eqx", {"w": np.zeros((2, 3), np.float32)})
    torch.save({"w": torch.zeros(3).to(torch.float8_e4m3fn)}, "fp8.pt")
    save_skeleton("fp8.eqx", {"w": np.zeros(3, float8_e4m3fn)})
    twins = [np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32)]
    save_skeleton("twins.eqx", {"a": twins[0], "b": twins[1]})
    with open("nameless.eqx", "wb") as stream:
        for array in twins:
            np.save(stream, array)
    Path("net.py").write_text(NET)
    Path("bad.json").write_text("{}")
    chunkify_state_dict(weights, "chunks")
    return tmp_path


W = {"w": torch.ones(2, 2)}
TREE = {"w": np.zeros((2, 2), np.float32)}
TWINS = {"a": np.zeros((2, 2), np.float32), "b": np.zeros((2, 2), np.float32)}
STRANGERS = {"x": torch.ones(2, 2), "y": torch.zeros(2, 2)}


def from_files(torch_side: str, jax_side: str, **arguments: Any) -> Callable[[], object]:
    """A call of `convert` on two paths."""
    return lambda: convert(
        from_path=True,
        path_to_state_dict_object=torch_side,
        path_to_pytree_object=jax_side,
        **arguments,
    )


PAIR = ("model.pt", "skeleton.eqx")
CASES: dict[Code, tuple[list[str], Callable[[], object], str, str]] = {
    Code.CHOOSE_STATE_DICT: (
        ["convert", "two.pt", "skeleton.eqx"],
        lambda: convert_tree({"model": W, "ema": {"w": torch.zeros(2, 2)}}, TREE),
        "--key",
        "key=; there are 'model', 'ema'",
    ),
    Code.NO_NESTED_STATE_DICT: (
        ["convert", "chunks", "skeleton.eqx", "--key", "model"],
        lambda: convert_tree("chunks", TREE, key="model"),
        "Leave --key out.",
        "Leave key= out.",
    ),
    Code.SWAPPED_SIDES: (
        ["convert", "skeleton.eqx", "model.pt"],
        from_files("skeleton.eqx", "model.pt"),
        "The order is CHECKPOINT SKELETON.",
        "Check which argument takes the state dict",
    ),
    Code.NO_NAMES_FOR_LEAVES: (
        ["convert", "model.pt", "net.py:tree", "--like", "net.py:tree"],
        from_files("model.pt", "net.py:tree", like="net.py:tree"),
        "Leave --like out.",
        "Leave like= out.",
    ),
    Code.SAVED_MAPPING: (
        ["convert", *PAIR, "--mapping", "bad.json"],
        lambda: convert_tree(W, TREE, mapping="bad.json"),
        "that convert --save-mapping",
        "that save_mapping=",
    ),
    Code.LINE_UP_ROWS: (
        ["convert", "strangers.pt", "twins.eqx"],
        lambda: convert_tree(STRANGERS, TWINS),
        "pass a --mapping, or --trust rows",
        'trust=["…"] or trust=True',
    ),
    Code.LINE_UP_NAMELESS_ROWS: (
        ["convert", "strangers.pt", "nameless.eqx"],
        from_files("strangers.pt", "nameless.eqx"),
        "--like pkg.module:factory",
        'like="pkg.module:factory"',
    ),
    Code.LOADABLE_DTYPE: (
        ["convert", "fp8.pt", "fp8.eqx"],
        from_files("fp8.pt", "fp8.eqx"),
        "--dtype bfloat16",
        'dtype="bfloat16", or a target_name=',
    ),
    Code.VERIFY_OR_NO_CERTIFICATE: (
        ["convert", *PAIR, "--certificate", "c.json", "--no-verify"],
        from_files(*PAIR, certificate="c.json", verify=False),
        "Leave out --certificate or --no-verify.",
        "Leave out certificate= or verify=False.",
    ),
    Code.OVERWRITE_CHUNKS: (
        ["chunk", "model.pt", "chunks"],
        lambda: chunkify_state_dict(W, "chunks"),
        "--overwrite",
        "overwrite=True",
    ),
    Code.NOBODY_TO_ASK: (
        ["convert", *PAIR, "--arrange", "claude"],
        from_files(*PAIR, arrange_with_anthropic=True),
        "--yes",
        "confirm=",
    ),
}


@pytest.mark.parametrize("code", CASES)
@pytest.mark.usefixtures("inside")
def test_the_command_line_names_options(code: Code, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, _, way_out, _ = CASES[code]
    assert run(arguments) > 1
    told = capsys.readouterr().err
    assert way_out in told
    assert not ARGUMENT.search(told)


@pytest.mark.parametrize("code", CASES)
@pytest.mark.usefixtures("inside")
def test_python_names_arguments(code: Code) -> None:
    _, call, _, way_out = CASES[code]
    with pytest.raises(S2PError) as caught:
        call()
    assert caught.value.code is code
    assert way_out in str(caught.value)
    assert not OPTION.search(str(caught.value))


@pytest.mark.usefixtures("inside")
def test_json_names_options_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", *PAIR, "--mapping", "bad.json", "--json"]) == 4
    assert "--save-mapping" in capsys.readouterr().out


@pytest.mark.usefixtures("inside")
def test_verification_names_the_options_of_verify(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", *PAIR, "-o", "out.eqx", "--save-mapping", "m.json"]) == 0
    with open("out.eqx", "r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x01")
    asked = ["verify", "out.eqx", "--checkpoint", PAIR[0], "--skeleton", PAIR[1]]
    assert run([*asked, "--mapping", "m.json"]) == 5
    assert "Give --checkpoint, --key, --skeleton, --mapping" in capsys.readouterr().err
    session = Session.open(*PAIR, mapping="m.json")
    with pytest.raises(S2PError, match=r"Give the checkpoint, skeleton, mapping") as caught:
        session.verify("out.eqx")
    assert not OPTION.search(str(caught.value))


@pytest.mark.usefixtures("inside")
def test_the_calls_that_open_the_app_name_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """The app ends when a side cannot be opened: its caller is told, in Python's words."""
    from s2p_tui.app import start

    def ends_with_what_opening_raises(open_session: Callable[[None], object], **_: Any) -> None:
        open_session(None)

    monkeypatch.setattr(start, "require_foreground", lambda _: None)
    monkeypatch.setattr(start, "run_app", ends_with_what_opening_raises)
    with pytest.raises(S2PError, match="Leave like= out"):
        start.start_conversion_from_paths("net.py:tree", "model.pt", like="net.py:tree")


# --- the app ---


async def opened(session: Session, output: Path) -> tuple[S2PApp, Any]:
    app = make_app(session, output)
    return app, app.run_test(size=(160, 30))


def said(app: S2PApp) -> str:
    if not isinstance(app.screen, Workspace):
        return ""
    return " ".join(app.screen.query_one("#status", Lines).texts)


async def test_the_app_names_keys_where_a_mapping_is_none(inside: Path) -> None:
    app, running = await opened(Session.open(*PAIR), inside / "out.eqx")
    async with running as pilot:
        await until(pilot, lambda: isinstance(app.screen, Workspace))
        await pilot.press("ctrl+o")
        await until(pilot, lambda: bool(app.screen.query(Input)))
        app.screen.query_one(Input).value = str(inside / "bad.json")
        await pilot.press("enter")

        def remark() -> str:
            return str(app.screen.query_one("#remark", Label).content)

        await until(pilot, lambda: "not a usable mapping" in remark())
        assert "Give a file that ctrl+s saved." in remark()
        assert not OPTION.search(remark())


@pytest.mark.slow("drives the app")
async def test_the_app_names_its_dialog_where_a_dtype_cannot_be_loaded(inside: Path) -> None:
    app, running = await opened(Session.open("fp8.pt", "fp8.eqx"), inside / "out.eqx")
    async with running as pilot:
        await until(pilot, lambda: isinstance(app.screen, Workspace))
        await pilot.press("c")
        await until(pilot, lambda: not isinstance(app.screen, Workspace))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Workspace))
        await until(pilot, lambda: "float8" in said(app))
        assert "Choose bfloat16 in the dialog" in said(app)
        assert not OPTION.search(said(app))


async def test_the_app_names_a_key_where_another_program_has_the_pair(inside: Path) -> None:
    session = Session.open(*PAIR)
    other = Journal.open(session.checkpoint, session.target)
    app, running = await opened(session, inside / "out.eqx")
    async with running as pilot:
        await until(pilot, lambda: isinstance(app.screen, Workspace))
        await until(pilot, lambda: "another s2p-tui" in said(app))
        assert "save with ctrl+s" in said(app)
    other.close()


def test_what_can_be_asked_of_a_session_speaks_neither(inside: Path) -> None:
    """A script that has no door of ours is told of neither options nor keys."""
    with pytest.raises(S2PError) as caught:
        s2p_tui.load_mapping(inside / "bad.json")
    assert not named(str(caught.value))
