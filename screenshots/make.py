"""Make the pages' pictures: `python -m screenshots.make`, and with `--check` compare them.

Each is what the app itself draws after some keys, on real files. The SVG is that screen, cell by
cell; the PNG is drawn from it, names the SVG's digest, and needs DejaVu Sans Mono to be made.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from textual.screen import Screen

from s2p_tui.app.screens.ask_claude import AskClaude
from s2p_tui.app.screens.choose_source import ChooseSource
from s2p_tui.app.screens.convert import Result
from s2p_tui.app.screens.kinds import KindsView
from s2p_tui.app.screens.main import Workspace
from s2p_tui.app.screens.review import Review
from s2p_tui.app.start import S2PApp
from s2p_tui.conversion.output import Converted
from s2p_tui.session.session import Session
from screenshots.drawing import is_made_from, svg_of, write_png
from screenshots.models import demo, minilm, mixture_of_experts, own_attention

HERE = Path(__file__).parent
SIZE = (120, 36)
_COMMAND = "python -m screenshots.make"
_SECONDS = 0.4
"""What the conversion of MiniLM takes on two cores; as measured, no two pictures were alike."""

_MOST_BYTES = 150_000
"""Bytes of a picture: whoever reads the README over a slow line waits for six of them."""

_PATIENCE = 120
"""Seconds that a key may take on a busy machine."""


@dataclass(frozen=True)
class Scene:
    """A picture to make.

    Attributes:
        open_session: Opens what is shown, in the current folder.
        keys: What is pressed, separated by spaces.
        ends_on: The screen that is there then.
    """

    open_session: Callable[[], Session]
    keys: str = ""
    ends_on: type[Screen[Any]] = Workspace


SCENES = {
    "rows": Scene(lambda: minilm("auto"), "1 8 enter"),
    "kinds": Scene(own_attention, "o n", KindsView),
    "agreement": Scene(demo, "5 enter m j j j j x V 3 x 1 6 x 1 6 enter"),
    "choose": Scene(lambda: minilm("order"), "2 enter enter", ChooseSource),
    "review": Scene(lambda: minilm("order"), "a j j h j j j", Review),
    "claude": Scene(lambda: minilm("order"), "p", AskClaude),
    "folded": Scene(mixture_of_experts, "7 8 5 3 enter"),
    "converted": Scene(lambda: minilm("auto"), "c enter", Result),
}


def draw(scene: Scene) -> str:
    """Play a scene in an empty folder and return the screen as SVG."""
    with _empty_folder(), _steady_clock():
        return asyncio.run(_play(scene))


async def _play(scene: Scene) -> str:
    opened: list[Session] = []

    def open_session(_key: str | None) -> Session:
        opened.append(scene.open_session())
        return opened[-1]

    app = S2PApp(
        open_session,
        model_label="model",
        skeleton_label="skeleton",
        output=Path("model.eqx"),
    )
    async with app.run_test(size=SIZE) as pilot:

        async def until(is_so: Callable[[], bool]) -> None:
            latest = time.monotonic() + _PATIENCE
            while not is_so():
                if time.monotonic() > latest:
                    raise TimeoutError(f"{scene.keys!r} ended on {app.screen}.")
                await pilot.pause()
                if app.fatal is not None:
                    raise app.fatal

        await until(lambda: isinstance(app.screen, Workspace))
        for key in scene.keys.split():
            await pilot.press(key)
            await until(lambda: app.keys_are_done)
        await until(lambda: isinstance(app.screen, scene.ends_on))
        ends = opened[0].checkpoint.label, opened[0].target.label
        title = " ".join(["s2p-tui", *ends])
        picture, before = svg_of(app, title=title), ""
        # A screen that lays itself out once its size is known is not done when it is first drawn.
        while picture != before:
            refreshed = asyncio.Event()
            app.screen.call_after_refresh(refreshed.set)
            await refreshed.wait()
            picture, before = svg_of(app, title=title), picture
    for session in opened:
        session.close()
    return picture


@contextmanager
def _empty_folder() -> Iterator[None]:
    """Go to a folder and an environment in which a picture looks the same everywhere."""
    before, environment = Path.cwd(), dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="s2p-tui-") as folder:
        os.environ["XDG_STATE_HOME"] = str(Path(folder, "state"))
        os.environ["ANTHROPIC_API_KEY"] = "none"
        os.environ.pop("NO_COLOR", None)
        Path(folder, "work").mkdir()
        os.chdir(Path(folder, "work"))
        try:
            yield
        finally:
            os.chdir(before)
            os.environ.clear()
            os.environ.update(environment)


@contextmanager
def _steady_clock() -> Iterator[None]:
    """Have every conversion take the same time, by its own account."""
    convert = Session.convert

    def converted(session: Session, *arguments: Any, **options: Any) -> Converted:
        done = convert(session, *arguments, **options)
        return replace(done, written=replace(done.written, seconds=_SECONDS))

    Session.convert = converted
    try:
        yield
    finally:
        Session.convert = convert


def stale(pictures: dict[str, str]) -> list[str]:
    """What is not as the script would make it, a line each."""
    found: list[str] = []
    for name, picture in pictures.items():
        svg, png = HERE / f"{name}.svg", HERE / f"{name}.png"
        if not svg.exists() or svg.read_text(encoding="utf-8") != picture:
            found.append(f"{svg.name} is not what the app shows")
        elif not png.exists() or not is_made_from(picture, png):
            found.append(f"{png.name} was not made from {svg.name}")
    known = {f"{name}.{suffix}" for name in pictures for suffix in ("svg", "png")}
    others = {path.name for path in HERE.glob("*.[ps][nv]g")} - known
    found += [f"{name} is none of the script's pictures" for name in sorted(others)]
    pages = [HERE.parent / "README.md", *(HERE.parent / "s2p_tui").rglob("*.md")]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    for name in pictures:
        png = HERE / f"{name}.png"
        if f"screenshots/{png.name})" not in text:
            found.append(f"{png.name} is on no page")
        if png.exists() and png.stat().st_size > _MOST_BYTES:
            found.append(f"{png.name} is larger than {_MOST_BYTES:,} bytes")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Make or check all pictures; status 1 where a check finds something."""
    parser = argparse.ArgumentParser(prog=_COMMAND, description="Make the README's pictures.")
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    is_check = parser.parse_args(arguments).check
    pictures = {name: draw(scene) for name, scene in SCENES.items()}
    if is_check:
        found = stale(pictures)
        if found:
            print(*found, f"Renew them: {_COMMAND}", sep="\n", file=sys.stderr)
        return 1 if found else 0
    for name, picture in pictures.items():
        (HERE / f"{name}.svg").write_text(picture, encoding="utf-8")
        write_png(picture, HERE / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
