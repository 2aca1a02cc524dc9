"""Proofs that a row is right: one named answer to each question that could make it wrong.

A row is certain only where every question has an answer. What is not answered is doubtful, whether
anybody has thought of the situation or not.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from msgspec import Struct, structs


class Question(StrEnum):
    """Questions of a proof, each the name of a field of `Proof`."""

    ENTRY = "entry"
    AXES = "axes"
    GROUPING = "grouping"
    MODULE = "module"
    LEFT_OVER = "left_over"

    @property
    def words(self) -> str:
        """The question as people ask it."""
        return _WORDS[self]


_WORDS = {
    Question.ENTRY: "which entry",
    Question.AXES: "which order of axes",
    Question.GROUPING: "how split, merged or stacked",
    Question.MODULE: "from one module",
    Question.LEFT_OVER: "nothing left over",
}


class Answer(StrEnum):
    """Reasons that answer a question, in words."""

    CHOSEN = "chosen by hand for this very leaf"
    TRUSTED = "accepted by hand"
    REPLAYED = "as the mapping says"
    RECIPE = "as the recipe says, which fits these files"
    LAYER = "its layer says so"
    FORWARD = "both models were run: they agree with this, and with nothing else that was tried"

    SAME_NAME = "it has the same name"
    SAME_INSIDE = "it has the same name inside modules that go together"
    NAMES = "its name agrees, and no other one's nearly as well"
    PLACE = "it has the same place in its list, and its name does not disagree"
    STRUCTURE = "it is the only part of this structure, and its name does not disagree"
    SIZE = "it is the only entry of this size here, and its name does not disagree"
    NO_EFFECT = "the checkpoint has none, and the value has no effect"

    ONE_AXIS = "no more than one axis is wider than 1"
    SIZES = "the sizes of the axes leave one order"
    SAME_CLASS = "others of the same class, whose sizes leave no choice, are laid out so"
    KEPT = "the layer keeps PyTorch's layout"
    OWN_NAME = "it is kept under the entry's own name"
    TABLE = "tables keep their rows"
    PARTS = "its parts lie along the output axis"
    HEADS = "heads are on one axis of the weight"
    FLIPPED = "its axes show a transposed convolution, whose window is flipped"

    WHOLE = "it is taken whole"
    ONE_WAY = "the sizes leave one way"

    ONE_MODULE = "what its layer holds comes from one module"
    ALONE = "its layer holds nothing else"
    LEAF_BY_LEAF = "its layer takes from several modules, each leaf by its own name"

    NOTHING = "nothing of its module is left over"
    ACCOUNTED = "what is left over of its module is explained, or has to be accepted"


class Proof(Struct, frozen=True):
    """One answer per question; None where there is none.

    Attributes:
        entry: Which entry belongs to the leaf.
        axes: In which order the axes are.
        grouping: How entries are split, merged or stacked.
        module: That all of a layer comes from one module.
        left_over: That nothing of the module is left over.
    """

    entry: Answer | None = None
    axes: Answer | None = None
    grouping: Answer | None = None
    module: Answer | None = None
    left_over: Answer | None = None

    @property
    def is_complete(self) -> bool:
        """True if every question has an answer."""
        answers = (self.entry, self.axes, self.grouping, self.module, self.left_over)
        return None not in answers

    @property
    def open(self) -> tuple[Question, ...]:
        """The questions without an answer."""
        return tuple(question for question in Question if getattr(self, question) is None)

    def answered(self, **answers: Answer | None) -> Proof:
        """Return the proof with other answers, by the questions' names."""
        return structs.replace(self, **answers)

    def without(self, question: Question) -> Proof:
        """Return the proof with one question open again."""
        changes: dict[str, Any] = {question: None}
        return structs.replace(self, **changes)

    def as_json(self) -> dict[str, str | None]:
        """The answers in words, by question."""
        return structs.asdict(self)


UNPROVEN = Proof()


def proven_by(answer: Answer) -> Proof:
    """Return the proof of a row that one answer settles as a whole."""
    return Proof(answer, answer, answer, answer, answer)
