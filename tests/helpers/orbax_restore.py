"""A program: restores a checkpoint as an Equinox user would, and compares it with the `.eqx`.

Usage: orbax_restore.py CHECKPOINT EQX PROCESSES RANK PORT DEVICES:RULES...

It restores with Orbax's v0 and v1, strictly, in one of so many processes, once on each number of
devices, and prints each time as JSON which leaves differ, bytes held and bytes read. RULES says how
arrays are sharded: `none`, `rows`, `columns` or `both`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

checkpoint, eqx_file, processes, rank, port, *asked = sys.argv[1:]
layouts = [(int(devices), rules) for devices, _, rules in (one.partition(":") for one in asked)]
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={max(layouts)[0]}"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402

if int(processes) > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", int(processes), int(rank))

import equinox as eqx  # noqa: E402
import numpy as np  # noqa: E402
import orbax.checkpoint as v0  # noqa: E402
import orbax.checkpoint.experimental.v1 as v1  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

from tests.helpers.orbax_net import make  # noqa: E402


def mesh_of(devices: int, rules: str) -> Mesh:
    """So many devices of each process."""
    by_process = [[d for d in jax.devices() if d.process_index == n] for n in range(int(processes))]
    used = np.array([device for own in by_process for device in own[:devices]])
    return Mesh(
        used.reshape(-1, 2 if rules == "both" and used.size % 2 == 0 else 1), ("data", "model")
    )


def sharding_of(struct: Any, mesh: Mesh, rules: str) -> NamedSharding:
    spec: list[Any] = [None] * len(struct.shape)
    axes = {"rows": {-2: "data"}, "columns": {-1: "data"}, "both": {-2: "data", -1: "model"}}
    for axis, name in axes.get(rules, {}).items():
        if len(spec) >= 2 and struct.shape[axis] % mesh.shape[name] == 0:
            spec[axis] = name
    return NamedSharding(mesh, PartitionSpec(*spec))


def read_so_far() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar"))


def restored(path: str, api: str, mesh: Mesh, rules: str) -> Any:
    like = eqx.filter_eval_shape(make)
    arrays, static = eqx.partition(like, lambda x: isinstance(x, jax.ShapeDtypeStruct))
    wanted = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding_of(s, mesh, rules)),
        arrays,
    )
    # Orbax 0.11 has it under its older name.
    load_v1 = v1.load if hasattr(v1, "load") else v1.load_pytree
    load = v0.StandardCheckpointer().restore if api == "v0" else load_v1
    return eqx.combine(load(path, wanted), static)


expected = eqx.tree_deserialise_leaves(eqx_file, make())
for devices, rules in layouts:
    mesh = mesh_of(devices, rules)
    differing: list[str] = []
    held = read = 0
    for api in ("v0", "v1"):
        before = read_so_far()
        found = restored(checkpoint, api, mesh, rules)
        jax.block_until_ready([leaf for leaf in jax.tree.leaves(found) if eqx.is_array(leaf)])
        # The second run has imported what there is to import.
        read, held = read_so_far() - before, 0
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        pairs = zip(
            jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
        )
        for (path, leaf), wanted in pairs:
            name = f"{api}{jax.tree_util.keystr(path)}"
            if not eqx.is_array(leaf):
                differing += [] if leaf is wanted or leaf == wanted else [name]
                continue
            seen: set[str] = set()
            for shard in leaf.addressable_shards:
                ours, theirs = np.asarray(shard.data), np.asarray(wanted)[shard.index]
                if ours.dtype != theirs.dtype or ours.tobytes() != theirs.tobytes():
                    differing.append(name)
                # Copies of one shard are read once.
                held += 0 if str(shard.index) in seen else ours.nbytes
                seen.add(str(shard.index))
    print(json.dumps({"differing": differing, "held": held, "read": read}), flush=True)
if int(processes) > 1:
    jax.distributed.shutdown()
