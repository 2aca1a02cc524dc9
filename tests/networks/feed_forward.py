"""Gated feed-forward layers under all their names, whole, fused or apart; and experts."""

from __future__ import annotations

from tests.networks.network import (
    Network,
    blocks,
    concatenated,
    family,
    part,
    same,
    stacked,
    turned,
)

D = 8


@family(
    hf=("gate_proj up_proj down_proj", "gate_proj up_proj down_proj"),
    hf_to_meta=("gate_proj up_proj down_proj", "w1 w3 w2"),
    meta=("w1 w3 w2", "w1 w3 w2"),
    meta_to_hf=("w1 w3 w2", "gate up down"),
    timm=("fc1_g fc1_x fc2", "gate up down"),
    t5=("wi_0 wi_1 wo", "gate up down"),
    t5_same=("wi_0 wi_1 wo", "wi_0 wi_1 wo"),
    letters=("w v w2", "gate up down"),
    linear=("linear linear_1 linear_2", "w1 w3 w2"),
    numbers=("fc1 fc3 fc2", "gate up down"),
)
def glu(n: Network, names: tuple[str, str]) -> None:
    of, to = (each.split() for each in names)
    # Of one size, `w1 w2 w3` are in an order of which there are two.
    n.unshown = of[0] in ("w", "linear", "fc1") or (n.square and (of[0] == "w1") != (to[0] == "w1"))
    wide = n.size(12)
    for i in blocks():
        key, path = f"layers.{i}.feed_forward", f"layers[{i}].mlp"
        n.norm(f"layers.{i}.ffn_norm", f"layers[{i}].norm", D, "RMSNorm")
        n.linear(f"{key}.{of[0]}", f"{path}.{to[0]}", wide, D, bias=False)
        n.linear(f"{key}.{of[1]}", f"{path}.{to[1]}", wide, D, bias=False)
        n.linear(f"{key}.{of[2]}", f"{path}.{to[2]}", D, wide, bias=False)


@family(alone=0, with_bias=1)
def glu_without_others(n: Network, bias: int) -> None:
    """Nothing but the gated layer, named `w1 w2 w3`."""
    wide = n.size(12)
    n.unshown = n.square
    for name, leaf, out, inner in (
        ("w1", "gate", wide, D),
        ("w2", "down", D, wide),
        ("w3", "up", wide, D),
    ):
        n.linear(f"feed_forward.{name}", f"mlp.{leaf}", out, inner, bias=bool(bias))


@family(
    gate_up_proj=("gate_up_proj", "gate_proj up_proj", 0),
    up_gate=("up_gate", "gate up", 1),
    up_gate_proj=("up_gate_proj", "gate_proj up_proj", 1),
    w12=("w12", "w1 w2", 0),
    fc1=("fc1", "gate value", 0),
    proj=("net.0.proj", "up gate", 2),
)
def glu_fused(n: Network, setting: tuple[str, str, int]) -> None:
    """Gate and up in one weight; where its name is "up_gate", in that order."""
    fused, to, order = setting
    first, second = to.split()
    n.unshown = fused in ("w12", "fc1", "net.0.proj")
    wide, down = n.size(12), "w3" if fused == "w12" else "fc2" if fused == "fc1" else "down_proj"
    for i in blocks():
        both = n.entry(f"layers.{i}.mlp.{fused}.weight", 2 * wide, D)
        n.linear_of(f"layers[{i}].mlp.{first}", (both, part(int(order == 1), 2)))
        n.linear_of(f"layers[{i}].mlp.{second}", (both, part(int(order != 1), 2)))
        n.linear(f"layers.{i}.mlp.{down}", f"layers[{i}].mlp.down", D, wide, bias=False)


@family(gate_up=("gate_proj up_proj", "gate_up_proj"), up_gate=("up_proj gate_proj", "up_gate"))
def glu_put_together(n: Network, names: tuple[str, str]) -> None:
    """Gate and up apart in the checkpoint, one leaf in the order of its name."""
    wide = n.size(12)
    of, to = names
    for i in blocks():
        keys = [n.entry(f"layers.{i}.mlp.{name}.weight", wide, D) for name in of.split()]
        n.linear_of(f"layers[{i}].mlp.{to}", (keys, concatenated()))
        n.linear(f"layers.{i}.mlp.down_proj", f"layers[{i}].mlp.down_proj", D, wide, bias=False)


@family(apart=0, stacked=1, stacked_turned=2)
def experts(n: Network, kind: int) -> None:
    """Routed experts and a shared one."""
    wide, count = n.size(12), 4
    for i in blocks(2):
        key, path = f"layers.{i}.mlp", f"layers[{i}].moe"
        n.linear(f"{key}.gate", f"{path}.router", count, D, bias=False)
        shapes = {"gate_proj": (wide, D), "up_proj": (wide, D), "down_proj": (D, wide)}
        for name, shape in shapes.items():
            if kind == 0:
                for e in range(count):
                    n.linear(
                        f"{key}.experts.{e}.{name}",
                        f"{path}.experts[{e}].{name}",
                        *shape,
                        bias=False,
                    )
            else:
                keys = [n.entry(f"{key}.experts.{e}.{name}.weight", *shape) for e in range(count)]
                make = turned if kind == 2 else same
                n.leaf(f"{path}.experts.{name}", keys, stacked(make))
            n.linear(f"{key}.shared_experts.{name}", f"{path}.shared.{name}", *shape, bias=False)
