"""What runs in a process of its own: one JSON object on stdout, seconds without the start-up."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def convert(model: str, skeleton: str, mapping: str, output: str, verify: str) -> dict[str, Any]:
    """Convert with this package; `mapping` may be empty. Peak is over the opened, idle session."""
    from s2p_tui.session.session import Session

    session = Session.open(model, skeleton, mapping=mapping or None)
    session.trust(None)
    idle = _reset_peak()
    started = time.perf_counter()
    session.convert(output, verify=verify == "verify")
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak": status("VmHWM") - idle}


def export(leaves: str, skeleton: str, mapping: str, original: str, output: str) -> dict[str, Any]:
    """Export, always verified. Peak is over the opened, idle export."""
    from s2p_tui.session.export import open_export
    from s2p_tui.session.opening import load_mapping

    opened = open_export(leaves, skeleton, load_mapping(mapping), original, trust=None)
    idle = _reset_peak()
    started = time.perf_counter()
    opened.write(output)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak": status("VmHWM") - idle}


def from_memory(mebibytes: str, output: str, how: str) -> dict[str, Any]:
    """Convert a state dict that is in memory, half of it not contiguous; peak is over that."""
    import jax
    import torch

    from s2p_tui.converter import chunkify_state_dict, convert

    def pair(size: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        state: dict[str, torch.Tensor] = {}
        for number in range(8):
            tensor = torch.full((size // 8 // 4 // 1024, 1024), float(number))
            state[f"layers.{number}.weight"] = tensor if number % 2 else tensor.t()
        layers = [{"weight": jax.ShapeDtypeStruct(tuple(t.shape), "float32")}
                  for t in state.values()]  # fmt: skip
        return state, {"layers": layers}

    def act(size: int) -> tuple[float, int]:
        state, tree = pair(size)
        idle = _reset_peak()
        started = time.perf_counter()
        if how == "chunks":
            chunkify_state_dict(state, output, overwrite=True)
        else:
            convert(from_memory=True, state_dict=state, pytree=tree, target_name=output)
        return time.perf_counter() - started, status("VmHWM") - idle

    act(1 << 20)
    seconds, peak = act(int(mebibytes) << 20)
    return {"seconds": seconds, "peak": peak}


def script(model: str, output: str) -> dict[str, Any]:
    """What people write by hand: load all, make arrays of it, save the tree."""
    import equinox as eqx
    import torch
    from safetensors.torch import load_file

    eqx.tree_serialise_leaves(os.devnull, [torch.zeros(1).numpy()])
    idle = _reset_peak()
    started = time.perf_counter()
    loaded = load_file(model) if model.endswith(".safetensors") else torch.load(model)
    eqx.tree_serialise_leaves(output, [tensor.numpy() for tensor in loaded.values()])
    with Path(output).open("rb") as stream:
        os.fsync(stream.fileno())
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak": status("VmHWM") - idle}


def statedict2pytree(model: str, output: str) -> dict[str, Any]:
    """As its version 2 is used: load, `autoconvert`, serialise."""
    import equinox
    import jax.numpy as jnp
    import torch
    from safetensors.torch import load_file
    from statedict2pytree.converter import autoconvert  # pyright: ignore

    started = time.perf_counter()
    idle = _reset_peak()
    loaded = load_file(model) if model.endswith(".safetensors") else torch.load(model)
    pytree = [jnp.zeros(tensor.shape, jnp.float32) for tensor in loaded.values()]
    converted = autoconvert(pytree, loaded, sort_by_path=False)
    equinox.tree_serialise_leaves(output, converted)
    with open(output, "rb") as stream:
        os.fsync(stream.fileno())
    return {"seconds": time.perf_counter() - started, "peak": status("VmHWM") - idle}


def opened(model: str) -> dict[str, Any]:
    """Read the list of entries."""
    from s2p_tui.formats.registry import open_checkpoint

    idle = _reset_peak()
    started = time.perf_counter()
    checkpoint = open_checkpoint(model)
    seconds = time.perf_counter() - started
    found = {"seconds": seconds, "peak": status("VmHWM") - idle}
    checkpoint.tensors.close()
    return found


def session(model: str, skeleton: str) -> dict[str, Any]:
    """Open both ends and line them up."""
    from s2p_tui.session.session import Session

    idle = _reset_peak()
    started = time.perf_counter()
    opened = Session.open(model, skeleton)
    seconds = time.perf_counter() - started
    found = {"seconds": seconds, "peak": status("VmHWM") - idle}
    opened.close()
    return found


def _reset_peak() -> int:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def status(field: str) -> int:
    """Bytes that the kernel says of this process, as of `VmRSS` and of `VmHWM`, its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


if __name__ == "__main__":
    actions = {
        "convert": convert,
        "export": export,
        "from_memory": from_memory,
        "script": script,
        "statedict2pytree": statedict2pytree,
        "opened": opened,
        "session": session,
    }
    print(json.dumps(actions[sys.argv[1]](*sys.argv[2:])))
