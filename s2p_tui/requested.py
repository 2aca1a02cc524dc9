"""What the arguments of `convert` ask for: checked all together, opened, errors in their words."""

from __future__ import annotations

import contextlib
import gc
import tempfile
from collections.abc import Generator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from s2p_tui.core.errors import AlignmentError, AmbiguousStateDictError, UsageError
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.target import Target
from s2p_tui.memory import checkpoint_in_memory
from s2p_tui.objects import is_there, like_with_object, pytree_at, state_dict_at, target_in_memory
from s2p_tui.streaming.chunk_folder import chunk_checkpoint, chunk_target
from s2p_tui.streaming.folder import temporary_folder
from s2p_tui.streaming.job import Job

_IN_MEMORY = ("state_dict", "pytree")
_MEMORY_NEEDS = "from_memory=True needs state_dict and pytree."
_PATH_NEEDS = (
    "from_path=True needs path_to_state_dict_chunks or path_to_state_dict_object, and "
    "path_to_pytree_chunks or path_to_pytree_object; with chunkify=True the objects are written "
    "in chunks first."
)
_WAYS_OUT = (
    "Look at them in the app (s2p_tui.app.start_conversion_from_…), take doubtful ones for right "
    'with trust=["…"] or trust=True, follow a mapping="file", or the order with arrange="order".'
)


@dataclass(frozen=True)
class Sides:
    """The two sides as the arguments give them; the names are those of the arguments."""

    state_dict: Any
    pytree: Any
    path_to_state_dict_object: str | Path | None
    path_to_pytree_object: str | Path | None
    chunkify: bool
    path_to_state_dict_chunks: str | Path | None
    path_to_pytree_chunks: str | Path | None

    def require(self, from_memory: bool, from_path: bool) -> None:
        """Make sure that they go with the mode.

        Raises:
            UsageError: They do not; all that is missing or too much is named.
        """
        if from_memory == from_path:
            both = "not both" if from_memory else "and the arguments that go with it"
            raise UsageError(
                f"Give from_memory=True or from_path=True, {both}.",
                f"{_MEMORY_NEEDS} {_PATH_NEEDS}",
            )
        given = [field.name for field in fields(self) if _is_given(getattr(self, field.name))]
        if from_memory:
            problems = [f"{name} is missing" for name in _IN_MEMORY if name not in given]
            problems += [f"{name} does not go with it" for name in given if name not in _IN_MEMORY]
            mode, needs = "from_memory=True", _MEMORY_NEEDS
        else:
            problems = [f"{name} does not go with it" for name in given if name in _IN_MEMORY]
            for side in _IN_MEMORY:
                problems += self._path_problems(side, given)
            if self.chunkify and not {f"path_to_{side}_object" for side in _IN_MEMORY} & {*given}:
                problems.append("chunkify=True has no object to chunk")
            mode, needs = "from_path=True", _PATH_NEEDS
        if problems:
            raise UsageError(f"convert({mode}): {'; '.join(problems)}.", needs)

    def _path_problems(self, side: str, given: list[str]) -> list[str]:
        names = [f"path_to_{side}_chunks", f"path_to_{side}_object"]
        found = [name for name in names if name in given]
        if not found:
            return [f"{names[0]} or {names[1]} is missing"]
        return [f"{found[0]} and {found[1]} are both given"] if len(found) > 1 else []

    def open(
        self,
        stack: contextlib.ExitStack,
        job: Job,
        *,
        key: str | None,
        like: str | None,
        chunk_bytes: int,
    ) -> tuple[Checkpoint, Target]:
        """Open both. Reads no tensor data, unless objects are to be written in chunks.

        Args:
            stack: Removes what is temporary.
            job: Asked whether to stop.
            key: Dotted place of the state dict in a nested checkpoint.
            like: `pkg.module:factory` that names the leaves of a plain `.eqx`.
            chunk_bytes: Memory to stay within, about.
        """
        if self.state_dict is not None:
            if like is not None:
                raise like_with_object(like)
            return checkpoint_in_memory(self.state_dict, key=key), target_in_memory(self.pytree)
        torch_side = self.path_to_state_dict_chunks or self.path_to_state_dict_object
        jax_side = self.path_to_pytree_chunks or self.path_to_pytree_object
        assert torch_side is not None
        assert jax_side is not None
        there = is_there(torch_side), is_there(jax_side)
        if self.chunkify and not all(there):
            parent = Path(tempfile.gettempdir())
            folder = stack.enter_context(temporary_folder(parent, "s2p-tui-chunks-"))
            if not there[0]:
                checkpoint = state_dict_at(torch_side, key)
                chunk_checkpoint(
                    checkpoint, folder, chunk_bytes=chunk_bytes, durable=False, job=job
                )
                torch_side, key = folder, None
                del checkpoint
                gc.collect()
            if not there[1]:
                target = pytree_at(jax_side, like)
                chunk_target(target, folder, chunk_bytes=chunk_bytes, durable=False, job=job)
                jax_side, like = folder, None
                del target
                gc.collect()
        return state_dict_at(torch_side, key), pytree_at(jax_side, like)


def _is_given(value: Any) -> bool:
    return value is not None and value is not False


@contextlib.contextmanager
def in_words_of_python() -> Generator[None]:
    """Have errors list what a command line would print, and name arguments instead of options."""
    try:
        yield
    except AlignmentError as error:
        hint = _WAYS_OUT if error.problems else error.hint
        raise AlignmentError(error.message, error.problems, hint) from None
    except AmbiguousStateDictError as error:
        places = ", ".join(repr(place) for place, _ in error.choices)
        raise AmbiguousStateDictError(
            error.message, error.choices, f"Choose one with key=; there are {places}."
        ) from None
