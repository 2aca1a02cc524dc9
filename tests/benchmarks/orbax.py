"""`python -m tests.benchmarks.orbax`: Orbax checkpoints beside `cp` and Orbax's own saving.

Everything in one run, in turns, as the disk and other programs change from minute to minute. With
`--kills 100` workers are killed at random moments instead, and every rerun is looked at.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import SetRows
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.transform import Expr, Permute, Split, Stack, Take, shape_of
from s2p_tui.formats.safetensors import header_for
from s2p_tui.formats.skeleton_file import head_line
from s2p_tui.formats.tree_nodes import nodes_to_json
from s2p_tui.session.session import Session

_WIDE, _LAYERS = 2048, 8
_SOURCES: dict[str, Callable[[str, int], Expr]] = {
    "copied": lambda key, _: Take(key),
    "permuted": lambda key, _: Permute(Take(key), (1, 0)),
    "split": lambda key, rows: Split(Take(key), 0, 0, rows // 2),
}


def pair_in(folder: Path, mebibytes: int, *, one_leaf: bool = False) -> tuple[Path, Path, Path]:
    """A checkpoint of so many MiB of bfloat16, a skeleton, and a mapping between them."""
    rows = (mebibytes << 20) // 2 // _WIDE // (1 if one_leaf else 4)
    shapes = {"permuted": (rows, _WIDE)} if one_leaf else dict.fromkeys(_SOURCES, (rows, _WIDE))
    if not one_leaf:
        layer = rows // _LAYERS
        shapes |= {f"stacked.{i}": (layer, _WIDE) for i in range(_LAYERS)}
    model = folder / "model.safetensors"
    rng = np.random.default_rng(0)
    with model.open("wb") as stream:
        stream.write(header_for([(key, shape, "bfloat16") for key, shape in shapes.items()]))
        for shape in shapes.values():
            left = shape[0] * shape[1]
            while left:
                count = min(left, 1 << 23)
                # Ordinary numbers: no infinity, no NaN.
                stream.write((rng.integers(0, 1 << 14, count, dtype=np.uint16) + 0x3000).tobytes())
                left -= count
    sources = {key: make(key, rows) for key, make in _SOURCES.items() if key in shapes}
    leaf_shapes = {"copied": (rows, _WIDE), "permuted": (_WIDE, rows), "split": (rows // 2, _WIDE)}
    if not one_leaf:
        turned = (Permute(Take(f"stacked.{i}"), (1, 0)) for i in range(_LAYERS))
        sources["stacked"] = Stack(tuple(turned), 0)
        leaf_shapes["stacked"] = (_LAYERS, _WIDE, rows // _LAYERS)
    leaves = [Leaf(f".{key}", leaf_shapes[key], "bfloat16", has_value=False) for key in sources]
    tree = nodes_to_json(("array", (key,)) for key in sources)
    skeleton, mapping = folder / "skeleton.eqx", folder / "mapping.json"
    skeleton.write_bytes(head_line(leaves, tree=tree))
    session = Session.open(model, skeleton, arrange="order")
    rows_of = (Row(sources[leaf.path[1:]], by="user", trusted=True) for leaf in leaves)
    session.edit(SetRows(tuple(enumerate(rows_of))))
    session.allow_unused(None)
    session.save_mapping(mapping)
    return model, skeleton, mapping


class Peak(threading.Thread):
    """Anonymous memory at the most, over that at the start; mapped files are not in it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.start_value = self.most = self._now()
        self.start()

    @staticmethod
    def _now() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) << 10

    def run(self) -> None:
        while True:
            self.most = max(self.most, self._now())
            time.sleep(0.005)

    @property
    def mebibytes(self) -> int:
        return (self.most - self.start_value) >> 20


def child(what: str, folder: str, chunk: str) -> dict[str, Any]:
    """One way, in a process of its own; seconds without imports."""
    place = Path(folder)
    output = place / "out.orbax"
    if what == "ocp.save":
        import jax.numpy as jnp
        import orbax.checkpoint as ocp

        from tests.helpers.orbax_pair import arrays_in

        arrays = {key: jnp.asarray(value) for key, value in arrays_in(place / "made").items()}
        checkpointer = ocp.StandardCheckpointer()
        gc.collect()
        started, peak = time.perf_counter(), Peak()
        checkpointer.save(output, arrays)
        checkpointer.wait_until_finished()
        return _cost(started, peak)
    import tensorstore  # noqa: F401

    from s2p_tui.session.orbax import convert_to_orbax

    ends = place / "model.safetensors", place / "skeleton.eqx"
    session = Session.open(*ends, mapping=place / "mapping.json")
    started, peak = time.perf_counter(), Peak()
    convert_to_orbax(session, output, chunk_bytes=int(chunk) << 20, verify=what == "verified")
    return _cost(started, peak)


def _cost(started: float, peak: Peak) -> dict[str, Any]:
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "cpu": time.process_time(), "peak": peak.mebibytes}


def _run(what: str, folder: Path, chunk: int) -> dict[str, Any]:
    code = ["-m", "tests.benchmarks.orbax", "--child", what, str(folder), str(chunk)]
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *code], capture_output=True, text=True, check=False, env=env
    )
    if done.returncode:
        sys.exit(done.stderr)
    for path in folder.glob("out.orbax*"):
        shutil.rmtree(path)
    return json.loads(done.stdout.splitlines()[-1])


def _copied(folder: Path) -> float:
    started = time.perf_counter()
    subprocess.run(["cp", folder / "model.safetensors", folder / "copy"], check=True)
    with (folder / "copy").open("rb") as stream:
        os.fsync(stream.fileno())
    seconds = time.perf_counter() - started
    (folder / "copy").unlink()
    return seconds


def beside(folder: Path, mebibytes: int, runs: int, chunk: int) -> None:
    """Compare with `cp` and with Orbax's own saving of the same arrays."""
    from s2p_tui.session.orbax import convert_to_orbax

    model, skeleton, mapping = pair_in(folder, mebibytes)
    convert_to_orbax(Session.open(model, skeleton, mapping=mapping), folder / "made", verify=False)
    found: dict[str, list[float]] = {}
    peaks: dict[str, int] = {}
    processor: dict[str, float] = {}
    for _ in range(runs):
        found.setdefault("cp", []).append(_copied(folder))
        for what in ("written", "verified", "ocp.save"):
            one = _run(what, folder, chunk)
            found.setdefault(what, []).append(one["seconds"])
            peaks[what] = max(peaks.get(what, 0), one["peak"])
            processor[what] = min(processor.get(what, 1e9), one["cpu"])
    shutil.rmtree(folder / "made")
    load = os.getloadavg()[0]
    print(f"{mebibytes} MiB, chunks of {chunk} MiB, {runs} runs in turns, load {load:.1f}")
    for what, seconds in found.items():
        ratio = median(one / cp for one, cp in zip(seconds, found["cp"], strict=True))
        own = median(one / o for one, o in zip(seconds, found["ocp.save"], strict=True))
        print(
            f"{what:>10} {median(seconds):7.2f} s [{min(seconds):.2f}–{max(seconds):.2f}]  "
            f"{ratio:5.2f} of cp  {own:5.2f} of ocp.save  cpu {processor.get(what, 0):.1f} s  "
            f"peak {peaks.get(what, 0):,} MiB"
        )


def memory(folder: Path, sizes: list[int], chunk: int) -> None:
    """Compare peaks at several sizes, and for one leaf of the largest."""
    allowed = 2 * 2 * 2 * chunk + 64
    for mebibytes, one_leaf in [*((size, False) for size in sizes), (max(sizes), True)]:
        pair_in(folder, mebibytes, one_leaf=one_leaf)
        peak = _run("verified", folder, chunk)["peak"]
        kind = "one leaf" if one_leaf else "4 leaves"
        print(f"{mebibytes:>6} MiB in {kind}: peak {peak} MiB, allowed {allowed} MiB")


def kills(folder: Path, count: int) -> None:
    """Kill workers at random moments; look that nothing is visible and that reruns skip."""
    from s2p_tui.conversion.orbax_store import Store

    model, skeleton, mapping = pair_in(folder, 128)
    rng, output = random.Random(), folder / "out.orbax"
    ends = ["--checkpoint", model, "--skeleton", skeleton, "--mapping", mapping]
    program = [sys.executable, "-m", "s2p_tui"]
    plain = ["convert", model, skeleton, "--mapping", mapping, "--chunk-size", 1, "-o"]
    started = time.perf_counter()
    subprocess.run([*program, *map(str, [*plain, folder / "whole.orbax"])], check=True)
    whole = time.perf_counter() - started
    done = finished = 0
    while done < count:
        held = set[str]()
        partial = Path(f"{output}.s2p-partial")
        while True:
            of = rng.randint(1, 4)
            part = f"{rng.randrange(of)}/{of}"
            process = subprocess.Popen(
                [*program, *map(str, [*plain, output, "--part", part])],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                process.wait(rng.uniform(0, whole))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                done += 1
            assert not output.exists(), "visible before it is whole"
            now = Store(str(output)).held() if partial.exists() else set[str]()
            assert held <= now, "a rerun lost chunks"
            held = now
            if rng.random() < 0.2 or done >= count:
                break
        steps = [
            [*plain, output, "--part", "0/1"],
            ["finish", output, *ends],
            ["verify", output, *ends],
            ["finish", output, *ends, "--commit"],
            ["verify", output, *ends],
        ]
        for step in steps:
            subprocess.run([*program, *map(str, step)], check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(output)
        finished += 1
        print(
            f"{done} kills, {finished} checkpoints finished and verified; {len(held)} keys were "
            "kept of the last",
            flush=True,
        )


def planning(hosts: int) -> None:
    """Plan a model of 1.3 TB in 44,720 entries: 58 layers of 256 experts, stacked per layer."""
    from s2p_tui.alignment.skeleton import Skeleton
    from s2p_tui.alignment.state_dict import Entry, StateDict
    from s2p_tui.conversion.orbax import OrbaxConversion
    from s2p_tui.conversion.orbax_estimate import estimate
    from s2p_tui.conversion.plan import Instruction, Plan
    from s2p_tui.formats.base import Checkpoint, Extent, row_major
    from s2p_tui.formats.skeleton_file import Target
    from s2p_tui.formats.tensors import ArrayTensors, FileTensors

    hidden, inner, layers, experts, words = 7168, 2048, 58, 256, 129_280
    shapes = {"embed": (words, hidden), "head": (words, hidden)}
    exprs: dict[str, Expr] = {"embed": Take("embed"), "head": Permute(Take("head"), (1, 0))}
    for layer in range(layers):
        for name, shape in (("q", (24_576, hidden)), ("o", (hidden, 16_384))):
            shapes[f"{layer}.{name}"] = shape
            exprs[f"{layer}.{name}"] = Permute(Take(f"{layer}.{name}"), (1, 0))
        shapes[f"{layer}.norm"] = (hidden,)
        exprs[f"{layer}.norm"] = Take(f"{layer}.norm")
        for name, shape in (
            ("w1", (inner, hidden)),
            ("w2", (hidden, inner)),
            ("w3", (inner, hidden)),
        ):
            keys = [f"{layer}.{expert}.{name}" for expert in range(experts)]
            shapes |= dict.fromkeys(keys, shape)
            exprs[f"{layer}.{name}"] = Stack(tuple(Permute(Take(key), (1, 0)) for key in keys), 0)
    entries = StateDict(tuple(Entry(key, shape, "bfloat16") for key, shape in shapes.items()))
    places: dict[str, Extent] = {}
    offset = 0
    for key, shape in shapes.items():
        places[key] = Extent(Path("shard"), offset, shape, row_major(shape), "bfloat16")
        offset += places[key].nbytes
    size = offset
    checkpoint = Checkpoint("model", (), size, entries, FileTensors(places.get, ()))
    leaves = tuple(
        Leaf(key, shape_of(expr, entries.shape), "bfloat16", has_value=False)
        for key, expr in exprs.items()
    )
    tree = nodes_to_json(("array", tuple(leaf.path.split("."))) for leaf in leaves)
    target = Target("skeleton", (), 0, Skeleton(leaves), ArrayTensors({}), tree)
    rows = tuple(Instruction(leaf, exprs[leaf.path], "bfloat16") for leaf in leaves)
    started, busy = time.perf_counter(), time.process_time()
    conversion = OrbaxConversion.of(
        Plan(rows, "orbax"), checkpoint, target, "out", chunk_bytes=64 << 20, jobs=2
    )
    costs = estimate(conversion, hosts)
    seconds = time.perf_counter() - started
    processor = time.process_time() - busy
    total, read = sum(cost.written for cost in costs), [cost.read for cost in costs]
    requests = [cost.requests for cost in costs]
    print(
        f"{len(shapes):,} entries, {size / 1e12:.3f} TB, {len(conversion.grid.chunks):,} chunks, "
        f"{hosts} hosts: planned in {seconds:.2f} s, {processor:.2f} s of one core\n"
        f"read {sum(read) / total:.3f} times what is written; a host "
        f"{min(read) / 1e9:.1f}–{max(read) / 1e9:.1f} GB, "
        f"{min(requests)}–{max(requests)} requests, "
        f"{max(cost.memory for cost in costs) >> 20} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.orbax", description=__doc__)
    parser.add_argument("--child", nargs=3, metavar=("WHAT", "FOLDER", "CHUNK"))
    parser.add_argument("--mib", type=int, default=1024, help="size of the checkpoint")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--chunk", type=int, default=64, help="MiB of a chunk")
    parser.add_argument("--memory", type=int, nargs="+", metavar="MIB", help="peaks at these sizes")
    parser.add_argument("--plan", type=int, metavar="HOSTS", help="plan 1.3 TB for so many hosts")
    parser.add_argument("--kills", type=int, help="kill so many workers instead")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(*options.child)))
        return
    if options.plan:
        planning(options.plan)
        return
    with tempfile.TemporaryDirectory(prefix="s2p-orbax-") as folder:
        if options.kills:
            kills(Path(folder), options.kills)
        elif options.memory:
            memory(Path(folder), options.memory, options.chunk)
        else:
            beside(Path(folder), options.mib, options.runs, options.chunk)


if __name__ == "__main__":
    main()
