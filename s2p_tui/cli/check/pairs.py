"""Pairs of torch and JAX modules, by the leaves that the alignment feeds."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from s2p_tui.cli.check.arrays import Call, Difference, comparable, difference
from s2p_tui.cli.check.flax_side import channels_first
from s2p_tui.cli.check.result import Modules, Pair

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEAST_SHARED = 0.25
_TOKEN = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class _Candidate:
    torch: str
    jax: str
    shared: float

    @property
    def same_name(self) -> bool:
        return _TOKEN.findall(self.torch) == _TOKEN.findall(self.jax)

    @property
    def rank(self) -> tuple[float, bool, int]:
        """Better ones have more; of wrappers around one layer the inner ones come first."""
        depth = len(_TOKEN.findall(self.torch)) + len(_TOKEN.findall(self.jax))
        return self.shared, self.same_name, depth


def pair_modules(
    feeds: Mapping[str, Sequence[str]], torch_paths: Iterable[str], jax_paths: Iterable[str]
) -> dict[str, str]:
    """Find the Equinox module for each torch module that has one.

    Two modules belong together by the leaves they share: those in the one that entries in the
    other feed. So blocks are paired as layers are, and a row that took a wrong entry changes
    little. Where most pairs bear the same name on both sides, names decide first: then a
    layer whose only entry went elsewhere is still held against its own twin.

    Args:
        feeds: Leaf key path to the keys that feed it, as the torch module itself names them.
        torch_paths: Of modules, such as `layer1.0.bn1`.
        jax_paths: Of modules, such as `.layer1[0].bn1`.

    Returns:
        Key path of the Equinox module by path of the torch module, each at most once.
    """
    torch_known = {path for path in torch_paths if path and "parametrizations" not in path}
    jax_known = {path for path in jax_paths if path}
    torch_holds: defaultdict[str, set[str]] = defaultdict(set)
    jax_holds: defaultdict[str, set[str]] = defaultdict(set)
    meetings: set[tuple[str, str]] = set()
    for leaf, keys in feeds.items():
        above_keys = {path for key in keys for path in _above(key, ".") if path in torch_known}
        above_leaf = {path for path in _above(leaf, ".[") if path in jax_known}
        for path in above_keys:
            torch_holds[path].add(leaf)
        for path in above_leaf if keys else ():
            jax_holds[path].add(leaf)
        meetings |= {(first, second) for first in above_keys for second in above_leaf}
    candidates = [
        _Candidate(a, b, len(torch_holds[a] & jax_holds[b]) / len(torch_holds[a] | jax_holds[b]))
        for a, b in sorted(meetings)
    ]
    pairs = _best(candidates)
    if sum(candidate.same_name for candidate in pairs) * 2 > len(pairs):
        by_name = {" ".join(_TOKEN.findall(path)): path for path in jax_known}
        names = ((path, by_name.get(" ".join(_TOKEN.findall(path)))) for path in torch_known)
        named = [_Candidate(a, b, 1.0) for a, b in names if b is not None]
        pairs = _best(candidates, first=named)
    return {candidate.torch: candidate.jax for candidate in pairs}


def _best(candidates: Sequence[_Candidate], first: Sequence[_Candidate] = ()) -> list[_Candidate]:
    """Choose the best candidates so that no two share a module."""
    found: list[_Candidate] = []
    torch_taken: set[str] = set()
    jax_taken: set[str] = set()
    ranked = sorted(candidates, key=lambda candidate: candidate.rank, reverse=True)
    for candidate in (*first, *ranked):
        taken = candidate.torch in torch_taken or candidate.jax in jax_taken
        if not taken and candidate.shared >= _LEAST_SHARED:
            found.append(candidate)
            torch_taken.add(candidate.torch)
            jax_taken.add(candidate.jax)
    return found


def _above(path: str, separators: str) -> Iterator[str]:
    """List every part of a path that ends before a separator."""
    for place, letter in enumerate(path):
        if letter in separators:
            yield path[:place]


def compared(
    torch_calls: Sequence[tuple[str, Call]],
    jax_calls: Mapping[str, Sequence[Call]],
    pairs: Mapping[str, str],
    *,
    channels_last: bool = False,
) -> Iterator[Pair]:
    """Compare what paired modules returned, call by call.

    Args:
        torch_calls: Path and call, in the order in which the calls returned.
        jax_calls: Calls by key path.
        pairs: Key path of the Equinox module by path of the torch module.
        channels_last: Arrays may have their channels last where torch's have them first.
    """
    total = Counter(path for path, _ in torch_calls)
    seen: Counter[str] = Counter()
    for path, call in torch_calls:
        number = seen[path]
        seen[path] += 1
        twin = pairs.get(path)
        others = jax_calls.get(twin, ()) if twin is not None else ()
        if twin is None or len(others) != total[path]:
            continue
        apart = _apart_in_either_order if channels_last else _apart
        outputs = apart(others[number].outputs, call.outputs)
        if outputs is None:
            continue
        inputs = apart(others[number].inputs, call.inputs)
        yield Pair(path, twin, outputs, inputs, (call.dtype, others[number].dtype))


def corresponding(
    calls: Sequence[Pair],
    feeds: Mapping[str, Sequence[str]],
    tolerance: float,
    *,
    outputs_agree: bool,
) -> list[Pair]:
    """Leave out pairs that differ because the two models are cut into modules otherwise.

    Such a pair does not hold the same: one has a layer within that the other one has beside it. It
    is left out where a pair around it agrees, or all of its leaves are in smaller pairs that do:
    what differs then is named by the pair around it.

    Args:
        calls: In the order in which they returned.
        feeds: Leaf key path to the keys that feed it, as for `pair_modules`.
        tolerance: Largest relative difference that counts as agreement.
        outputs_agree: True if the outputs of the whole models agree.
    """
    names = dict.fromkeys((call.torch, call.jax) for call in calls)
    differing = {(call.torch, call.jax) for call in calls if not call.outputs.relative <= tolerance}
    agreeing = [name for name in names if name not in differing]

    def is_cut_otherwise(torch: str, jax: str) -> bool:
        held = {leaf for leaf, keys in feeds.items() if keys and _is_in(leaf, jax, ".[")}
        fed = {leaf for leaf, keys in feeds.items() if any(_is_in(key, torch, ".") for key in keys)}
        if held == fed:
            return False
        if outputs_agree or any(
            _is_in(torch, outer, ".") and _is_in(jax, twin, ".[") for outer, twin in agreeing
        ):
            return True
        inner = [twin for _, twin in agreeing if _is_in(twin, jax, ".[")]
        return all(any(_is_in(leaf, twin, ".[") for twin in inner) for leaf in held)

    left_out = {name for name in differing if is_cut_otherwise(*name)}
    return [call for call in calls if (call.torch, call.jax) not in left_out]


def _is_in(path: str, outer: str, separators: str) -> bool:
    return path.startswith(outer) and path[len(outer) : len(outer) + 1] in tuple(separators)


def find_first(calls: Iterable[Pair], tolerance: float) -> Modules:
    """Find the first of compared calls that differs.

    Args:
        calls: In the order in which they returned.
        tolerance: Largest relative difference that counts as agreement.
    """
    agreed: list[Pair] = []
    for pair in calls:
        if not pair.outputs.relative <= tolerance:
            return Modules(first=pair, before=agreed[-1] if agreed else None, agreed=len(agreed))
        agreed.append(pair)
    return Modules(first=None, before=agreed[-1] if agreed else None, agreed=len(agreed))


def _apart(found: Sequence[NDArray[Any]], reference: Sequence[NDArray[Any]]) -> Difference | None:
    """Compare the arrays, the first ones if one side has more.

    None if they cannot be compared, as where one side runs over a sequence step by step.
    """
    if len(found) != len(reference):
        found, reference = found[:1], reference[:1]
    if not found or not reference or not comparable(found, reference):
        return None
    return difference(found, reference)


def _apart_in_either_order(
    found: Sequence[NDArray[Any]], reference: Sequence[NDArray[Any]]
) -> Difference | None:
    """Compare arrays as they are and with their last axis first; return what is nearer."""
    both = _apart(found, reference), _apart(channels_first(found), reference)
    known = [one for one in both if one is not None]
    return min(known, key=lambda one: one.relative, default=None)
