"""A pair of models whose names have nothing in common, so that only a reader could line them up."""

from __future__ import annotations

from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry

LINEAR = "equinox.nn.Linear"


def unlike() -> tuple[list[Entry], list[Leaf]]:
    """Two layers of the same sizes: L1 L2 L3 L4 belong to E2 E4 E1 E3."""
    return (
        [
            Entry("alpha.w", (4, 4), "float32"),
            Entry("beta.w", (4, 4), "float32"),
            Entry("alpha.b", (4,), "float32"),
            Entry("beta.b", (4,), "float32"),
        ],
        [
            Leaf(".one.weight", (4, 4), "float32", owner=LINEAR),
            Leaf(".one.bias", (4,), "float32", owner=LINEAR),
            Leaf(".two.weight", (4, 4), "float32", owner=LINEAR),
            Leaf(".two.bias", (4,), "float32", owner=LINEAR),
        ],
    )


RIGHT: list[tuple[str, list[str]]] = [
    ("L1", ["E2"]),
    ("L2", ["E4"]),
    ("L3", ["E1"]),
    ("L4", ["E3"]),
]
RIGHT_KEYS = ["beta.w", "beta.b", "alpha.w", "alpha.b"]
