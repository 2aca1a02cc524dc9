"""The cyclopts app, the options that several commands share, and the wording of ways out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from cyclopts import App, Parameter, Token, validators

from s2p_tui.errors import Code, UsageError
from s2p_tui.formats.remote.address import is_address

_HELP = (
    "Bring a PyTorch checkpoint into an Equinox model.\n\n"
    "s2p-tui CHECKPOINT SKELETON opens the terminal app: both sides in two columns, aligned with "
    "the keyboard, converted with one key. The commands do the same, and more, without it.\n\n"
    "The app journals every edit. If an earlier session on the same pair left edits, it asks "
    "whether to resume it; --resume and --fresh skip the question. If a mapping file of the pair "
    "is beside the output, it asks whether to start from that. An existing --mapping file is used "
    "without asking, unless edits were made since."
)
_EPILOGUE = """\
Examples:
  # align both sides in the terminal, then convert with c
  s2p-tui model.pt model_skeleton.eqx

  # without a skeleton file: import net.py and call its Net
  s2p-tui model.pt net.py:Net -o model.eqx

  # resume after the connection dropped
  s2p-tui model.pt model_skeleton.eqx --resume

Exit status:
  0    done
  1    not enough memory, or a fault of the program
  2    wrong usage
  3    rows do not line up or are doubtful, or entries are left over; they are
       listed, nothing is written
  4    an input cannot be read, or is refused
  5    the output cannot be written, or failed verification
  6    check: the two models differ
  7    Claude cannot be asked, or gave no usable answer
  130  cancelled or declined; after any other signal 128 plus its number

s2p-tui COMMAND --help shows more, with examples."""


def _shown(default: object) -> str | None:
    """Return a default as help shows it; None for one that is not worth showing."""
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

_FILES = (
    "torch.save or .safetensors file, an index of shards or its folder, or a chunk folder; or the "
    "address of one: https://, gs://, s3:// or hf://ORGANISATION/REPOSITORY, of which only what is "
    "needed is read."
)


def place(_: type, tokens: Sequence[Token]) -> Path | str:
    """Return an address as it was typed: a path has one slash where it has two."""
    text = tokens[0].value
    return text if is_address(text) else Path(text)


Checkpoint = Annotated[
    Path | str, Parameter(converter=place, help=f"Checkpoint to convert: a {_FILES}")
]
# --model is the old name of this option; in `convert` it is that of Claude's model.
CheckpointOption = Annotated[
    Path | str,
    Parameter(
        name=["--checkpoint", "--model"],
        converter=place,
        help=f"Checkpoint it was made from: a {_FILES}",
    ),
]
# A path, so that shells complete files; one of an import is the same as a text.
Skeleton = Annotated[
    Path,
    Parameter(
        help="Model to fill: a skeleton file, a plain .eqx, a chunk folder, or pkg.module:factory, "
        "which is imported and called."
    ),
]
Output = Annotated[
    Path | None,
    Parameter(
        name=["--output", "-o"],
        help="File to write, .eqx or .safetensors; or an Orbax checkpoint, a folder or gs:// URL. "
        "Default: CHECKPOINT's name with .eqx, in the current folder.",
    ),
]
Format = Annotated[
    Literal["eqx", "safetensors", "orbax"] | None,
    Parameter(
        name="--format",
        help="Format to write. Default: that of the output's name; .eqx if it has no suffix, or as "
        "answered in a terminal. 'orbax' is a sharded checkpoint that Orbax restores; needs "
        "s2p-tui[scale].",
    ),
]
Part = Annotated[
    str | None,
    Parameter(
        help="Share of this worker, I/N with I from 0 to N-1, or 'auto': from Slurm's or Open "
        "MPI's variables. Orbax only.",
    ),
]
MappingFile = Annotated[
    Path | None, Parameter(help="Follow this mapping file instead of aligning the two sides.")
]
Key = Annotated[
    str | None,
    Parameter(
        help="Path of the state dict in a nested checkpoint: model, ema.state_dict, … Needed where "
        "there are several."
    ),
]
AllowMissing = Annotated[
    bool,
    Parameter(
        negative="", help="Leave out entries that an index of shards names and no shard holds."
    ),
]
Adapter = Annotated[
    Path | str | None,
    Parameter(
        converter=place,
        help="LoRA adapter to merge into the checkpoint: adapter_model.safetensors, with "
        "adapter_config.json beside it, or the folder of both.",
    ),
]
Like = Annotated[
    str | None,
    Parameter(help="pkg.module:factory of the model in a plain .eqx, to name its leaves."),
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16", "float64"] | None,
    Parameter(help="Dtype to write floating-point leaves in. Default: the skeleton's."),
]
ChunkSize = Annotated[
    int,
    Parameter(help="MiB of tensor data in memory at a time.", validator=validators.Number(gte=1)),
]
Jobs = Annotated[
    int | None,
    Parameter(
        help="Number of threads, 1 to 64. Default: 2 (1 on a single core), 8 for an address.",
        validator=validators.Number(gte=1, lte=64),
    ),
]
Trust = Annotated[
    tuple[str, ...],
    Parameter(
        negative="",
        help="Accept the doubtful rows with this key path or pattern ('*.mixer.*'). May be "
        "repeated.",
    ),
]
TrustAll = Annotated[bool, Parameter(negative="", help="Accept all doubtful rows.")]
AllowUnused = Annotated[
    tuple[str, ...],
    Parameter(
        negative="",
        help="Accept that no leaf takes the entries with this key or pattern ('pooler.*'). May be "
        "repeated. --trust and --trust-all do not accept them.",
    ),
]
AllowOverflow = Annotated[
    bool,
    Parameter(
        negative="",
        help="Write numbers that a cast makes infinite or NaN; they are refused otherwise.",
    ),
]


def _refuse_page(_type: Any, path: Path | None) -> None:
    """Refuse a name under which check --report writes a page.

    Raises:
        ValueError: The name ends so.
    """
    if path is not None and path.suffix.lower() in (".html", ".htm", ".md"):
        raise ValueError(
            f"A certificate is JSON, {path} is not named so. s2p-tui check --report writes a "
            "comparison of both models as HTML or Markdown."
        )


Certificate = Annotated[
    Path | None,
    Parameter(
        name=["--certificate", "--report"],
        help="Write a certificate to this file: a JSON record of each leaf as it was read back.",
        validator=_refuse_page,
    ),
]
WithProof = Annotated[
    bool,
    Parameter(
        negative="",
        help="With --json: name what proves each row right, and which questions are open.",
    ),
]
AsJson = Annotated[
    bool,
    Parameter(
        negative="",
        help="Print one JSON object on standard output in place of text.",
    ),
]
MEBIBYTE = 1 << 20
_LINE_UP = "Line them up in the app, pass a --mapping, or --trust rows that are only doubtful."
WAYS_OUT = {
    Code.CHOOSE_STATE_DICT: "Choose one with --key: {choices}.",
    Code.ALLOW_MISSING: (
        "Copy or download the whole set again, or leave them out with --allow-missing."
    ),
    Code.NO_NESTED_STATE_DICT: "Leave --key out.",
    Code.SWAPPED_SIDES: "The order is CHECKPOINT SKELETON.",
    Code.NO_NAMES_FOR_LEAVES: "Leave --like out.",
    Code.SAVED_MAPPING: (
        "Give a mapping file that convert --save-mapping, or ctrl+s in the app, wrote."
    ),
    Code.SAVED_RECIPE: "Give a recipe file that s2p-tui recipe wrote, or the name of one.",
    Code.OTHER_FILES: (
        "Use the files it names, or align these anew. For another depth or width make a recipe of "
        "it: s2p-tui recipe, then convert --recipe."
    ),
    Code.LINE_UP_ROWS: _LINE_UP,
    Code.LINE_UP_MISMATCHED_ROWS: "Line them up in the app, or pass a --mapping.",
    Code.LINE_UP_NAMELESS_ROWS: (
        f"{_LINE_UP} The leaves of a plain .eqx can be named with --like pkg.module:factory."
    ),
    # Without a full stop, which would be pasted with the last pattern.
    Code.ACCEPT_UNUSED: "Accept entries that the model does not need: {unused:--allow-unused }",
    Code.MERGE_ADAPTER: (
        "Some are a LoRA adapter's, which has to be merged: give the base model's CHECKPOINT and "
        "--adapter, or merge them with PEFT (merge_and_unload) first."
    ),
    Code.ALLOW_OVERFLOW: "Write --dtype bfloat16 or float32, or allow it with --allow-overflow.",
    Code.LOADABLE_DTYPE: "Write bfloat16 with --dtype bfloat16, or write a .safetensors file.",
    Code.VERIFY_OR_NO_CERTIFICATE: "Leave out --certificate or --no-verify.",
    Code.SAME_AS_CONVERTED: (
        "Give --checkpoint, --key, --skeleton, --mapping and --dtype as they were given to "
        "convert, or convert again."
    ),
    Code.TURN_ROUND: "Give the --mapping that the conversion saved.",
    Code.NO_ROOM_IN_ENTRIES: (
        "Make them agree before they are exported, or convert into a pytree without them."
    ),
    Code.SETTLE_BY_FORWARD: "Or let the forward settle rows that are only doubtful: --settle.",
    Code.SETTLE_MAPPING: (
        "Give the --mapping that the conversion saved, or --trust rows that are only doubtful."
    ),
    Code.GIVE_ORIGINAL: "Give the original with --checkpoint.",
    Code.ALLOW_ENTRY_OVERFLOW: "Scale them down first, or allow it with --allow-overflow.",
    Code.WRITE_MISSING: "Run convert again with the same options: what is there is kept.",
    Code.MERGE_FIRST: "Run finish first, with the same options.",
    Code.VERIFY_FIRST: "Run verify on every --part first.",
    Code.SAME_PLAN: (
        "Give every worker the same CHECKPOINT, SKELETON, --mapping, --dtype and --chunk-size, or "
        "remove what is there."
    ),
    Code.OVERWRITE_CHUNKS: "Choose another folder, or replace these with --overwrite.",
    Code.NOBODY_TO_ASK: "Run it in a terminal, or answer both questions with --yes.",
}
"""The command line's wording of ways out."""


def json_object(option: str, text: str) -> dict[str, Any]:
    """Parse the JSON object given as an option.

    Raises:
        UsageError: It is not JSON, or not an object.
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
    """Add a function to the app as a command of its name.

    Args:
        examples: Commands as one types them, each below a comment; at most 78 characters a line,
            as terminals are 80 wide.
    """

    def added(function: Command) -> Command:
        app.command(
            function, help=unwrapped(function.__doc__ or ""), help_epilogue=as_epilogue(examples)
        )
        return function

    return added


def unwrapped(text: str) -> str:
    """Return a docstring with each paragraph in one line, for a terminal of any width to wrap."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def as_epilogue(examples: str) -> str:
    """Return examples as the end of a help text."""
    lines = inspect.cleandoc(examples).splitlines()
    return "\n".join(["Examples:", *(f"  {line}".rstrip() for line in lines)])
