"""`s2p-tui convert` and `s2p-tui verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from s2p_tui.cli.options import (
    MEBIBYTE,
    AllowOverflow,
    AllowUnused,
    AsJson,
    ChunkSize,
    Dtype,
    Jobs,
    Key,
    Like,
    MappingFile,
    Model,
    Output,
    Report,
    Skeleton,
    Trust,
    TrustAll,
    command,
)
from s2p_tui.errors import CancelledError, S2PError, UsageError

if TYPE_CHECKING:
    from s2p_tui.session.session import Session


@command(
    """
    # by names and structure; keep the alignment that was used
    s2p-tui convert model.pt model_skeleton.eqx --save-mapping model.mapping.json

    # the same again, in half the space
    s2p-tui convert model.pt model_skeleton.eqx -o half.eqx --dtype bfloat16 \\
        --mapping model.mapping.json

    # strictly by order, told as JSON
    s2p-tui convert model.safetensors model_skeleton.eqx --arrange order --json

    # one of several state dicts in a training checkpoint
    s2p-tui convert checkpoint.pt net.py:Net -o ema.eqx --key ema

    # what names and structure leave open as Claude proposes; asks first
    s2p-tui convert model.pt model_skeleton.eqx --arrange claude --model opus
    """
)
def convert(
    model: Model,
    skeleton: Skeleton,
    /,
    *,
    output: Output = None,
    mapping: MappingFile = None,
    arrange: Annotated[
        Literal["auto", "order", "claude"] | None,
        Parameter(
            help="How to line the two sides up without --mapping: auto, by names and structure, "
            "unless given; order, the n-th entry to the n-th array leaf; claude, what auto leaves "
            "open as Claude proposes, which asks before anything is sent or taken."
        ),
    ] = None,
    claude_model: Annotated[
        str | None,
        Parameter(
            name="--model",
            help="Claude's model: haiku, sonnet, opus or a full id; the last used unless given.",
        ),
    ] = None,
    yes: Annotated[
        bool,
        Parameter(
            negative="",
            help="Send to Claude and take what it proposes unasked, but for rows it is unsure of.",
        ),
    ] = False,
    save_mapping: Annotated[
        Path | None, Parameter(help="Save the alignment that was used as this mapping file.")
    ] = None,
    trust: Trust = (),
    trust_all: TrustAll = False,
    allow_unused: AllowUnused = (),
    key: Key = None,
    like: Like = None,
    dtype: Dtype = None,
    allow_overflow: AllowOverflow = False,
    chunk_size: ChunkSize = 64,
    jobs: Jobs = None,
    verify: Annotated[
        bool,
        Parameter(
            help="Read the file back and compare every leaf with its source, then give it its name."
        ),
    ] = True,
    report: Report = None,
    json: AsJson = False,
) -> int:
    """Convert a checkpoint without the terminal app.

    The two sides are lined up by a mapping file, by names and structure, strictly by order, or with
    Claude's help. If rows do not line up, or are doubtful and not trusted, or if entries are left
    over that hold parameters and are not accepted, they are listed and nothing is written: exit
    status 3. Progress goes to standard error, the summary to standard
    output.
    """
    from s2p_tui.cli.progress import ConvertReport, run_with_progress
    from s2p_tui.conversion.output_names import default_output
    from s2p_tui.session.session import Session

    path = output or default_output(model, skeleton)
    told = ConvertReport(path)
    try:
        if mapping is not None and arrange is not None:
            raise UsageError(
                "--mapping and --arrange both say how to line up the two sides.",
                "Give one of them.",
            )
        if arrange != "claude" and (claude_model is not None or yes):
            raise UsageError(
                "--model and --yes go with --arrange claude alone.",
                "Add --arrange claude, or leave them out.",
            )
        start = "order" if arrange == "order" else "auto"
        session = Session.open(model, skeleton, key=key, like=like, mapping=mapping, arrange=start)
        if mapping is None:
            session.require_kinship()
        told.session = session
        if arrange == "claude":
            ask_claude(session, claude_model, yes=yes)
        session.trust(None if trust_all else trust)
        session.allow_unused(allow_unused)
        told.converted = run_with_progress(
            lambda job: session.convert(
                path,
                dtype=dtype,
                chunk_bytes=chunk_size * MEBIBYTE,
                verify=verify,
                mapping=save_mapping,
                report=report,
                job=job,
                jobs=jobs,
                allow_overflow=allow_overflow,
            )
        )
    except S2PError as error:
        if not json:
            raise
        told.error = error
    print(told.as_json() if json else told.as_text())
    return told.exit_code


def ask_claude(session: Session, model: str | None, *, yes: bool) -> None:
    """Have Claude propose what names and structure leave open.

    Raises:
        S2PError: It cannot be asked, or the user declined.
    """
    from s2p_tui.session.ask_claude import propose_with_claude

    if not propose_with_claude(session, model=model, yes=yes):
        raise CancelledError("Declined; nothing was written.")


@command(
    """
    # compare with what it was made of
    s2p-tui verify model.eqx --model model.pt --skeleton model_skeleton.eqx \\
        --mapping model.mapping.json

    # and certify what was found, leaf by leaf
    s2p-tui verify model.eqx --model model.pt --skeleton model_skeleton.eqx \\
        --mapping model.mapping.json --report model.report.json
    """
)
def verify(
    output: Annotated[Path, Parameter(help="The converted file, .eqx or .safetensors.")],
    /,
    *,
    model: Model,
    skeleton: Skeleton,
    mapping: Annotated[Path, Parameter(help="The mapping file it was converted with.")],
    key: Key = None,
    like: Like = None,
    allow_unused: AllowUnused = (),
    dtype: Dtype = None,
    jobs: Jobs = None,
    report: Report = None,
) -> int:
    """Compare every leaf of a converted file with its source, bit by bit.

    Give --key, --like and --dtype as they were given to convert. What differs is named: exit status
    5. To write a certificate of what was read, give --report.
    """
    from s2p_tui.cli.progress import run_with_progress
    from s2p_tui.session.session import Session

    session = Session.open(model, skeleton, key=key, like=like, mapping=mapping)
    session.allow_unused(allow_unused)
    size = run_with_progress(
        lambda job: session.verify(output, dtype=dtype, report=report, job=job, jobs=jobs)
    )
    print(f"{output}: {len(session.target.skeleton)} leaves, {size:,} bytes, all as they should be")
    return 0
