"""What the screens look like."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.screen import ModalScreen

from s2p_tui.alignment.history import History
from s2p_tui.alignment.mapping_file import End
from s2p_tui.app.agreement import Agreement, Found, ModulePair
from s2p_tui.app.keys import Keymap
from s2p_tui.app.screens.busy import Converting
from s2p_tui.app.screens.convert import Order, Result
from s2p_tui.app.screens.main import Workspace
from s2p_tui.app.screens.questions import ConfirmQuit, GoOn, WhichStateDict
from s2p_tui.app.start import S2PApp
from s2p_tui.app.theme import UNICODE
from s2p_tui.conversion.convert import Written
from s2p_tui.conversion.output import Converted
from s2p_tui.formats.models import Factory, Models
from s2p_tui.session.journal_lines import Header, Replayed
from s2p_tui.session.saved_mapping import Offered
from s2p_tui.session.session import Session
from tests.app.pairs import fused, hostile, layers, many_keys, scanned, turned, turned_up
from tests.helpers.running_app import make_app, until
from tests.helpers.sessions import fitting, linears, reordered, without_partner

pytestmark = pytest.mark.slow("draws every screen in every size")
SIZES = {"120x40": (120, 40), "80x24": (80, 24), "40x10": (40, 10)}
SIZE_OF = {
    "help": "80x24",
    "kinds": "80x24",
    "filtered": "80x24",
    "scrolled": "80x24",
    "palette_found": "80x24",
    "transform_rule": "80x24",
    "no_details": "80x24",
    "blocked": "40x10",
    "many_keys": "40x10",
    "go_on_or_mapping": "40x10",
    "quit_unjournalled": "40x10",
}
"""The size a scene is about, where that is not the largest."""
SCENES: dict[str, tuple[Callable[[], Session], str]] = {
    "start": (linears, ""),
    "edited": (linears, "J G m g enter enter 4 enter s"),
    "picked": (linears, "m j j 4"),
    "marked": (linears, "space space v j"),
    "find": (linears, "slash f i r s t"),
    "found": (linears, "slash f i enter"),
    "blocked": (linears, "G c"),
    "no_details": (linears, "d"),
    "scrolled": (lambda: fitting(60), "pagedown pagedown j"),
    "hostile": (hostile, "j j j"),
    "transform": (turned, "t"),
    "transform_none": (turned, "j t"),
    "transform_number": (turned, "t 3 enter"),
    "transform_rule": (turned_up, "t 2"),
    "stacked": (scanned, "g space space space g t 1 enter"),
    "split_list": (fused, "g space space space g t"),
    "split": (fused, "g space space space g t 2 enter j"),
    "many_keys": (many_keys, "G v g t 1 enter"),
    "doubted_by_name": (lambda: reordered("order"), "y n n"),
    "matched_again": (lambda: reordered("order"), "y a enter"),
    "without_partner": (without_partner, ""),
    "help": (linears, "question_mark"),
    "kinds": (lambda: layers(4, odd=2), "o n"),
    "filtered": (lambda: layers(4, odd=2), "slash asterisk b i a s enter f"),
    "quit": (linears, "J q"),
    "convert": (fitting, "c"),
    "palette": (linears, "ctrl+p"),
    "palette_found": (linears, "ctrl+p m o v e"),
    "load_mapping": (linears, "ctrl+o"),
}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the folder of a run is on the screen: whether a file will be replaced."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("scene", "size"), [(scene, SIZE_OF.get(scene, "120x40")) for scene in SCENES]
)
def test_scene(snap_compare, scene: str, size: str) -> None:
    make, pressed = SCENES[scene]
    assert snap_compare(
        make_app(make()), terminal_size=SIZES[size], run_before=_press(*pressed.split())
    )


@pytest.mark.parametrize("scene", ["start", "marked", "picked", "help", "quit", "convert"])
def test_ascii(snap_compare, scene: str) -> None:
    make, pressed = SCENES[scene]
    app = make_app(make(), ascii_only=True)
    assert snap_compare(app, terminal_size=(80, 24), run_before=_press(*pressed.split()))


@pytest.mark.parametrize("scene", ["start", "marked", "picked", "convert", "transform"])
@pytest.mark.parametrize("colours", ["none", "16"])
def test_few_colours(snap_compare, monkeypatch, scene: str, colours: str) -> None:
    make, pressed = SCENES[scene]
    if colours == "none":
        monkeypatch.setenv("NO_COLOR", "1")
    app = make_app(make(), theme="ansi-dark")
    assert snap_compare(app, terminal_size=(80, 24), run_before=_press(*pressed.split()))


def test_bound_keys_are_shown(snap_compare) -> None:
    app = make_app(linears(), keymap=Keymap({"move_down": ("ctrl+n",), "help": ("f1",)}))
    assert snap_compare(app, terminal_size=(80, 24), run_before=_press("f1"))


@pytest.mark.parametrize("looks", ["", "ascii", "none"])
def test_agreement(snap_compare, monkeypatch, looks: str) -> None:
    if looks == "none":
        monkeypatch.setenv("NO_COLOR", "1")
    session = layers(4)
    pairs = (
        ModulePair(f"h.{n}", f".layers[{n}]", n < 2, 10.0 ** (n - 8), None, tuple(rows))
        for n in range(4)
        for rows in ([leaf.path for leaf in session.target.skeleton if f"[{n}]" in leaf.path],)
    )
    found = Found("differ", 1e-4, 0.1, tuple(pairs))

    async def show(pilot: Pilot[object]) -> None:
        await _press()(pilot)
        workspace = pilot.app.screen
        assert isinstance(workspace, Workspace)
        workspace.view.show_agreement(Agreement(session, found))
        await _press("5", "enter", "tab", "3", "enter", "delete", "g")(pilot)

    app = make_app(session, ascii_only=looks == "ascii")
    assert snap_compare(app, terminal_size=(80, 24), run_before=show)


@pytest.mark.parametrize("size", ["80x24", "40x10"])
def test_run_both(snap_compare, size: str) -> None:
    models = Models(Factory("net.py:Net", {"width": 64}))
    app = make_app(fitting(), checkpoint=Path("model.pt"), models=models, inputs="3x8x8")
    assert snap_compare(app, terminal_size=SIZES[size], run_before=_press("V", "enter"))


SHOWN: dict[str, Callable[[], ModalScreen[Any]]] = {
    "which": lambda: WhichStateDict(
        UNICODE,
        "train.pt",
        [("model", 122), ("ema.model", 122)],
        {"model": "the trained weights", "ema.model": "a moving average of the weights"},
    ),
    "go_on": lambda: GoOn(UNICODE, left(3), None, ("model.pt", "model_skeleton.eqx")),
    "go_on_elsewhere": lambda: GoOn(UNICODE, left(1), None, ("other.pt", "model_skeleton.eqx")),
    "go_on_or_mapping": lambda: GoOn(UNICODE, left(3), mapping(), ("model.pt", "")),
    "mapping": lambda: GoOn(UNICODE, None, mapping(), ("model.pt", "")),
    "quit_unjournalled": lambda: ConfirmQuit(UNICODE, kept=False),
    "quit_converting": lambda: ConfirmQuit(UNICODE, unsaved=False, kept=True, converting=True),
    "progress": lambda: running(),
    "result": lambda: Result(fitting(), converted(), UNICODE),
}


@pytest.mark.parametrize(
    ("shown", "size"), [(shown, SIZE_OF.get(shown, "120x40")) for shown in SHOWN]
)
def test_question(snap_compare, monkeypatch, shown: str, size: str) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()

    async def show(pilot: Pilot[object]) -> None:
        await _press()(pilot)
        pilot.app.push_screen(SHOWN[shown]())
        await pilot.pause()
        await pilot.pause()

    assert snap_compare(make_app(fitting()), terminal_size=SIZES[size], run_before=show)


def test_reading(snap_compare) -> None:
    never = threading.Event()
    app = S2PApp(
        lambda _: never.wait() and fitting(),  # pyright: ignore[reportArgumentType]
        model_label="model.pt",
        skeleton_label="a_skeleton_with_a_long_name.eqx",
        output=Path("model.eqx"),
    )
    assert snap_compare(app, terminal_size=SIZES["40x10"])
    never.set()


def left(edits: int) -> Replayed:
    """What an earlier session left."""
    session = fitting()
    ends = End("model.pt", 1, "", 4), End("model_skeleton.eqx", 1, "", 4)
    header = Header(*ends, "", (), "0", before=edits)
    return Replayed(header, session.alignment, History(), edits, 1_700_000_000, 0, 0)


def mapping() -> Offered:
    return Offered(Path("model.mapping.json"), fitting().alignment, 1_600_000_000.0)


def converted() -> Converted:
    written = Written(Path("model.eqx"), 44_700_000, 2.5, True, {})
    return Converted(written, Path("model.mapping.json"))


def running() -> Converting:
    """A conversion that stays where it is."""

    class Halted(Converting):
        def start(self) -> None:
            """Begin no work."""

    halted = Halted(
        fitting(), Order(Path("model.eqx")), UNICODE, mapping=Path("m.json"), chunk_bytes=1 << 20
    )
    # As nothing is written from here on, no rate is shown, however late the picture is made.
    halted.job.total, halted.job.written = 44_700_000, 12_000_000
    halted.job.leaf = ".layers[3].attention.query_projection.weight"
    return halted


def _press(*keys: str):
    async def before(pilot: Pilot[object]) -> None:
        await until(pilot, lambda: isinstance(pilot.app.screen, Workspace))
        await pilot.press(*keys)
        await pilot.pause()

    return before
