"""Edits made at random, through the doors that the app uses."""

from __future__ import annotations

import random

from msgspec import structs

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.choices import choices
from s2p_tui.alignment.edits import (
    CloseGap,
    Edit,
    MoveBlock,
    MoveTo,
    OpenGap,
    PlaceFromBench,
    SendToBench,
    SetRows,
    Several,
    Swap,
    Trust,
)
from s2p_tui.session.session import Session

_KINDS = (
    *("shift", "shift", "move", "swap", "swaps", "open", "open", "close", "bench", "place"),
    *("place", "transform", "transform", "trust", "propose", "undo", "undo", "redo"),
)


def random_edit(session: Session, chance: random.Random) -> tuple[str, range]:
    """Make one edit, of a kind that the app would make here.

    Returns:
        What was done, without a word of how edits are represented, and the rows said to change.

    Raises:
        S2PError: It is refused.
    """
    rows = [row for place in range(len(session)) if (row := session.row(place)) is not None]
    free = [place for place, row in enumerate(rows) if not row.fixed]
    full = [place for place in free if rows[place].keys]
    bench = [key for place in range(len(rows), len(session)) if (key := session.benched(place))]
    doubtful = [p for p in range(len(rows)) if (v := session.verdict(p)) and v.fit == "doubtful"]
    while True:
        kind = chance.choice(_KINDS)
        edit: Edit | None = None
        said = kind
        match kind:
            case "shift" if free:
                start = chance.choice(free)
                stop = min(len(rows), start + chance.choice((1, 1, 2, 5)))
                edit = MoveBlock(start, stop, chance.choice((-8, -2, -1, 1, 2, 8)))
            case "move" if full:
                edit = MoveTo(chance.choice(full), chance.choice(free))
            case "swap" if free:
                edit = Swap(chance.choice(free), chance.choice(free))
            case "swaps" if len(free) > 3:
                edit = Several(tuple(Swap(*chance.sample(free, 2)) for _ in range(3)))
            case "open" if places := [place for place in free if not rows[place].gap]:
                chosen = chance.sample(places, min(len(places), chance.choice((1, 1, 3))))
                gaps = tuple(OpenGap(place) for place in sorted(chosen))
                edit = gaps[0] if len(gaps) == 1 else Several(gaps)
            case "close" if places := [place for place in free if rows[place].gap]:
                chosen = chance.sample(places, min(len(places), chance.choice((1, 2))))
                holes = tuple(CloseGap(place) for place in sorted(chosen))
                edit = holes[0] if len(holes) == 1 else Several(holes)
            case "bench" if full:
                chosen = chance.sample(full, min(len(full), chance.choice((1, 3))))
                edit = SendToBench(tuple(chosen))
            case "place" if bench and free:
                key, place = chance.choice(bench), chance.choice(free)
                edit = PlaceFromBench(key, place, shift=chance.random() < 0.7)
            case "transform" if full or bench:
                place = chance.choice(full or free or [0])
                more = [*bench, *(key for other in full for key in rows[other].keys)]
                keys = list(rows[place].keys) if chance.random() < 0.6 else []
                keys += chance.sample(more, min(len(more), chance.choice((0, 1, 1)) or not keys))
                keys = list(dict.fromkeys(keys))
                found = choices(session.target.skeleton[place], keys, session.checkpoint.state_dict)
                if found:
                    choice = chance.choice(found[:12])
                    said = f"{place} to {keys}: {choice.words!r} of {len(found)} choices"
                    edit = SetRows(((place, Row(choice.expr, by="user")),))
            case "trust" if doubtful:
                chosen = chance.sample(doubtful, chance.randint(1, len(doubtful)))
                if chance.random() < 0.5:
                    session.trust([session.target.skeleton[place].path for place in chosen])
                    return f"trust {chosen}", range(0)
                edit = Trust(tuple(chosen), not rows[chosen[0]].trusted)
            case "propose":
                proposal = session.match_proposal()
                places = [change.index for change in proposal.changes]
                if places and chance.random() < 0.6:
                    places = sorted(chance.sample(places, chance.randint(1, len(places))))
                said = f"accept {places}:"
                edit = proposal.accepted(set(places)) if places else None
            case "undo" | "redo":
                step = session.undo if kind == "undo" else session.redo
                spans = [step() for _ in range(chance.choice((1, 1, 2, 5)))]
                return f"{kind} {spans}", spans[-1]
            case _:
                pass
        if edit is not None:
            what = "" if isinstance(edit, SetRows) else f" {structs.astuple(edit)}"
            return f"{said}{what}", session.edit(edit)
