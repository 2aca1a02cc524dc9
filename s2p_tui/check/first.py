"""The first pair of modules whose outputs differ, in the order in which torch ran them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from s2p_tui.check.arrays import Difference, comparable, difference
from s2p_tui.check.calls import Call
from s2p_tui.check.result import Modules, Pair

if TYPE_CHECKING:
    from numpy.typing import NDArray


def find_first(
    torch_calls: Sequence[tuple[str, Call]],
    jax_calls: Mapping[str, Sequence[Call]],
    pairs: Mapping[str, str],
    tolerance: float,
) -> Modules:
    """Compare what paired modules returned, call by call, up to the first difference.

    Args:
        torch_calls: Path and call, in the order in which the calls returned.
        jax_calls: Calls by key path.
        pairs: Key path of the Equinox module by path of the torch module.
        tolerance: Largest relative difference that counts as agreement.
    """
    total = Counter(path for path, _ in torch_calls)
    seen: Counter[str] = Counter()
    agreed: list[Pair] = []
    for path, call in torch_calls:
        number = seen[path]
        seen[path] += 1
        twin = pairs.get(path)
        others = jax_calls.get(twin, ()) if twin is not None else ()
        if twin is None or len(others) != total[path]:
            continue
        outputs = _apart(others[number].outputs, call.outputs)
        if outputs is None:
            continue
        pair = Pair(path, twin, outputs, _apart(others[number].inputs, call.inputs))
        if not outputs.relative <= tolerance:
            return Modules(first=pair, before=agreed[-1] if agreed else None, agreed=len(agreed))
        agreed.append(pair)
    return Modules(first=None, before=agreed[-1] if agreed else None, agreed=len(agreed))


def _apart(found: Sequence[NDArray[Any]], reference: Sequence[NDArray[Any]]) -> Difference | None:
    """How far the arrays are apart, the first ones where one side has more of them.

    None if they cannot be compared, as where one side runs over a sequence step by step.
    """
    if len(found) != len(reference):
        found, reference = found[:1], reference[:1]
    if not found or not reference or not comparable(found, reference):
        return None
    return difference(found, reference)
