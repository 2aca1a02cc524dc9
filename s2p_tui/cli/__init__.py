"""The command line: arguments in, a session or the app at work, an exit status out.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import gc
import os
import sys
from difflib import get_close_matches
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import TYPE_CHECKING, Any, NoReturn, cast

from cyclopts import CycloptsError

from s2p_tui.cli import compare, convert, export, files, open_app, orbax, recipe, settings
from s2p_tui.cli.options import WAYS_OUT, app
from s2p_tui.errors import AlignmentError, OutputError, S2PError, SettingsError, UsageError
from s2p_tui.session.signals import StoppedError, stopping

if TYPE_CHECKING:
    from typing_extensions import Buffer

COMMANDS = (open_app, convert, orbax, export, recipe, files, compare, settings)
"""The modules whose commands are added to the app by importing them."""


def run(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit status. Errors a user can cause become one line each."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # NumPy's import starts a thread per core for products of matrices, of which there are hardly
    # any here: on two cores that takes 20 of the 120 ms of processor time of the import.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    given = sys.argv[1:] if arguments is None else arguments
    try:
        with stopping():
            if not given:
                raise UsageError(
                    "A checkpoint and a skeleton are needed: s2p-tui model.pt model_skeleton.eqx.",
                    "s2p-tui demo shows the app on two small ones, s2p-tui --help lists all.",
                )
            _refuse_unknown_command(given)
            status = app(arguments, exit_on_error=False, print_error=False) or 0
        print(end="", flush=True)
        return status
    except CycloptsError as error:
        command = [name for name in given[:1] if name in [*app]]
        help_of = " ".join(["s2p-tui", *command, "--help"])
        _narrate(f"{error}".strip(), f"{help_of} shows how it is used.")
        return UsageError.exit_code
    except S2PError as error:
        hint = error.put_into(WAYS_OUT).hint
        listed = isinstance(error, AlignmentError | SettingsError)
        _narrate(error.message, hint, error.problems if listed else ())
        return error.exit_code
    except StoppedError as stopped:
        _narrate(f"Stopped by {stopped.name}.", "")
        return 128 + stopped.number
    except MemoryError:
        _narrate("There is not enough memory.", "Close other programs, or give a --chunk-size.")
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as ended:
        # Rich, which prints the help, ends the program where nobody reads on.
        if isinstance(ended.__context__, BrokenPipeError):
            return 0
        raise


def _refuse_unknown_command(arguments: list[str]) -> None:
    """Make sure that the first word is a command, a file, or nothing like a command.

    Raises:
        UsageError: It is a command with a slip of the pen.
    """
    word = arguments[0] if arguments else ""
    if not word.isalpha() or word in app or os.path.exists(word):
        return
    commands = [name for name in app if name.isalpha()]
    if near := get_close_matches(word.lower(), commands, 1, _NEAR):
        raise UsageError(
            f"There is no command {word}, and no file of that name.", f"Do you mean {near[0]}?"
        )


# `convrt` is like `convert` by 0.92, `model` like no command by more than 0.55.
_NEAR = 0.7
_ROWS_SHOWN = 20


def _narrate(message: str, hint: str, problems: tuple[tuple[str, str], ...] = ()) -> None:
    from s2p_tui.errors import printable

    lines = [f"s2p-tui: {message} {hint}".rstrip()]
    lines += [f"  {where}: {why}" for where, why in problems[:_ROWS_SHOWN]]
    if len(problems) > _ROWS_SHOWN:
        lines.append(f"  and {len(problems) - _ROWS_SHOWN} more")
    for line in lines:
        print(printable(line), file=sys.stderr)


class _StandardOutput(FileIO):
    """Standard output, whose failure is the user's to know; what comes after one is dropped."""

    _has_failed = False

    def write(self, data: Buffer, /) -> int:
        """Write as `FileIO` does.

        Raises:
            OutputError: The disk is full, or whatever it is connected to refuses more.
            BrokenPipeError: Nobody reads it any more.
        """
        try:
            return len(memoryview(data)) if self._has_failed else super().write(data)
        except BrokenPipeError:
            self._has_failed = True
            raise
        except OSError as error:
            self._has_failed = True
            raise OutputError(
                f"Standard output cannot be written: {error.strerror}.",
                "Free some space, or send the output elsewhere.",
            ) from None


# Most of what a start makes stays: with the usual 700 the collector goes through it again and
# again, which takes 35 of the 300 ms that the imports of `convert` take.
_OFTEN_ENOUGH = 10_000


def main() -> NoReturn:
    """Entry point of the `s2p-tui` command."""
    gc.set_threshold(_OFTEN_ENOUGH)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    plain = cast("TextIOWrapper[Any] | None", sys.stdout)
    if isinstance(plain, TextIOWrapper):
        sys.stdout = TextIOWrapper(
            BufferedWriter(_StandardOutput(plain.fileno(), "w", closefd=False)),
            plain.encoding,
            plain.errors,
            line_buffering=plain.line_buffering,
        )
    status = run()
    # The interpreter looks for garbage a last time as it ends, which takes 50 ms.
    gc.freeze()
    sys.exit(status)
