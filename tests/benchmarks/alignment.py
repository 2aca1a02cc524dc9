"""`python -m tests.benchmarks.alignment DIR… [--json FILE]`: how often the matcher is right.

It runs over every pair in the folders from names, shapes and dtypes alone; `--scale` adds how long
it takes on models of 1,000 and 100,000 entries.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from s2p_tui.alignment.evidence import Evidence, Suggestion
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import (
    Concat,
    Constant,
    Expr,
    Flip,
    Permute,
    Reshape,
    Split,
    Stack,
    Take,
    keys_of,
    nodes_of,
    rename,
)
from s2p_tui.proposals.matcher.match import match
from tests.benchmarks import alignment_scale
from tests.benchmarks.alignment_pairs import Pair, read_pairs, same_effect, write

_COLUMNS = ("rows", "exact", "source only", "asserted wrong", "doubtful", "whole", "of", "seconds")


@dataclass(frozen=True)
class Score:
    """How well the matcher did.

    Attributes:
        rows: Leaves.
        exact: Leaves with the right source and transform, or rightly without.
        source_only: Leaves with the right entries and another transform.
        asserted_wrong: Leaves not exact that the matcher vouches for.
        doubtful: Leaves the matcher does not vouch for, right or not.
        whole: Models with nothing but exact leaves.
        models: All models.
        seconds: Time the matcher took.
    """

    rows: int = 0
    exact: int = 0
    source_only: int = 0
    asserted_wrong: int = 0
    doubtful: int = 0
    whole: int = 0
    models: int = 0
    seconds: float = 0.0

    def __add__(self, other: Score) -> Score:
        return Score(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))


def propose(pair: Pair) -> tuple[Evidence, float]:
    """What the matcher proposes for a pair, and the seconds it took."""
    state_dict = StateDict(tuple(Entry(t.name, t.shape, t.dtype) for t in pair.source))
    skeleton = Skeleton(tuple(Leaf(t.name, t.shape, t.dtype) for t in pair.target))
    started = time.perf_counter()
    proposal = match(state_dict, skeleton)
    return proposal, time.perf_counter() - started


def score(pair: Pair, proposal: Evidence, seconds: float) -> Score:
    """A proposal against the truth."""
    total = Score(models=1, seconds=seconds)
    columns = zip(pair.target, pair.truth, proposal.suggestions, strict=True)
    for leaf, truth, suggestion in columns:
        source = _from_checkpoint(suggestion)
        if _is_computed(suggestion):
            exact = entries = False
        elif source is None or truth is None:
            exact = entries = source is truth
        else:
            entries = _entries(source, pair) == _entries(truth, pair)
            exact = entries and same_effect(source, truth, pair, leaf.shape)
        total += Score(
            rows=1,
            exact=exact,
            source_only=entries and not exact,
            asserted_wrong=suggestion.certain and not exact,
            doubtful=not suggestion.certain,
        )
    return replace(total, whole=int(total.exact == total.rows))


_MOVES = Take | Permute | Flip | Reshape | Split | Stack | Concat
"""What the text of a transform has words for: elements moved, none computed."""


def _from_checkpoint(suggestion: Suggestion) -> Expr | None:
    return None if isinstance(suggestion.source, Constant) else suggestion.source


def _is_computed(suggestion: Suggestion) -> bool:
    source = _from_checkpoint(suggestion)
    return source is not None and not all(isinstance(node, _MOVES) for node in nodes_of(source))


def _entries(expr: Expr, pair: Pair) -> list[str]:
    return sorted(pair.tied[key] for key in keys_of(expr))


def prediction(pair: Pair, proposal: Evidence) -> list[dict[str, Any]]:
    """A proposal as JSON: per leaf its place, its sources' places, the transform, how sure, why.

    Leaves whose numbers would be computed, which that form cannot say, are left out.
    """
    places = {tensor.name: n for n, tensor in enumerate(pair.source)}
    return [
        {
            "target": n,
            "sources": [places[key] for key in keys_of(source)] if source else [],
            "transform": write(source) if source else "",
            "certain": suggestion.certain,
            "reason": suggestion.reason,
        }
        for n, suggestion in enumerate(proposal.suggestions)
        if not _is_computed(suggestion)
        for source in (_from_checkpoint(suggestion),)
    ]


def shuffled(pair: Pair) -> Pair:
    """The same pair, its entries in another order."""
    source = list(pair.source)
    random.Random(1).shuffle(source)
    return replace(pair, source=tuple(source))


def nameless(pair: Pair) -> Pair:
    """The same pair, its entries in their order and named `w0`, `w1` and so on."""
    names = {tensor.name: f"w{n}" for n, tensor in enumerate(pair.source)}
    return replace(
        pair,
        source=tuple(replace(tensor, name=names[tensor.name]) for tensor in pair.source),
        truth=tuple(expr and rename(expr, names) for expr in pair.truth),
        tied={names[name]: names[first] for name, first in pair.tied.items()},
    )


def run(pairs: Sequence[Pair], change: Callable[[Pair], Pair] = lambda pair: pair) -> list[Score]:
    """The scores of all pairs, changed."""
    return [score(changed, *propose(changed)) for changed in map(change, pairs)]


def _table(title: str, rows: Iterable[tuple[str, Score]]) -> None:
    print(f"\n| {title} | {' | '.join(_COLUMNS)} |\n|{'---|' * (len(_COLUMNS) + 1)}")
    for name, found in rows:
        *counts, seconds = astuple(found)
        print(f"| {name} | {' | '.join(map(str, counts))} | {seconds:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.alignment")
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR", help="of pairs as JSON")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was proposed there")
    parser.add_argument("--scale", action="store_true", help="time 1,000 and 100,000 entries")
    options = parser.parse_args()
    if pairs := read_pairs(options.folders):
        _report(pairs, options.json)
    elif options.folders:
        parser.error("there are no pairs in these folders")
    if options.scale:
        alignment_scale.report()


def _report(pairs: Sequence[Pair], file: Path | None) -> None:
    proposed = [(pair, *propose(pair)) for pair in pairs]
    scores = [score(*each) for each in proposed]
    libraries: dict[str, Score] = defaultdict(Score)
    for pair, found in zip(pairs, scores, strict=True):
        libraries[pair.library] += found
    _table("pair", ((pair.id, found) for pair, found in zip(pairs, scores, strict=True)))
    _table("target library", libraries.items())
    totals = {
        "as they are": scores,
        "state dict shuffled": run(pairs, shuffled),
        "named w0, w1 …": run(pairs, nameless),
    }
    _table("all", ((name, sum(found, Score())) for name, found in totals.items()))
    if file is not None:
        found = {pair.id: prediction(pair, proposal) for pair, proposal, _ in proposed}
        file.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
