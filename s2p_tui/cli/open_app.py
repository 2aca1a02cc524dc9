"""`s2p-tui CHECKPOINT SKELETON` and `s2p-tui demo`: the commands that open the app."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from s2p_tui.cli.options import (
    MEBIBYTE,
    Adapter,
    AllowMissing,
    Checkpoint,
    ChunkSize,
    Dtype,
    Jobs,
    Key,
    Like,
    Output,
    Skeleton,
    app,
    command,
)
from s2p_tui.errors import UsageError

if TYPE_CHECKING:
    from s2p_tui.session.session import Session


@app.default
def open_app(
    checkpoint: Checkpoint,
    skeleton: Skeleton,
    /,
    *,
    output: Output = None,
    mapping: Annotated[
        Path | None,
        Parameter(
            help="Mapping file to start from if it exists, and to save to. Default: save beside "
            "the output."
        ),
    ] = None,
    key: Key = None,
    allow_missing: AllowMissing = False,
    like: Like = None,
    adapter: Adapter = None,
    dtype: Dtype = None,
    chunk_size: ChunkSize = 64,
    jobs: Jobs = None,
    ascii_only: Annotated[
        bool | None,
        Parameter(
            name="--ascii",
            negative="--no-ascii",
            help="Use ASCII characters only. Default: decided by the locale.",
        ),
    ] = None,
    mouse: Annotated[
        bool | None,
        Parameter(
            help="Enable the mouse; --no-mouse leaves it to the terminal for selecting text. "
            "Default: config.toml, else on."
        ),
    ] = None,
    torch: Annotated[
        str | None,
        Parameter(
            help="Factory of the PyTorch model, for V and S: pkg.module:factory or "
            "file.py:factory, with its arguments as a JSON object behind it. Default: the one that "
            "the skeleton records."
        ),
    ] = None,
    jax: Annotated[
        str | None,
        Parameter(help="Factory of the JAX model, for V and S. Default: the recorded one."),
    ] = None,
    input: Annotated[  # noqa: A002
        str | None,
        Parameter(
            help="What V and S run both models on: '3x32x32', '128 int32 --below 30000' or "
            "file.py:function. Default: they ask."
        ),
    ] = None,
    resume: Annotated[
        bool,
        Parameter(negative="", help="Resume an earlier session without asking."),
    ] = False,
    fresh: Annotated[
        bool,
        Parameter(
            negative="",
            help="Start over without asking; edits from an earlier session are backed up.",
        ),
    ] = False,
) -> int:
    """Open the terminal app on a checkpoint and a skeleton; press ? in it for help."""
    if resume and fresh:
        raise UsageError("--resume and --fresh contradict each other.", "Give one of them.")
    _require_folder(mapping)
    from s2p_tui.formats.models import Models, factory_in

    models = Models(
        None if jax is None else factory_in(jax), None if torch is None else factory_in(torch)
    )
    from s2p_tui.app.start import run_app
    from s2p_tui.app.terminal.exit import Ending
    from s2p_tui.conversion.output_names import default_output
    from s2p_tui.formats.remote.address import name_of

    def open_session(chosen: str | None) -> Session:
        from s2p_tui.session.session import Session

        start = mapping if _is_there(mapping) else None
        key_chosen = key if chosen is None else chosen
        session = Session.open(
            checkpoint,
            skeleton,
            key=key_chosen,
            allow_missing=allow_missing,
            like=like,
            adapter=adapter,
            mapping=start,
            soon=True,
        )
        if start is None:
            session.require_kinship()
        return session

    ending = Ending(os._exit)
    ui, converted = run_app(
        open_session,
        model_label=name_of(checkpoint),
        skeleton_label=skeleton.name,
        output=output or default_output(checkpoint, skeleton),
        way_out="s2p-tui convert, which needs no terminal",
        dtype=dtype,
        mapping=mapping,
        has_mapping=_is_there(mapping),
        chunk_bytes=chunk_size * MEBIBYTE,
        jobs=jobs,
        ascii_only=ascii_only,
        mouse=mouse,
        resume="go on" if resume else "afresh" if fresh else "ask",
        ending=ending,
        checkpoint=checkpoint,
        adapter=adapter,
        allow_missing=allow_missing,
        models=models,
        inputs=input or "",
    )
    # After a hang-up nobody reads it.
    if sys.stdout.isatty():
        if converted is not None:
            print(converted.written.path, flush=True)
        if ui.farewell:
            print(ui.farewell, file=sys.stderr, flush=True)
    ending.hasten()
    return ui.return_code or 0


def _require_folder(mapping: Path | None) -> None:
    """Refuse a mapping file whose folder does not exist."""
    if mapping is not None and not mapping.parent.is_dir():
        raise UsageError(
            f"There is no folder {mapping.parent} for the mapping file.",
            "Create it, or give another --mapping.",
        )


def _is_there(mapping: Path | None) -> bool:
    return mapping is not None and mapping.exists()


@command(
    """
    # in the terminal app, step by step
    s2p-tui demo

    # without it: convert, and compare the two models
    s2p-tui demo --headless

    # keep the files
    s2p-tui demo --headless --directory demo-files
    """
)
def demo(
    *,
    headless: Annotated[
        bool,
        Parameter(
            negative="", help="Convert without the app, compare the two models' outputs and exit."
        ),
    ] = False,
    directory: Annotated[
        Path | None, Parameter(help="Folder for the files. Default: a new temporary folder.")
    ] = None,
) -> int:
    """Try the app on a small pair of models.

    Writes a residual network in torch and the skeleton of the same network in Equinox, whose layers
    are in a different order, and opens the app on them with a line that suggests the next step.
    After the conversion both models are run on the same images.
    """
    import tempfile

    if not headless:
        from s2p_tui.app.terminal.requirements import require_terminal

        require_terminal("s2p-tui demo --headless, which needs no terminal")
    folder = directory or Path(tempfile.mkdtemp(prefix="s2p-tui-demo-"))
    if headless:
        from s2p_tui.cli import demo as pair

        print(pair.convert_and_compare(pair.make_pair(folder)))
        return 0
    from s2p_tui.app.start import run_app
    from s2p_tui.app.terminal.exit import Ending
    from s2p_tui.app.tour import Tour

    def open_session(key: str | None) -> Session:
        from s2p_tui.cli.demo import make_pair
        from s2p_tui.session.session import Session

        made = make_pair(folder)
        return Session.open(made.model, made.skeleton, key=key, arrange="order")

    def compare() -> str:
        from s2p_tui.cli.demo import in_words, pair_in

        return in_words(pair_in(folder))

    ending = Ending(os._exit)
    ui, converted = run_app(
        open_session,
        model_label="a small network of torch's",
        skeleton_label="its twin in Equinox",
        output=folder / "model.eqx",
        way_out="s2p-tui demo --headless, which needs no terminal",
        resume="afresh",
        ending=ending,
        tour=Tour(compare),
        checkpoint=folder / "model.pt",
        inputs="3x16x16",
    )
    if sys.stdout.isatty():
        print(f"The demo's files are in {folder}." if converted is None else converted.written.path)
        print("Your own: s2p-tui skeleton FILE.py:FACTORY, then s2p-tui CHECKPOINT SKELETON")
    ending.hasten()
    return ui.return_code or 0
