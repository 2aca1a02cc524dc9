"""Tensors that PyTorch keeps in several entries, and what leaves are made of them.

Weight norm keeps `weight_g` and `weight_v` (or `parametrizations.weight.original0` and `1`),
spectral norm `weight_orig`, `weight_u` and `weight_v` (or `parametrizations.weight.original`,
`.0._u` and `.0._v`), recurrent layers `bias_ih` and `bias_hh`. Names as of torch 2.13; what is made
of them measured by comparing forwards with equinox 0.13.8.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Literal

from s2p_tui.core.errors import TransformError
from s2p_tui.core.state_dict import StateDict
from s2p_tui.core.transform import Expr, Shape, SpectralNorm, Take, WeightNorm, shape_of

Kind = Literal["weight norm", "spectral norm", "recurrent biases"]


@dataclass(frozen=True, slots=True)
class Composite:
    """Entries of one PyTorch layer that make up one tensor together.

    Attributes:
        kind: How they do.
        layer: What the layer's keys start with, dot included.
        name: The tensor's name in the layer, such as `weight`; the suffix of recurrent biases.
        parts: The keys: g and v; W, u and v; bias_ih and bias_hh.
        shape: Shape of the tensor, in PyTorch's layout.
    """

    kind: Kind
    layer: str
    name: str
    parts: tuple[str, ...]
    shape: Shape

    def folded(self, state_dict: StateDict, *, transposed: bool | None) -> Expr | None:
        """The weight the layer computes with, in PyTorch's layout; None for biases.

        Args:
            state_dict: Gives the shapes.
            transposed: Whether the layer is a transposed convolution, if known; spectral norm
                takes the other axis there, and if that shows nowhere the answer is None.
        """
        match self.kind:
            case "weight norm":
                return WeightNorm(tuple(map(Take, self.parts)))
            case "spectral norm":
                of = tuple(map(Take, self.parts))
                possible = [SpectralNorm(of, axis) for axis in (0, 1) if axis < len(self.shape)]
                possible = [one for one in possible if _applies(one, state_dict)]
                if len(possible) == 1 or len(self.shape) == 2:
                    return possible[0]
                return None if transposed is None else possible[transposed]
            case "recurrent biases":
                return None


_ENDINGS: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    ("weight norm", ("{0}{1}_g", "{0}{1}_v")),
    ("weight norm", ("{0}parametrizations.{1}.original0", "{0}parametrizations.{1}.original1")),
    ("spectral norm", ("{0}{1}_orig", "{0}{1}_u", "{0}{1}_v")),
    (
        "spectral norm",
        (
            "{0}parametrizations.{1}.original",
            "{0}parametrizations.{1}.0._u",
            "{0}parametrizations.{1}.0._v",
        ),
    ),
    ("recurrent biases", ("{0}bias_ih{1}", "{0}bias_hh{1}")),
)
_MAY_BE_PART = re.compile(r"(_g|_v|_u|_orig|\.original[01]?|\.0\._[uv]|bias_[ih]h[^.]*)$")


def _pattern(ending: str) -> re.Pattern[str]:
    text = re.escape(ending).replace(re.escape("{0}"), r"((?:.*\.)?)")
    return re.compile(text.replace(re.escape("{1}"), r"([^.]*)"))


_PATTERNS: tuple[tuple[re.Pattern[str], Kind, tuple[str, ...]], ...] = tuple(
    (_pattern(ending), kind, endings) for kind, endings in _ENDINGS for ending in endings
)


def may_be_part(key: str) -> bool:
    """Whether an entry is named as parts of composites are, so that `composite_of` may find one."""
    return _MAY_BE_PART.search(key) is not None


def composite_of(key: str, state_dict: StateDict) -> Composite | None:
    """What an entry is a part of, if its companions are there and have the shapes that takes."""
    if not may_be_part(key):
        return None
    for pattern, kind, endings in _PATTERNS:
        match = pattern.fullmatch(key)
        if match is None:
            continue
        layer, name = match.groups()
        parts = tuple(ending.format(layer, name) for ending in endings)
        if all(part in state_dict for part in parts):
            shape = _shape(kind, layer, name, parts, state_dict)
            if shape is not None:
                return Composite(kind, layer, name, parts, shape)
    return None


def composites(state_dict: StateDict) -> tuple[Composite, ...]:
    """All of a state dict, in the order of their first parts."""
    return composites_of((entry.key for entry in state_dict), state_dict)


def composites_of(keys: Iterable[str], state_dict: StateDict) -> tuple[Composite, ...]:
    """What entries of these keys are parts of, each once."""
    found = (composite_of(key, state_dict) for key in keys)
    return tuple(dict.fromkeys(composite for composite in found if composite is not None))


def gates_of(composite: Composite, state_dict: StateDict) -> int:
    """How many gates a recurrent layer has: 4 an LSTM, 3 a GRU; 0 if that does not show."""
    hidden = f"{composite.layer}weight_hh{composite.name}"
    if composite.kind != "recurrent biases" or hidden not in state_dict:
        return 0
    rows, columns = state_dict.shape(hidden)
    return rows // columns


def _shape(
    kind: Kind, layer: str, name: str, parts: tuple[str, ...], state_dict: StateDict
) -> Shape | None:
    shapes = [state_dict.shape(part) for part in parts]
    match kind:
        case "weight norm":
            fits = _applies(WeightNorm(tuple(map(Take, parts))), state_dict)
            return shapes[1] if fits and len(shapes[1]) > 1 else None
        case "spectral norm":
            of = tuple(map(Take, parts))
            fits = any(_applies(SpectralNorm(of, axis), state_dict) for axis in (0, 1))
            return shapes[0] if fits else None
        case "recurrent biases":
            hidden = f"{layer}weight_hh{name}"
            if hidden not in state_dict or shapes[0] != shapes[1]:
                return None
            weight = state_dict.shape(hidden)
            fits = len(weight) == 2 and prod(weight) and weight[0] % weight[1] == 0
            return shapes[0] if fits and shapes[0] == weight[:1] else None


def _applies(expr: Expr, state_dict: StateDict) -> bool:
    try:
        shape_of(expr, state_dict.shape)
    except TransformError:
        return False
    return True
