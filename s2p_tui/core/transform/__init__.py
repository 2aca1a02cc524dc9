"""What is done to entries on their way into a leaf: a small expression over whole tensors.

An expression is a tree of frozen nodes whose ends are entries (`Take`) or constants. It knows its
shape (`shape_of`), its entries (`keys_of`), its JSON form for mapping files (`to_json`,
`from_json`) and its words for people (`describe`). Its numbers are computed region by region, in
bounded memory, by `s2p_tui.streaming.evaluate`.
"""

from s2p_tui.core.transform.as_json import from_json, to_json
from s2p_tui.core.transform.nodes import (
    Broadcast,
    Concat,
    Constant,
    Expr,
    Flip,
    Joining,
    Norm,
    Permute,
    Reshape,
    Scale,
    Shape,
    SpectralNorm,
    Split,
    Stack,
    Sum,
    Take,
    WeightNorm,
    keys_of,
    nodes_of,
    operands,
    rename,
)
from s2p_tui.core.transform.shapes import shape_of, show
from s2p_tui.core.transform.words import describe

__all__ = [
    "Broadcast",
    "Concat",
    "Constant",
    "Expr",
    "Flip",
    "Joining",
    "Norm",
    "Permute",
    "Reshape",
    "Scale",
    "Shape",
    "SpectralNorm",
    "Split",
    "Stack",
    "Sum",
    "Take",
    "WeightNorm",
    "describe",
    "from_json",
    "keys_of",
    "nodes_of",
    "operands",
    "rename",
    "shape_of",
    "show",
    "to_json",
]
