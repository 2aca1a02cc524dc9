"""Recipes: mappings whose keys and key paths are patterns, for other depths and widths.

`encoder.layer.{i}.output.dense.weight` fills `.blocks[{i}].mlp.out.weight` for every `i`. A number
in a name or a size in a transform is a term over what a key path captures and over shapes, see
`Term`. Where several terms said the same when the recipe was made, all are kept, as in `{i|j}`, and
have to agree when it is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from msgspec import Struct

from s2p_tui.alignment.alignment import Author
from s2p_tui.alignment.mapping_file import End
from s2p_tui.alignment.transform import Shape
from s2p_tui.alignment.untrusted import MalformedError

# Whole runs of digits that Python writes as it reads them; others are text.
_NUMBER = re.compile(r"(?<!\d)(0|[1-9]\d{0,8})(?!\d)")
_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
_AFFINE = r"(?:(?P<scale>\d{1,9})?(?P<variable>[a-z]\d*)(?P<more>[+-]\d{1,9})?|(?P<number>\d{1,9}))"
_TERM = re.compile(
    rf"(?:(?P<unit>leaf|from)\[(?P<axis>\d{{1,2}})\](?P<times>\*)?)?"
    rf"(?P<open>\()?(?:{_AFFINE})?(?P<close>\))?(?:/(?P<divisor>\d{{1,9}}))?"
)
CAPTURES = "ijklabcdefgh"
RUNNING = "nmo"
"""Variables that run over the operands of a stack, the innermost first."""


class Term(Struct, frozen=True):
    """A number as `size * (scale * variable + offset) / divisor`.

    Attributes:
        variable: What a key path captured, or what runs over a stack's operands; empty for none.
        scale: Its factor.
        offset: What is added.
        unit: The shape that the size is of: the leaf's, or that of the transform's operand; empty
            for a size of 1.
        axis: The axis of that shape.
        divisor: What it is divided by, without a remainder.
    """

    variable: str = ""
    scale: int = 1
    offset: int = 0
    unit: Literal["", "leaf", "from"] = ""
    axis: int = 0
    divisor: int = 1

    def __str__(self) -> str:
        affine = str(self.offset)
        if self.variable:
            scale = "" if self.scale == 1 else str(self.scale)
            affine = f"{scale}{self.variable}{f'{self.offset:+d}' if self.offset else ''}"
        divisor = "" if self.divisor == 1 else f"/{self.divisor}"
        if not self.unit:
            return affine + divisor
        factor = "" if affine == "1" else f"*({affine})" if self.variable else f"*{affine}"
        return f"{self.unit}[{self.axis}]{factor}{divisor}"

    def value(self, captured: Mapping[str, int], shapes: Mapping[str, Shape]) -> int | None:
        """Return the number; None if it is none here."""
        factor = self.offset
        if self.variable:
            if self.variable not in captured:
                return None
            factor += self.scale * captured[self.variable]
        if self.unit:
            shape = shapes.get(self.unit, ())
            if self.axis >= len(shape):
                return None
            factor *= shape[self.axis]
        whole, rest = divmod(factor, self.divisor)
        return None if rest or whole < 0 else whole


def literal(number: int) -> Term:
    """Return the term of a number that is always the same."""
    return Term(offset=number)


def term_of(text: str) -> Term:
    """Inverse of `str(term)`.

    Raises:
        MalformedError: It is no term.
    """
    match = _TERM.fullmatch(text)
    if match is None or not text or bool(match["open"]) != bool(match["close"]):
        raise MalformedError(f"{text!r} is no number of a recipe")
    unit: Literal["", "leaf", "from"] = ""
    if match["unit"]:
        unit = "leaf" if match["unit"] == "leaf" else "from"
    variable = match["variable"] or ""
    if bool(match["times"]) != (bool(unit) and bool(variable or match["number"])):
        raise MalformedError(f"{text!r} is no number of a recipe")
    offset = int(match["more"] or 0) if variable else int(match["number"] or 1)
    divisor = int(match["divisor"] or 1)
    if not divisor or not (unit or variable or match["number"]):
        raise MalformedError(f"{text!r} is no number of a recipe")
    return Term(variable, int(match["scale"] or 1), offset, unit, int(match["axis"] or 0), divisor)


Number = tuple[Term, ...]
"""Terms that said the same when the recipe was made."""


def number_of(text: str) -> Number:
    """Inverse of `show_number`.

    Raises:
        MalformedError: It is no number of a recipe.
    """
    return tuple(term_of(part) for part in text.split("|"))


def show_number(number: Number) -> str:
    """Return the terms in one text."""
    return "|".join(map(str, number))


class AmbiguousError(ValueError):
    """Terms that said the same when the recipe was made do not here."""


def value_of(
    number: Number, captured: Mapping[str, int], shapes: Mapping[str, Shape] | None = None
) -> int:
    """Return the value of a number here.

    Raises:
        AmbiguousError: Its terms differ here, or one has no value.
    """
    values = {term.value(captured, shapes or {}) for term in number}
    (first, *others) = values
    if first is None or others:
        raise AmbiguousError(f"{show_number(number)} is not the same any more")
    return first


class Name(Struct, frozen=True):
    """A key, key path or text whose numbers are terms.

    Attributes:
        texts: What stands around the numbers.
        numbers: One fewer than texts.
    """

    texts: tuple[str, ...]
    numbers: tuple[Number, ...] = ()

    def __str__(self) -> str:
        parts = [_escaped(self.texts[0])]
        for number, text in zip(self.numbers, self.texts[1:], strict=True):
            fixed = fixed_number(number)
            parts.append(f"{{{show_number(number)}}}" if fixed is None else str(fixed))
            parts.append(_escaped(text))
        return "".join(parts)

    def filled(self, captured: Mapping[str, int]) -> str:
        """Return the name for the numbers captured.

        Raises:
            AmbiguousError: Its terms differ here.
        """
        parts = [self.texts[0]]
        for number, text in zip(self.numbers, self.texts[1:], strict=True):
            parts += [str(value_of(number, captured)), text]
        return "".join(parts)

    def captured(self, numbers: Sequence[int]) -> dict[str, int] | None:
        """Return what the variables are in a name of the same texts; None if it does not match."""
        found: dict[str, int] = {}
        for number, value in zip(self.numbers, numbers, strict=True):
            fixed = fixed_number(number)
            if fixed is None:
                found[number[0].variable] = value
            elif fixed != value:
                return None
        return found

    @property
    def captures(self) -> int:
        """The count of its numbers that are not always the same."""
        return sum(fixed_number(number) is None for number in self.numbers)


def fixed_number(number: Number) -> int | None:
    """Return the value of a number that is always the same; None for others."""
    term = number[0]
    is_fixed = len(number) == 1 and not term.variable and not term.unit
    return term.offset if is_fixed else None


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def split_name(text: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the texts around a name's numbers, and the numbers."""
    parts = _NUMBER.split(text)
    return tuple(parts[::2]), tuple(map(int, parts[1::2]))


def name_of(text: str) -> Name:
    """Inverse of `str(name)`.

    Raises:
        MalformedError: Something in braces is no number.
    """
    texts, numbers, rest = [""], list[Number](), 0
    for match in _BRACES.finditer(text):
        _append(text[rest : match.start()], texts, numbers)
        rest = match.end()
        if match[1] is None:
            texts[-1] += match[0][0]
        else:
            numbers.append(number_of(match[1]))
            texts.append("")
    _append(text[rest:], texts, numbers)
    return Name(tuple(texts), tuple(numbers))


def _append(text: str, texts: list[str], numbers: list[Number]) -> None:
    if "{" in text or "}" in text:
        raise MalformedError(f"{text!r} holds a brace without its counterpart")
    first, *more = _NUMBER.split(text)
    texts[-1] += first
    for number, behind in zip(more[::2], more[1::2], strict=True):
        numbers.append((literal(int(number)),))
        texts.append(behind)


class Pattern(Struct, frozen=True):
    """Rows that are alike but for their numbers.

    Attributes:
        path: The leaves' key paths.
        sources: Keys of the entries that fill them.
        transform: What is done to them, as in a mapping file but with numbers for sizes and `each`
            for a stack of as many operands as there are; None for a plain copy.
        gap: See `Row`; so are `by`, `why`, `trusted` and `fixed`.
        by: Who decided these rows where the recipe was made.
        why: The reason, in words.
        trusted: Whether the user accepted them there although they were doubtful.
        fixed: Whether no entry belongs there.
        owner: The class of the leaves' layers; empty if that is not known.
    """

    path: Name
    sources: tuple[Name, ...] = ()
    transform: Any = None
    gap: bool = False
    by: Author = "user"
    why: Name = Name(("",))
    trusted: bool = False
    fixed: bool = False
    owner: str = ""

    @property
    def takes(self) -> tuple[tuple[tuple[str, ...], ...], str]:
        """The entries that the rows take, numbers aside, and what is done to them."""
        return tuple(source.texts for source in self.sources), repr(self.transform)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A mapping as patterns.

    Attributes:
        source: The checkpoint it was made from.
        target: The skeleton it was made from.
        patterns: In the order of the first row of each.
        accepted: Entries that were accepted as unused.
        bench: Keys no row used, where they were in another order than the checkpoint's.
        lists: How many numbers a list of modules had that a pattern takes a fixed one from, by the
            name up to the number; of entries and of leaves.
        name: What it is called.
    """

    source: End
    target: End
    patterns: tuple[Pattern, ...]
    accepted: tuple[Name, ...] = ()
    bench: tuple[str, ...] | None = None
    lists: Mapping[str, int] = field(default_factory=dict[str, int])
    name: str = field(default="", compare=False)


def in_lists(texts: Sequence[str], place: int) -> str:
    """Return the name of the list that the number at a place counts, other numbers left out."""
    return "{}".join(texts[: place + 1])


def fixed_places(pattern: Pattern) -> set[str]:
    """Return the lists that a pattern takes a fixed number from, with none like it opposite."""
    path = {fixed_number(number) for number in pattern.path.numbers} - {None}
    keys = {fixed_number(n) for source in pattern.sources for n in source.numbers} - {None}
    return {
        in_lists(name.texts, place)
        for name, others in ((pattern.path, keys), *((one, path) for one in pattern.sources))
        for place, number in enumerate(name.numbers)
        if (fixed := fixed_number(number)) is not None and fixed not in others and pattern.sources
    }
