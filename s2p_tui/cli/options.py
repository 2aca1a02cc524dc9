"""What the commands have in common: the app they belong to and the options they share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from cyclopts import App, Parameter, validators

from s2p_tui.errors import UsageError

_HELP = (
    "Bring a PyTorch checkpoint into an Equinox model.\n\n"
    "s2p-tui MODEL SKELETON opens the terminal app: both sides in two columns, lined up with the "
    "keyboard, converted with one key. The commands do the same, and more, without it.\n\n"
    "The app journals every edit. Where an earlier session on the same pair left edits, it asks "
    "whether to go on with them, unless --resume or --fresh answers; where a mapping file of the "
    "pair is beside the output, whether to start from it. A --mapping file that is there answers "
    "too, unless edits were made since."
)
_EPILOGUE = """\
Examples:
  # line both sides up in the terminal, then convert with c
  s2p-tui model.pt model_skeleton.eqx

  # without a skeleton file: import net.py and call its Net
  s2p-tui model.pt net.py:Net -o model.eqx

  # go on where the line dropped
  s2p-tui model.pt model_skeleton.eqx --resume

Exit status:
  0    done
  1    not enough memory, or an error of the program's own
  2    wrong usage
  3    rows do not line up or are doubtful, or entries are left over; listed, nothing is written
  4    an input cannot be read, or is refused
  5    the output cannot be written, or is not what it should be
  6    check: the two models differ
  7    Claude cannot be asked, or gave no answer that can be used
  130  cancelled or declined; 128 plus its number after any other signal

s2p-tui COMMAND --help tells more, with examples."""


def _shown(default: object) -> str | None:
    """A default as it is shown; None for one that goes without saying."""
    match default:
        case None | False | ():
            return None
        case True:
            return "on"
        case (str(one),):
            return one
        case _:
            return str(default)


app = App(
    name="s2p-tui",
    help=_HELP,
    help_epilogue=_EPILOGUE,
    help_format="plaintext",
    version_flags=["--version"],
    result_action="return_value",
    default_parameter=Parameter(show_default=_shown),
)
app["--help"].help = "Show this text, or a command's, and exit."
app["--version"].help = "Show the version and exit."

Model = Annotated[
    Path,
    Parameter(
        help="The checkpoint: a torch.save or .safetensors file, an index of shards or its folder, "
        "or a chunk folder."
    ),
]
# A path, so that shells complete files; one of an import is the same as a text.
Skeleton = Annotated[
    Path,
    Parameter(
        help="What to fill: a skeleton file, a plain .eqx, a chunk folder, or pkg.module:factory, "
        "which is imported and called."
    ),
]
Output = Annotated[
    Path | None,
    Parameter(
        name=["--output", "-o"],
        help="The file to write, .eqx or .safetensors; MODEL's name with .eqx in this folder "
        "unless given.",
    ),
]
MappingFile = Annotated[
    Path | None, Parameter(help="Follow this mapping file instead of lining the two sides up.")
]
Key = Annotated[
    str | None,
    Parameter(
        help="Where in a nested checkpoint the state dict is: model, ema.state_dict, …; needed "
        "where several could be meant."
    ),
]
Like = Annotated[
    str | None,
    Parameter(help="pkg.module:factory of the model in a plain .eqx, to name its leaves."),
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16", "float64"] | None,
    Parameter(help="Dtype to write floating-point leaves in; the skeleton's unless given."),
]
ChunkSize = Annotated[
    int,
    Parameter(help="MiB of tensor data in memory at a time.", validator=validators.Number(gte=1)),
]
Jobs = Annotated[
    int | None,
    Parameter(
        help="Threads that share the work and the memory, 1 to 64; unless given 2, on a single "
        "core 1.",
        validator=validators.Number(gte=1, lte=64),
    ),
]
Trust = Annotated[
    tuple[str, ...],
    Parameter(
        negative="",
        help="Take the doubtful row of this key path (.conv1.weight) for right; may be repeated.",
    ),
]
TrustAll = Annotated[bool, Parameter(negative="", help="Take all doubtful rows for right.")]
AllowUnused = Annotated[
    tuple[str, ...],
    Parameter(
        negative="",
        help="Accept that no leaf takes the entries of this key or pattern (pooler.*); may be "
        "repeated.",
    ),
]
AllowOverflow = Annotated[
    bool,
    Parameter(negative="", help="Write numbers that a cast makes infinite or NaN; else refused."),
]
Report = Annotated[
    Path | None,
    Parameter(help="Write a certificate to this file, as JSON: what was read back of every leaf."),
]
AsJson = Annotated[
    bool,
    Parameter(
        negative="",
        help="Print one JSON object on standard output in place of text.",
    ),
]
MEBIBYTE = 1 << 20


def json_object(option: str, text: str) -> dict[str, Any]:
    """The JSON object given as an option.

    Raises:
        UsageError: It is no JSON, or no object.
    """
    import json

    example = f"""{option} '{{"depth": 12}}'"""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{option} is not JSON: {error}.", f"Quote it: {example}.") from None
    if not isinstance(value, dict):
        raise UsageError(f"{option} is {text}, a JSON object was expected.", f"Write {example}.")
    return cast("dict[str, Any]", value)


Command = TypeVar("Command", bound=Callable[..., Any])


def command(examples: str) -> Callable[[Command], Command]:
    """Have a function answer to its name.

    Args:
        examples: Commands as one types them, each below a line that says what it does; at most 78
            characters a line, as terminals are 80 wide.
    """

    def added(function: Command) -> Command:
        app.command(
            function, help=unwrapped(function.__doc__ or ""), help_epilogue=as_epilogue(examples)
        )
        return function

    return added


def unwrapped(text: str) -> str:
    """A docstring with each paragraph in one line, for a terminal of any width to wrap."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def as_epilogue(examples: str) -> str:
    """Examples as they stand at the end of a help text."""
    lines = inspect.cleandoc(examples).splitlines()
    return "\n".join(["Examples:", *(f"  {line}".rstrip() for line in lines)])
