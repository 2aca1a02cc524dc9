"""A small real pair of models whose orders differ: a residual network in torch and in Equinox."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import torch

from s2p_tui.errors import OutputError, S2PError
from s2p_tui.formats.models import Factory, Models
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.session.session import Session

eqx: Any = equinox
nn: Any = torch.nn
_WIDTH = 8
_CLASSES = 10
_IMAGE = (3, 16, 16)
_STEPS = 3
_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Pair:
    """The demo's files: checkpoint, skeleton and the output to be."""

    model: Path
    skeleton: Path
    output: Path


class TorchBlock(torch.nn.Module):
    """Two convolutions, each normalised, beside a shortcut; norms are declared first."""

    def __init__(self, rows: int, columns: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(columns)
        self.bn2 = nn.BatchNorm2d(columns)
        self.conv1 = nn.Conv2d(rows, columns, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(columns, columns, 3, 1, 1, bias=False)
        self.downsample = None
        if stride != 1:
            shortcut = nn.Conv2d(rows, columns, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(columns))

    def forward(self, x: Any) -> Any:
        """Map (batch, rows, height, width) to (batch, columns, height / stride, width / stride)."""
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + (x if self.downsample is None else self.downsample(x)))


class TorchNet(torch.nn.Module):
    """Declared last to first: the state dict comes in that order."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * _WIDTH, _CLASSES)
        self.layer2 = TorchBlock(_WIDTH, 2 * _WIDTH, 2)
        self.layer1 = TorchBlock(_WIDTH, _WIDTH, 1)
        self.bn = nn.BatchNorm2d(_WIDTH)
        self.conv = nn.Conv2d(_IMAGE[0], _WIDTH, 3, 1, 1, bias=False)

    def forward(self, x: Any) -> Any:
        """Map (batch, 3, height, width) to (batch, 10), float32."""
        x = torch.relu(self.bn(self.conv(x)))
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))


class Block(equinox.Module):
    """The same block, declared in the order it is run."""

    conv1: Any
    norm1: Any
    conv2: Any
    norm2: Any
    shortcut_conv: Any
    shortcut_norm: Any

    def __init__(self, rows: int, columns: int, stride: int, key: jax.Array) -> None:
        first, second, third = jax.random.split(key, 3)
        self.conv1 = _conv(rows, columns, 3, stride, first)
        self.norm1 = _norm(columns)
        self.conv2 = _conv(columns, columns, 3, 1, second)
        self.norm2 = _norm(columns)
        has_shortcut = stride != 1
        self.shortcut_conv = _conv(rows, columns, 1, stride, third) if has_shortcut else None
        self.shortcut_norm = _norm(columns) if has_shortcut else None

    def __call__(self, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        """Map (rows, height, width) to (columns, height / stride, width / stride)."""
        out, state = self.norm1(self.conv1(x), state)
        out, state = self.norm2(self.conv2(jax.nn.relu(out)), state)
        if self.shortcut_conv is not None:
            x, state = self.shortcut_norm(self.shortcut_conv(x), state)
        return jax.nn.relu(out + x), state


class EqxNet(equinox.Module):
    """The same network, declared first to last."""

    stem: Any
    stem_norm: Any
    blocks: list[Block]
    head: Any

    def __init__(self, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 4)
        self.stem = _conv(_IMAGE[0], _WIDTH, 3, 1, keys[0])
        self.stem_norm = _norm(_WIDTH)
        self.blocks = [
            Block(_WIDTH, _WIDTH, 1, keys[1]),
            Block(_WIDTH, 2 * _WIDTH, 2, keys[2]),
        ]
        self.head = eqx.nn.Linear(2 * _WIDTH, _CLASSES, key=keys[3])

    def __call__(self, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        """Map (3, height, width) to (10,), float32."""
        x, state = self.stem_norm(self.stem(x), state)
        x = jax.nn.relu(x)
        for block in self.blocks:
            x, state = block(x, state)
        return self.head(jnp.mean(x, (1, 2))), state


def _conv(rows: int, columns: int, size: int, stride: int, key: jax.Array) -> Any:
    padding = size // 2
    return eqx.nn.Conv2d(rows, columns, size, stride, padding, use_bias=False, key=key)


def _norm(columns: int) -> Any:
    return eqx.nn.BatchNorm(columns, axis_name="batch", mode="ema", momentum=0.9)


def make_model(*, key: jax.Array) -> tuple[EqxNet, Any]:
    """Create the Equinox side, `(model, state)`: `s2p-tui skeleton s2p_tui.cli.demo:make_model`."""
    return eqx.nn.make_with_state(EqxNet)(key=key)


def make_torch() -> TorchNet:
    """Create the torch side; some images have changed its initial statistics."""
    cast("Any", torch).manual_seed(0)
    network = TorchNet()
    with torch.no_grad():
        for _ in range(_STEPS):
            network(torch.randn(8, *_IMAGE))
    return network.eval()


def pair_in(folder: Path) -> Pair:
    """Name the demo's files in a folder."""
    return Pair(folder / "model.pt", folder / "model_skeleton.eqx", folder / "model.eqx")


def make_pair(folder: Path) -> Pair:
    """Write the demo's checkpoint and skeleton into a folder; created if missing.

    Raises:
        OutputError: They cannot be written.
    """
    pair = pair_in(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(make_torch().state_dict(), pair.model)
    except (OSError, RuntimeError) as error:
        raise OutputError(
            f"{folder} cannot be written to: {error}.", "Give another --directory."
        ) from None
    here = __name__
    models = Models(Factory(f"{here}:make_model", takes_key=True), Factory(f"{here}:TorchNet"))
    save_skeleton(pair.skeleton, make_model(key=jax.random.PRNGKey(0)), models=models)
    return pair


def compare(pair: Pair) -> float:
    """Load the converted file with plain Equinox and run both models on the same images.

    Returns:
        The largest difference of the outputs, relative to the largest output of torch.

    Raises:
        OutputError: It is more than 1e-5.
    """
    like = make_model(key=jax.random.PRNGKey(1))
    model, state = eqx.tree_deserialise_leaves(pair.output, like)
    network = TorchNet().eval()
    network.load_state_dict(torch.load(pair.model, weights_only=True))
    images = np.linspace(-1, 1, 4 * np.prod(_IMAGE), dtype=np.float32).reshape(4, *_IMAGE)
    with torch.no_grad():
        expected = network(torch.tensor(images)).numpy()
    model = eqx.nn.inference_mode(model)
    found = np.asarray(jax.vmap(model, in_axes=(0, None), axis_name="batch")(images, state)[0])
    error = float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))
    if not error <= _TOLERANCE:
        raise OutputError(
            f"The two forwards differ by {error:.1e} of the largest output, at most "
            f"{_TOLERANCE:.0e} was expected.",
            "Look at the rows that you moved by hand, then convert again.",
        )
    return error


def in_words(pair: Pair) -> str:
    """Compare both models and say the result in a sentence, errors included."""
    try:
        return f"Both models on the same images: outputs differ by {compare(pair):.1e}, relative."
    except (S2PError, RuntimeError, OSError, ValueError) as error:
        return f"Both models on the same images: {error}"


def convert_and_compare(pair: Pair) -> str:
    """Convert the pair as the matcher lines it up, compare both forwards, and tell of it.

    Raises:
        OutputError: The outputs differ by more than 1e-5 of the largest.
    """
    session = Session.open(pair.model, pair.skeleton)
    entries, leaves = session.checkpoint.state_dict, session.target.skeleton
    written = session.convert(pair.output).written
    error = compare(pair)
    return "\n".join(
        [
            f"checkpoint  {pair.model}: {len(entries)} entries, {entries.entries[0].key} first",
            f"skeleton    {pair.skeleton}: {len(leaves)} leaves, {leaves[0].path} first",
            f"written     {written.path}: {written.size:,} bytes, verified",
            f"forwards    torch and Equinox differ by {error:.1e}, relative to the largest output",
        ]
    )
