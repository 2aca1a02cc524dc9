"""How a cell looks, as terminals are told it: "select graphic rendition" (ECMA-48, 8.3.117)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

_ATTRIBUTES = frozenset(("1", "2", "3", "4", "5", "6", "7", "8", "9", "21", "53"))
_SHOWN_ON_BLANKS = frozenset(("4", "5", "6", "7", "9", "21", "53"))
_PARTS = {"2": 4, "5": 2}
"""Numbers that follow `38` or `48`: how a colour is given, and the colour."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a cell is drawn; codes are kept as they are sent.

    Attributes:
        attributes: Codes of bold, underline and the like.
        fore: The code of the foreground; None where it makes no difference.
        back: The code of the background.
    """

    attributes: frozenset[str] = frozenset()
    fore: str | None = "39"
    back: str = "49"

    @property
    def of_blank(self) -> Look:
        """What of it is seen on a space."""
        if self.attributes & _SHOWN_ON_BLANKS:
            return self
        return Look(frozenset(), None, self.back)


PLAIN = Look()


class UnknownLookError(ValueError):
    """Codes that are not known here."""


@lru_cache(maxsize=1024)
def parse(codes: str) -> Look:
    """The look that codes such as `1;38;2;224;224;224` give a cell after a reset.

    Raises:
        UnknownLookError: One of them is not known.
    """
    attributes, fore, back = set[str](), "39", "49"
    for code in _codes(codes):
        first = code.partition(";")[0]
        number = int(first) if first.isdecimal() else -1
        if number == 0:
            attributes, fore, back = set[str](), "39", "49"
        elif first in _ATTRIBUTES:
            attributes.add(first)
        elif 30 <= number <= 39 or 90 <= number <= 97:
            fore = code
        elif 40 <= number <= 49 or 100 <= number <= 107:
            back = code
        else:
            raise UnknownLookError(code)
    return Look(frozenset(attributes), fore, back)


def _codes(codes: str) -> Iterator[str]:
    """The codes one by one, a colour's numbers together."""
    parts = codes.split(";") if codes else ["0"]
    place = 0
    while place < len(parts):
        count = 1
        if parts[place] in ("38", "48"):
            kind = parts[place + 1] if place + 1 < len(parts) else ""
            count += _PARTS.get(kind, 0)
            if count == 1 or place + count > len(parts):
                raise UnknownLookError(codes)
        yield ";".join(parts[place : place + count])
        place += count


@lru_cache(maxsize=4096)
def transition(now: Look, then: Look) -> tuple[str, Look]:
    """What to send where cells looked like `now` and are to look like `then`; how they look then.

    Nothing is sent for what makes no difference.
    """
    superfluous = now.attributes - then.attributes
    if superfluous if then.fore is not None else superfluous & _SHOWN_ON_BLANKS:
        codes, now = ["0"], PLAIN
    else:
        codes = []
    codes += sorted(then.attributes - now.attributes)
    fore = now.fore if then.fore is None else then.fore
    if fore is not None and fore != now.fore:
        codes.append(fore)
    if then.back != now.back:
        codes.append(then.back)
    result = Look(now.attributes | then.attributes, fore, then.back)
    return (f"\x1b[{';'.join(codes)}m" if codes else ""), result
