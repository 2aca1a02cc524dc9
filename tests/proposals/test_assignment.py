"""The best one-to-one choice is the solver's, whether it had to be asked or not."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from s2p_tui.proposals.matcher.assignment import assignment

Scores = st.tuples(st.integers(1, 6), st.integers(1, 6)).flatmap(
    lambda shape: st.lists(
        st.lists(st.integers(-3, 3), min_size=shape[1], max_size=shape[1]),
        min_size=shape[0],
        max_size=shape[0],
    )
)


@given(Scores)
@example([[0, 1], [1, 0], [2, 2]])
@example([[3, 2], [3, 0]])
@example([[1, 1], [0, 2]])
def test_no_choice_is_better(scores: list[list[int]]) -> None:
    matrix = np.array(scores, float)
    best = matrix[linear_sum_assignment(matrix, maximize=True)].sum()
    rows, columns, _ = zip(*assignment(matrix), strict=True)
    assert list(rows) == sorted(set(rows))
    assert len(set(columns)) == len(columns) == min(matrix.shape)
    assert matrix[rows, columns].sum() == best
