"""Entry points of the terminal app, for the command line and for Python."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from s2p_tui.app.app import AppOptions, S2PApp
from s2p_tui.app.config import load_settings, locale_is_ascii, settings_file
from s2p_tui.app.resume import Resume
from s2p_tui.app.terminal.requirements import require_foreground, require_terminal
from s2p_tui.app.theme import suitable_theme
from s2p_tui.errors import S2PError

if TYPE_CHECKING:
    from s2p_tui.conversion.output import Converted
    from s2p_tui.conversion.report import Report
    from s2p_tui.session.session import Session

_BY_SIGNAL = 128


def run_app(
    open_session: Callable[[str | None], Session],
    *,
    way_out: str,
    mouse: bool | None = None,
    **options: Unpack[AppOptions],
) -> tuple[S2PApp, Converted | None]:
    """Run the app in this terminal until it ends, by the user's configuration file.

    Args:
        open_session: Opens both ends, slowly; takes the state dict's dotted key, or None.
        way_out: What needs no terminal, as the object of "use".
        mouse: Use the mouse; None for what the configuration says.
        options: See `AppOptions`. Without `ascii_only`, configuration and locale decide.

    Returns:
        The app, which has ended, and the last conversion.

    Raises:
        UsageError: There is no terminal, or the configuration file makes no sense.
        S2PError: One side cannot be opened.
    """
    require_terminal(way_out)
    settings = load_settings(settings_file())
    ascii_only = (options.get("ascii_only"), settings.ascii, locale_is_ascii())
    options["ascii_only"] = next(one for one in ascii_only if one is not None)
    options["keymap"] = settings.keymap
    options["theme"] = settings.theme or suitable_theme()
    app = S2PApp(open_session, **options)
    converted = app.run(mouse=settings.mouse if mouse is None else mouse)
    if app.fatal is not None:
        raise app.fatal
    return app, converted


def start_conversion_from_pytree_and_state_dict(
    pytree: Any,
    state_dict: Any,
    *,
    target_name: str = "model.eqx",
    target_dir: str | Path = ".",
    dtype: str | None = None,
    mapping: str | Path | None = None,
    key: str | None = None,
    resume: Resume = "ask",
    ascii_only: bool | None = None,
) -> Report | None:
    """Open the app on objects in memory; returns when the user quits.

    Edits are journalled like those on files: the same names, shapes and dtypes are the same pair.

    Args:
        pytree: As for `s2p_tui.convert`: a module, `(model, state)`, any pytree, an abstract one.
        state_dict: As for `s2p_tui.convert`; its tensors are viewed, not copied.
        target_name: The file proposed for the conversion.
        target_dir: Its folder.
        dtype: The dtype proposed for it; None for the pytree's.
        mapping: A mapping file to start from if it is there, and to save to; None for beside the
            output.
        key: Dotted place of the state dict in a nested one; the app asks where several could be
            meant.
        resume: What to do with edits that an earlier session on the same pair left.
        ascii_only: Use no signs beyond ASCII; None for what configuration and locale say.

    Returns:
        What was converted last, or None if nothing was.

    Raises:
        UsageError: There is no terminal, or an event loop runs already; the message says what to
            call instead.
        S2PError: One side cannot be converted.
    """

    def open_session(chosen: str | None) -> Session:
        from s2p_tui.formats.memory import checkpoint_in_memory
        from s2p_tui.session.opening import target_in_memory
        from s2p_tui.session.session import Session

        checkpoint = checkpoint_in_memory(state_dict, key=key if chosen is None else chosen)
        return Session.between(checkpoint, target_in_memory(pytree))

    return _start(
        open_session,
        "state dict in memory",
        "pytree in memory",
        Path(target_dir) / target_name,
        dtype,
        mapping,
        resume,
        ascii_only,
        "s2p_tui.convert(from_memory=True, state_dict=…, pytree=…)",
    )


def start_conversion_from_paths(
    pytree_path: str | Path,
    state_dict_path: str | Path,
    *,
    target_name: str = "model.eqx",
    target_dir: str | Path = ".",
    dtype: str | None = None,
    mapping: str | Path | None = None,
    key: str | None = None,
    allow_missing: bool = False,
    like: str | None = None,
    resume: Resume = "ask",
    ascii_only: bool | None = None,
) -> Report | None:
    """Open the app on chunk folders, files or import paths; returns when the user quits.

    Args:
        pytree_path: A chunk folder, a skeleton file, an `.eqx`, or `pkg.module:object`.
        state_dict_path: A chunk folder, a checkpoint, or `pkg.module:object`.
        target_name: The file proposed for the conversion.
        target_dir: Its folder.
        dtype: The dtype proposed for it; None for the pytree's.
        mapping: A mapping file to start from if it is there, and to save to; None for beside the
            output.
        key: Dotted place of the state dict in a nested checkpoint.
        allow_missing: Leave out entries that an index promises and no shard holds.
        like: `pkg.module:factory` that names the leaves of a plain `.eqx`.
        resume: What to do with edits that an earlier session on the same pair left.
        ascii_only: Use no signs beyond ASCII; None for what configuration and locale say.

    Returns:
        What was converted last, or None if nothing was.

    Raises:
        UsageError: There is no terminal, or an event loop runs already; the message says what to
            call instead. Or the two paths are the wrong way round.
        S2PError: One side cannot be read.
    """

    def open_session(chosen: str | None) -> Session:
        from s2p_tui.session.opening import pytree_at, require_order, state_dict_at
        from s2p_tui.session.session import Session

        require_order(pytree_path, state_dict_path)
        place = key if chosen is None else chosen
        checkpoint = state_dict_at(state_dict_path, place, allow_missing=allow_missing)
        return Session.between(checkpoint, pytree_at(pytree_path, like))

    return _start(
        open_session,
        str(state_dict_path),
        str(pytree_path),
        Path(target_dir) / target_name,
        dtype,
        mapping,
        resume,
        ascii_only,
        "s2p_tui.convert(from_path=True, …)",
        checkpoint=_place_of(state_dict_path),
        allow_missing=allow_missing,
    )


def _place_of(where: str | Path) -> Path | str | None:
    """Return a file or an address; None for an import path."""
    from s2p_tui.formats.remote.address import is_address

    if is_address(where):
        return where
    return Path(where) if os.path.exists(where) else None


def _start(
    open_session: Callable[[str | None], Session],
    model_label: str,
    skeleton_label: str,
    output: Path,
    dtype: str | None,
    mapping: str | Path | None,
    resume: Resume,
    ascii_only: bool | None,
    way_out: str,
    *,
    checkpoint: Path | str | None = None,
    allow_missing: bool = False,
) -> Report | None:
    require_foreground(way_out)
    opened: list[Session] = []
    path = None if mapping is None else Path(mapping)
    has_mapping = path is not None and path.exists()

    def open_and_keep(chosen: str | None) -> Session:
        session = open_session(chosen)
        opened.append(session)
        if path is not None and has_mapping:
            session.begin_from(path)
        else:
            session.require_kinship()
        return session

    try:
        app, converted = run_app(
            open_and_keep,
            model_label=model_label,
            skeleton_label=skeleton_label,
            output=output,
            way_out=way_out,
            dtype=dtype,
            mapping=path,
            has_mapping=has_mapping,
            ascii_only=ascii_only,
            resume=resume,
            checkpoint=checkpoint,
            allow_missing=allow_missing,
        )
    except S2PError as error:
        from s2p_tui.converter.ways_out import WAYS_OUT

        error.put_into(WAYS_OUT)
        raise
    finally:
        for session in opened:
            session.close()
    if app.return_code and app.return_code > _BY_SIGNAL:
        signal.raise_signal(app.return_code - _BY_SIGNAL)
    if converted is None:
        return None
    return opened[-1].report_of(converted)
