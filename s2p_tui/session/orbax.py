"""An open pair written to an Orbax checkpoint, by this process alone or as one of many workers."""

from __future__ import annotations

import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2p_tui import __version__
from s2p_tui.alignment.mapping_file import end_to_json
from s2p_tui.alignment.task import Job
from s2p_tui.conversion.certificate import Certifier
from s2p_tui.conversion.contents import CastLoss
from s2p_tui.conversion.convert import DEFAULT_CHUNK, Written, refuse_to_replace
from s2p_tui.conversion.output import Converted, require_place, source_end, target_end
from s2p_tui.conversion.output_names import is_bucket, location
from s2p_tui.errors import Code, Hint, UsageError

if TYPE_CHECKING:
    from s2p_tui.conversion.orbax import OrbaxConversion
    from s2p_tui.conversion.orbax_finish import Verified
    from s2p_tui.session.session import Session

_KEPT = "Cancelled; the output is not there yet. The same again resumes it."


def orbax_conversion(
    session: Session,
    output: str | Path,
    *,
    dtype: str | None = None,
    chunk_bytes: int | None = DEFAULT_CHUNK,
    jobs: int | None = None,
    allow_overflow: bool = False,
) -> OrbaxConversion:
    """Plan the conversion of a session's alignment. Reads at most Python scalars.

    With None for the chunk size it is that of the checkpoint that is there.

    Raises:
        S2PError: Rows do not line up, TensorStore is not installed, or Orbax cannot hold a leaf.
    """
    # NumPy is enough for everything else.
    from s2p_tui.conversion.orbax import OrbaxConversion, agreed_chunk_bytes
    from s2p_tui.conversion.orbax_store import refuse_scheme

    where = location(output)
    refuse_scheme(where)
    if not is_bucket(where):
        ends = (*session.checkpoint.files, *session.target.files)
        refuse_to_replace(Path(where), ends)
    if chunk_bytes is None:
        chunk_bytes = agreed_chunk_bytes(where) or DEFAULT_CHUNK
    return OrbaxConversion.of(
        session.plan(dtype, "orbax"),
        session.checkpoint,
        session.target,
        where,
        chunk_bytes=chunk_bytes,
        jobs=jobs,
        allow_overflow=allow_overflow,
    )


def convert_to_orbax(
    session: Session,
    output: str | Path,
    *,
    dtype: str | None = None,
    chunk_bytes: int = DEFAULT_CHUNK,
    verify: bool = True,
    mapping: str | Path | None = None,
    certificate: str | Path | None = None,
    job: Job | None = None,
    jobs: int | None = None,
    allow_overflow: bool = False,
) -> Converted:
    """Write, merge, verify and commit a checkpoint; see `Session.convert` for the arguments.

    What an interrupted run wrote is kept beside the output's name, and not written again.
    """
    from s2p_tui.conversion.orbax import merge, write_part
    from s2p_tui.conversion.orbax_finish import losses_of, verify_part
    from s2p_tui.formats.orbax import tensorstore

    if certificate is not None and not verify:
        raise UsageError(
            "A certificate needs verification, which is switched off.",
            Hint(Code.VERIFY_OR_NO_CERTIFICATE),
        )
    started, job = time.monotonic(), job or Job()
    job.cancelled = _KEPT
    tensorstore()
    conversion = orbax_conversion(
        session,
        output,
        dtype=dtype,
        chunk_bytes=chunk_bytes,
        jobs=jobs,
        allow_overflow=allow_overflow,
    )
    ends = (*session.checkpoint.files, *session.target.files)
    for beside in (mapping, certificate):
        if beside is not None:
            require_place(Path(beside), ends)
    alignment = session.alignment
    losses = write_part(conversion, job=job)
    merge(conversion, job)
    verified: Verified | None = None
    if verify:
        verified = verify_part(conversion, job=job)
        losses = losses_of(conversion.grid, verified)
    job.check()
    commit_orbax(session, conversion, verified)
    if mapping is not None:
        session.save_mapping(mapping, alignment)
    if certificate is not None and verified is not None:
        certify_orbax(session, conversion, verified, certificate)
    job.phase = "done"
    written = _written(conversion, started, losses, job, verified=verify)
    files = (None if file is None else Path(file) for file in (mapping, certificate))
    return Converted(written, *files)


def write_orbax_part(conversion: OrbaxConversion, part: int, of: int, job: Job) -> Converted:
    """Write one worker's share; returns what it comes to."""
    from s2p_tui.conversion.orbax import write_part

    started = time.monotonic()
    job.cancelled = "Cancelled; what was written is kept."
    losses = write_part(conversion, part, of, job)
    written = _written(conversion, started, losses, job, verified=False, size=job.total)
    return Converted(written, None)


def _written(
    conversion: OrbaxConversion,
    started: float,
    losses: dict[str, CastLoss],
    job: Job,
    *,
    verified: bool,
    size: int | None = None,
) -> Written:
    return Written(
        Path(conversion.output),
        conversion.grid.total if size is None else size,
        time.monotonic() - started,
        verified,
        losses,
        job.memory,
    )


def commit_orbax(session: Session, conversion: OrbaxConversion, verified: Verified | None) -> None:
    """Commit a merged checkpoint, with both ends and the versions in its certificate."""
    from s2p_tui.conversion.orbax_finish import commit

    facts: dict[str, Any] = {
        "source": end_to_json(source_end(session.checkpoint), "entries"),
        "target": end_to_json(target_end(session.target), "leaves"),
        "dtype": conversion.plan.dtype,
        "versions": {
            "s2p-tui": __version__,
            **{name: version(name) for name in ("numpy", "tensorstore")},
            "python": platform.python_version(),
        },
    }  # fmt: skip
    commit(conversion, verified, facts)


def certify_orbax(
    session: Session, conversion: OrbaxConversion, verified: Verified, path: str | Path
) -> None:
    """Write a certificate of a verified checkpoint, see `s2p_tui.conversion.certificate`.

    Raises:
        OutputError: It cannot be written, or would replace a source.
    """
    from s2p_tui.conversion.orbax_finish import readback_of

    require_place(Path(path), (*session.checkpoint.files, *session.target.files))
    certifier = Certifier(Path(path), session.checkpoint, session.target)
    readback_of(conversion, verified, certifier.readback)
    alignment = session.alignment
    certifier.write(
        Path(conversion.output),
        conversion.plan,
        alignment,
        lambda index: session.proof(index, alignment),
    )
