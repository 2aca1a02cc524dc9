"""Agreement of both models' modules, row by row, for as long as a row takes what was run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from msgspec import Struct

from s2p_tui.app.text import many
from s2p_tui.errors import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from s2p_tui.alignment.alignment import Rows
    from s2p_tui.session.session import Session


class Numbers(Struct, frozen=True):
    """The difference of arrays; None for numbers that are not finite."""

    relative_difference: float | None = None


class ModulePair(Struct, frozen=True):
    """Two modules that stand for each other.

    Attributes:
        torch: Path of PyTorch's module.
        jax: Key path of the other one.
        agrees: True if they returned the same, within the tolerance.
        relative_difference: How far what they returned is apart.
        inputs: How far what they were called with is apart, where that can be compared.
        rows: Key paths of the leaves that are in no smaller pair.
    """

    torch: str
    jax: str
    agrees: bool
    relative_difference: float | None = None
    inputs: Numbers | None = None
    rows: tuple[str, ...] = ()


class DecidedRow(Struct, frozen=True):
    """A row that the forward decided, or could not decide; why in words."""

    path: str
    why: str = ""


class Found(Struct, frozen=True):
    """The result of running both models.

    Attributes:
        status: Of the models' outputs.
        relative_difference: How far the outputs are apart.
        tolerance: Largest relative difference that counts as agreement.
        modules: Pairs of modules, in the order of PyTorch's forward.
        error: Why modules could not be compared.
        note: What explains the difference; empty if nothing is known to.
        settled: The rows that the forward decided, where it was asked to.
        open: Those that it could not decide.
    """

    status: Literal["agree", "differ"]
    tolerance: float
    relative_difference: float | None = None
    modules: tuple[ModulePair, ...] = ()
    error: str | None = None
    note: str = ""
    settled: tuple[DecidedRow, ...] = ()
    open: tuple[DecidedRow, ...] = ()


_UNKNOWN, _AGREES, _DIFFERS = 0, 1, 2


class Agreement:
    """The rows whose modules agreed when both models were last run.

    A row says nothing any more once it, or another of its module, takes another source; taken back,
    the edit leaves what was found.

    Args:
        session: The session.
        found: The result.
        rows: The rows that were run; None for those of its alignment as it is now.

    Attributes:
        found: The result.
        first: The first pair that differs, in the order of PyTorch's forward.
    """

    def __init__(self, session: Session, found: Found, rows: Rows | None = None) -> None:
        self.found = found
        self.first = next((pair for pair in found.modules if not pair.agrees), None)
        self._session = session
        self._index = {leaf.path: n for n, leaf in enumerate(session.target.skeleton)}
        self._checked = self._rows = rows or session.alignment.rows
        self._module = np.full(len(self._index), -1, np.int64)
        self._said = np.zeros(len(self._index), np.int8)
        for number, pair in enumerate(found.modules):
            held = [self._index[path] for path in pair.rows if path in self._index]
            self._module[held] = number
            self._said[held] = _AGREES if pair.agrees else _DIFFERS
        self._valid: NDArray[np.int8] = self._said

    @property
    def _now(self) -> NDArray[np.int8]:
        """Return the agreement of each row, without modules that take something else by now."""
        rows = self._session.alignment.rows
        if rows is not self._rows:
            self._rows = rows
            touched = np.unique(self._module[rows.sources != self._checked.sources])
            stale = np.isin(self._module, touched[touched >= 0])
            self._valid = np.where(stale, np.int8(_UNKNOWN), self._said)
        return self._valid

    def of(self, index: int) -> bool | None:
        """Return True if a row's module agreed, False if it differed, None if nothing is known."""
        said = self._now[index] if index < len(self._said) else _UNKNOWN
        return None if said == _UNKNOWN else bool(said == _AGREES)

    def counts(self, span: range) -> tuple[int, int]:
        """Return how many rows of a range have modules that differed, and that agreed."""
        now = self._now[span.start : span.stop]
        return int(np.count_nonzero(now == _DIFFERS)), int(np.count_nonzero(now == _AGREES))

    def words(self, index: int) -> str:
        """Return what was found of a row's module; empty if nothing is known."""
        if self.of(index) is None:
            return ""
        pair = self.found.modules[int(self._module[index])]
        apart = _apart(pair.relative_difference)
        if pair.agrees:
            return f"its module agreed, {apart}"
        return f"its module differed, {apart}{_inputs(pair, self.found)}"

    @property
    def first_row(self) -> int | None:
        """The row to look at: the first of the first pair that differs."""
        if self.first is None:
            return None
        known = [self._index[path] for path in self.first.rows if path in self._index]
        inside = (n for path, n in self._index.items() if _is_in(path, self.first.jax))
        return known[0] if known else next(inside, None)

    @property
    def summary(self) -> str:
        """The result in a sentence."""
        found, first = self.found, self.first
        apart = _apart(found.relative_difference)
        pairs = many(len(found.modules), "pair") + " of modules"
        if found.status == "agree" and first is None:
            return f"Both models agree, {apart}: {pairs} compared."
        if first is not None:
            before = sum(1 for pair in found.modules[: found.modules.index(first)] if pair.agrees)
            outputs = "The outputs agree, but " if found.status == "agree" else ""
            names = printable(f"{first.torch} and {first.jax}")
            words = f"{names} differ {'first' if not outputs else ''}".rstrip()
            said = f"{outputs}{words}, {_apart(first.relative_difference)}{_inputs(first, found)}"
            agree = f"; {many(before, 'pair')} before {'agrees' if before == 1 else 'agree'}"
            return f"{said}{agree * bool(before)}."
        if found.error:
            return (
                f"The outputs differ, {apart}; modules were not compared: {printable(found.error)}"
            )
        if not found.modules:
            return f"The outputs differ, {apart}; no modules could be compared."
        return (
            f"The outputs differ, {apart}, and all {pairs} agree: look at what the forwards do "
            "between them."
        )


def _is_in(path: str, module: str) -> bool:
    """Return True for a leaf of a module; key paths of `(model, state)` begin with its part."""
    inner = path.removeprefix("[0]")
    return any(
        one.startswith(module) and one[len(module) :][:1] in (".", "[") for one in (path, inner)
    )


def _apart(relative: float | None) -> str:
    return "infinitely apart" if relative is None else f"{relative:.1e} apart"


def _inputs(pair: ModulePair, found: Found) -> str:
    if pair.inputs is None:
        return ""
    apart = pair.inputs.relative_difference
    if apart is not None and apart <= found.tolerance:
        return ", called with equal inputs"
    return ", but so did its inputs"
