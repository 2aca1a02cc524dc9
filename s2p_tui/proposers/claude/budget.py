"""What asking Claude may cost: tokens, time, requests."""

from __future__ import annotations

from dataclasses import dataclass

BYTES_PER_TOKEN = 2.5
"""For estimates without asking anyone: names and numbers take more tokens than prose does."""
_SMALL = 2_000


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds of one question.

    Attributes:
        input_tokens: Of one request, by `estimate`, everything in it counted.
        output_tokens: Of one answer.
        lines: Groups of leaves asked for in one request.
        requests: Of one question, repairs aside: each may be repaired once.
        attempts: To get one answer begun.
        longest_wait: Seconds between two attempts, whatever the service asks for.
        deadline: Seconds for one answer, waiting included.
        silence: Seconds without a byte after which a connection counts as dead.
        answer_bytes: Of one answer's text.
    """

    input_tokens: int = 28_000
    output_tokens: int = 16_000
    lines: int = 250
    requests: int = 8
    attempts: int = 3
    longest_wait: float = 30.0
    deadline: float = 600.0
    silence: float = 90.0
    answer_bytes: int = 400_000

    @classmethod
    def of(cls, entries: int) -> Budget:
        """The bounds for a checkpoint of that many entries."""
        return cls(input_tokens=11_500) if entries <= _SMALL else cls()


def estimate(*texts: str) -> int:
    """Tokens of some texts, rather too many than too few: one for every 2.5 bytes of UTF-8."""
    return estimate_of(sum(len(text.encode()) for text in texts))


def estimate_of(size: int) -> int:
    """Tokens of so many bytes."""
    return int(size / BYTES_PER_TOKEN) + 1
