"""The pair of `orbax_net.py` as files, and Orbax checkpoints of it read without Orbax."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.dtypes import numpy_dtype
from s2p_tui.alignment.edits import SetRows
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.formats.safetensors import header_for
from s2p_tui.session.session import Session
from tests.helpers import orbax_net

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Pair:
    """The files of a conversion."""

    model: Path
    skeleton: Path
    mapping: Path

    @property
    def options(self) -> list[str]:
        """The options that name them to `finish` and `verify`."""
        return [
            "--checkpoint", str(self.model), "--skeleton", str(self.skeleton),
            "--mapping", str(self.mapping),
        ]  # fmt: skip

    def convert(self, output: Path, *options: str) -> list[str]:
        """The arguments that convert it."""
        ends = [str(self.model), str(self.skeleton), "--mapping", str(self.mapping)]
        return ["convert", *ends, "-o", str(output), *options]

    def session(self) -> Session:
        return Session.open(self.model, self.skeleton, mapping=self.mapping)


def pair_in(folder: Path) -> Pair:
    """Write the checkpoint, in two shards, the skeleton and the mapping."""
    entries = orbax_net.entries()
    shards = [list(entries)[::2], list(entries)[1::2]]
    weight_map: dict[str, str] = {}
    for number, keys in enumerate(shards):
        file = folder / f"model-{number + 1:05}-of-00002.safetensors"
        described = [(key, entries[key].shape, str(entries[key].dtype)) for key in keys]
        numbers = b"".join(np.ascontiguousarray(entries[key]).tobytes() for key in keys)
        file.write_bytes(header_for(described) + numbers)
        weight_map |= dict.fromkeys(keys, file.name)
    model = folder / "model.safetensors.index.json"
    model.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    save_skeleton(folder / "skeleton.eqx", orbax_net.make())
    pair = Pair(model, folder / "skeleton.eqx", folder / "model.mapping.json")
    session = Session.open(pair.model, pair.skeleton, arrange="order")
    sources = orbax_net.sources()
    rows = [
        (n, Row(sources[leaf.path], by="user", trusted=True) if leaf.path in sources
         else Row(gap=True, by="user", trusted=True))
        for n, leaf in enumerate(session.target.skeleton)
    ]  # fmt: skip
    assert {leaf.path for leaf in session.target.skeleton} >= sources.keys()
    session.edit(SetRows(tuple(rows)))
    session.allow_unused(None)
    assert session.is_complete, list(session.problems())
    session.save_mapping(pair.mapping)
    session.close()
    return pair


def keys_in(checkpoint: Path) -> dict[str, bytes]:
    """All keys and values of the database, by TensorStore's key-value store alone."""
    spec = {"driver": "ocdbt", "base": f"file://{checkpoint}/"}
    store = ts.KvStore.open(spec).result()
    return {key.decode(): store.read(key).result().value for key in store.list().result()}


def arrays_in(checkpoint: Path) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint; its chunks are decoded by NumPy alone, see the zarr v3 spec."""
    held = keys_in(checkpoint)
    names = [key.removesuffix("/zarr.json") for key in held if key.endswith("/zarr.json")]
    return {name: _array(name, held) for name in names}


def _array(name: str, held: dict[str, bytes]) -> np.ndarray:
    facts: dict[str, Any] = json.loads(held[f"{name}/zarr.json"])
    shape, dtype = facts["shape"], numpy_dtype(facts["data_type"])
    outer = facts["chunk_grid"]["configuration"]["chunk_shape"]
    (sharding,) = facts["codecs"]
    inner = sharding["configuration"]["chunk_shape"]
    counts = [whole // part for whole, part in zip(outer, inner, strict=True)]
    whole = np.zeros([-(-n // c) * c for n, c in zip(shape, outer, strict=True)], dtype)
    for corner in product(*(range(-(-n // c)) for n, c in zip(shape, outer, strict=True))):
        data = held["/".join([name, "c", *map(str, corner)])]
        # The index is at the end: offset and length of each inner chunk, and a checksum.
        index = np.frombuffer(data[-16 * prod(counts) - 4 : -4], "<u8").reshape(*counts, 2)
        for place in np.ndindex(*counts):
            offset, length = map(int, index[place])
            if offset == 2**64 - 1:
                continue
            part = np.frombuffer(data[offset : offset + length], dtype).reshape(inner)
            starts = [c * o + p * i for c, o, p, i in zip(corner, outer, place, inner, strict=True)]
            whole[tuple(slice(a, a + i) for a, i in zip(starts, inner, strict=True))] = part
    return whole[tuple(slice(n) for n in shape)]


def restored(
    checkpoint: Path, eqx_file: Path, *layouts: str, processes: int, width: int = 64
) -> list[dict[str, Any]]:
    """What `orbax_restore.py` says of each layout in each of its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "S2P_TEST_WIDTH": str(width)}
    started = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "tests/helpers/orbax_restore.py"), str(checkpoint),
             str(eqx_file), str(processes), str(rank), str(port), *layouts],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(processes)
    ]  # fmt: skip
    outcomes = [process.communicate() for process in started]
    for process, (_, errors) in zip(started, outcomes, strict=True):
        assert process.returncode == 0, errors
    # Gloo talks too.
    lines = [line for out, _ in outcomes for line in out.splitlines() if line.startswith("{")]
    found = [json.loads(line) for line in lines]
    assert len(found) == processes * len(layouts)
    return found
