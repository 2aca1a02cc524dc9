"""Time and memory of the matcher: mixtures of experts, and names of any kind."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import linear_regression
from typing import Any

import numpy as np

from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Shape, keys_of
from s2p_tui.proposals.matcher import match
from tests.benchmarks.alignment_names import NAMES, SHAPES, Names, Sides
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
_SIZES = {1_000: 0.5, 10_000: None, 100_000: 20.0}
"""Entries, the most seconds."""
_MOST_GB = 1.0
_STEEPEST = 1.2


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


def measure(sides: Sides) -> dict[str, Any]:
    """Match two sides in this process: seconds, GB, and how much was right."""
    entries, leaves, truth = sides
    state_dict = StateDict(tuple(Entry(key, shape, "float32") for key, shape in entries))
    skeleton = Skeleton(tuple(Leaf(path, shape, "float32") for path, shape in leaves))
    idle = _peak()
    # Of the processor and this thread: the matcher waits for nothing, and others disturb it least.
    started = time.thread_time()
    proposal = match(state_dict, skeleton)
    seconds = time.thread_time() - started
    pairs = list(zip(proposal.suggestions, truth, strict=True))
    right = [one.source is not None and keys_of(one.source) == (key,) for one, key in pairs]
    certain = [one.certain for one, _ in pairs]
    return {
        "entries": len(entries),
        "seconds": seconds,
        "peak": _peak(),
        "own": _peak() - idle,
        "right": sum(right),
        "certain": sum(map(min, right, certain)),
        "wrong": sum(sure and not so for sure, so in zip(certain, right, strict=True)),
    }


def _peak() -> float:
    """GB this process held at the most; `getrusage` would count what its parent held, too."""
    return status("VmHWM") / 1e9


def run(_folder: Path, _runs: int, tell: Report, *, large: bool = False) -> None:
    """A line per size in the table of `python -m tests.benchmarks`; the same with `large`."""
    del large
    for layers, experts, seconds, memory in _CASES:
        found = _in_child("mixture", layers, experts)
        result = Result(f"match {found['entries']:,} entries", f"≤ {seconds:g} s")
        result.seconds = [found["seconds"]]
        peak = f"process peak {found['peak']:.2f} GB (≤ {memory})"
        result.note = f"{found['certain']:,} right and certain; {peak}"
        tell(result)
    for number, names in enumerate(NAMES):
        for shapes in SHAPES:
            _by_size(number, names, shapes, tell)


def _by_size(number: int, names: Names, shapes: str, tell: Report) -> None:
    """A line per size; the last with the power that the time grows with."""
    took: list[float] = []
    for size, seconds in _SIZES.items():
        found = _in_child("names", number, size, shapes)
        took.append(found["seconds"])
        budget = "" if seconds is None else f"≤ {seconds:g} s"
        result = Result(f"match {size:,}, {names.what}, {shapes}", budget, [took[-1]])
        peak = f"process peak {found['peak']:.2f} GB (≤ {_MOST_GB:g})"
        result.note = f"{found['right']:,} right, {found['wrong']} wrong and certain; {peak}"
        if size == max(_SIZES):
            power = linear_regression(np.log([*_SIZES]).tolist(), np.log(took).tolist()).slope
            result.note += f"; grows to the power {power:.2f} (≤ {_STEEPEST})"
        tell(result)


def _in_child(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", __name__, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def report() -> None:
    """Measure every size of a mixture of experts in a process of its own and print the table."""
    head = "entries | seconds | peak GB | of it the matcher's | right | budget"
    print(f"\n| {head} |\n|{'---|' * 6}")
    for layers, experts, seconds, memory in _CASES:
        found = _in_child("mixture", layers, experts)
        cells = f"| {found['entries']:,} | {found['seconds']:.2f} | {found['peak']:.2f} "
        cells += f"| {found['own']:.2f} | {found['certain']:,} | {seconds} s, {memory} GB |"
        print(cells, flush=True)


def _sides(kind: str, *arguments: str) -> Sides:
    if kind == "mixture":
        entries, leaves = mixture(*map(int, arguments))
        return entries, leaves, [key for key, _ in entries]
    number, size, shapes = arguments
    return NAMES[int(number)].make(int(size), SHAPES[shapes])


if __name__ == "__main__":
    print(json.dumps(measure(_sides(*sys.argv[1:]))))
