"""A question put to Claude: request by request, one repair each, then a proposal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.evidence import Suggestion, weigh
from s2p_tui.alignment.judge import landing
from s2p_tui.alignment.transform import describe, keys_of
from s2p_tui.errors import ProposerError, TransformError
from s2p_tui.proposals.claude.account import Secret
from s2p_tui.proposals.claude.answer import WrongAnswerError, read_answer
from s2p_tui.proposals.claude.client import Client, Prompt
from s2p_tui.proposals.claude.job import BYTES_PER_TOKEN, Asking, Budget, estimate
from s2p_tui.proposals.claude.listing import grouped
from s2p_tui.proposals.claude.question import Question, Request, question_about
from s2p_tui.proposals.claude.validate import Found, Validator, in_words
from s2p_tui.proposals.proposal import (
    Change,
    Hunk,
    Proposal,
    Situation,
    block_of,
    rows_sharing,
    same_source,
)

_DROPPED_SHOWN = 8
_STRAY_SHOWN = 4


def proposal_of(
    question: Question,
    found: Found,
    reasons: Mapping[tuple[int, int], str],
    notes: Iterable[str],
) -> Proposal:
    """Return the found rows that differ from the alignment, and the dropped ones with reasons.

    Args:
        question: The question.
        found: The validated rows.
        reasons: Claude's, by request and group.
        notes: Further remarks.
    """
    situation = question.situation
    rows, skeleton = situation.alignment.rows, situation.skeleton
    chosen = sorted(found.rows.items(), key=lambda item: (item[1].group, item[0]))
    hunks: list[Hunk] = []
    for group, members in groupby(chosen, key=lambda item: item[1].group):
        changes = tuple(
            Change(index, rows[index], a.row, a.confidence, objection(situation, index, a.row))
            for index, a in members
            if _matters(situation, index, a.row)
        )
        if changes:
            paths = [skeleton[change.index].path for change in changes]
            hunks.append(Hunk(title_of(paths), reasons.get(group, ""), changes))
    hunks.sort(key=lambda hunk: hunk.changes[0].index)
    changed = [change for hunk in hunks for change in hunk.changes]
    agreed, beside = rows_sharing(situation.alignment, changed, found.rows.keys())
    said = (*notes, *_left_out(question, found), *_unchanged(len(found.rows) - len(changed)))
    return Proposal("claude", tuple(hunks), said, agreed, beside)


def _matters(situation: Situation, index: int, row: Row) -> bool:
    """Return True if a row differs from the present one, or resolves its doubt."""
    old = situation.alignment.rows[index]
    if not same_source(old, row):
        return True
    state_dict, skeleton = situation.state_dict, situation.skeleton
    before, after = (
        weigh(index, one, state_dict, skeleton, situation.evidence).blocks for one in (old, row)
    )
    return before and not after


def _left_out(question: Question, found: Found) -> Iterator[str]:
    skeleton = question.situation.skeleton
    dropped = {index: why for index, why in found.problems.items() if index not in found.rows}
    paths = {index: skeleton[index].path for index in dropped}
    yield from (f"Left out: {line}." for line in in_words(dropped, paths, _DROPPED_SHOWN))
    stray = list(dict.fromkeys(found.stray))
    yield from (f"Ignored: {words}." for words in stray[:_STRAY_SHOWN])


def _unchanged(count: int) -> Iterator[str]:
    if count:
        rows = "1 row stays" if count == 1 else f"{count:,} rows stay"
        yield f"{rows} as before: Claude has the same, and that settles nothing more."


def title_of(paths: list[str]) -> str:
    """Return the common block of some leaves, numbers in braces."""
    blocks = list(dict.fromkeys(map(block_of, paths)))
    groups = grouped((number, block, 0) for number, block in enumerate(blocks))
    name = groups[0].name
    return name if len(groups) == 1 else f"{name} and {len(groups) - 1} more"


def objection(situation: Situation, index: int, row: Row) -> str:
    """Describe the offline matcher's choice for a leaf; empty where it agrees or has none."""
    suggestion = situation.evidence.suggestions[index]
    source, leaf = suggestion.source, situation.skeleton[index]
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


_MOST_ERRORS = 40
_FEW = 200


class Claude:
    """Asks Claude; see `s2p_tui.proposals.proposal.Proposer`.

    Args:
        key: The key.
        model: The model's full id.
        budget: The spending limits.
        job: Progress and cancellation.
    """

    def __init__(self, key: Secret, model: str, budget: Budget, job: Asking) -> None:
        self._key = key
        self._model = model
        self._budget = budget
        self._job = job

    def propose(self, situation: Situation) -> Proposal:
        """Ask about the unsettled rows. Blocks; meant for a worker thread.

        Raises:
            ProposerError: No usable answer came.
            CancelledError: The job was cancelled.
        """
        return self.answer(question_about(situation, self._budget))

    def answer(self, question: Question) -> Proposal:
        """Put a question that the user has seen; see `propose`."""
        so_far = _SoFar(question)
        if not question.requests:
            return so_far.proposal()
        self._job.requests = len(question.requests)
        with Client(self._key, self._budget, self._job).connected() as client:
            for number, request in enumerate(question.requests):
                self._job.request = number + 1
                try:
                    self._put(client, request, so_far, number)
                except ProposerError as error:
                    if not so_far.found.rows:
                        raise
                    left = len(question.requests) - number
                    so_far.notes.append(
                        f"{left} of {len(question.requests)} requests failed: {error}"
                    )
                    break
        return so_far.proposal()

    def _put(self, client: Client, request: Request, so_far: _SoFar, number: int) -> None:
        """One request, and once more what was wrong with its answer."""
        keep = so_far.question.shares_context
        prompt = Prompt(request.context, request.leaves, keep)
        self._count(client, prompt)
        wanted = {item for line in request.asked for item in line.group.items}
        answered = client.ask(prompt, self._model)
        self._job.phase = "checking the answer"
        problem = so_far.take(answered, wanted, 2 * number)
        open_places = wanted - so_far.found.rows.keys()
        if not open_places:
            return
        again = problem or so_far.errors(open_places)
        room = self._budget.input_tokens - Prompt(request.context, "").tokens
        repair = repair_of(request, open_places, again, room)
        self._job.phase = "asking again for what was not right"
        prompt = Prompt(request.context, repair, keep)
        self._count(client, prompt)
        answered = client.ask(prompt, self._model)
        self._job.phase = "checking the answer"
        problem = so_far.take(answered, open_places, 2 * number + 1)
        if problem and not so_far.found.rows.keys() & wanted:
            raise ProposerError(
                f"Claude's answer cannot be read, twice in a row: {problem}.", "Ask again."
            )

    def _count(self, client: Client, prompt: Prompt) -> None:
        self._job.phase = "counting tokens"
        counted = client.count(prompt, self._model)
        self._job.sent += counted or prompt.tokens
        self._job.counted = counted is not None and self._job.counted


@dataclass
class _SoFar:
    """The results of a question's requests.

    Attributes:
        question: The question.
        found: Rows and problems.
        reasons: By request and group.
        notes: Remarks beside the proposal.
    """

    question: Question
    found: Found = field(default_factory=Found)
    reasons: dict[tuple[int, int], str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        question = self.question
        self.notes += question.notes
        self._validator = Validator(question.situation, question.lines)

    def take(self, text: str, wanted: Collection[int], number: int) -> str:
        """Take over what is possible of an answer; returns why it cannot be read at all, if so."""
        try:
            answer = read_answer(text)
        except WrongAnswerError as error:
            return str(error)
        self._validator.check(answer, wanted, self.found, number)
        self.reasons |= {(number, group): why for group, why in enumerate(answer.reasons)}
        self.notes += [note for note in answer.notes if note not in self.notes]
        return ""

    def errors(self, indices: Collection[int]) -> str:
        """Return the problems of an answer, worded for Claude."""
        names = self._ids(indices)
        problems = {index: self.found.problems[index] for index in indices}
        lines = [*in_words(problems, names, _MOST_ERRORS), *self.found.stray[:_MOST_ERRORS]]
        return "\n".join(lines)

    def _ids(self, indices: Collection[int]) -> Mapping[int, str]:
        wanted = frozenset(indices)
        return {
            index: line.reference(number)
            for line in self.question.lines.values()
            if line.letter == "L"
            for number, index in enumerate(line.group.items)
            if index in wanted
        }

    def proposal(self) -> Proposal:
        """The proposal that it amounts to."""
        return proposal_of(self.question, self.found, self.reasons, self.notes)


def repair_of(request: Request, indices: Collection[int], errors: str, room: int) -> str:
    """The words that ask again for some of a request's leaves.

    Args:
        request: The request that was answered.
        indices: The leaves to answer for again.
        errors: The problems.
        room: Tokens that all this may take.
    """
    wanted = frozenset(indices)
    lines = [line for line in request.asked if not wanted.isdisjoint(line.group.items)]
    parts = [
        line.reference(number)
        for line in lines
        if not wanted.issuperset(line.group.items)
        for number, index in enumerate(line.group.items)
        if index in wanted
    ]
    whole = [line.id for line in lines if wanted.issuperset(line.group.items)]
    title = request.leaves.partition("\n")[0]
    listed = "\n".join([title, *(line.text for line in lines)])
    most = max(_FEW, int((room - estimate(listed)) * BYTES_PER_TOKEN / 2))
    return (
        f"{listed}\n\nAn earlier answer could not be used where it said:\n"
        f"{_cut(errors, most)}\nWhat it said of other leaves is accepted, and the entries they "
        f"take are no longer free. Answer again, for these leaves only: "
        f"{_cut(', '.join([*whole, *parts]), most)}"
    )


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} …"
