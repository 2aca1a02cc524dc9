"""What the command line prints: a progress bar on stderr, a summary or JSON on stdout."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.left_over import parts_unused
from s2p_tui.conversion.job import Job
from s2p_tui.conversion.output import Converted
from s2p_tui.errors import AlignmentError, CancelledError, S2PError, one_line
from s2p_tui.session.session import Session
from s2p_tui.session.signals import handled_by

T = TypeVar("T")
_POLL_SECONDS = 0.08
_LONGEST_LINE = 2000


def run_with_progress(work: Callable[[Job], T]) -> T:
    """Run work in a thread, with a progress bar on stderr if that is a terminal.

    SIGINT, SIGTERM and SIGHUP cancel it; it has cleaned up by the time this returns.

    Raises:
        S2PError: What the work raised, or that a signal stopped it.
    """
    job = Job()
    outcome: list[T | BaseException] = []
    received: list[int] = []

    def target() -> None:
        try:
            outcome.append(work(job))
        except BaseException as error:
            outcome.append(error)

    def on_signal(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        job.cancel()

    thread = threading.Thread(target=target, name="conversion", daemon=True)
    with handled_by(on_signal):
        thread.start()
        if sys.stderr.isatty():
            _show_progress(thread, job)
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
    result = outcome[0]
    if received and isinstance(result, S2PError):
        raise CancelledError("Cancelled; nothing was written.", signal_number=received[0])
    if isinstance(result, BaseException):
        raise result
    return result


def _show_progress(thread: threading.Thread, job: Job) -> None:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(job.phase, total=None)
        phase = job.phase
        told = False
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
            if job.memory and not told:
                told = True
                progress.console.print(needs_of(job), markup=False, highlight=False)
            if job.phase != phase:
                phase = job.phase
                progress.reset(task)
            done = job.verified if phase == "verifying" else job.written
            progress.update(task, description=phase, completed=done, total=job.total or None)


def needs_of(job: Job) -> str:
    """What a conversion is going to take, in one line."""
    return (
        f"{job.total:,} bytes to write, {job.free:,} free; "
        f"up to {job.memory / (1 << 20):,.0f} MiB of memory beside the program's own"
    )


class ConvertReport:
    """What `convert` tells at the end, as text or as one JSON object.

    Attributes:
        path: The output asked for.
        session: The pair of files, once open.
        converted: What was written, if it was.
        error: What stopped it, if anything did.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.session: Session | None = None
        self.converted: Converted | None = None
        self.error: S2PError | None = None

    @property
    def exit_code(self) -> int:
        """The exit status it amounts to."""
        return self.error.exit_code if self.error is not None else 0

    def as_text(self) -> str:
        """A few lines: what was written, from which rows, and what was left over or lost."""
        assert self.session is not None
        assert self.converted is not None
        lines = str(self.session.report_of(self.converted)).splitlines()
        return "\n".join(one_line(line, _LONGEST_LINE) for line in lines)

    def as_json(self) -> str:
        """The object DESIGN describes: status, rows per fit, what stands in the way, the result."""
        session, converted = self.session, self.converted
        written = converted.written if converted is not None else None
        rows = {fit.value: session.counts[fit] if session is not None else 0 for fit in Fit}
        if self.error is None:
            status = "done"
        else:
            status = "refused" if isinstance(self.error, AlignmentError) else "failed"
        mapping = converted.mapping if converted is not None else None
        certified = converted.report if converted is not None else None
        report = {
            "status": status,
            "output": str(written.path if written is not None else self.path),
            "rows": rows,
            "doubtful": self._rows(Fit.DOUBTFUL),
            "mismatched": self._rows(Fit.MISMATCHED),
            "unused": [
                {"key": one.key, "why": one.why, "blocks": one.blocks}
                for one in (session.left_over if session is not None else ())
            ],
            "parts_unused": (
                parts_unused(session.alignment.rows, session.checkpoint.state_dict)
                if session is not None
                else {}
            ),
            "mapping": str(mapping) if mapping is not None else None,
            "report": str(certified) if certified is not None else None,
            "bytes": written.size if written is not None else 0,
            "memory": written.memory if written is not None else 0,
            "seconds": round(written.seconds, 3) if written is not None else 0.0,
            "verified": written.verified if written is not None else False,
            "lost": {
                path: {
                    "overflowed": loss.overflowed,
                    "new_nan": loss.new_nan,
                    "flushed": loss.flushed,
                }
                for path, loss in (written.losses if written is not None else {}).items()
            },
            "error": self.error.line if self.error is not None else None,
        }
        return json.dumps(report)

    def _rows(self, fit: Fit) -> list[dict[str, Any]]:
        session = self.session
        if session is None:
            return []
        return [
            {
                "path": leaf.path,
                "sources": list(session.alignment.rows[position].keys),
                "why": verdict.why,
            }
            for position, leaf in enumerate(session.target.skeleton)
            if (verdict := session.verdict(position)) is not None and verdict.fit is fit
        ]
