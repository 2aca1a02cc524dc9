"""Pairs that only a hand or a recipe settles."""

from __future__ import annotations

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import SetRows
from s2p_tui.alignment.recipe import Recipe
from s2p_tui.alignment.recipe_learning import learn
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry
from s2p_tui.alignment.transform import Expr, Permute, Shape, Take
from s2p_tui.conversion.output import mapping_of
from s2p_tui.session.session import Session
from tests.helpers.sessions import make_session


def pair(
    entries: dict[str, Shape],
    leaves: dict[str, Shape],
    owner: str = "net.",
    dtype: str = "float32",
) -> Session:
    """A pair whose own classes, one per kind of layer, say nothing of layouts."""
    return make_session(
        (Entry(key, shape, dtype) for key, shape in entries.items()),
        (
            Leaf(path, shape, "float32", owner=owner + path.split(".")[-2].title())
            for path, shape in leaves.items()
        ),
        arrange="auto",
    )


def learned(session: Session, sources: dict[str, Expr] | None = None) -> Recipe:
    """The recipe of a session, some rows of it set by hand, and trusted against their names."""
    skeleton = session.target.skeleton
    rows = (
        (skeleton.index(p), Row(s, by="user", trusted=True)) for p, s in (sources or {}).items()
    )
    session.edit(SetRows(tuple(rows)))
    assert not session.blocking, list(session.problems())
    return learn(mapping_of(session.checkpoint, session.target, session.alignment), "net")


def blocks(depth: int, width: int, *, swapped: bool = False) -> Session:
    """Square weights, of which nothing shows how they are laid out, beside one that shows it."""
    entries: dict[str, Shape] = {}
    leaves: dict[str, Shape] = {}
    for n in range(depth):
        entries |= {f"h.{n}.mix.w": (width, width)}
        entries |= {f"h.{n}.up.w": (3 * width, width) if swapped else (width, 3 * width)}
        leaves |= {f".blocks[{n}].mix.kernel": (width, width)}
        leaves |= {f".blocks[{n}].up.kernel": (3 * width, width)}
    return pair(entries, leaves)


def turned(depth: int) -> dict[str, Expr]:
    kinds = ("mix", "up")
    return {
        f".blocks[{n}].{kind}.kernel": Permute(Take(f"h.{n}.{kind}.w"), (1, 0))
        for n in range(depth)
        for kind in kinds
    }
