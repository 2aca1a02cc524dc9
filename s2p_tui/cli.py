"""The command line: arguments in, a session or the app at work, an exit status out.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, cast

from cyclopts import App, CycloptsError, Parameter, validators

from s2p_tui.core.errors import AlignmentError, CancelledError, S2PError, UsageError

if TYPE_CHECKING:
    from s2p_tui.session import Session

_HELP = """Bring a PyTorch checkpoint into an Equinox model.

`s2p-tui MODEL SKELETON` opens the terminal app: both sides in two columns, lined up with the
keyboard, converted with one key. The commands do the same without it.
"""

app = App(
    name="s2p-tui",
    help=_HELP,
    help_format="markdown",
    version_flags=["--version"],
    result_action="return_value",
)

Model = Annotated[
    Path,
    Parameter(help="The checkpoint: a torch.save or .safetensors file, an index, or its folder."),
]
Skeleton = Annotated[str, Parameter(help="A skeleton file, a plain .eqx, or pkg.module:factory.")]
Output = Annotated[
    Path | None,
    Parameter(
        name=["--output", "-o"],
        help="The file to write, .eqx or .safetensors; model.eqx in this folder unless given.",
    ),
]
MappingFile = Annotated[Path | None, Parameter(help="Follow this mapping file.")]
Key = Annotated[
    str | None,
    Parameter(help="Where in a nested checkpoint the state dict is: model, ema.state_dict, ..."),
]
Like = Annotated[
    str | None, Parameter(help="pkg.module:factory that names the leaves of a plain .eqx.")
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16", "float64"] | None,
    Parameter(help="Dtype of floating-point leaves, in place of the skeleton's."),
]
ChunkSize = Annotated[
    int,
    Parameter(
        help="Memory to stay within while converting, in MiB.", validator=validators.Number(gte=1)
    ),
]
AsJson = Annotated[bool, Parameter(negative="", help="Print JSON on standard output.")]
_MEBIBYTE = 1 << 20


@app.default
def open_app(
    model: Model,
    skeleton: Skeleton,
    /,
    *,
    output: Output = None,
    mapping: Annotated[
        Path | None,
        Parameter(help="Start from this mapping file if it is there, and save to it."),
    ] = None,
    key: Key = None,
    like: Like = None,
    dtype: Dtype = None,
    chunk_size: ChunkSize = 64,
    ascii_only: Annotated[
        bool, Parameter(name="--ascii", negative="", help="Draw with ASCII characters only.")
    ] = False,
) -> int:
    """Open the terminal app on a checkpoint and a skeleton."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "The app needs a terminal, and this is none.",
            "Use s2p-tui convert, which needs no terminal.",
        )
    if os.environ.get("TERM", "") in ("", "dumb", "unknown"):
        raise UsageError(
            f"The app needs a terminal that can move its cursor, TERM is "
            f"{os.environ.get('TERM', '')!r}.",
            "Set TERM (try TERM=xterm-256color), or use s2p-tui convert.",
        )
    from s2p_tui.app import S2PApp
    from s2p_tui.core.names import default_output

    def open_session(chosen: str | None) -> Session:
        from s2p_tui.session import Session

        start = mapping if mapping is not None and mapping.exists() else None
        key_chosen = key if chosen is None else chosen
        session = Session.open(model, skeleton, key=key_chosen, like=like, mapping=start)
        if start is None:
            session.require_kinship()
        return session

    ui = S2PApp(
        open_session,
        model_label=model.name,
        skeleton_label=Path(skeleton).name,
        output=output or default_output(model),
        dtype=dtype,
        mapping=mapping,
        chunk_bytes=chunk_size * _MEBIBYTE,
        ascii_only=ascii_only,
    )
    converted = ui.run()
    if ui.fatal is not None:
        raise ui.fatal
    if converted is not None:
        # After a hang-up there is nobody left to tell.
        with contextlib.suppress(OSError):
            print(converted.written.path, flush=True)
    return ui.return_code or 0


@app.command
def convert(
    model: Model,
    skeleton: Skeleton,
    /,
    *,
    output: Output = None,
    mapping: MappingFile = None,
    arrange: Annotated[
        Literal["order"] | None,
        Parameter(help="Without a mapping file: the n-th entry feeds the n-th array leaf."),
    ] = None,
    save_mapping: Annotated[
        Path | None, Parameter(help="Save the alignment used as a mapping file.")
    ] = None,
    trust: Annotated[
        tuple[str, ...],
        Parameter(negative="", help="Take this doubtful row, given by its leaf's path, for right."),
    ] = (),
    trust_all: Annotated[
        bool, Parameter(negative="", help="Take every doubtful row for right.")
    ] = False,
    key: Key = None,
    like: Like = None,
    dtype: Dtype = None,
    chunk_size: ChunkSize = 64,
    verify: Annotated[
        bool, Parameter(help="Read the file back and compare every leaf with its source.")
    ] = True,
    json: AsJson = False,
) -> int:
    """Convert without the terminal app.

    The alignment comes from a mapping file, or strictly from the order of both sides. Rows that do
    not line up are listed and nothing is written (exit status 3).

    Examples:
    --------
    s2p-tui convert model.pt model_skeleton.eqx -o model.eqx --mapping model.mapping.json

    s2p-tui convert model.safetensors mypkg.net:make --arrange order --json
    """
    from s2p_tui.console import ConvertReport, run_with_progress
    from s2p_tui.core.names import default_output
    from s2p_tui.session import Session

    path = output or default_output(model)
    report = ConvertReport(path)
    try:
        if (mapping is None) == (arrange is None):
            raise UsageError(
                "Say how to line up the two sides, in one way.",
                "Give --mapping FILE or --arrange order.",
            )
        session = Session.open(model, skeleton, key=key, like=like, mapping=mapping)
        if mapping is None:
            session.require_kinship()
        report.session = session
        session.trust(None if trust_all else trust)
        report.converted = run_with_progress(
            lambda job: session.convert(
                path,
                dtype=dtype,
                chunk_bytes=chunk_size * _MEBIBYTE,
                verify=verify,
                mapping=save_mapping,
                job=job,
            )
        )
    except S2PError as error:
        if not json:
            raise
        report.error = error
    print(report.as_json() if json else report.as_text())
    return report.exit_code


@app.command
def skeleton(
    factory: Annotated[
        str,
        Parameter(
            help="pkg.module:factory or file.py:factory. A required argument named key gets "
            "PRNGKey(0)."
        ),
    ],
    /,
    *,
    output: Annotated[
        Path, Parameter(name=["--output", "-o"], help="The skeleton file to write.")
    ] = Path("model_skeleton.eqx"),
    kwargs: Annotated[str, Parameter(help="The factory's arguments, a JSON object.")] = "{}",
    values: Annotated[
        bool, Parameter(help="Keep the model's own numbers, so that gaps can keep them.")
    ] = True,
) -> int:
    """Write a skeleton file for the model your own code makes.

    Imports and calls the factory; this is the only command that runs code of yours, besides those
    given a factory in place of a skeleton file.

    Examples:
    --------
    s2p-tui skeleton mypkg.net:make_resnet -o resnet_skeleton.eqx --kwargs '{"depth": 18}'
    """
    from s2p_tui.factory import call_factory
    from s2p_tui.skeleton import save_skeleton

    pytree = call_factory(factory, _kwargs(kwargs), abstract=not values)
    saved = save_skeleton(output, pytree, values=values)
    print(f"{output}: {len(saved)} leaves, {output.stat().st_size:,} bytes")
    return 0


@app.command
def inspect(
    file: Annotated[Path, Parameter(help="The file, or the folder of a sharded checkpoint.")],
    /,
    *,
    key: Key = None,
    json: AsJson = False,
) -> int:
    """List what a checkpoint, skeleton, .eqx or mapping file holds; reads no tensor data."""
    from s2p_tui.inspect import describe

    described = describe(file, key)
    for line in [described.as_json()] if json else described.as_lines():
        print(line)
    return 0


@app.command
def verify(
    output: Annotated[Path, Parameter(help="The converted file.")],
    /,
    *,
    model: Model,
    skeleton: Skeleton,
    mapping: Annotated[Path, Parameter(help="The mapping file it was made by.")],
    key: Key = None,
    like: Like = None,
    dtype: Dtype = None,
) -> int:
    """Read a converted file again and compare every leaf with its source, bit by bit."""
    from s2p_tui.console import run_with_progress
    from s2p_tui.session import Session

    session = Session.open(model, skeleton, key=key, like=like, mapping=mapping)
    size = run_with_progress(lambda job: session.verify(output, dtype=dtype, job=job))
    print(f"{output}: {len(session.target.skeleton)} leaves, {size:,} bytes, all as they should be")
    return 0


@app.command
def demo(
    *,
    headless: Annotated[
        bool,
        Parameter(negative="", help="Convert without the app and compare the two models' outputs."),
    ] = False,
    directory: Annotated[
        Path | None, Parameter(help="Where to put the files; a temporary folder unless given.")
    ] = None,
) -> int:
    """Make a small pair of models whose orders differ and open the app on it."""
    import tempfile

    from s2p_tui import demo as pair

    folder = directory or Path(tempfile.mkdtemp(prefix="s2p-tui-demo-"))
    files = pair.make_pair(folder)
    if headless:
        print(pair.convert_and_compare(files))
        return 0
    return open_app(files.model, str(files.skeleton), output=files.output)


def _kwargs(text: str) -> dict[str, Any]:
    import json

    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(
            f"--kwargs is not JSON: {error}.", """Quote it: --kwargs '{"depth": 12}'"""
        ) from None
    if not isinstance(value, dict):
        raise UsageError("--kwargs is not a JSON object.", """Write --kwargs '{"depth": 12}'""")
    return cast("dict[str, Any]", value)


def run(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit status. Errors a user can cause become one line each."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    try:
        return app(arguments, exit_on_error=False, print_error=False) or 0
    except CycloptsError as error:
        _narrate(f"{error}".strip(), "s2p-tui --help shows how it is used.")
        return UsageError.exit_code
    except AlignmentError as error:
        _narrate(error.message, error.hint, error.problems)
        return error.exit_code
    except S2PError as error:
        _narrate(error.message, error.hint)
        return error.exit_code
    except KeyboardInterrupt:
        _narrate("Cancelled.", "")
        return CancelledError.exit_code
    except MemoryError:
        _narrate("There is not enough memory.", "Close other programs, or give a --chunk-size.")
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


_ROWS_SHOWN = 20


def _narrate(message: str, hint: str, problems: tuple[tuple[str, str], ...] = ()) -> None:
    from s2p_tui.core.printable import printable

    lines = [f"s2p-tui: {message} {hint}".rstrip()]
    lines += [f"  {where}: {why}" for where, why in problems[:_ROWS_SHOWN]]
    if len(problems) > _ROWS_SHOWN:
        lines.append(f"  and {len(problems) - _ROWS_SHOWN} more")
    for line in lines:
        print(printable(line), file=sys.stderr)


def main() -> NoReturn:
    """Entry point of the `s2p-tui` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run())
