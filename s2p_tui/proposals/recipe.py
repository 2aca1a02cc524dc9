"""The changes a recipe proposes for an open pair."""

from __future__ import annotations

from itertools import islice

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.recipe import Recipe
from s2p_tui.alignment.recipe_replay import Replay
from s2p_tui.errors import some
from s2p_tui.proposals.proposal import Confidence, Proposal, Situation, proposed, same_source

_SHOWN = 3


def propose(recipe: Recipe, situation: Situation) -> Proposal:
    """Return the changes that a recipe makes; leaves it does not cover stay as they are.

    Where a hand had chosen a member of a list that is shorter here, the leaf is left empty.

    Rows that names and structure are certain of stay too, unless a hand chose the recipe's, or that
    does not fit: it is shown, as the recipe may be of another model.

    Args:
        recipe: A recipe made from another pair.
        situation: The pair.
    """
    state_dict, skeleton = situation.state_dict, situation.skeleton
    alignment, evidence = situation.alignment, situation.evidence
    applied = Replay(recipe, state_dict, skeleton).applied()
    misfits = set(applied.misfits)
    shown = misfits | applied.by_hand
    wanted: list[tuple[int, Row]] = []
    undone: list[tuple[int, Row]] = []
    confidence: dict[int, Confidence] = {}
    for index, row in applied.rows.items():
        old, suggestion = alignment.rows[index], evidence.suggestions[index]
        is_settled = row.by == "recipe"
        agrees = same_source(old, row)
        is_proven = suggestion.certain and suggestion.source == old.source
        if (agrees and (is_proven or not is_settled)) or (is_proven and index not in shown):
            wanted.append((index, old))
            continue
        confidence[index] = Confidence.CERTAIN if is_settled else Confidence.LIKELY
        if index in misfits:
            confidence[index] = Confidence.UNSURE
        is_decided = not agrees and (old.by in ("user", "forward") or old.trusted)
        (undone if is_decided else wanted).append((index, row))
    for index, key in applied.lacking.items():
        # What names and structure put there is what the hand did not want.
        why = f"recipe {recipe.name} takes {key}, which is not in this checkpoint"
        wanted.append((index, Row(by="pattern", why=why)))
    unused = tuple(key for key in applied.accepted if key not in alignment.accepted)
    notes: list[str] = []
    if misfits:
        names = some([skeleton[index].path for index in sorted(misfits)], most=_SHOWN)
        notes.append(f"The recipe may be of another model: it does not fit {names}.")
    for index, key in islice(applied.lacking.items(), _SHOWN):
        notes.append(
            f"The recipe takes {key} for {skeleton[index].path}: the list is shorter here."
        )
    if applied.open:
        names = some([skeleton[index].path for index in applied.open], most=_SHOWN)
        notes.append(f"The recipe says nothing of {names}.")
    if unused:
        notes.append(f"Accepted as unused: {some(unused, most=_SHOWN)}.")
    return proposed("recipe", alignment, wanted, skeleton, confidence, notes, undone, unused=unused)
