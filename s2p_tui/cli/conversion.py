"""`s2p-tui convert` and `s2p-tui verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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
from s2p_tui.core.errors import S2PError, UsageError


@app.command
def convert(
    model: Model,
    skeleton: Skeleton,
    /,
    *,
    output: Output = None,
    mapping: MappingFile = None,
    arrange: Annotated[
        Literal["auto", "order"] | None,
        Parameter(
            help="Without a mapping file: by names and structure (auto, the default), or the n-th "
            "entry feeds the n-th array leaf (order)."
        ),
    ] = None,
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

    The alignment comes from a mapping file, or from the offline matcher, or strictly from the order
    of both sides. Rows that do not line up, or are doubtful and not trusted, are listed and nothing
    is written (exit status 3).

    Examples:
    --------
    s2p-tui convert model.pt model_skeleton.eqx -o model.eqx --save-mapping model.mapping.json

    s2p-tui convert model.pt model_skeleton.eqx -o model.eqx --mapping model.mapping.json

    s2p-tui convert model.safetensors mypkg.net:make --arrange order --json
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
        session = Session.open(
            model, skeleton, key=key, like=like, mapping=mapping, arrange=arrange or "auto"
        )
        if mapping is None:
            session.require_kinship()
        told.session = session
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
