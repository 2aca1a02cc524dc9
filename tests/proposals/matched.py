"""Names and shapes matched, and what came of it."""

from __future__ import annotations

from s2p_tui.alignment.evidence import Evidence
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Shape, keys_of
from s2p_tui.proposals.matcher import match

Tensors = list[tuple[str, Shape]]


def matched(entries: Tensors, leaves: Tensors, owners: dict[str, str] | None = None) -> Evidence:
    owned = owners or {}
    return match(
        StateDict(tuple(Entry(key, shape, "float32") for key, shape in entries)),
        Skeleton(
            tuple(Leaf(path, shape, "float32", owner=owned.get(path)) for path, shape in leaves)
        ),
    )


def keys(evidence: Evidence) -> list[str]:
    return [",".join(keys_of(s.source)) if s.source else "" for s in evidence.suggestions]


def certain(evidence: Evidence) -> list[bool]:
    return [suggestion.certain for suggestion in evidence.suggestions]
