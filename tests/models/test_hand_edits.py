"""Whatever hands move about, no row that they did not choose is certain and wrong."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from s2p_tui.alignment.edits import (
    CloseGap,
    Edit,
    MoveBlock,
    MoveTo,
    OpenGap,
    PlaceFromBench,
    SendToBench,
    Several,
    Swap,
)
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.judge import landing
from s2p_tui.alignment.transform import Expr, keys_of, rename
from s2p_tui.errors import TransformError
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.session.session import Session
from tests.models.misleading import SEEING, misleading
from tests.models.twin import Truth, Twin

_EDITS = 10
_ORDERS = 8


def _any_edit(session: Session, chance: random.Random) -> Edit:
    count = len(session.alignment.rows)
    n, m = chance.randrange(count), chance.randrange(count)
    edits: list[Edit] = [
        OpenGap(n), CloseGap(n), MoveTo(n, m), Swap(n, m), SendToBench((n,)),
        MoveBlock(n, min(count, n + chance.randint(1, 4)), chance.choice((-3, -1, 1, 3))),
        Several((OpenGap(min(n, m)), Swap(n, m))),
    ]  # fmt: skip
    if session.alignment.bench:
        edits.append(PlaceFromBench(chance.choice(session.alignment.bench), n))
    return chance.choice(edits)


def _made(session: Session, index: int, source: Expr) -> Expr | None:
    try:
        return landing(source, session.target.skeleton[index], session.checkpoint.state_dict)
    except TransformError:
        return None


def _wrong(session: Session, right: dict[int, set[Expr | None]]) -> list[str]:
    """Rows nobody chose that are certain and take neither the truth nor what they began with."""
    found: list[str] = []
    for index, row in enumerate(session.alignment.rows):
        verdict = session.verdict(index)
        is_certain = verdict is not None and not verdict.blocks and row.by != "user"
        if is_certain and row.source is not None:
            made = _made(session, index, row.source)
            if made not in right[index]:
                leaf = session.target.skeleton[index]
                found.append(f"{leaf.path} takes {row.keys}: {row.by}, {verdict}")
    return found


def _right(
    session: Session, truths: tuple[Truth, ...], names: dict[str, str]
) -> dict[int, set[Expr | None]]:
    right: dict[int, set[Expr | None]] = {}
    for index, leaf in enumerate(session.target.skeleton):
        sources = [truth[leaf.path] for truth in truths if leaf.path in truth]
        sources = [rename(source, names) for source in sources if source is not None]
        known = session.checkpoint.state_dict
        sources = [source for source in sources if all(key in known for key in keys_of(source))]
        sources += [row.source for row in (session.row(index),) if row is not None]
        right[index] = {_made(session, index, source) for source in sources if source is not None}
    return right


@pytest.mark.parametrize("twin", SEEING, ids=lambda twin: twin.name)
@pytest.mark.slow("edits every twin at random")
def test_no_edit_makes_a_row_certain_that_it_carried_along(twin: Twin, tmp_path: Path) -> None:
    module = twin.make_torch()
    tensors = twin.checkpoint(module)
    if not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        tensors = module.state_dict()
    with twin.precision():
        save_skeleton(tmp_path / "skeleton.eqx", twin.make_eqx())
    truths = () if twin.truth is None else (twin.truth, *twin.also)
    chance = random.Random(twin.name)
    wrong: list[str] = []
    checked = 0
    for name, variant in misleading(dict(tensors)):
        torch.save(variant, tmp_path / "model.pt")
        session = Session.open(tmp_path / "model.pt", tmp_path / "skeleton.eqx")
        called = {id(tensor): key for key, tensor in variant.items()}
        names = {key: called[id(tensor)] for key, tensor in tensors.items()}
        right = _right(session, truths, names)
        for _ in range(_EDITS):
            session.edit(_any_edit(session, chance))
            wrong += [f"{name}: {row}" for row in _wrong(session, right)]
            checked += 1
        # What is proposed on top of what hands did, decisions left alone.
        proposal = session.match_proposal()
        ticked = {change.index for hunk in proposal.hunks if hunk.ticked for change in hunk.changes}
        decided = {
            n: row.source
            for n, row in enumerate(session.alignment.rows)
            if row.by == "user" and session.verdicts.fit(n) is not Fit.MISMATCHED
        }
        session.edit(proposal.accepted(ticked))
        wrong += [f"{name}, proposed: {row}" for row in _wrong(session, right)]
        checked += 1
        assert decided == {n: session.alignment.rows[n].source for n in decided}
        session.close()
    assert (checked, wrong) == (_ORDERS * (_EDITS + 1), [])
