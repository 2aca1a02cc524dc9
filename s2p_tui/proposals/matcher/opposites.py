"""Words of two names that say that they are different things, as an encoder's and a decoder's."""

from __future__ import annotations

from s2p_tui.proposals.matcher.templates import Pairs, words_of
from s2p_tui.proposals.matcher.words import Steps, remembered, written

_OPPOSITE = tuple(
    frozenset(words)
    for words in (
        ("enc", "dec"),
        ("query", "key", "value"),
        ("forward", "backward"),
        ("vision", "text"),
        ("cross", "self"),
        ("pos", "token"),
        ("source", "target"),
        ("teacher", "student"),
        ("actor", "critic"),
        ("generator", "discriminator"),
    )
)
_TASKS = tuple(
    frozenset(words.split())
    for words in (
        "seg segm segmentation semantic",
        "cls class classes classification classifier category",
        "box bbox boxes bboxes reg regression loc localization",
        "mask masks",
        "depth",
        "value values",
        "policy pi actor",
        "reward",
        "kpt keypoint keypoints pose landmark landmarks",
        "mlm",
        "nsp",
        "iou obj objectness centerness",
    )
)
"""Words for one task of a head each."""
_SECOND = tuple(
    frozenset(words.split())
    for words in ("aux auxiliary auxlogits", "dist distill distillation distilled")
)
"""Words for a head beside the one that is called without them."""
_HEADS = frozenset(("head", "token", "class", "mlp", "conv"))
_NORMS = frozenset(("layer", "norm", "layernorm", "ln", "rms", "rmsnorm"))
_ROLES = frozenset(("weight", "bias"))
_EMBED = ("emb", "embed", "embedding", "embeddings")
_ENDS = (
    (
        frozenset(("in", "input", "pre", "before", "first", "start", *_EMBED)),
        frozenset(("out", "output", "post", "after", "last", "final", "end", "f")),
    ),
    (frozenset(("scale",)), frozenset(("shift",))),
    (
        frozenset(("left", "top", "low", "min", "row")),
        frozenset(("right", "bottom", "high", "max")),
    ),
)
"""Words for one of two ends, and for the other one."""
_DENSE = frozenset(("mlp", "conv", "proj", "query", "key", "value", "qkv"))
_OF_A_VARIANCE = frozenset(("log", "std", "sqrt", "rsqrt", "inv"))
_FIRST_OR_LAST = frozenset(("first", "last"))
_AFTER = frozenset(("post", "out", "mlp"))


def opposites(pairs: Pairs) -> dict[int, str]:
    """Pairs whose names say that they are different things."""
    found: dict[int, str] = {}
    for templates, places in pairs.by_template.items():
        if templates[0] == templates[1]:
            continue
        why = _opposite(templates)
        called = _called_ends(*templates), _called_ends(*templates[::-1])
        if not (why or any(called)):
            continue
        for n in places:
            if told := why or _other_ends(pairs[n], called):
                found[n] = told
    return found


def _called_ends(named: Steps, numbered: Steps) -> frozenset[str]:
    """Return how a template is called, if that is the first or last one, and the other a number.

    A list may be called so too, as `first.0` and `first.1`.
    """
    words = _own_words(named)
    is_number = _number(numbered).isdigit() and not _number(named).isdigit()
    return words if is_number and words & _FIRST_OR_LAST else frozenset()


def _other_ends(sides: tuple[Steps, Steps], called: tuple[frozenset[str], ...]) -> str:
    """Return that the first of a list is called the last, or the other way round."""
    for words, numbered in zip(called, sides[::-1], strict=True):
        number = _number(numbered)
        if words and ("last" if number == "0" else "first") in words:
            return f"one is called {' '.join(sorted(words))}, and the other is number {number}"
    return ""


def _number(steps: Steps) -> str:
    return next((step for step in reversed(steps) if step not in _ROLES), "")


def _opposite(sides: tuple[Steps, Steps]) -> str:
    words = [{*words_of(steps)} for steps in sides]
    layers = [{*words_of(steps[-2:-1])} for steps in sides]
    if why := _opposite_ends(*sides) or _other_task(*sides):
        return why
    for several in _OPPOSITE:
        mine, theirs = (several & found for found in words)
        if mine and theirs and not mine & theirs:
            return f"one is of the {min(theirs)}, the other of the {min(mine)}"
    for one, other in (words, words[::-1]):
        if "var" in one and not one & _OF_A_VARIANCE and other & _OF_A_VARIANCE:
            return f"one is a variance, the other its {min(other & _OF_A_VARIANCE)}"
    for one, other in (layers, layers[::-1]):
        is_of_attention = {"norm", "attn"} <= one and not one & _AFTER
        if is_of_attention and {"norm", "mlp"} <= other and "attn" not in other:
            return "one is of the attention, the other of what follows it"
        if "norm" in one and "norm" not in other and other & _DENSE:
            return "one is of a normalisation, the other is not"
    return ""


def _opposite_ends(target: Steps, source: Steps) -> str:
    """Return that names differ in words for a beginning and an end alone, or in two opposites."""
    mine, theirs = map(_own_words, (target, source))
    if mine & _NORMS and theirs & _NORMS:
        mine, theirs = mine - _NORMS, theirs - _NORMS
    apart = mine - theirs, theirs - mine
    if not all(apart):
        return ""
    is_opposite = any(
        apart[side] <= first and apart[1 - side] <= last for first, last in _ENDS for side in (0, 1)
    )
    if not is_opposite:
        return ""
    return f"one is {' '.join(sorted(apart[1]))}, the other {' '.join(sorted(apart[0]))}"


def _other_task(target: Steps, source: Steps) -> str:
    """Return that two heads have different tasks, or that one of them is a second one."""
    names = [_own_words(steps) for steps in (target, source)]
    mine, theirs = ({min(task) for task in _TASKS if not task.isdisjoint(name)} for name in names)
    if mine and theirs and not mine & theirs:
        return f"one is {_own(source)}, the other {_own(target)}"
    if not all({*words_of(steps)} & _HEADS for steps in (target, source)):
        return ""
    every = [{word for step in steps for word in written(step)} for steps in (target, source)]
    if any(len([1 for words in every if words & second]) == 1 for second in _SECOND):
        return f"one is {_own(source)}, the other {_own(target)}"
    return ""


@remembered
def _own_words(steps: Steps) -> frozenset[str]:
    """The words, as they are written, of the last step that is no number and no role."""
    return frozenset(written(_own(steps)))


def _own(steps: Steps) -> str:
    return next((s for s in reversed(steps) if not s.isdigit() and s not in _ROLES), "")
