"""`export`: a pytree in memory into a PyTorch state dict, as one call."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2p_tui.alignment.mapping_file import SavedAlignment
from s2p_tui.converter.chunks import MEBIBYTE
from s2p_tui.converter.ways_out import in_words_of_python
from s2p_tui.errors import UsageError
from s2p_tui.formats.memory import checkpoint_in_memory
from s2p_tui.session.export import export_of, leaves_in, leaves_of
from s2p_tui.session.opening import (
    load_mapping,
    open_any_target,
    state_dict_at,
    target_in_memory,
)

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

__all__ = ["export"]


@in_words_of_python()
def export(
    pytree: Any,
    mapping: str | Path | SavedAlignment,
    checkpoint: Any = None,
    *,
    trust: bool | str | Sequence[str] = (),
    allow_overflow: bool = False,
    chunk_size: int = 64,
    key: str | None = None,
    allow_missing: bool = False,
    skeleton: Any = None,
) -> dict[str, torch.Tensor]:
    """Return a pytree as the PyTorch state dict it was converted from, by the same mapping.

    Each entry gets its name, shape, dtype and order of axes back. What the entries make is compared
    with the leaves, so that numbers that no entry can hold are refused, not dropped.

    Args:
        pytree: The model, or `(model, state)`, as it was given to `convert` or `convert_tree`. Or
            the path of its file, `.eqx` or `.safetensors`, or of an Orbax checkpoint, which is read
            in parts.
        mapping: The mapping file that the conversion saved, or one that was loaded.
        checkpoint: The original: a path, a state dict in memory or a torch module. Entries that no
            leaf holds are taken from it; without it they are missing.
        trust: Doubtful rows to take for right, by their leaves' key paths; True for all.
        allow_overflow: Take numbers that a cast makes infinite or NaN; they are refused otherwise.
        chunk_size: MiB to stay within, beside the new state dict.
        key: Dotted place of the state dict in a nested checkpoint.
        allow_missing: Leave out entries that an index promises and no shard holds.
        skeleton: Describes the leaves of a path given as `pytree`: a skeleton file, or such a
            pytree, which may be an abstract one.

    Returns:
        A new state dict in the order of the original, for `load_state_dict(strict=True)`.

    Raises:
        OtherFilesError: The mapping was made for another pytree or checkpoint.
        AlignmentError: Rows are doubtful, or leaves hold numbers that no entry can hold; all are
            listed.
        OutputError: A cast made numbers infinite or NaN.
        UsageError: The mapping does not describe the entries, and no checkpoint is given; or
            `skeleton` is missing, or does not go with a pytree in memory.
    """
    saved = mapping if isinstance(mapping, SavedAlignment) else load_mapping(mapping)
    is_path = isinstance(pytree, str | Path)
    if is_path != (skeleton is not None):
        raise UsageError(
            "A path has no names for its leaves without skeleton=."
            if is_path
            else "The pytree in memory names its own leaves.",
            "Give the skeleton it was converted with." if is_path else "Leave skeleton= out.",
        )
    if not is_path:
        target = target_in_memory(pytree)
        leaves = leaves_of(target)
    else:
        is_file = isinstance(skeleton, str | Path)
        target = open_any_target(skeleton) if is_file else target_in_memory(skeleton)
        leaves = leaves_in(pytree, target)
    original = None
    if isinstance(checkpoint, str | Path):
        original = state_dict_at(checkpoint, key, allow_missing=allow_missing)
    elif checkpoint is not None:
        original = checkpoint_in_memory(checkpoint, key=key)
    wanted = [trust] if isinstance(trust, str) else trust
    if isinstance(wanted, bool):
        wanted = None if wanted else ()
    with closing(export_of(leaves, target, saved, original, trust=wanted)) as opened:
        arrays, losses = opened.arrays(
            chunk_bytes=chunk_size * MEBIBYTE, allow_overflow=allow_overflow
        )
        missing = [one.entry.key for one in opened.plan.entries if one.source is None]
        left = opened.plan.left
    for name, loss in losses.items():
        warnings.warn(f"{name}: {loss.words}", stacklevel=3)
    if missing:
        warnings.warn(f"No leaf holds these entries: {', '.join(missing)}", stacklevel=3)
    if left:
        warnings.warn(f"No entry holds these leaves: {', '.join(left)}", stacklevel=3)
    return {name: _tensor(array) for name, array in arrays.items()}


def _tensor(array: NDArray[np.generic]) -> torch.Tensor:
    """Return a tensor of the same memory."""
    import torch as imported

    torch: Any = imported
    try:
        return torch.from_numpy(array)
    except TypeError:
        # NumPy has these dtypes from elsewhere, and torch takes their bits alone.
        bits = torch.from_numpy(array.view(f"u{array.itemsize}"))
        return bits.view(getattr(torch, str(array.dtype)))
