"""`python -m tests.benchmarks.entered`: modules of s2p_tui that a key press and a conversion enter.

A module is entered once one of its functions runs; what runs on its import does not count. Prints
both lists and their lengths beside the most there should be, and ends with 1 where one is longer.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import s2p_tui
from s2p_tui.app.app import S2PApp
from s2p_tui.app.screens.main import Workspace
from s2p_tui.session.session import Session
from tests.benchmarks.inputs import Pair, Tensor, plain_pair

_ROOT = str(Path(s2p_tui.__file__).parent)
_TENSORS: list[Tensor] = [
    (f"layers.{n}.{name}", shape, "float32")
    for n in range(2)
    for name, shape in (("weight", (4, 3)), ("bias", (4,)))
]
_PATIENCE = 60


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_STATE_HOME"] = folder
        pair = plain_pair(Path(folder), "pair", _TENSORS, ".safetensors")
        found = {
            "one J": (30, asyncio.run(_press_j(pair))),
            "open and convert": (48, _convert(pair, Path(folder) / "out.eqx")),
        }
    for what, (most, modules) in found.items():
        print(f"{what}: {len(modules)} modules, at most {most}")
        print(*(f"  {name}" for name in sorted(modules)), sep="\n")
    return int(any(len(modules) > most for most, modules in found.values()))


@contextmanager
def _entered() -> Iterator[set[str]]:
    """The names of the modules entered meanwhile, in this thread and those it starts."""
    seen: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        is_function = code.co_flags & inspect.CO_OPTIMIZED
        if event == "call" and is_function and code.co_filename.startswith(_ROOT):
            seen.add(frame.f_globals["__name__"])

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield seen
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def _convert(pair: Pair, output: Path) -> set[str]:
    # The first one imports what is imported when it is needed.
    for _ in range(2):
        with _entered() as seen:
            session = Session.open(pair.model, pair.skeleton)
            session.convert(output)
            session.close()
    return seen


async def _press_j(pair: Pair) -> set[str]:
    app = S2PApp(
        lambda _: Session.open(pair.model, pair.skeleton),
        model_label="model",
        skeleton_label="skeleton",
        output=pair.model.parent / "out.eqx",
        resume="afresh",
    )
    async with app.run_test() as pilot:

        async def until(is_so: Callable[[], bool]) -> None:
            async with asyncio.timeout(_PATIENCE):
                while not is_so():
                    await pilot.pause()

        await until(lambda: isinstance(app.screen, Workspace))
        await pilot.pause()
        workspace = app.screen
        assert isinstance(workspace, Workspace)
        with _entered() as seen:
            await pilot.press("J")
            await until(lambda: app.keys_are_done and len(workspace.session.history) == 1)
            await pilot.pause()
    return seen


if __name__ == "__main__":
    sys.exit(main())
