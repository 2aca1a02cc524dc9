"""Evidence of layers and shapes on which pieces can fill which leaves."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence

from s2p_tui.alignment.layer_rules import rule_applied, rule_for
from s2p_tui.alignment.skeleton import Skeleton
from s2p_tui.alignment.transform import Take
from s2p_tui.proposals.matcher.pieces import Piece
from s2p_tui.proposals.matcher.tree import Node
from s2p_tui.proposals.matcher.words import meanings

Steps = tuple[str, ...]
_MATRIX = 2
_PARTS = ("weight_g", "weight_v", "weight_u", "weight_orig", "bias_ih", "bias_hh", "in_proj_")
_OWN_PARTS = frozenset(("b_ih", "b_hh"))
_PARAMETERS = (("weight",), ("bias",), ("mean",), ("var",))
"""Meanings of the names of a layer's parameters and statistics."""


class Fits:
    """Tells if pieces can fill leaves: by their layers' rules, and by what entries hold.

    Args:
        skeleton: The leaves.
        pieces: The pieces.
        steps: Steps of the leaves that entries may feed, by index.
        useless: Steps of entries that hold no parameter.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        pieces: Sequence[Piece],
        steps: Mapping[int, Steps],
        useless: Collection[Steps],
    ) -> None:
        self._skeleton, self._pieces, self._steps = skeleton, pieces, steps
        self._useless = {n for n, piece in enumerate(pieces) if piece.steps in useless}

    def __call__(self, target: Node, source: Node) -> bool | None:
        """Return True if a source fills a target by its layer's rule; None without a rule."""
        leaf, piece = self._skeleton[target.item], self._pieces[source.item]
        member = piece.members[0]
        if rule_for(leaf) is None or len(piece.members) > 1:
            return None
        if piece.composite is not None and not isinstance(member, Take):
            return piece.shape == leaf.shape or None
        return rule_applied(leaf, member, piece.shape) is not None

    def turn(self, target: Node, source: Node) -> float:
        """Return 0 for a source of the very shape a layer keeps, 1 for it transposed, or else 2."""
        leaf, piece = self._skeleton[target.item], self._pieces[source.item]
        if leaf.owner != "equinox.nn.Linear" or not _is_weight_of_layer(piece):
            return 2
        if piece.shape == leaf.shape:
            return 0
        return 1 if piece.shape == leaf.shape[::-1] else 2

    def bars(self, target: Node, source: Node) -> bool:
        """Return True if an entry without a parameter would be a parameter of a layer."""
        if source.item not in self._useless:
            return False
        last = self._steps[target.item][-1]
        is_role = meanings((last,))[0] in _PARAMETERS
        return is_role and last != self._pieces[source.item].steps[-1]

    def kind_of_target(self, target: Node) -> Hashable:
        """Its shape and class; with a layer that has a rule of its own it is a kind of its own."""
        leaf = self._skeleton[target.item]
        is_linear = leaf.owner == "equinox.nn.Linear"
        last = self._steps[target.item][-1] if self._useless else ""
        rule = rule_for(leaf)
        if rule is None:
            return leaf.shape, is_linear, last
        # Those of Equinox's cells take composites, of which each leaf has another part.
        is_flax = (leaf.owner or "").startswith("flax.")
        return (
            (leaf.shape, leaf.owner, rule.role, id(leaf.config), last) if is_flax else target.item
        )

    def kind_of_source(self, source: Node) -> Hashable:
        """The facts its layouts depend on."""
        piece = self._pieces[source.item]
        if piece.composite is not None or source.item in self._useless:
            return source.item
        kept = _is_weight_of_layer(piece), piece.is_input_first
        return piece.shape, piece.member, len(piece.members), piece.otherwise is None, *kept

    def turns(self, target: Node, source: Node) -> frozenset[bool]:
        """Return True if the output axis can come last in a leaf that takes the piece."""
        leaf, piece = self._skeleton[target.item], self._pieces[source.item]
        return piece.turns(leaf.shape)


def is_whole(piece: Piece) -> bool:
    """Return True if a piece is an entry as it is, under its own name."""
    member = piece.members[0]
    is_entry = len(piece.members) == 1 and isinstance(member, Take)
    return is_entry and piece.composite is None and not is_part(piece.steps)


def _is_weight_of_layer(piece: Piece) -> bool:
    """Return True for a matrix that a layer of PyTorch's may have, which is (out, in)."""
    is_named = piece.steps[-1:] == ("weight",) and len(piece.shape) == _MATRIX
    return is_named and is_whole(piece) and not piece.is_input_first


def is_part(steps: Steps) -> bool:
    """Return True if a tensor is one of several that a layer makes its weight from."""
    last = steps[-1]
    return "parametrizations" in steps or last.startswith(_PARTS) or last in _OWN_PARTS
