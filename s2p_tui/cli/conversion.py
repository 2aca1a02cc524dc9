"""`s2p-tui convert` and `s2p-tui verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from s2p_tui.cli.options import (
    MEBIBYTE,
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
    app,
)
from s2p_tui.core.errors import CancelledError, S2PError, UsageError

if TYPE_CHECKING:
    from s2p_tui.session import Session


@app.command
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
            help="Without a mapping file: by names and structure (auto, the default), the n-th "
            "entry feeds the n-th array leaf (order), or what names and structure leave open as "
            "Claude proposes (claude; asks before anything is sent or taken)."
        ),
    ] = None,
    claude_model: Annotated[
        str | None,
        Parameter(
            name="--model",
            help="Which Claude: haiku, sonnet, opus or a full id; the last one asked unless given.",
        ),
    ] = None,
    yes: Annotated[
        bool,
        Parameter(
            negative="",
            help="Answer Claude's questions with yes, rows that it is unsure of left out.",
        ),
    ] = False,
    save_mapping: Annotated[
        Path | None, Parameter(help="Save the alignment used as a mapping file.")
    ] = None,
    trust: Trust = (),
    trust_all: TrustAll = False,
    key: Key = None,
    like: Like = None,
    dtype: Dtype = None,
    chunk_size: ChunkSize = 64,
    jobs: Jobs = None,
    verify: Annotated[
        bool, Parameter(help="Read the file back and compare every leaf with its source.")
    ] = True,
    report: Report = None,
    json: AsJson = False,
) -> int:
    """Convert without the terminal app.

    The alignment comes from a mapping file, from the offline matcher, strictly from the order of
    both sides, or from the matcher and, where that is unsure, from Claude. Rows that do not line
    up, or are doubtful and not trusted, are listed and nothing is written (exit status 3).

    Examples:
    --------
    s2p-tui convert model.pt model_skeleton.eqx -o model.eqx --save-mapping model.mapping.json

    s2p-tui convert model.pt model_skeleton.eqx -o model.eqx --mapping model.mapping.json

    s2p-tui convert model.safetensors mypkg.net:make --arrange order --json

    s2p-tui convert model.pt model_skeleton.eqx --arrange claude --model opus
    """
    from s2p_tui.console import ConvertReport, run_with_progress
    from s2p_tui.core.names import default_output
    from s2p_tui.session import Session

    path = output or default_output(model)
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
    from s2p_tui.asking import propose_with_claude

    if not propose_with_claude(session, model=model, yes=yes):
        raise CancelledError("Declined; nothing was written.")


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
    jobs: Jobs = None,
    report: Report = None,
) -> int:
    """Read a converted file again and compare every leaf with its source, bit by bit."""
    from s2p_tui.console import run_with_progress
    from s2p_tui.session import Session

    session = Session.open(model, skeleton, key=key, like=like, mapping=mapping)
    size = run_with_progress(
        lambda job: session.verify(output, dtype=dtype, report=report, job=job, jobs=jobs)
    )
    print(f"{output}: {len(session.target.skeleton)} leaves, {size:,} bytes, all as they should be")
    return 0
