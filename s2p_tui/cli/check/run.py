"""The check from start to end: make both models, convert, run, compare, look inside."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from s2p_tui.alignment.transform import show
from s2p_tui.cli.check.arrays import comparable, difference, shapes_of
from s2p_tui.cli.check.inputs import Examples, code_of
from s2p_tui.cli.check.jax_side import (
    jax_calls,
    jax_forward,
    load_converted,
    make_jax,
    model_and_state,
    modules_in,
)
from s2p_tui.cli.check.pairs import compared, find_first, pair_modules
from s2p_tui.cli.check.parity import parity_of
from s2p_tui.cli.check.result import CheckResult, Pair
from s2p_tui.cli.check.torch_side import (
    load_weights,
    make_torch,
    torch_calls,
    torch_forward,
    torch_paths,
)
from s2p_tui.errors import InputError, S2PError
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.pytree.skeleton import target_of
from s2p_tui.formats.registry import open_checkpoint
from s2p_tui.formats.skeleton_file import Target
from s2p_tui.session.opening import load_mapping
from s2p_tui.session.session import Session

torch_: Any = torch


@dataclass(frozen=True, kw_only=True)
class Request:
    """Both models, and the tolerance to compare them with.

    Attributes:
        torch: `pkg.module:factory` of the torch module.
        jax: `pkg.module:factory` of the Equinox module or `(model, state)`.
        torch_kwargs: Arguments of the one.
        jax_kwargs: Arguments of the other.
        checkpoint: Checkpoint to load into the torch module; None for the factory's weights.
        key: Dotted place of the state dict in a nested checkpoint.
        allow_missing: Leave out entries that an index promises and no shard holds.
        mapping: The mapping file; None for the session's own arrangement.
        trust: Doubtful rows to accept, by key path; None for all.
        allow_unused: Keys of entries that no leaf takes, or patterns of them, to accept.
        tolerance: Largest difference relative to the largest output that counts as agreement.
        seed: Of torch's random numbers.
        inside: Compare the modules inside even where the outputs agree.
    """

    torch: str
    jax: str
    torch_kwargs: Mapping[str, Any]
    jax_kwargs: Mapping[str, Any]
    checkpoint: Path | None = None
    key: str | None = None
    allow_missing: bool = False
    mapping: Path | None = None
    trust: tuple[str, ...] | None = ()
    allow_unused: tuple[str, ...] = ()
    tolerance: float = 1e-4
    seed: int = 0
    inside: bool = False


Narrator = Callable[[str], None]
"""Told of each step when it begins."""


def silent(_step: str) -> None:
    """Tell nobody."""


def check(request: Request, examples: Examples, narrate: Narrator = silent) -> CheckResult:
    """Convert the torch module's weights and compare both forwards on the same input.

    Runs the user's code on both sides. Leaves nothing on the disk.

    Raises:
        AlignmentError: Rows do not line up.
        InputError: A file cannot be read, the user's code raised an exception, or the two models
            return arrays of other shapes.
        UsageError: There is no such factory, or a row to trust is not doubtful.
    """
    narrate("making both models")
    module = make_torch(request.torch, request.torch_kwargs, request.seed)
    tree = make_jax(request.jax, request.jax_kwargs)
    with tempfile.TemporaryDirectory(prefix="s2p-tui-check-") as folder:
        narrate("converting")
        checkpoint, prefix = _checkpoint(request, module, Path(folder))
        session = _session(request, checkpoint, target_of(tree, request.jax))
        try:
            session.convert(Path(folder) / "model.eqx")
        finally:
            session.close()
        converted = load_converted(Path(folder) / "model.eqx", tree)
    narrate("running torch's model")
    reference = torch_forward(module, examples)
    narrate("running Equinox's model")
    found = jax_forward(converted, examples)
    returned = len(reference), len(found)
    shared = min(returned)
    reference, found = reference[:shared], found[:shared]
    if not shared or not comparable(found, reference):
        raise InputError(
            f"The two models return other shapes: torch {_shown(shapes_of(reference))}, "
            f"Equinox {_shown(shapes_of(found))}, the examples counted by the first axis.",
            "Check --shape and --batch; a factory may wrap its model in one that returns less.",
        )
    apart = [difference([a], [b]) for a, b in zip(found, reference, strict=True)]
    modules, parity = None, ()
    agrees = all(part.relative <= request.tolerance for part in apart)
    if request.inside or not agrees:
        narrate("comparing the modules inside")
        pairs = _pairs(session, module, converted, prefix)
        calls = _look_inside(module, converted, examples, pairs)
        if isinstance(calls, S2PError):
            modules = calls
        else:
            modules = None if agrees else find_first(calls, request.tolerance)
            leaves = [leaf.path for leaf in session.target.skeleton]
            parity = parity_of(calls, leaves, skipped_letters(converted), request.tolerance)
    return CheckResult(
        torch=request.torch,
        jax=request.jax,
        examples=examples.count,
        tolerance=request.tolerance,
        outputs=tuple(zip(shapes_of(reference), apart, strict=True)),
        returned=returned,
        modules=modules,
        parity=parity,
    )


def _checkpoint(request: Request, module: nn.Module, folder: Path) -> tuple[Checkpoint, str]:
    """Return the weights, loaded into the module too, and the prefix of its names there."""
    if request.checkpoint is not None:
        checkpoint = open_checkpoint(
            request.checkpoint, request.key, allow_missing=request.allow_missing
        )
        return checkpoint, load_weights(module, checkpoint)
    file = folder / "model.pt"
    with code_of("Saving the torch model's state_dict", "Give a --checkpoint."):
        torch_.save(module.state_dict(), file)
    return open_checkpoint(file), ""


def _session(request: Request, checkpoint: Checkpoint, target: Target) -> Session:
    """Open both ends, aligned by the mapping file, or by names and structure without one."""
    wanted = load_mapping(request.mapping) if request.mapping is not None else None
    session = Session.between(checkpoint, target, mapping=wanted)
    if wanted is None:
        session.require_kinship()
    session.trust(request.trust)
    session.allow_unused(request.allow_unused)
    return session


def _pairs(session: Session, module: nn.Module, tree: Any, prefix: str) -> dict[str, str]:
    skipped = skipped_letters(tree)
    feeds = {
        leaf.path[skipped:]: [key.removeprefix(prefix) for key in row.keys]
        for leaf, row in zip(session.target.skeleton, session.alignment.rows, strict=True)
    }
    return pair_modules(feeds, torch_paths(module), modules_in(model_and_state(tree)[0]))


def skipped_letters(tree: Any) -> int:
    """Return how many letters of a leaf's key path come before its path within the model."""
    # Paths of the model's leaves start with [0], those of its state with [1].
    return 0 if model_and_state(tree)[1] is None else len("[0]")


def _look_inside(
    module: nn.Module, tree: Any, examples: Examples, pairs: Mapping[str, str]
) -> list[Pair] | S2PError:
    try:
        with code_of("Looking for the first difference", "Compare the modules' outputs yourself."):
            return list(compared(torch_calls(module, examples), jax_calls(tree, examples), pairs))
    except InputError as error:
        return error


def _shown(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(map(show, shapes)) or "nothing"
