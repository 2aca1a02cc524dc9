"""`s2p-tui convert` and `s2p-tui verify`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators

from s2p_tui.cli.options import (
    MEBIBYTE,
    WAYS_OUT,
    Adapter,
    AllowMissing,
    AllowOverflow,
    AllowUnused,
    AsJson,
    Certificate,
    Checkpoint,
    CheckpointOption,
    ChunkSize,
    Dtype,
    Format,
    Jobs,
    Key,
    Like,
    MappingFile,
    Output,
    Part,
    Skeleton,
    Trust,
    TrustAll,
    WithProof,
    command,
)
from s2p_tui.errors import CancelledError, S2PError, UsageError, printable

if TYPE_CHECKING:
    from s2p_tui.session.session import Session


@command(
    """
    # by names and structure; keep the alignment that was used
    s2p-tui convert model.pt model_skeleton.eqx --save-mapping model.mapping.json

    # the same again, in half the space
    s2p-tui convert model.pt model_skeleton.eqx -o half.eqx --dtype bfloat16 \\
        --mapping model.mapping.json

    # strictly by order, with the result as JSON
    s2p-tui convert model.safetensors model_skeleton.eqx --arrange order --json

    # one of several state dicts in a training checkpoint
    s2p-tui convert checkpoint.pt net.py:Net -o ema.eqx --key ema

    # a checkpoint on the Hub, read as it is needed and never downloaded whole
    s2p-tui convert hf://organisation/model/model.safetensors net.py:Net \\
        -o far.eqx

    # with Claude's help for rows that names and structure leave open; asks first
    s2p-tui convert model.pt model_skeleton.eqx --arrange claude \\
        --claude-model opus

    # to an Orbax checkpoint, which loads sharded over any mesh
    s2p-tui convert model.pt model_skeleton.eqx -o model.orbax

    # its first half, by one of two workers; --part auto under srun or mpirun
    s2p-tui convert model.pt model_skeleton.eqx -o big.orbax --part 0/2 \\
        --mapping model.mapping.json

    # what 64 hosts would read, write and hold
    s2p-tui convert model.pt model_skeleton.eqx -o big.orbax --dry-run \\
        --hosts 64
    """
)
def convert(
    checkpoint: Checkpoint,
    skeleton: Skeleton,
    /,
    *,
    output: Output = None,
    file_format: Format = None,
    part: Part = None,
    dry_run: Annotated[
        bool,
        Parameter(
            negative="", help="Print what would be read, written and held; write nothing. Orbax."
        ),
    ] = False,
    hosts: Annotated[
        int,
        Parameter(
            help="Hosts that --dry-run shares the work among.", validator=validators.Number(gte=1)
        ),
    ] = 1,
    mapping: MappingFile = None,
    recipe: Annotated[
        Path | None,
        Parameter(
            help="Follow this recipe file, or the known recipe of this name; what it says nothing "
            "of is aligned by names and structure."
        ),
    ] = None,
    arrange: Annotated[
        Literal["auto", "order", "claude"] | None,
        Parameter(
            help="How to align without --mapping: 'auto' (default) uses names and structure; "
            "'order' pairs the n-th entry with the n-th array leaf; 'claude' also asks Claude "
            "about rows auto cannot settle, with confirmation."
        ),
    ] = None,
    claude_model: Annotated[
        str | None,
        Parameter(
            name=["--claude-model", "--model"],
            help="Claude's model: haiku, sonnet, opus or a full id. Default: the last one used.",
        ),
    ] = None,
    yes: Annotated[
        bool,
        Parameter(
            negative="",
            help="Do not ask for confirmation; skip rows Claude marks as unsure.",
        ),
    ] = False,
    save_mapping: Annotated[
        Path | None, Parameter(help="Save the alignment to this mapping file.")
    ] = None,
    trust: Trust = (),
    trust_all: TrustAll = False,
    allow_unused: AllowUnused = (),
    key: Key = None,
    allow_missing: AllowMissing = False,
    like: Like = None,
    adapter: Adapter = None,
    dtype: Dtype = None,
    allow_overflow: AllowOverflow = False,
    chunk_size: ChunkSize = 64,
    jobs: Jobs = None,
    verify: Annotated[
        bool,
        Parameter(
            help="Read the file back and compare it with its sources before moving it into place."
        ),
    ] = True,
    certificate: Certificate = None,
    force: Annotated[
        bool,
        Parameter(negative="", help="Replace an output that exists without a word."),
    ] = False,
    json: AsJson = False,
    proof: WithProof = False,
) -> int:
    """Convert a checkpoint without the terminal app.

    The two sides are aligned by a mapping file, by a recipe, by names and structure, strictly by
    order, or with Claude's help. Rows that do not line up, or are doubtful and not trusted, are
    listed, and so are entries that no leaf takes, unless they hold no parameter or are accepted;
    then nothing is written: exit status 3. Progress goes to standard error, the summary to standard
    output.
    """
    from s2p_tui.cli.orbax import (
        chosen_format,
        convert_part,
        estimate_lines,
        refuse_alone,
        require_orbax,
    )
    from s2p_tui.cli.progress import matching_shown, run_with_progress
    from s2p_tui.conversion.output_names import default_output, in_format
    from s2p_tui.conversion.report import result_as_json
    from s2p_tui.session.session import Session

    wanted = chosen_format(output, file_format, ask=not json)
    path = output or default_output(checkpoint, skeleton, wanted)
    session: Session | None = None
    line = ""
    try:
        path, form = in_format(path, wanted)
        require_orbax(form, part=part, dry_run=dry_run)
        refuse_alone(part, mapping)
        given = {"--mapping": mapping, "--recipe": recipe, "--arrange": arrange}
        named = [name for name, value in given.items() if value is not None]
        if len(named) > 1:
            raise UsageError(
                f"{' and '.join(named[:2])} both say how to align the two sides.",
                "Give one of them.",
            )
        if arrange != "claude" and (claude_model is not None or yes):
            raise UsageError(
                "--claude-model and --yes go with --arrange claude alone.",
                "Add --arrange claude, or leave them out.",
            )
        if proof and not json:
            raise UsageError("--proof goes with --json alone.", "Add --json, or leave it out.")
        ends = {os.path.realpath(str(end)) for end in (checkpoint, skeleton)}
        if os.path.realpath(path) not in ends:
            _say_before_replacing(path, force=force)
        start = "order" if arrange == "order" else "auto"
        with matching_shown() as task:
            opened = Session.open(
                checkpoint,
                skeleton,
                key=key,
                allow_missing=allow_missing,
                like=like,
                adapter=adapter,
                mapping=mapping,
                arrange=start,
                task=task,
            )
        if mapping is None:
            opened.require_kinship()
        session = opened
        if recipe is not None:
            from s2p_tui.session.recipes import follow, load_recipe

            follow(opened, load_recipe(recipe))
        if arrange == "claude":
            ask_claude(session, claude_model, yes=yes)
        session.trust(None if trust_all else trust)
        session.allow_unused(allow_unused)
        if part is not None or dry_run:
            from s2p_tui.session.orbax import orbax_conversion

            conversion = orbax_conversion(
                session,
                path,
                dtype=dtype,
                chunk_bytes=chunk_size * MEBIBYTE,
                jobs=jobs,
                allow_overflow=allow_overflow,
            )
            if dry_run:
                print("\n".join(estimate_lines(conversion, hosts)))
                return 0
            assert part is not None
            converted, line = convert_part(conversion, part)
        else:
            converted = run_with_progress(
                lambda job: opened.convert(
                    path,
                    dtype=dtype,
                    chunk_bytes=chunk_size * MEBIBYTE,
                    verify=verify,
                    mapping=save_mapping,
                    certificate=certificate,
                    job=job,
                    jobs=jobs,
                    allow_overflow=allow_overflow,
                    file_format=form,
                )
            )
    except S2PError as error:
        if not json:
            raise
        print(result_as_json(path, session, None, error.put_into(WAYS_OUT), proof=proof))
        return error.exit_code
    report = session.report_of(converted)
    shown = result_as_json(path, session, report, None, proof=proof) if json else line or report
    print(shown)
    return 0


def _say_before_replacing(path: Path, *, force: bool) -> None:
    """Say that an output exists and will be replaced; on a terminal, ask.

    Raises:
        CancelledError: The user declined.
    """
    from s2p_tui.conversion.output_names import output_path

    path = output_path(path)
    if force or not os.path.isfile(path):
        return
    said = printable(f"{path} exists and will be replaced.")
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        print(f"s2p-tui: {said}", file=sys.stderr)
        return
    print(f"{said} Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CancelledError("Declined; nothing was written.")


def ask_claude(session: Session, model: str | None, *, yes: bool) -> None:
    """Align rows that names and structure leave open as Claude proposes.

    Raises:
        S2PError: It cannot be asked, or the user declined.
    """
    from s2p_tui.session.ask_claude import propose_with_claude

    if not propose_with_claude(session, model=model, yes=yes):
        raise CancelledError("Declined; nothing was written.")


@command(
    """
    # compare with its sources
    s2p-tui verify model.eqx --checkpoint model.pt \\
        --skeleton model_skeleton.eqx --mapping model.mapping.json

    # and write a certificate, leaf by leaf
    s2p-tui verify model.eqx --checkpoint model.pt \\
        --skeleton model_skeleton.eqx --mapping model.mapping.json \\
        --certificate model.certificate.json
    """
)
def verify(
    output: Annotated[
        Path, Parameter(help="Converted file, .eqx or .safetensors, or Orbax checkpoint.")
    ],
    /,
    *,
    checkpoint: CheckpointOption,
    skeleton: Skeleton,
    mapping: Annotated[Path, Parameter(help="Mapping file it was converted with.")],
    trust: Trust = (),
    trust_all: TrustAll = False,
    allow_unused: AllowUnused = (),
    key: Key = None,
    allow_missing: AllowMissing = False,
    like: Like = None,
    adapter: Adapter = None,
    dtype: Dtype = None,
    part: Part = None,
    jobs: Jobs = None,
    certificate: Certificate = None,
) -> int:
    """Compare every leaf of a converted file with its source, bit by bit.

    Give --trust, --key, --like and --dtype as they were given to convert. An Orbax checkpoint that
    many workers write is verified between finish and finish --commit. Leaves that differ are
    listed: exit status 5. --certificate records what was read.
    """
    from s2p_tui.cli.orbax import is_orbax, require_orbax, verify_orbax
    from s2p_tui.cli.progress import run_with_progress
    from s2p_tui.session.session import Session

    session = Session.open(
        checkpoint,
        skeleton,
        key=key,
        allow_missing=allow_missing,
        like=like,
        adapter=adapter,
        mapping=mapping,
    )
    session.trust(None if trust_all else trust)
    session.allow_unused(allow_unused)
    if is_orbax(output):
        return verify_orbax(
            session,
            output,
            part=part,
            dtype=dtype,
            jobs=jobs,
            certificate=certificate,
        )
    require_orbax("a file", part=part)
    size = run_with_progress(
        lambda job: session.verify(output, dtype=dtype, certificate=certificate, job=job, jobs=jobs)
    )
    print(f"{output}: verified {len(session.target.skeleton)} leaves, {size:,} bytes")
    return 0
