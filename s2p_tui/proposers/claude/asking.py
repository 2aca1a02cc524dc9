"""A question put to Claude: request by request, one repair each, then a proposal."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from s2p_tui.core.errors import ProposerError
from s2p_tui.core.proposal import Proposal
from s2p_tui.proposers.base import Situation
from s2p_tui.proposers.claude.answer import read_answer
from s2p_tui.proposers.claude.budget import BYTES_PER_TOKEN, Budget, estimate
from s2p_tui.proposers.claude.client import Client, Prompt
from s2p_tui.proposers.claude.job import Asking
from s2p_tui.proposers.claude.proposing import proposal_of
from s2p_tui.proposers.claude.question import Question, Request, question_about
from s2p_tui.proposers.claude.references import WrongAnswerError
from s2p_tui.proposers.claude.secrets import Secret
from s2p_tui.proposers.claude.validate import Found, Validator, in_words

_MOST_ERRORS = 40
_FEW = 200


class Claude:
    """Asks Claude; see `s2p_tui.proposers.base.Proposer`.

    Args:
        key: The key.
        model: The model's full id.
        budget: What may be spent.
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
            ProposerError: There is no answer that can be used.
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
    """What has come of a question's requests.

    Attributes:
        question: The question.
        found: Rows and problems.
        reasons: By request and group.
        notes: What to say beside the proposal.
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

    def errors(self, places: Collection[int]) -> str:
        """What was wrong with an answer, for Claude."""
        names = self._ids(places)
        problems = {place: self.found.problems[place] for place in places}
        lines = [*in_words(problems, names, _MOST_ERRORS), *self.found.stray[:_MOST_ERRORS]]
        return "\n".join(lines)

    def _ids(self, places: Collection[int]) -> Mapping[int, str]:
        wanted = frozenset(places)
        return {
            place: line.reference(number)
            for line in self.question.lines.values()
            if line.letter == "L"
            for number, place in enumerate(line.group.items)
            if place in wanted
        }

    def proposal(self) -> Proposal:
        """The proposal that it amounts to."""
        return proposal_of(self.question, self.found, self.reasons, self.notes)


def repair_of(request: Request, places: Collection[int], errors: str, room: int) -> str:
    """The words that ask again for some of a request's leaves.

    Args:
        request: The request that was answered.
        places: The leaves to answer for again.
        errors: What was wrong.
        room: Tokens that all this may take.
    """
    wanted = frozenset(places)
    lines = [line for line in request.asked if not wanted.isdisjoint(line.group.items)]
    parts = [
        line.reference(number)
        for line in lines
        if not wanted.issuperset(line.group.items)
        for number, place in enumerate(line.group.items)
        if place in wanted
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
