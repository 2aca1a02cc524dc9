"""The two ends of a conversion, given as objects, by import path, or as files and folders."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s2p_tui.core.errors import InputError, UsageError
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.registry import kind_of, open_checkpoint, open_target
from s2p_tui.formats.target import Target
from s2p_tui.memory import checkpoint_in_memory, is_torch_module

_FILES = (".bin", ".ckpt", ".eqx", ".json", ".npy", ".npz", ".pt", ".pth", ".safetensors")
_TARGETS = ("skeleton", "eqx", "pytree chunks")
PYTREE_LABEL = "pytree in memory"


def state_dict_at(where: str | Path, key: str | None = None) -> Checkpoint:
    """A checkpoint file or folder, or the state dict that an import path names.

    Args:
        where: A file, an index, a folder of shards or chunks; or `pkg.mod.attr`, `pkg.mod:attr` or
            `file.py:attr`, which runs that code: a state dict, a torch module, or a function that
            makes one when called without arguments.
        key: Dotted place of the state dict in a nested one; None to look for it.

    Raises:
        S2PError: There is nothing, it holds no state dict, or it cannot be read.
    """
    if is_there(where):
        return open_checkpoint(where, key)
    return checkpoint_in_memory(state_dict_object(str(where)), key=key, label=str(where))


def pytree_at(where: str | Path, like: str | None = None) -> Target:
    """A skeleton file, `.eqx` or chunk folder, or the pytree that an import path names.

    Args:
        where: As for `state_dict_at`; a required argument `key` of a function gets a `PRNGKey`.
        like: `pkg.module:factory` that names the leaves of a plain `.eqx`.

    Raises:
        S2PError: There is nothing, it holds no leaves, or it cannot be read.
    """
    if is_there(where):
        if like is None:
            return open_target(where)
        from s2p_tui.opening import open_any_target

        return open_any_target(where, like)
    if like is not None:
        raise like_with_object(like)
    return target_in_memory(pytree_object(str(where)), str(where))


def like_with_object(like: str) -> UsageError:
    """The refusal of names for leaves that have their own."""
    return UsageError(
        f"like={like!r} names the leaves of a plain .eqx file, and the pytree is an object.",
        "Leave like out: an object names its own leaves.",
    )


def target_in_memory(pytree: Any, label: str = PYTREE_LABEL) -> Target:
    """The leaves of a pytree in memory.

    Raises:
        UsageError: There are none, or one cannot be saved to a file at all.
    """
    from s2p_tui.skeleton import target_of

    target = target_of(pytree, label)
    if not len(target.skeleton):
        raise UsageError(
            f"The {label} is of type {type(pytree).__name__}, which has no leaves that could be "
            "filled.",
            "Give a pytree that holds arrays; register a dataclass of your own with "
            "jax.tree_util.register_dataclass, or make it an equinox.Module.",
        )
    return target


def state_dict_object(where: str) -> Any:
    """What an import path names, or makes when called, on the torch side. Runs that code.

    Raises:
        UsageError: There is no such module or name.
        InputError: Calling it failed.
    """
    from s2p_tui.factory import call_factory

    return call_factory(where, is_object=lambda value: _is_state_dict(value))


def pytree_object(where: str) -> Any:
    """What an import path names, or makes when called, on the JAX side. Runs that code.

    Raises:
        UsageError: There is no such module or name.
        InputError: Calling it failed.
    """
    from s2p_tui.factory import call_factory

    return call_factory(where)


def is_there(where: str | Path) -> bool:
    """Whether it is a file or folder, and not an import path.

    Raises:
        InputError: It reads like a file's name, and there is no such file.
    """
    if os.path.exists(where):
        return True
    if isinstance(where, Path) or (":" not in where and _reads_like_a_file(where)):
        raise InputError(
            f"{where} does not exist.",
            "Give a file, a folder, or an import path, pkg.mod:attr or pkg.mod.attr.",
        )
    return False


def require_order(pytree: str | Path, state_dict: str | Path) -> None:
    """Make sure that two paths were not given the wrong way round.

    Raises:
        UsageError: They were.
    """
    if _holds_target(state_dict) and not _holds_target(pytree):
        raise UsageError(
            f"{state_dict} is given as the state dict and holds a pytree.",
            "The order is: the pytree's path, then the state dict's.",
        )


def _holds_target(where: str | Path) -> bool:
    try:
        return os.path.exists(where) and kind_of(Path(where)) in _TARGETS
    except InputError:
        return False


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) or is_torch_module(value)


def _reads_like_a_file(where: str) -> bool:
    return os.sep in where or where.endswith(_FILES)
