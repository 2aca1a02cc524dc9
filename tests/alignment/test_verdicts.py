"""Rows are judged when somebody asks, and no more often than that."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import example, given
from hypothesis import strategies as st

from s2p_tui.alignment.fit import Fit, Verdict
from s2p_tui.alignment.verdicts import Verdicts

ALL = [
    Verdict(Fit.EXACT),
    Verdict(Fit.TRANSFORMED, "cast"),
    Verdict(Fit.GAP, "kept"),
    Verdict(Fit.DOUBTFUL, "trusted"),
    Verdict(Fit.DOUBTFUL, "maybe", blocks=True),
    Verdict(Fit.MISMATCHED, "no", blocks=True),
]


class Judging:
    def __init__(self, rows: list[Verdict]) -> None:
        self.rows, self.asked = rows, 0
        self.verdicts = Verdicts(self.judge, len(rows))

    def judge(self, position: int) -> Verdict:
        self.asked += 1
        return self.rows[position]


def test_nothing_is_judged_before_it_is_asked_for() -> None:
    judging = Judging(ALL * 1000)
    assert not judging.asked
    assert judging.verdicts.at(5).why == "no"
    assert judging.verdicts.next_blocking(5, 1) == 10
    assert judging.asked < 1000
    assert not judging.verdicts.settle(100)
    assert judging.verdicts.settle()
    assert judging.asked < 6020


def test_a_changed_row_is_the_only_one_judged_again() -> None:
    judging = Judging(ALL * 1000)
    judging.verdicts.settle()
    before = judging.asked
    judging.rows[4] = ALL[0]
    judging.verdicts.changed(range(4, 5))
    assert judging.asked == before + 1
    assert judging.verdicts.counts[Fit.EXACT] == 1001
    assert judging.verdicts.next_blocking(-1, 1) == 5


def test_many_changed_rows_are_judged_later() -> None:
    judging = Judging(ALL * 1000)
    judging.verdicts.settle()
    before = judging.asked
    judging.verdicts.changed(range(6000))
    assert judging.asked == before
    assert not judging.verdicts.is_settled


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=40),
    st.lists(st.tuples(st.integers(0, 39), st.integers(0, 40), st.integers(0, 60)), max_size=8),
    st.integers(-1, 41),
    st.integers(0, 2**16),
)
@example([4, 4], [], -1, 0)
def test_they_say_what_judging_every_row_says(
    codes: list[int], changes: list[tuple[int, int, int]], position: int, seed: int
) -> None:
    judging, source = Judging([ALL[code] for code in codes]), random.Random(seed)
    verdicts, rows = judging.verdicts, judging.rows
    for start, stop, some in changes:
        span = range(min(start, len(rows)), min(stop, len(rows)))
        for n in span:
            rows[n] = source.choice(ALL)
        source.choice((verdicts.changed, verdicts.forget))(span)
        verdicts.settle(some)
    blocking = [n for n, row in enumerate(rows) if row.blocks]
    after = [n for n in blocking if n > min(position, len(rows))] + blocking
    before = [n for n in blocking if n < min(position, len(rows))]
    assert verdicts.next_blocking(position, 1) == (after[0] if after else None)
    last = (before or blocking)[-1] if blocking else None
    assert verdicts.next_blocking(position, -1) == last
    assert verdicts.settle()
    assert verdicts.counts == Counter(row.fit for row in rows)
    assert verdicts.blocking == len(blocking)
    assert [verdicts.at(n) for n in range(len(rows))] == rows
    low, high = sorted((source.randrange(len(rows)), source.randrange(len(rows))))
    worst = max(ALL.index(rows[n]) for n in range(low, high + 1))
    found = verdicts.worst(range(low, high + 1))
    assert found is not None
    assert (found.fit, found.blocks) == (ALL[worst].fit, ALL[worst].blocks)
