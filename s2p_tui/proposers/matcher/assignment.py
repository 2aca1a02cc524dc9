"""The best one-to-one choice, and by how much it is the best."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]


def assignment(
    matrix: Matrix, order: Matrix | None = None, hints: Matrix | None = None
) -> list[tuple[int, int, float]]:
    """The best one-to-one assignment `(row, column, margin)`.

    The margin is what the sum of scores loses at least when the row takes another column and the
    one that had it takes the row's. Hints are added to the scores and never to a margin; what the
    order says, not to that over rows and columns left over: it holds for what is complete.
    """
    ordered = matrix if order is None else matrix + order
    hinted = ordered if hints is None else ordered + hints
    rows, columns = linear_sum_assignment(hinted, maximize=True)
    if len(rows) == 1 == matrix.size:
        return [(0, 0, 1.0)]
    chosen = ordered[rows, columns]
    square = ordered[np.ix_(rows, columns)]
    swapped = chosen[:, None] + chosen[None, :] - square - square.T
    np.fill_diagonal(swapped, np.inf)
    margin = swapped.min(axis=1)
    chosen = matrix[rows, columns]
    free_columns = np.setdiff1d(np.arange(matrix.shape[1]), columns)
    if len(free_columns):
        margin = np.minimum(margin, chosen - matrix[np.ix_(rows, free_columns)].max(axis=1))
    free_rows = np.setdiff1d(np.arange(matrix.shape[0]), rows)
    if len(free_rows):
        margin = np.minimum(margin, chosen - matrix[np.ix_(free_rows, columns)].max(axis=0))
    return list(zip(rows.tolist(), columns.tolist(), margin.tolist(), strict=True))
