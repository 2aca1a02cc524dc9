"""The best one-to-one choice, and by how much it is the best."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec

import numpy as np

Indices = np.ndarray[tuple[int], np.dtype[np.intp]]
Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]
Vector = np.ndarray[tuple[int], np.dtype[np.float64]]


def assignment(
    matrix: Matrix, order: Matrix | None = None, hints: Matrix | None = None
) -> list[tuple[int, int, float]]:
    """The best one-to-one assignment `(row, column, margin)`.

    The margin is what the sum of scores loses at least when the row takes another column and the
    one that had it takes the row's, or when several rows pass their columns on in a ring. Hints are
    added to the scores and never to a margin; what the
    order says, not to that over rows and columns left over: it holds for what is complete.
    """
    ordered = matrix if order is None else matrix + order
    hinted = ordered if hints is None else ordered + hints
    rows, columns = _best(hinted)
    if len(rows) == 1 == matrix.size:
        return [(0, 0, 1.0)]
    chosen = ordered[rows, columns]
    square = ordered[np.ix_(rows, columns)]
    swapped = chosen[:, None] + chosen[None, :] - square - square.T
    np.fill_diagonal(swapped, np.inf)
    margin = swapped.min(axis=1)
    if margin.max() >= _CLEAR:
        rings = _rings(matrix[np.ix_(rows, columns)]) + _MOST_BY_ORDER
        margin = np.minimum(margin, rings)
    chosen = matrix[rows, columns]
    free_columns = _others(columns, matrix.shape[1])
    if len(free_columns):
        margin = np.minimum(margin, chosen - matrix[np.ix_(rows, free_columns)].max(axis=1))
    free_rows = _others(rows, matrix.shape[0])
    if len(free_rows):
        margin = np.minimum(margin, chosen - matrix[np.ix_(free_rows, columns)].max(axis=0))
    return list(zip(rows.tolist(), columns.tolist(), margin.tolist(), strict=True))


_CLEAR = 0.3
"""Rings that cost as much need not be found exactly: a pair with this margin is certain."""
_MOST_BY_ORDER = 0.24
"""The most that the order can say for an exchange of two, and is let say for a ring."""


def _rings(square: Matrix) -> Vector:
    """Return the least that the sum loses when rows pass their columns on in a ring, by row.

    The chosen column of each row is on the diagonal. Losses of `_CLEAR` and more may be infinite.
    """
    count = len(square)
    least = np.full(count, np.inf)
    losses = np.diag(square)[:, None] - square
    np.fill_diagonal(losses, np.inf)
    if count < 3 or losses.min() >= _CLEAR / 2:
        return least
    potential = np.zeros(count)
    for _ in range(count):
        lower = np.minimum(potential, (potential[:, None] + losses).min(axis=0))
        if np.array_equal(lower, potential):
            break
        potential = lower
    else:
        # Rows gain by a ring: hints or the order were stronger than what names say.
        potential = np.zeros(count)
    reduced = losses + potential[:, None] - potential[None, :]
    nodes = np.arange(count)
    while len(nodes):
        near = reduced[np.ix_(nodes, nodes)] < _CLEAR
        inside = near.any(axis=0) & near.any(axis=1)
        if inside.all():
            break
        nodes = nodes[inside]
    ways = reduced[np.ix_(nodes, nodes)]
    for node in range(len(nodes)):
        ways = np.minimum(ways, ways[:, node, None] + ways[None, node, :])
    least[nodes] = np.diag(ways)
    return least


def _others(taken: Indices, count: int) -> Indices:
    """Those of so many that are not taken. NumPy's own sets import masked arrays."""
    is_free = np.ones(count, bool)
    is_free[taken] = False
    return np.flatnonzero(is_free)


def _best(matrix: Matrix) -> tuple[Indices, Indices]:
    """The rows, ascending, and the column of each, that make the sum the greatest."""
    chosen = _without_rivals(matrix)
    return _solver()(matrix, maximize=True) if chosen is None else chosen


@cache
def _solver() -> Callable[..., tuple[Indices, Indices]]:
    """Return SciPy's solver, loaded by itself: 0.3 ms, its package takes 0.3 s to import."""
    package = find_spec("scipy")
    folders = package.submodule_search_locations if package is not None else None
    spec = PathFinder.find_spec(_SOLVER, [f"{folder}/optimize" for folder in folders or ()])
    if spec is not None and spec.loader is not None:
        with suppress(ImportError, AttributeError):
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            return module.linear_sum_assignment
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment


_SOLVER = "scipy.optimize._lsap"


def _without_rivals(matrix: Matrix) -> tuple[Indices, Indices] | None:
    """The best assignment where each takes what it likes best; None where two like the same.

    No sum is greater than that of the maxima.
    """
    if matrix.shape[0] > matrix.shape[1]:
        chosen = _without_rivals(matrix.T)
        if chosen is None:
            return None
        columns, rows = chosen
        by_row = rows.argsort()
        return rows[by_row], columns[by_row]
    columns = matrix.argmax(axis=1)
    rows = np.arange(len(columns))
    return (rows, columns) if len({*columns.tolist()}) == len(rows) else None
