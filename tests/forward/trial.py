"""A fault put into a pair, and what settling makes of it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import SetRows
from s2p_tui.alignment.judge import landing
from s2p_tui.alignment.transform import Expr
from s2p_tui.cli.check.filled import FilledModel
from s2p_tui.cli.check.run import pairing
from s2p_tui.cli.check.settle import settle
from s2p_tui.formats.pytree.skeleton import target_of
from s2p_tui.formats.registry import open_checkpoint
from s2p_tui.session.session import Session
from tests.forward.faults import KINDS
from tests.forward.pairs import Pair


@dataclass(frozen=True)
class Outcome:
    """What became of one trial.

    Attributes:
        pair: Its name.
        kinds: The kinds of faults.
        seed: The seed they were drawn with.
        seen: Whether the models differed with the faults.
        repaired: Whether all leaves hold the right numbers in the end, and both models agree.
        settled: Whether, beyond that, all rows that were made wrong are settled.
        false: Key paths of leaves that were settled and hold wrong numbers.
        words: What was repaired.
    """

    pair: str
    kinds: tuple[str, ...]
    seed: int
    seen: bool
    repaired: bool
    settled: bool
    false: tuple[str, ...]
    words: tuple[str, ...]


def trial(pair: Pair, kinds: tuple[str, ...], seed: int, folder: Path) -> Outcome | None:
    """Put faults of these kinds into a pair; None if it has no place for them."""
    file = folder / f"{pair.name}.pt"
    if not file.exists():
        torch.save(pair.module.state_dict(), file)
    session = Session.between(open_checkpoint(file), target_of(pair.tree, "tree"))
    try:
        return _tried(pair, session, kinds, seed)
    finally:
        session.close()


def _tried(pair: Pair, session: Session, kinds: tuple[str, ...], seed: int) -> Outcome | None:
    skeleton, state_dict = session.target.skeleton, session.checkpoint.state_dict
    chance = random.Random(seed)
    right: list[Expr | None] = []
    for leaf in skeleton:
        source = pair.truth(leaf.path)
        right.append(None if source is None else landing(source, leaf, state_dict))
    wrong = list(right)
    for kind in kinds:
        fault = KINDS[kind](chance, skeleton, wrong)
        if fault is None:
            return None
        for index, source in fault.items():
            wrong[index] = source
    model = FilledModel(pair.tree, skeleton, session.checkpoint, right)

    def numbers(index: int, source: Expr | None) -> np.ndarray | None:
        return None if source is None else np.asarray(model.leaf(index, source))

    faulty = [
        index
        for index, (old, new) in enumerate(zip(right, wrong, strict=True))
        if old != new and not np.array_equal(numbers(index, old), numbers(index, new))
    ]
    if not faulty:
        return None
    # Rows with a fault are doubtful, so that the forward is asked about them in any case.
    rows = [
        Row(gap=True, by="user")
        if source is None
        else Row(source, by="pattern" if index in faulty else "user", why="a fault", trusted=False)
        for index, source in enumerate(wrong)
    ]
    session.edit(SetRows(tuple(enumerate(rows))))
    session.allow_unused(None)
    steps: list[str] = []
    _, found = settle(
        session,
        pair.module,
        pair.tree,
        pair.examples,
        prefix="",
        tolerance=1e-4,
        seed=seed,
        pair=pairing(session, pair.module, pair.tree, ""),
        narrate=lambda step, _done, _total: steps.append(step),
    )
    final = [row.source for row in session.alignment.rows]
    # A gap that was filled, or an entry elsewhere, would be no repair.
    landed = [
        None if source is None else landing(source, skeleton[index], state_dict)
        for index, source in enumerate(final)
    ]
    bad = [
        index
        for index, source in enumerate(landed)
        if (right[index] is None) != (source is None)
        or not np.array_equal(numbers(index, right[index]), numbers(index, source))
    ]
    by_forward = [index for index, row in enumerate(session.alignment.rows) if row.by == "forward"]
    false = tuple(skeleton[index].path for index in by_forward if index in bad)
    repaired = found.agrees and not bad
    return Outcome(
        pair.name,
        kinds,
        seed,
        bool(found.repaired) or not found.agrees,
        repaired,
        repaired and set(faulty) <= set(by_forward),
        false,
        found.repaired,
    )
