"""What people do to checkpoints, and what happens to them: orders, names, losses, additions."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tests.networks.network import Array, Network, built, same

PLAIN = ("as it is", "prefix", "order", "leaf order", "from 1")
"""The kinds of variants that change nothing a reader would doubt."""


@dataclass(frozen=True)
class Variant:
    """A network's checkpoint after something was done to it.

    Attributes:
        kind: What was done, in general.
        name: What was done here.
        entries: The state dict as it is now.
        gone: Entries of the network that it no longer has, by their first names.
        lost: Parameters that no leaf takes: any conversion loses them.
        unfilled: A leaf was added that no entry fills.
        leaf_order: Seed of another order of the fields; None for the first order, -1 for backwards.
        dtype: Dtype that the conversion is asked for.
    """

    network: Network
    kind: str
    name: str
    entries: dict[str, Array]
    gone: frozenset[str] = frozenset()
    lost: tuple[str, ...] = ()
    unfilled: tuple[str, tuple[int, ...]] | None = None
    leaf_order: int | None = None
    dtype: str | None = None


_SYNONYMS: tuple[tuple[str, ...], ...] = (
    ("q_proj", "query", "wq", "to_q", "q_lin"),
    ("k_proj", "key", "wk", "to_k", "k_lin"),
    ("v_proj", "value", "wv", "to_v", "v_lin"),
    ("o_proj", "out_proj", "wo", "to_out", "out_lin"),
    ("qkv", "in_proj", "qkv_proj", "to_qkv", "Wqkv"),
    ("gate_proj", "w1", "wi_0", "linear_gate"),
    ("up_proj", "w3", "wi_1", "linear_up"),
    ("down_proj", "w2", "wo", "linear_down"),
    ("attn", "self_attn", "attention", "mha", "sa"),
    ("cross_attn", "encoder_attn", "multihead_attn", "crossattention"),
    ("mlp", "ffn", "feed_forward", "ff"),
    ("fc1", "linear1", "c_fc", "dense_1", "lin1"),
    ("fc2", "linear2", "c_proj", "dense_2", "lin2"),
    ("norm1", "ln_1", "ln1", "layer_norm1", "layernorm_1"),
    ("norm2", "ln_2", "ln2", "layer_norm2", "layernorm_2"),
    ("norm3", "ln_3", "ln3", "layer_norm3"),
    ("norm", "ln", "layer_norm", "layernorm"),
    ("norm_f", "ln_f", "final_layer_norm", "final_norm", "norm"),
    ("layers", "blocks", "h", "layer", "stack"),
    ("blocks", "layers", "h", "block"),
    ("encoder", "enc", "encode_net"),
    ("decoder", "dec", "decode_net"),
    ("embed", "embedding", "emb", "embeddings", "tok_embeddings", "wte"),
    ("pos_embed", "position_embeddings", "wpe", "positional_embedding"),
    ("head", "classifier", "fc", "lm_head", "out_head"),
    ("stem", "conv1", "patch_embed", "input_conv"),
    ("down", "downs", "down_blocks", "encoder_blocks"),
    ("up", "ups", "up_blocks", "decoder_blocks"),
    ("mid", "bottleneck", "mid_block", "middle"),
    ("gamma", "lambda", "scale", "ls"),
    ("actor", "policy", "pi"),
    ("critic", "value_net", "vf", "q_net"),
    ("generator", "gen", "G", "netG"),
    ("discriminator", "disc", "D", "netD"),
    ("experts", "expert", "ffs"),
    ("router", "gate", "gating"),
    ("conv1", "conv_1", "conv_a", "first_conv"),
    ("conv2", "conv_2", "conv_b", "second_conv"),
)
_WORDS = [
    first + second
    for first in ("zor", "mib", "kel", "tuv", "paz", "dri", "gno", "lex", "vun", "hax")
    for second in ("ba", "ko", "ti", "lum", "fex", "sur", "dan", "wol", "pim", "reg")
]
_ROLES = re.compile(
    r"(weight|bias|gamma|running_mean|running_var|num_batches_tracked|(weight|bias)_[ih]h.*)"
)
_DECOYS = ("queue", "memory_bank", "proto_bank", "ema_center", "codebook")
"""Names of tensors that are not what any leaf of a network is."""


def variants(name: str) -> Iterator[Variant]:
    """The variants of a network, the same each time."""
    for square in (False, True):
        network = built(name, square=square)
        if square and _shapes(network) == _shapes(built(name)):
            return
        chance = random.Random(zlib.crc32(name.encode()) + square)
        for variant in _variants(network, chance, square=square):
            label = f"square, {variant.name}" if square else variant.name
            yield replace(variant, name=label)


def _shapes(network: Network) -> list[tuple[int, ...]]:
    return [entry.array.shape for entry in network.entries.values()]


def _variants(network: Network, chance: random.Random, *, square: bool) -> Iterator[Variant]:
    makers = (
        _as_it_is,
        _orders,
        _prefixes,
        _leaf_orders,
        _from_one,
        _renamed,
        _same_names,
        _dtypes,
    )
    makers += (_one_missing, _one_more, _one_for_another, _harmless, _module_missing, _unfilled)
    some = (_as_it_is, _orders, _renamed, _one_missing, _one_for_another)
    first = Variant(
        network,
        "as it is",
        "as it is",
        {key: entry.array for key, entry in network.entries.items()},
        lost=_unused(network),
        dtype=network.dtype,
    )
    for make in some if square else makers:
        yield from make(first, chance)


def _unused(network: Network) -> tuple[str, ...]:
    """The parameters that no leaf takes."""
    used = {key for source in network.sources.values() if source for key in source.keys}
    entries = network.entries.items()
    return tuple(key for key, entry in entries if entry.parameter and key not in used)


def _feeding(network: Network) -> list[str]:
    """The entries that leaves take, each once."""
    sources = [source for source in network.sources.values() if source]
    return list(dict.fromkeys(key for source in sources for key in source.keys))


def _with(first: Variant, kind: str, name: str, entries: Any, **more: Any) -> Variant:
    return replace(first, kind=kind, name=name, entries=dict(entries), **more)


def _as_it_is(first: Variant, _: random.Random) -> Iterator[Variant]:
    yield first


def _orders(first: Variant, chance: random.Random) -> Iterator[Variant]:
    items = list(first.entries.items())
    yield _with(first, "order", "reversed", reversed(items))
    yield _with(first, "order", "sorted", sorted(items))
    yield _with(first, "order", "shuffled", chance.sample(items, len(items)))
    for _ in range(10):
        one, other = chance.sample(range(len(items)), 2) if len(items) > 1 else (0, 0)
        if items[one][1].shape == items[other][1].shape and one != other:
            swapped = list(items)
            swapped[one], swapped[other] = items[other], items[one]
            yield _with(first, "order", "two of a shape exchanged", swapped)
            return


def _prefixes(first: Variant, _: random.Random) -> Iterator[Variant]:
    for prefix in ("module.", "_orig_mod.", "model."):
        entries = {prefix + key: array for key, array in first.entries.items()}
        yield _with(first, "prefix", f"prefix {prefix}", entries)


def _leaf_orders(first: Variant, _: random.Random) -> Iterator[Variant]:
    if first.network.containers == "module":
        yield _with(first, "leaf order", "leaves backwards", first.entries, leaf_order=-1)
        yield _with(first, "leaf order", "leaves shuffled", first.entries, leaf_order=1)


def _renaming(first: Variant, kind: str, name: str, rename: Callable[[str], str]) -> list[Variant]:
    """The variant of other names, if it is one and no two entries get the same."""
    entries = {rename(key): array for key, array in first.entries.items()}
    if len(entries) < len(first.entries) or list(entries) == list(first.entries):
        return []
    return [_with(first, kind, name, entries)]


def _from_one(first: Variant, _: random.Random) -> Iterator[Variant]:
    def rename(key: str) -> str:
        steps = key.split(".")
        return ".".join(str(int(step) + 1) if step.isdigit() else step for step in steps)

    numbers = {step for key in first.entries for step in key.split(".") if step.isdigit()}
    if "0" in numbers:
        yield from _renaming(first, "from 1", "numbered from 1", rename)


def _renamed(first: Variant, chance: random.Random) -> Iterator[Variant]:
    for number in (1, 2):
        chosen: dict[str, str] = {}
        for word, *others in _SYNONYMS:
            chosen.setdefault(word, chance.choice(others))
        yield from _renaming(
            first,
            "synonyms",
            f"synonyms {number}",
            lambda key, chosen=chosen: ".".join(chosen.get(s, s) for s in key.split(".")),
        )
    words = chance.sample(_WORDS, len(_WORDS))
    known: dict[str, str] = {}

    def nonsense(step: str) -> str:
        if step.isdigit():
            return step
        return known.setdefault(step, words[len(known) % len(words)] + "x" * (len(known) // 100))

    def modules(key: str) -> str:
        steps = key.split(".")
        return ".".join(s if _ROLES.fullmatch(s) else nonsense(s) for s in steps)

    def all_names(key: str) -> str:
        return ".".join(map(nonsense, key.split(".")))

    yield from _renaming(first, "nonsense", "modules renamed to nonsense", modules)
    shuffled = dict(chance.sample(list(first.entries.items()), len(first.entries)))
    out_of_order = replace(first, entries=shuffled)
    yield from _renaming(out_of_order, "nonsense", "the same, shuffled", modules)
    yield from _renaming(out_of_order, "nonsense", "all renamed to nonsense, shuffled", all_names)
    numbers = {key: f"p.{number}" for number, key in enumerate(first.entries)}
    yield from _renaming(first, "nonsense", "numbered through", numbers.__getitem__)
    one = chance.choice(sorted({key.rpartition(".")[0] for key in first.entries} - {""}) or ["?"])
    yield from _renaming(
        first,
        "nonsense",
        f"{one} renamed to nonsense",
        lambda key: re.sub(rf"^{re.escape(one)}(?=\.)", one.rpartition(".")[0] + ".zorba", key),
    )


def _same_names(first: Variant, _: random.Random) -> Iterator[Variant]:
    """Entries under the very names of the leaves, where each leaf is one entry as it is."""
    sources = first.network.sources
    names = {source.keys: path for path, source in sources.items() if source}
    if len(names) < len(sources) or not all(
        source and len(source.keys) == 1 and source.make is same for source in sources.values()
    ):
        return
    new = {keys[0]: ".".join(map(str, path)) for keys, path in names.items()}
    yield from _renaming(first, "same names", "the leaves' names", lambda key: new.get(key, key))


def _dtypes(first: Variant, _: random.Random) -> Iterator[Variant]:
    if first.dtype is None:
        entries = {
            key: array.astype("float16") if array.dtype.kind == "f" else array
            for key, array in first.entries.items()
        }
        yield _with(first, "dtype", "entries of float16", entries)


def _one_missing(first: Variant, chance: random.Random) -> Iterator[Variant]:
    feeding = _feeding(first.network)
    for key in chance.sample(feeding, min(4, len(feeding))):
        yield _without(first, {key}, "one missing", f"without {key}")


def _without(first: Variant, gone: set[str], kind: str, name: str) -> Variant:
    entries = {key: array for key, array in first.entries.items() if key not in gone}
    return _with(first, kind, name, entries, gone=frozenset(gone) | first.gone)


def _module_missing(first: Variant, chance: random.Random) -> Iterator[Variant]:
    """A whole layer less, or a whole block."""
    feeding = _feeding(first.network)
    layers = sorted({key.rpartition(".")[0] for key in feeding} - {""})
    if layers:
        layer = chance.choice(layers)
        gone = {key for key in first.entries if key.startswith(f"{layer}.")}
        yield _without(first, gone, "layer missing", f"without layer {layer}")
    numbered = sorted({m[1] for key in feeding if (m := re.match(r"(.*?\.\d+)\.", key))})
    if len(numbered) > 1:
        for block in (numbered[0], numbered[-1]):
            gone = {key for key in first.entries if key.startswith(f"{block}.")}
            yield _without(first, gone, "layer missing", f"without block {block}")


def _added(first: Variant, name: str, array: Array, chance: random.Random) -> dict[str, Array]:
    """The entries with one more, anywhere or at the end."""
    items = list(first.entries.items())
    items.insert(chance.choice((len(items), chance.randrange(len(items) + 1))), (name, array))
    return dict(items)


def _fresh(first: Variant, key: str) -> Array:
    array = first.network.entries[key].array
    chance = np.random.default_rng(zlib.crc32(key.encode()) + 1)
    return np.asarray(chance.standard_normal(array.shape), "float32")


def _one_more(first: Variant, chance: random.Random) -> Iterator[Variant]:
    """One more parameter of the shape of one that a leaf takes."""
    feeding = _feeding(first.network)
    for style in ("sibling", "layer", "copy", "top", "block"):
        key = chance.choice(feeding)
        around, _, last = key.rpartition(".")
        head, _, module = around.rpartition(".")
        name = {
            "sibling": f"{around}.{chance.choice(('gate', 'gamma', 'sink', 'extra'))}",
            "layer": f"{head}.{chance.choice(('adapter', 'aux', 'extra'))}.{last}",
            "copy": f"{head}.{module}_2.{last}",
            "top": chance.choice(_DECOYS),
            "block": re.sub(r"\.\d+\.", ".77.", f"{key}", count=1),
        }[style].strip(".")
        if name in first.entries:
            continue
        entries = _added(first, name, _fresh(first, key), chance)
        yield _with(first, "one more", f"also {name}", entries, lost=(*first.lost, name))


def _one_for_another(first: Variant, chance: random.Random) -> Iterator[Variant]:
    """One missing, and one more of its shape that is something else."""
    feeding = [key for key in _feeding(first.network) if first.network.entries[key].array.ndim]
    for key in chance.sample(feeding, min(4, len(feeding))):
        around = key.rpartition(".")[0]
        # The very name of a leaf would be no decoy.
        names = {step for path in first.network.sources for step in path}
        decoy = chance.choice([name for name in _DECOYS if name not in names])
        last = key.rpartition(".")[2]
        forms = (decoy, f"{around}.{decoy}", f"{decoy}.{last}")
        # Under a name of its own, "queue.A_log" would be that very parameter elsewhere.
        name = chance.choice(forms if last in ("weight", "bias") else forms[:2])
        less = _without(first, {key}, "one for another", f"{name.strip('.')} instead of {key}")
        entries = _added(less, name.strip("."), _fresh(first, key), chance)
        yield replace(less, entries=entries, lost=(*first.lost, name.strip(".")))
    matrices = [key for key in feeding if first.network.entries[key].array.ndim > 1]
    if matrices:
        key = chance.choice(matrices)
        less = _without(first, {key}, "one for another", f"attn_mask instead of {key}")
        yield replace(less, entries=_added(less, "attn_mask", _fresh(first, key), chance))


def _harmless(first: Variant, chance: random.Random) -> Iterator[Variant]:
    """Entries that hold no parameter, or one again."""
    blocks = sorted({m[0] for key in first.entries if (m := re.match(r".*?\.\d+\.", key))})
    entries = dict(first.entries)
    entries["embeddings.position_ids"] = np.arange(16)[None]
    for block in blocks:
        entries[f"{block}attn.rotary_emb.inv_freq"] = 1e4 ** -np.linspace(0, 1, 5, dtype="f4")
        entries[f"{block}attn.causal_mask"] = np.tril(np.ones((1, 1, 16, 16), bool))
    entries["num_batches_tracked"] = np.asarray(3)
    yield _with(first, "harmless", "buffers", entries)
    key = chance.choice(_feeding(first.network))
    tied = {**first.entries, "tied_copy.weight": first.entries[key]}
    yield _with(first, "harmless", f"{key} a second time", tied)


def _unfilled(first: Variant, chance: random.Random) -> Iterator[Variant]:
    """A leaf more than the checkpoint has entries for."""
    feeding = _feeding(first.network)
    if not first.network.state and isinstance(first.network.pytree(), dict | tuple) is False:
        for name in ("extra_token", "aux_pooler"):
            shape = first.network.entries[chance.choice(feeding)].array.shape
            yield _with(
                first, "leaf unfilled", f"also a leaf {name}", first.entries, unfilled=(name, shape)
            )
