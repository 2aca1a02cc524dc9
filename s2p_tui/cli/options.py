"""What the commands have in common: the app they belong to and the options they share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, cast

from cyclopts import App, Parameter, validators

from s2p_tui.core.errors import UsageError

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
    Parameter(
        help="The checkpoint: a torch.save or .safetensors file, an index or its folder, or a "
        "chunk folder."
    ),
]
Skeleton = Annotated[
    str,
    Parameter(help="A skeleton file, a plain .eqx, a chunk folder, or pkg.module:factory."),
]
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
Jobs = Annotated[
    int | None,
    Parameter(
        help="Threads that share the work and its memory: 2 unless given (1 on a single core). "
        "1 leaves the other cores to others.",
        validator=validators.Number(gte=1, lte=64),
    ),
]
Trust = Annotated[
    tuple[str, ...],
    Parameter(negative="", help="Take this doubtful row, given by its leaf's path, for right."),
]
TrustAll = Annotated[bool, Parameter(negative="", help="Take every doubtful row for right.")]
Report = Annotated[
    Path | None,
    Parameter(help="Write a certificate there, JSON: what was read back of every leaf."),
]
AsJson = Annotated[bool, Parameter(negative="", help="Print JSON on standard output.")]
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
