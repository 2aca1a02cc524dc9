"""What one call of a module took and gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from s2p_tui.check.arrays import shapes_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Call:
    """The arrays one call of a module was given and returned.

    Attributes:
        inputs: The arrays in its positional arguments.
        outputs: The arrays in what it returned.
    """

    inputs: Sequence[NDArray[Any]]
    outputs: Sequence[NDArray[Any]]


def stacked(calls: Sequence[Call]) -> Call | None:
    """The same call for several examples as one, an axis that counts them first.

    None if the shapes differ from example to example.
    """
    inputs = _stacked([call.inputs for call in calls])
    outputs = _stacked([call.outputs for call in calls])
    return None if inputs is None or outputs is None else Call(inputs, outputs)


def _stacked(lots: Sequence[Sequence[NDArray[Any]]]) -> list[NDArray[Any]] | None:
    if any(shapes_of(lot) != shapes_of(lots[0]) for lot in lots):
        return None
    return [np.stack(arrays) for arrays in zip(*lots, strict=True)]
