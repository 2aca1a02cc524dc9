"""Three equal layers, declared in opposite orders: the pair whose order alone misleads."""

from __future__ import annotations

from pathlib import Path

import equinox as eqx
import jax
import torch

from s2p_tui.cli.demo import Pair
from s2p_tui.formats.pytree.skeleton import save_skeleton


class TorchNet(torch.nn.Module):
    """Three layers, declared last to first: the state dict comes in that order."""

    def __init__(self) -> None:
        super().__init__()
        self.lin3 = torch.nn.Linear(10, 10)
        self.lin2 = torch.nn.Linear(10, 10)
        self.lin1 = torch.nn.Linear(10, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lin3(torch.relu(self.lin2(torch.relu(self.lin1(x)))))


class EqxNet(eqx.Module):
    """The same network, declared first to last."""

    lin1: eqx.nn.Linear
    lin2: eqx.nn.Linear
    lin3: eqx.nn.Linear

    def __init__(self, *, key: jax.Array) -> None:
        self.lin1, self.lin2, self.lin3 = (
            eqx.nn.Linear(10, 10, key=k) for k in jax.random.split(key, 3)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.lin3(jax.nn.relu(self.lin2(jax.nn.relu(self.lin1(x)))))


def make_pair(folder: Path) -> Pair:
    """Write checkpoint and skeleton into a folder, which is made if need be."""
    pair = Pair(folder / "model.pt", folder / "model_skeleton.eqx", folder / "model.eqx")
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.save(TorchNet().state_dict(), pair.model)
    save_skeleton(pair.skeleton, EqxNet(key=jax.random.PRNGKey(0)))
    return pair
