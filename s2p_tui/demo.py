"""A small real pair of models whose orders differ: a torch network and its Equinox twin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import equinox
import jax
import numpy as np
import torch

from s2p_tui.core.errors import OutputError
from s2p_tui.session import Session
from s2p_tui.skeleton import save_skeleton

eqx: Any = equinox
_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Pair:
    """The demo's files: checkpoint, skeleton and the output to be."""

    model: Path
    skeleton: Path
    output: Path


class TorchNet(torch.nn.Module):
    """Three layers, declared last to first: the state dict comes in that order."""

    def __init__(self) -> None:
        super().__init__()
        self.lin3 = torch.nn.Linear(10, 10)
        self.lin2 = torch.nn.Linear(10, 10)
        self.lin1 = torch.nn.Linear(10, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, 10) to (batch, 10), float32."""
        return self.lin3(torch.relu(self.lin2(torch.relu(self.lin1(x)))))


class EqxNet(equinox.Module):
    """The same network, declared first to last."""

    lin1: equinox.nn.Linear
    lin2: equinox.nn.Linear
    lin3: equinox.nn.Linear

    def __init__(self, *, key: jax.Array) -> None:
        self.lin1, self.lin2, self.lin3 = (
            equinox.nn.Linear(10, 10, key=k) for k in jax.random.split(key, 3)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (10,) to (10,), float32."""
        return self.lin3(jax.nn.relu(self.lin2(jax.nn.relu(self.lin1(x)))))


def make_pair(folder: Path) -> Pair:
    """Write the demo's checkpoint and skeleton into a folder, which is made if need be.

    Raises:
        OutputError: They cannot be written.
    """
    pair = Pair(folder / "model.pt", folder / "model_skeleton.eqx", folder / "model.eqx")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        cast("Any", torch).manual_seed(0)
        torch.save(TorchNet().state_dict(), pair.model)
    except (OSError, RuntimeError) as error:
        raise OutputError(f"{folder} cannot be written: {error}.") from None
    save_skeleton(pair.skeleton, EqxNet(key=jax.random.PRNGKey(0)))
    return pair


def convert_and_compare(pair: Pair) -> str:
    """Convert the pair as the matcher lines it up, and compare both forwards on the same input.

    Raises:
        OutputError: The outputs differ by more than 1e-5 of the largest.
    """
    session = Session.open(pair.model, pair.skeleton)
    order = ", ".join(entry.key for entry in session.checkpoint.state_dict)
    leaves = ", ".join(leaf.path for leaf in session.target.skeleton)
    written = session.convert(pair.output).written
    like = EqxNet(key=jax.random.PRNGKey(1))
    model = eqx.tree_deserialise_leaves(pair.output, like)
    network = TorchNet()
    network.load_state_dict(torch.load(pair.model, weights_only=True))
    x = np.linspace(-1, 1, 40, dtype=np.float32).reshape(4, 10)
    with torch.no_grad():
        expected = network(torch.tensor(x)).numpy()
    found = np.asarray(jax.vmap(model)(x))
    error = float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))
    if not error <= _TOLERANCE:
        raise OutputError(f"The two forwards differ by {error:.1e}, relative to the largest.")
    return "\n".join(
        [
            f"checkpoint  {pair.model}: {order}",
            f"skeleton    {pair.skeleton}: {leaves}",
            f"written     {written.path}: {written.size:,} bytes, verified",
            f"forwards    torch and Equinox differ by {error:.1e}, relative to the largest output",
        ]
    )
