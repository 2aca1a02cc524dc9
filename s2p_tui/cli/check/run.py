"""The check from start to end: make both models, convert, run, compare, look inside."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import torch
from torch import nn

from s2p_tui.alignment.judge import landing
from s2p_tui.alignment.transform import Expr, keys_of, show
from s2p_tui.cli.check.arrays import comparable, difference, shapes_of
from s2p_tui.cli.check.flax_side import FlaxModel, laid_out
from s2p_tui.cli.check.gradients import gradient_parity
from s2p_tui.cli.check.inputs import Examples, code_of
from s2p_tui.cli.check.jax_side import (
    jax_calls,
    jax_forward,
    library_of,
    load_converted,
    make_jax,
    model_and_state,
    module_paths,
    target_of_model,
)
from s2p_tui.cli.check.pairs import compared, corresponding, find_first, pair_modules
from s2p_tui.cli.check.parity import parity_of, with_gradients
from s2p_tui.cli.check.result import CheckResult, Pair
from s2p_tui.cli.check.settle import settle
from s2p_tui.cli.check.torch_side import (
    load_weights,
    make_torch,
    torch_calls,
    torch_forward,
    torch_paths,
)
from s2p_tui.errors import AlignmentError, Code, InputError, S2PError
from s2p_tui.formats.adapter import with_adapter
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.registry import open_checkpoint
from s2p_tui.formats.skeleton_file import Target
from s2p_tui.session.opening import load_mapping
from s2p_tui.session.session import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

torch_: Any = torch
jax_: Any = jax
_TOLERANCE = 1e-4
# Eight roundings of an output, as about that many layers add up to.
_TOLERANCES = {"float16": 2**-8, "bfloat16": 2**-5}
_PRECISION = (
    "the gap is the precision of JAX's matrix products here: with "
    'jax.default_matmul_precision("highest") both agree'
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """Both models, and the tolerance to compare them with.

    Attributes:
        torch: `pkg.module:factory` of the torch module.
        jax: `pkg.module:factory` of the Equinox module or `(model, state)`, of a module of NNX, or
            of a module of Linen bound to its variables, or with them as a pair.
        torch_kwargs: Arguments of the one.
        jax_kwargs: Arguments of the other.
        checkpoint: Checkpoint to load into the torch module, or its address; None for the factory's
            weights.
        adapter: A LoRA adapter to merge into the checkpoint.
        key: Dotted place of the state dict in a nested checkpoint.
        allow_missing: Leave out entries that an index promises and no shard holds.
        mapping: The mapping file; None for the session's own arrangement.
        trust: Doubtful rows to accept, by key path; None for all.
        allow_unused: Keys of entries that no leaf takes, or patterns of them, to accept.
        tolerance: Largest difference relative to the largest output that counts as agreement; None
            for one that suits the dtypes.
        seed: Of torch's random numbers.
        inside: Compare the modules inside even where the outputs agree.
        settle: Let the forward decide doubtful rows, and rows of modules that differ.
        save_mapping: Where to save the mapping then, if both models agree.
        gradients: Compare the gradients of all parameters, too.
    """

    torch: str
    jax: str
    torch_kwargs: Mapping[str, Any]
    jax_kwargs: Mapping[str, Any]
    checkpoint: Path | str | None = None
    adapter: Path | str | None = None
    key: str | None = None
    allow_missing: bool = False
    mapping: Path | None = None
    trust: tuple[str, ...] | None = ()
    allow_unused: tuple[str, ...] = ()
    tolerance: float | None = None
    seed: int = 0
    inside: bool = False
    settle: bool = False
    save_mapping: Path | None = None
    gradients: bool = False


Narrator = Callable[[str, int, int], None]
"""Told of each step when it begins, how much of it is done, and how much there is; 0 if unknown."""


def silent(_step: str, _done: int, _total: int) -> None:
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
    narrate("making both models", 0, 0)
    module = make_torch(request.torch, request.torch_kwargs, request.seed)
    tree = make_jax(request.jax, request.jax_kwargs)
    tolerance = request.tolerance or _tolerance_for(module)
    decisions = mapping = None
    with tempfile.TemporaryDirectory(prefix="s2p-tui-check-") as folder:
        narrate("converting", 0, 0)
        checkpoint, prefix = _checkpoint(request, module, Path(folder))
        session = _session(request, checkpoint, target_of_model(tree, request.jax))
        try:
            if request.settle:
                tree = _laid_out(tree, module, examples)
                converted, decisions = settle(
                    session, module, tree, examples, prefix=prefix, tolerance=tolerance,
                    seed=request.seed, pair=pairing(session, module, tree, prefix),
                    narrate=narrate,
                )  # fmt: skip
                if decisions.agrees and request.save_mapping is not None:
                    session.save_mapping(request.save_mapping)
                    mapping = str(request.save_mapping)
            else:
                _convert(session, Path(folder) / "model.eqx")
                converted = load_converted(Path(folder) / "model.eqx", tree)
                converted = _laid_out(converted, module, examples)
        finally:
            session.close()
    library = library_of(tree)
    narrate("running torch's model", 0, 0)
    reference = torch_forward(module, examples)
    narrate(f"running {library}'s model", 0, 0)
    found = jax_forward(converted, examples)
    returned = len(reference), len(found)
    shared = min(returned)
    reference, found = reference[:shared], found[:shared]
    if not shared or not comparable(found, reference):
        raise InputError(
            f"The two models return other shapes: torch {_shown(shapes_of(reference))}, "
            f"{library} {_shown(shapes_of(found))}, the examples counted by the first axis.",
            "Check --shape and --batch; a factory may wrap its model in one that returns less.",
        )
    apart = [difference([a], [b]) for a, b in zip(found, reference, strict=True)]
    modules, parity, note = None, (), ""
    agrees = all(part.relative <= tolerance for part in apart)
    if not agrees and _agrees_precisely(converted, examples, reference, tolerance):
        note = _PRECISION
    sources = [row.source for row in session.alignment.rows]
    gradients = None
    if request.gradients:
        narrate("comparing gradients", 0, 0)
        gradients = gradient_parity(
            module, converted, examples, _filling(session),
            session.checkpoint.state_dict.shape, prefix=prefix, reference=reference,
            tolerance=tolerance, seed=request.seed,
        )  # fmt: skip
    if request.inside or not agrees:
        narrate("comparing the modules inside", 0, 0)
        pairs = pairing(session, module, converted, prefix)(sources)
        calls = _look_inside(module, converted, examples, pairs)
        if isinstance(calls, S2PError):
            modules = calls
        else:
            feeds = feeds_of(session, converted, prefix, sources)
            calls = corresponding(calls, feeds, tolerance, outputs_agree=agrees)
            modules = None if agrees else find_first(calls, tolerance)
            leaves = [leaf.path for leaf in session.target.skeleton]
            parity = parity_of(calls, leaves, skipped_letters(converted), tolerance)
            parity = with_gradients(parity, gradients or ())
    return CheckResult(
        torch=request.torch,
        jax=request.jax,
        examples=examples.count,
        tolerance=tolerance,
        outputs=tuple(zip(shapes_of(reference), apart, strict=True)),
        returned=returned,
        modules=modules,
        parity=parity,
        decisions=decisions,
        mapping=mapping,
        note=note,
        gradients=gradients,
    )


def _convert(session: Session, output: Path) -> None:
    """Convert, or say that the forward may settle what is doubtful."""
    try:
        session.convert(output)
    except AlignmentError as error:
        if error.code in (Code.LINE_UP_ROWS, Code.LINE_UP_NAMELESS_ROWS):
            error.or_else(Code.SETTLE_BY_FORWARD)
        raise


def _laid_out(tree: Any, module: nn.Module, examples: Examples) -> Any:
    """Return a model of Flax with the axes with which it is nearest to torch's."""
    if not isinstance(tree, FlaxModel):
        return tree
    reference = torch_forward(module, examples)

    def apart(found: Sequence[NDArray[Any]]) -> float | None:
        pairs = list(zip(found, reference, strict=False))
        if not pairs or not all(comparable([one], [other]) for one, other in pairs):
            return None
        return max(difference([one], [other]).relative for one, other in pairs)

    return laid_out(tree, examples.batched, lambda one: jax_forward(one, examples), apart)


def _filling(session: Session) -> dict[str, Expr | None]:
    """Return all that is done to entries on their way into each leaf; None where nothing goes."""
    state_dict = session.checkpoint.state_dict
    pairs = zip(session.target.skeleton, session.alignment.rows, strict=True)
    return {
        leaf.path: None if row.source is None else landing(row.source, leaf, state_dict)
        for leaf, row in pairs
    }


def _tolerance_for(module: nn.Module) -> float:
    """Return what rounding alone may make of the outputs, by the narrowest dtype of a weight."""
    names = {str(tensor.dtype).removeprefix("torch.") for tensor in module.parameters()}
    return max((_TOLERANCES.get(name, _TOLERANCE) for name in names), default=_TOLERANCE)


def _agrees_precisely(
    tree: Any, examples: Examples, reference: Sequence[NDArray[Any]], tolerance: float
) -> bool:
    """Return True if the outputs agree where JAX multiplies matrices as precisely as it can."""
    with jax_.default_matmul_precision("highest"):
        found = jax_forward(tree, examples)[: len(reference)]
    return difference(found, reference).relative <= tolerance


def _checkpoint(request: Request, module: nn.Module, folder: Path) -> tuple[Checkpoint, str]:
    """Return the weights, loaded into the module too, and the prefix of its names there."""
    if request.checkpoint is not None:
        checkpoint = open_checkpoint(
            request.checkpoint, request.key, allow_missing=request.allow_missing
        )
        if request.adapter is not None:
            # Torch's own readers would know nothing of the adapter.
            checkpoint = with_adapter(checkpoint, request.adapter)
            return checkpoint, load_weights(module, checkpoint, read_by_torch=False)
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


def pairing(
    session: Session, module: nn.Module, tree: Any, prefix: str
) -> Callable[[Sequence[Expr | None]], Mapping[str, str]]:
    """Return a function of what fills each leaf that pairs the modules."""
    inside = module_paths(tree)

    def pair(sources: Sequence[Expr | None]) -> Mapping[str, str]:
        feeds = feeds_of(session, tree, prefix, sources)
        return pair_modules(feeds, torch_paths(module), inside)

    return pair


def feeds_of(
    session: Session, tree: Any, prefix: str, sources: Sequence[Expr | None]
) -> dict[str, list[str]]:
    """Return the keys that feed each leaf, both as the models themselves name them."""
    skipped = skipped_letters(tree)
    return {
        leaf.path[skipped:]: [key.removeprefix(prefix) for key in keys_of(source)]
        for leaf, source in zip(session.target.skeleton, sources, strict=True)
        if source is not None
    }


def skipped_letters(tree: Any) -> int:
    """Return how many letters of a leaf's key path come before its path within the model."""
    # Paths of the model's leaves start with [0], those of its state with [1].
    return 0 if model_and_state(tree)[1] is None else len("[0]")


def _look_inside(
    module: nn.Module, tree: Any, examples: Examples, pairs: Mapping[str, str]
) -> list[Pair] | S2PError:
    try:
        with code_of("Looking for the first difference", "Compare the modules' outputs yourself."):
            calls = torch_calls(module, examples), jax_calls(tree, examples)
            return list(compared(*calls, pairs, channels_last=isinstance(tree, FlaxModel)))
    except InputError as error:
        return error


def _shown(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(map(show, shapes)) or "nothing"
