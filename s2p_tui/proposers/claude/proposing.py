"""From rows found possible to a proposal: hunks by reason, beside them the matcher's opinion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from s2p_tui.core.errors import TransformError
from s2p_tui.core.evidence import weigh
from s2p_tui.core.fit import landing
from s2p_tui.core.proposal import Change, Hunk, Proposal, block_of, rows_sharing, same_source
from s2p_tui.core.rows import Row
from s2p_tui.core.suggestions import Suggestion
from s2p_tui.core.transform import describe, keys_of
from s2p_tui.proposers.base import Situation
from s2p_tui.proposers.claude.question import Question
from s2p_tui.proposers.claude.templates import grouped
from s2p_tui.proposers.claude.validate import Found, in_words

_DROPPED_SHOWN = 8
_STRAY_SHOWN = 4


def proposal_of(
    question: Question,
    found: Found,
    reasons: Mapping[tuple[int, int], str],
    notes: Iterable[str],
) -> Proposal:
    """What of the found rows differs from the alignment, with what was dropped and why.

    Args:
        question: What was asked.
        found: What came of it.
        reasons: Claude's, by request and group.
        notes: What else to say.
    """
    situation = question.situation
    rows, skeleton = situation.alignment.rows, situation.skeleton
    chosen = sorted(found.rows.items(), key=lambda item: (item[1].group, item[0]))
    hunks: list[Hunk] = []
    for group, members in groupby(chosen, key=lambda item: item[1].group):
        changes = tuple(
            Change(place, rows[place], a.row, a.confidence, objection(situation, place, a.row))
            for place, a in members
            if _matters(situation, place, a.row)
        )
        if changes:
            paths = [skeleton[change.place].path for change in changes]
            hunks.append(Hunk(title_of(paths), reasons.get(group, ""), changes))
    hunks.sort(key=lambda hunk: hunk.changes[0].place)
    changed = [change for hunk in hunks for change in hunk.changes]
    agreed, beside = rows_sharing(situation.alignment, changed, found.rows.keys())
    said = (*notes, *_left_out(question, found), *_unchanged(len(found.rows) - len(changed)))
    return Proposal("claude", tuple(hunks), said, agreed, beside)


def _matters(situation: Situation, place: int, row: Row) -> bool:
    """Whether a row differs from what is there, or takes the doubt from it."""
    old = situation.alignment.rows[place]
    if not same_source(old, row):
        return True
    state_dict, skeleton = situation.state_dict, situation.skeleton
    before, after = (
        weigh(place, one, state_dict, skeleton, situation.evidence).blocks for one in (old, row)
    )
    return before and not after


def _left_out(question: Question, found: Found) -> Iterator[str]:
    skeleton = question.situation.skeleton
    dropped = {place: why for place, why in found.problems.items() if place not in found.rows}
    paths = {place: skeleton[place].path for place in dropped}
    yield from (f"Left out: {line}." for line in in_words(dropped, paths, _DROPPED_SHOWN))
    stray = list(dict.fromkeys(found.stray))
    yield from (f"Ignored: {words}." for words in stray[:_STRAY_SHOWN])


def _unchanged(count: int) -> Iterator[str]:
    if count:
        rows = "1 row stays" if count == 1 else f"{count:,} rows stay"
        yield f"{rows} as before: Claude has the same, and that settles nothing more."


def title_of(paths: list[str]) -> str:
    """What some leaves have in common: their block, numbers in braces."""
    blocks = list(dict.fromkeys(map(block_of, paths)))
    groups = grouped((number, block, 0) for number, block in enumerate(blocks))
    name = groups[0].name
    return name if len(groups) == 1 else f"{name} and {len(groups) - 1} more"


def objection(situation: Situation, place: int, row: Row) -> str:
    """What the offline matcher has on a leaf instead; empty where it agrees or has no opinion."""
    suggestion = situation.evidence.suggestions[place]
    source, leaf = suggestion.source, situation.skeleton[place]
    if source is None:
        differs = row.source is not None and suggestion.certain
        return (
            f"the matcher takes nothing from the checkpoint: {suggestion.reason}" if differs else ""
        )
    if row.source is not None:
        try:
            state_dict = situation.state_dict
            if landing(source, leaf, state_dict) == landing(row.source, leaf, state_dict):
                return ""
        except TransformError:
            pass
    return f"the matcher takes {_in_words(suggestion)}"


def _in_words(suggestion: Suggestion) -> str:
    source = suggestion.source
    assert source is not None
    keys, done = keys_of(source), describe(source)
    more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    names = f"{keys[0]}{more}" if keys else "no entry"
    sure = "" if suggestion.certain or suggestion.placed else ", unsure"
    return f"{names}{f' ({done})' if done else ''}{sure}: {suggestion.reason}"
