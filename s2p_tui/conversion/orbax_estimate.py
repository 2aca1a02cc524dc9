"""The cost of an Orbax conversion on so many hosts, from shapes and places in files alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from s2p_tui.conversion.needs import Needs, Reads, gathered, normed_elsewhere, reads_of
from s2p_tui.conversion.orbax import OrbaxConversion
from s2p_tui.conversion.orbax_grid import Group
from s2p_tui.formats.base import Tensors


@dataclass(frozen=True, slots=True)
class HostCost:
    """The cost of one worker's share.

    Attributes:
        chunks: Chunks it writes.
        written: Bytes of their elements.
        read: Bytes read of the sources; verification reads as many again.
        requests: Reads of the sources' files.
        memory: Bytes of memory at most, beside the program's own.
    """

    chunks: int
    written: int
    read: int
    requests: int
    memory: int


def estimate(conversion: OrbaxConversion, hosts: int) -> list[HostCost]:
    """Return the cost of each of so many workers. Reads no tensor data."""
    counting = _Counting(conversion)
    shares = conversion.grid.shares(hosts)
    return [_cost(conversion, mine, counting) for mine in shares]


def _cost(conversion: OrbaxConversion, groups: Sequence[Group], counting: _Counting) -> HostCost:
    chunks = written = read = requests = most = 0
    for group in groups:
        cost = counting.of(group)
        chunks += len(group)
        written += sum(chunk.nbytes for chunk in group)
        read += cost.nbytes
        requests += cost.requests
        most = max(most, max(chunk.nbytes for chunk in group) + cost.nbytes)
    return HostCost(chunks, written, read, requests, conversion.memory_for(most))


class _Counting:
    """Counts the reads that groups take."""

    def __init__(self, conversion: OrbaxConversion) -> None:
        checkpoint, target = conversion.checkpoint, conversion.target
        self._entries = checkpoint.state_dict
        self._leaves = {leaf.path: leaf for leaf in target.skeleton}
        self._taken = Needs(self._entries.shape), checkpoint.tensors
        self._kept = Needs(lambda path: self._leaves[path].shape), target.values

    def of(self, group: Group) -> Reads:
        is_kept = group[0].array.instruction.source is None
        needs, tensors = self._kept if is_kept else self._taken
        wanted = [need for one in group for need in needs.of(one.array.expr, one.region)]
        read = gathered(wanted)
        nbytes = requests = 0
        for need in (*read, *normed_elsewhere(wanted, read)):
            reads = self._reads(tensors, need.key, need.region, is_kept=is_kept)
            nbytes, requests = nbytes + reads.nbytes, requests + reads.requests
        return Reads(nbytes, requests)

    def _reads(
        self, tensors: Tensors, key: str, region: tuple[tuple[int, int], ...], *, is_kept: bool
    ) -> Reads:
        one = self._leaves[key] if is_kept else self._entries[key]
        return reads_of(tensors, key, region, one.shape, one.dtype)
