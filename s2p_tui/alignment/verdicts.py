"""The fits of many rows, one byte each, judged when there is time or when somebody asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Literal

from s2p_tui.alignment.alignment import Rows
from s2p_tui.alignment.block_numbers import other_number
from s2p_tui.alignment.composites import may_be_part
from s2p_tui.alignment.evidence import Evidence
from s2p_tui.alignment.fit import Fit, Verdict
from s2p_tui.alignment.layer_rules import rule_for
from s2p_tui.alignment.skeleton import Skeleton
from s2p_tui.alignment.state_dict import StateDict

_AT_ONCE = 512
_MOST_KEPT = 2048
_TRUSTED, _DOUBTFUL, _MISMATCHED = 4, 5, 6
_CODES = {
    Fit.EXACT: 1,
    Fit.TRANSFORMED: 2,
    Fit.GAP: 3,
    Fit.DOUBTFUL: _TRUSTED,
    Fit.MISMATCHED: _MISMATCHED,
}
_FITS = (
    None, Fit.EXACT, Fit.TRANSFORMED, Fit.GAP, Fit.DOUBTFUL, Fit.DOUBTFUL, Fit.MISMATCHED,
)  # fmt: skip
_BYTES = tuple(bytes((code,)) for code in range(len(_FITS)))
_BLOCKING = (_DOUBTFUL, _MISMATCHED)


class Verdicts:
    """What is known of the rows' fits. Reasons in words are found again when asked for.

    Args:
        judge: Judges the row at a position as it is now.
        count: How many rows there are.
        glance: Judges it sooner and without a reason, or says None.
    """

    def __init__(
        self,
        judge: Callable[[int], Verdict],
        count: int,
        glance: Callable[[int], Verdict | None] = lambda _: None,
    ) -> None:
        self._judge = judge
        self._glance = glance
        # 0 where a row is not judged; the better the fit the smaller the number.
        self._codes = bytearray(count)
        self._counts = [count, *[0] * (len(_FITS) - 1)]
        self._kept: dict[int, Verdict] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._codes)

    @property
    def is_settled(self) -> bool:
        """Whether every row is judged."""
        return not self._counts[0]

    @property
    def unsettled(self) -> int:
        """Rows that are not judged."""
        return self._counts[0]

    @property
    def counts(self) -> Counter[Fit]:
        """Judged rows per fit."""
        return _per_fit(self._counts)

    @property
    def trusted(self) -> int:
        """Judged rows that are doubtful and trusted."""
        return self._counts[_TRUSTED]

    def counts_in(self, span: range) -> Counter[Fit]:
        """Judged rows of a range per fit."""
        codes = self._codes[span.start : span.stop]
        return _per_fit([codes.count(sign) for sign in _BYTES])

    @property
    def blocking(self) -> int:
        """Judged rows that stand in the way of a conversion."""
        return sum(self._counts[code] for code in _BLOCKING)

    def at(self, position: int) -> Verdict:
        """The verdict on a row, in words too."""
        verdict = self._kept.get(position)
        if verdict is None:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            verdict = self._kept[position] = self._judge(position)
            self._note(position, verdict)
        return verdict

    def fit(self, position: int) -> Fit:
        """The fit of a row."""
        if not self._codes[position]:
            self._look_at(position)
        fit = _FITS[self._codes[position]]
        assert fit is not None
        return fit

    def worst(self, span: range) -> Verdict | None:
        """The worst fit of judged rows, without a reason; None if none is judged."""
        code = next((c for c in range(_MISMATCHED, 0, -1) if self._find(c, span) >= 0), 0)
        fit = _FITS[code]
        return None if fit is None else Verdict(fit, blocks=code in _BLOCKING)

    def changed(self, span: range) -> None:
        """Rows may have changed: judge a few at once, many when there is time."""
        if len(span) > _AT_ONCE:
            self.forget(span)
            return
        for position in span:
            self._kept.pop(position, None)
            self._look_at(position)

    def forget(self, span: range) -> None:
        """Take rows as not judged."""
        size = len(span)
        before = self._codes[span.start : span.stop]
        for code, sign in enumerate(_BYTES):
            self._counts[code] -= before.count(sign)
        self._counts[0] += size
        self._codes[span.start : span.stop] = bytes(size)
        self._kept.clear()
        self._next = min(self._next, span.start)

    def settle(self, most: int | None = None) -> bool:
        """Judge rows that are not judged yet, at most so many; whether all are judged now."""
        left = len(self._codes) if most is None else most
        while self._counts[0] and left:
            position = self._codes.find(_BYTES[0], self._next)
            if position < 0:
                self._next = 0
                continue
            self._look_at(position)
            self._next = position + 1
            left -= 1
        return self.is_settled

    def next_blocking(self, position: int, step: Literal[1, -1]) -> int | None:
        """The nearest row after (or before) a position that stands in the way, going round."""
        count = len(self._codes)
        here = min(position, count)
        if step > 0:
            spans = range(here + 1, count), range(min(here + 1, count))
        else:
            above = range(max(0, here))
            spans = above, range(above.stop, count)
        return next(
            (found for span in spans if (found := self.blocking_in(span, step)) is not None), None
        )

    def blocking_in(self, span: range, step: Literal[1, -1] = 1) -> int | None:
        """The first row (or the last) of a range that stands in the way; judges what it must."""
        while True:
            places = [self._find(code, span, step) for code in (0, *_BLOCKING)]
            found = [place for place in places if place >= 0]
            if not found:
                return None
            nearest = min(found) if step > 0 else max(found)
            if nearest != places[0]:
                return nearest
            some = range(nearest, min(nearest + _AT_ONCE, span.stop))
            if step < 0:
                some = range(max(nearest - _AT_ONCE, span.start), nearest + 1)
            for position in some:
                if not self._codes[position]:
                    self._look_at(position)

    def _find(self, code: int, span: range, step: Literal[1, -1] = 1) -> int:
        find = self._codes.find if step > 0 else self._codes.rfind
        return find(_BYTES[code], span.start, span.stop)

    def _look_at(self, position: int) -> None:
        self._note(position, self._glance(position) or self._judge(position))

    def _note(self, position: int, verdict: Verdict) -> None:
        code = _CODES[verdict.fit]
        if code == _TRUSTED and verdict.blocks:
            code = _DOUBTFUL
        self._counts[self._codes[position]] -= 1
        self._counts[code] += 1
        self._codes[position] = code


def _per_fit(counts: list[int]) -> Counter[Fit]:
    found = Counter[Fit]()
    for fit, count in zip(_FITS, counts, strict=True):
        if fit is not None and count:
            found[fit] += count
    return found


_EXACT = Verdict(Fit.EXACT)
_DOUBTED = Verdict(Fit.DOUBTFUL, blocks=True)
_EMPTY = Verdict(Fit.MISMATCHED, blocks=True)
_TRUSTED_VERDICT = Verdict(Fit.DOUBTFUL)


def glance(
    place: int, rows: Rows, state_dict: StateDict, skeleton: Skeleton, evidence: Evidence | None
) -> Verdict | None:
    """What `weigh` says of a row, its reason aside, where that takes no more than a glance.

    None of all rows but those that take nothing yet, or a whole entry of their leaf's own shape and
    dtype.
    """
    held, leaf = rows.held[place], skeleton[place]
    gap, by, trusted, fixed = rows.facts(place)
    if held is None and not gap:
        return _EMPTY
    if not isinstance(held, str) or may_be_part(held) or rule_for(leaf) is not None:
        return None
    entry = state_dict[held]
    if entry.shape != leaf.shape or entry.dtype != leaf.dtype or held in state_dict.encoded:
        return None
    if evidence is None or fixed:
        return _EXACT
    wanted, (certain, _, placed, numbered) = evidence.suggestions.held(place)
    if by == "claude" or not (wanted is None or isinstance(wanted, str)):
        return None
    settled = wanted is not None and (certain or placed)
    if wanted == held:
        is_doubtful = not (certain or by == "user")
    elif settled or by not in ("user", "moved"):
        is_doubtful = True
    else:
        is_doubtful = evidence.claimed(held, state_dict) not in (None, place)
        if by == "moved" and numbered and wanted is not None:
            is_doubtful = is_doubtful or other_number(held, wanted)
    if not is_doubtful:
        return _EXACT
    return _TRUSTED_VERDICT if trusted else _DOUBTED
