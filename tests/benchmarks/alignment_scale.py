"""How long the matcher takes, and the memory it needs, on mixtures of experts of any size."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Shape, keys_of
from s2p_tui.proposals.matcher import match
from tests.benchmarks.child import status
from tests.benchmarks.measure import Report, Result

_WIDTH, _HIDDEN, _WORDS = 64, 96, 500
_LAYER: tuple[tuple[str, str, Shape], ...] = (
    ("input_layernorm.weight", "attn_norm.scale", (_WIDTH,)),
    ("self_attn.q_proj.weight", "attn.query.weight", (_WIDTH, _WIDTH)),
    ("self_attn.k_proj.weight", "attn.key.weight", (_WIDTH, _WIDTH)),
    ("self_attn.v_proj.weight", "attn.value.weight", (_WIDTH, _WIDTH)),
    ("self_attn.o_proj.weight", "attn.output.weight", (_WIDTH, _WIDTH)),
    ("post_attention_layernorm.weight", "mlp_norm.scale", (_WIDTH,)),
)
_EXPERT: tuple[tuple[str, str, Shape], ...] = (
    ("gate_proj.weight", "gate.weight", (_HIDDEN, _WIDTH)),
    ("gate_proj.weight_scale", "gate.weight_scale", (_HIDDEN, 1)),
    ("up_proj.weight", "up.weight", (_HIDDEN, _WIDTH)),
    ("up_proj.weight_scale", "up.weight_scale", (_HIDDEN, 1)),
    ("down_proj.weight", "down.weight", (_WIDTH, _HIDDEN)),
    ("down_proj.weight_scale", "down.weight_scale", (_WIDTH, 1)),
)
_CASES = ((20, 8, 0.5, 0.5), (65, 256, 20.0, 1.0))
"""Layers, experts in each, the most seconds, the most GB."""


def mixture(layers: int, experts: int) -> tuple[list[tuple[str, Shape]], list[tuple[str, Shape]]]:
    """Entries and leaves of the same model, in the same order, under the names of two libraries."""
    entries: list[tuple[str, Shape]] = [("model.embed_tokens.weight", (_WORDS, _WIDTH))]
    leaves: list[tuple[str, Shape]] = [(".embed.weight", (_WORDS, _WIDTH))]
    router = (experts, _WIDTH)
    for n in range(layers):
        head, top = f"model.layers.{n}", f".blocks[{n}]"
        entries += [(f"{head}.{key}", shape) for key, _, shape in _LAYER]
        leaves += [(f"{top}.{path}", shape) for _, path, shape in _LAYER]
        entries.append((f"{head}.mlp.router.weight", router))
        leaves.append((f"{top}.mlp.router.weight", router))
        for m in range(experts):
            entries += [(f"{head}.mlp.experts.{m}.{key}", shape) for key, _, shape in _EXPERT]
            leaves += [(f"{top}.mlp.experts[{m}].{path}", shape) for _, path, shape in _EXPERT]
    entries.append(("model.norm.weight", (_WIDTH,)))
    leaves.append((".norm.scale", (_WIDTH,)))
    return entries, leaves


def measure(layers: int, experts: int) -> str:
    """A line of the table, measured in this process."""
    entries, leaves = mixture(layers, experts)
    state_dict = StateDict(tuple(Entry(key, shape, "float32") for key, shape in entries))
    skeleton = Skeleton(tuple(Leaf(path, shape, "float32") for path, shape in leaves))
    idle = _peak()
    started = time.perf_counter()
    proposal = match(state_dict, skeleton)
    seconds = time.perf_counter() - started
    right = sum(
        suggestion.certain
        and suggestion.source is not None
        and keys_of(suggestion.source) == (key,)
        for suggestion, (key, _) in zip(proposal.suggestions, entries, strict=True)
    )
    return (
        f"| {len(entries):,} | {seconds:.2f} | {_peak():.2f} | {_peak() - idle:.2f} | {right:,} |"
    )


def _peak() -> float:
    """GB this process held at the most; `getrusage` would count what its parent held, too."""
    return status("VmHWM") / 1e9


def run(_folder: Path, _runs: int, tell: Report, *, large: bool = False) -> None:
    """A line per size in the table of `python -m tests.benchmarks`; the same with `large`."""
    del large
    for layers, experts, seconds, memory in _CASES:
        cells = _measured(layers, experts).strip("|").split("|")
        entries, took, peak, _, right = (cell.strip() for cell in cells)
        result = Result(f"match {entries} entries", f"≤ {seconds:g} s", [float(took)])
        result.note = f"{right} right; process peak {peak} GB (≤ {memory})"
        tell(result)


def _measured(layers: int, experts: int) -> str:
    command = [sys.executable, "-m", __name__, str(layers), str(experts)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def report() -> None:
    """Measure every size in a process of its own and print the table."""
    head = "entries | seconds | peak GB | of it the matcher's | right | budget"
    print(f"\n| {head} |\n|{'---|' * 6}")
    for layers, experts, seconds, memory in _CASES:
        print(f"{_measured(layers, experts)} {seconds} s, {memory} GB |", flush=True)


if __name__ == "__main__":
    print(measure(int(sys.argv[1]), int(sys.argv[2])))
