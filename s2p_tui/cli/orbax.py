"""`s2p-tui finish`, and what convert and verify do for Orbax checkpoints."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from s2p_tui.cli.options import (
    MEBIBYTE,
    Adapter,
    AllowMissing,
    AllowUnused,
    Certificate,
    CheckpointOption,
    Dtype,
    Key,
    Like,
    Skeleton,
    Trust,
    TrustAll,
    command,
)
from s2p_tui.cli.parts import part_of
from s2p_tui.errors import UsageError

if TYPE_CHECKING:
    from s2p_tui.alignment.task import Job
    from s2p_tui.conversion.orbax import OrbaxConversion
    from s2p_tui.conversion.orbax_estimate import HostCost
    from s2p_tui.conversion.output import Converted
    from s2p_tui.conversion.plan import FileFormat
    from s2p_tui.session.session import Session


@command(
    """
    # link what all workers wrote; names what is missing
    s2p-tui finish model.orbax --checkpoint model.pt \\
        --skeleton model_skeleton.eqx --mapping model.mapping.json

    # after verify: give the checkpoint its name
    s2p-tui finish model.orbax --checkpoint model.pt \\
        --skeleton model_skeleton.eqx --mapping model.mapping.json --commit
    """
)
def finish(
    output: Annotated[Path, Parameter(help="Orbax checkpoint that convert --part writes.")],
    /,
    *,
    checkpoint: CheckpointOption,
    skeleton: Skeleton,
    mapping: Annotated[Path, Parameter(help="Mapping file it is converted with.")],
    commit: Annotated[
        bool,
        Parameter(negative="", help="Give the checkpoint its name; all of it must be verified."),
    ] = False,
    trust: Trust = (),
    trust_all: TrustAll = False,
    allow_unused: AllowUnused = (),
    key: Key = None,
    allow_missing: AllowMissing = False,
    like: Like = None,
    adapter: Adapter = None,
    dtype: Dtype = None,
    certificate: Certificate = None,
) -> int:
    """Merge, or commit, an Orbax checkpoint that many workers wrote.

    In order: convert --part by each worker, finish, verify --part by each worker, finish --commit.
    Give all of them the same options. Chunks that are missing or not verified are named: exit
    status 5; run the step before again, with any number of workers.
    """
    from s2p_tui.cli.progress import run_with_progress
    from s2p_tui.session.orbax import certify_orbax, commit_orbax, orbax_conversion
    from s2p_tui.session.session import Session

    if certificate is not None and not commit:
        raise UsageError("--certificate goes with --commit.", "Add --commit, or leave it out.")
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
    conversion = orbax_conversion(session, output, dtype=dtype, chunk_bytes=None)

    def do(job: Job) -> str:
        from s2p_tui.conversion.orbax import merge
        from s2p_tui.conversion.orbax_finish import verified_chunks

        if not commit:
            return f"merged {merge(conversion, job):,} chunks; verify them next"
        verified = verified_chunks(conversion)
        commit_orbax(session, conversion, verified)
        if certificate is not None:
            certify_orbax(session, conversion, verified, certificate)
        return f"finished, {conversion.grid.total:,} bytes, verified"

    print(f"{conversion.output}: {run_with_progress(do)}")
    return 0


def verify_orbax(
    session: Session,
    output: Path,
    *,
    part: str | None,
    dtype: str | None,
    jobs: int | None,
    certificate: Path | None,
) -> int:
    """Verify a finished checkpoint, or one that is merged and under way."""
    from s2p_tui.cli.progress import run_with_progress
    from s2p_tui.conversion.orbax import is_finished
    from s2p_tui.conversion.orbax_finish import verify_part
    from s2p_tui.session.orbax import certify_orbax, orbax_conversion

    mine, of = part_of(part) if part is not None else (0, 1)
    if certificate is not None and of > 1:
        raise UsageError(
            "--certificate is of a whole checkpoint, --part verifies a share.",
            "Give --certificate to finish --commit.",
        )
    conversion = orbax_conversion(session, output, dtype=dtype, chunk_bytes=None, jobs=jobs)
    finished = is_finished(conversion.output)
    verified = run_with_progress(
        lambda job: verify_part(conversion, mine, of, job, finished=finished)
    )
    if certificate is not None:
        certify_orbax(session, conversion, verified, certificate)
    nbytes = sum(conversion.grid.by_key[key].nbytes for key in verified)
    what = f"part {mine}/{of}" if of > 1 else f"{len(conversion.grid.arrays)} arrays"
    print(f"{conversion.output}: verified {what}, {len(verified):,} chunks, {nbytes:,} bytes")
    return 0


def is_orbax(output: Path) -> bool:
    """Return True if that is an Orbax checkpoint, finished or under way."""
    from s2p_tui.conversion.output_names import is_bucket

    return is_bucket(output) or os.path.isdir(output) or os.path.isdir(f"{output}.s2p-partial")


def chosen_format(output: Path | None, given: FileFormat | None, *, ask: bool) -> FileFormat | None:
    """Return the format asked for, asking in a terminal for that of a name without a suffix.

    Args:
        output: The output's name; None for the default one.
        given: The format, if it was given.
        ask: Whether to ask at all.
    """
    if given is not None or output is None or output.suffix or not ask:
        return given
    from s2p_tui.conversion.output_names import is_bucket

    if not (sys.stdin.isatty() and sys.stderr.isatty()) or is_bucket(output):
        return given
    sys.stderr.write(
        f"{output} has no suffix. Write [e] {output}.eqx for Equinox (default), or "
        f"[o] {output} as an Orbax checkpoint? "
    )
    sys.stderr.flush()
    answer = sys.stdin.readline().strip().lower()
    return "orbax" if answer.startswith("o") else None


def convert_part(conversion: OrbaxConversion, part: str) -> tuple[Converted, str]:
    """Write one worker's share, with progress; returns the result, and a line about it."""
    from s2p_tui.cli.progress import run_with_progress
    from s2p_tui.session.orbax import write_orbax_part

    mine, of = part_of(part)
    done = run_with_progress(lambda job: write_orbax_part(conversion, mine, of, job))
    line = (
        f"{conversion.output}: part {mine}/{of} is written, {done.written.size:,} bytes, "
        f"{done.written.seconds:.2f} s; run finish once all parts are"
    )
    return done, line


def estimate_lines(conversion: OrbaxConversion, hosts: int) -> list[str]:
    """Return a table of what each of so many hosts would read, write and hold."""
    from s2p_tui.conversion.orbax_estimate import estimate

    costs = estimate(conversion, hosts)
    lines = [f"{'host':>6} {'chunks':>8} {'written':>19} {'read':>19} {'requests':>10} {'MiB':>7}"]
    lines += [_line(str(host), cost) for host, cost in enumerate(costs)]
    total = sum(cost.written for cost in costs)
    read = sum(cost.read for cost in costs)
    lines.append(
        f"{conversion.output}: {len(conversion.grid.arrays):,} arrays, "
        f"{len(conversion.grid.chunks):,} chunks; {total:,} bytes to write, {read:,} to read, and "
        "both once more to verify. Nothing was written."
    )
    return lines


def _line(host: str, cost: HostCost) -> str:
    memory = cost.memory / MEBIBYTE
    return (
        f"{host:>6} {cost.chunks:>8,} {cost.written:>19,} {cost.read:>19,} "
        f"{cost.requests:>10,} {memory:>7,.0f}"
    )


def require_orbax(file_format: str, **options: object) -> None:
    """Make sure that options which many workers need go with that format.

    Raises:
        UsageError: One was given with another format.
    """
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value]
    if given and file_format != "orbax":
        raise UsageError(
            f"{', '.join(given)} goes with Orbax checkpoints alone, this output is {file_format}.",
            "Add --format orbax.",
        )


def refuse_alone(part: str | None, mapping: Path | None) -> None:
    """Make sure that workers follow one alignment.

    Raises:
        UsageError: There is a part and no mapping file.
    """
    if part is not None and mapping is None:
        raise UsageError(
            "--part needs --mapping, which all workers follow.",
            "Save one with convert --save-mapping, or with ctrl+s in the app.",
        )
