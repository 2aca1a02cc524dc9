"""Rate and remaining time of a job, from what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from s2p_tui.tui.amounts import size_in_words

if TYPE_CHECKING:
    from s2p_tui.streaming.job import Job, Phase


@dataclass(frozen=True, slots=True)
class Reading:
    """How far a job is.

    Attributes:
        phase: What it does now.
        done: Bytes written and compared.
        total: Bytes to write and to compare.
        figures: Bytes, rate and remaining time in words.
    """

    phase: Phase
    done: int
    total: int
    figures: str


class Pace:
    """Watches one job. The rate is the current phase's own: reading back is faster than writing."""

    def __init__(self) -> None:
        self._phase: Phase | None = None
        self._since = 0.0
        self._from = 0

    def read(self, job: Job, now: float) -> Reading:
        """The job at `now` seconds of the monotonic clock."""
        done = job.verified if job.phase == "verifying" else job.written
        if job.phase != self._phase:
            self._phase, self._since, self._from = job.phase, now, done
        return Reading(
            job.phase, job.written + job.verified, 2 * job.total, self._figures(job, done, now)
        )

    def _figures(self, job: Job, done: int, now: float) -> str:
        words = f"{size_in_words(done)} of {size_in_words(job.total)}"
        elapsed = now - self._since
        if elapsed < 0.5 or done <= self._from or job.phase not in ("writing", "verifying"):
            return words
        rate = (done - self._from) / elapsed
        return f"{words} · {size_in_words(rate)}/s · {duration((job.total - done) / rate)} left"


def duration(seconds: float) -> str:
    """`8 s`, `2 min 05 s`, `1 h 12 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
