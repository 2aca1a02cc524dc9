"""Entries that are not the weights they are named after: quantised, packed or pruned ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from s2p_tui.alignment.dtypes import dtype_named

if TYPE_CHECKING:
    from s2p_tui.alignment.state_dict import Entry


class Encoded(NamedTuple):
    """The step an entry needs before it is a weight.

    Attributes:
        why: Why it is none yet, and the way out.
        narrow: Whether it is one for leaves of its own dtype, as those of a quantised model.
    """

    why: str
    narrow: bool


_SCALES: Mapping[str, tuple[str, ...]] = {
    "SCB": (".weight",),
    "absmax": ("",),
    "weight_scale": (".weight", ".weight_packed"),
    "weight_scale_inv": (".weight",),
    "weight_scales": (".weight",),
    "scale_weight": (".weight",),
    "scales": (".qweight",),
    "_scale": ("._data",),
}
"""By the last name of a scale, what follows the names before it in that of the weight.

bitsandbytes (8 and 4 bits), compressed-tensors, DeepSeek, EETQ, ComfyUI, GPTQ and AWQ, quanto.
"""
_FEWEST_BITS = 16
"""Of a floating-point dtype that holds a weight as it is."""


def encoded(entries: Sequence[Entry]) -> Mapping[str, Encoded]:
    """The entries that are none of the model's weights as they are, by key."""
    found: dict[str, Encoded] = {}
    if not any(map(_is_telling, {entry.key.rpartition(".")[2] for entry in entries})):
        return found
    known = {entry.key: entry for entry in entries}
    for key in known:
        before, dot, last = key.rpartition(".")
        weights = [f"{before}{ending}" if dot else ending[1:] for ending in _SCALES.get(last, ())]
        if last.endswith("_scales"):
            weights.append(key.removesuffix("_scales") + "_blocks")
        for weight in weights:
            if weight in known and _is_narrow(known[weight]):
                found[weight] = Encoded(_QUANTISED.format(key), narrow=True)
        if last.endswith("_mask"):
            weight = key.removesuffix("_mask") + "_orig"
            if weight in known and known[weight].shape == known[key].shape:
                name = last.removesuffix("_mask")
                found[weight] = Encoded(_PRUNED.format(key, name), narrow=False)
    return found


_QUANTISED = (
    "it is quantised, and {} is its scale: dequantise first (weight × scale), then save the state "
    "dict again"
)
_PRUNED = (
    "it is pruned, and {} says where it is 0: call torch.nn.utils.prune.remove(module, {!r}), then "
    "save the state dict again"
)


def _is_telling(last: str) -> bool:
    """Return True if an entry of that last name describes another one."""
    return last in _SCALES or last.endswith(("_scales", "_mask"))


def _is_narrow(entry: Entry) -> bool:
    dtype = dtype_named(entry.dtype)
    return not dtype.is_floating or dtype.bits < _FEWEST_BITS
