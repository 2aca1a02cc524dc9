"""`s2p-tui chunk`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from s2p_tui.cli.commands import command
from s2p_tui.cli.options import MEBIBYTE, ChunkSize, Key, Like


@command(
    """
    # a state dict
    s2p-tui chunk model.pt chunks

    # a pytree beside it
    s2p-tui chunk net.py:Net chunks

    # and a conversion from both
    s2p-tui convert chunks chunks -o model.eqx
    """
)
def chunk(
    file: Annotated[
        Path,
        Parameter(
            help="A checkpoint, a skeleton file, an .eqx, or pkg.module:name of an object or of a "
            "function that makes one."
        ),
    ],
    directory: Annotated[Path, Parameter(help="The folder to write to; made if it is not there.")],
    /,
    *,
    holds: Annotated[
        Literal["state-dict", "pytree"] | None,
        Parameter(name="--as", help="What FILE holds, where its content does not tell."),
    ] = None,
    key: Key = None,
    like: Like = None,
    chunk_size: ChunkSize = 64,
    overwrite: Annotated[
        bool, Parameter(negative="", help="Replace chunks of the same kind in DIRECTORY.")
    ] = False,
) -> int:
    """Split a checkpoint or a pytree into .npy files, one array a file.

    A state dict goes to DIRECTORY/state_dict with DIRECTORY/torch_fields.json, a pytree to
    DIRECTORY/pytree with DIRECTORY/jax_fields.json; one folder can hold both. Every command takes
    such a folder as MODEL, as SKELETON, or as both. What was written is read back and compared.
    """
    from s2p_tui.chunking import chunkify
    from s2p_tui.console import run_with_progress

    held, count = run_with_progress(
        lambda job: chunkify(
            str(file),
            directory,
            holds=holds,
            key=key,
            like=like,
            chunk_bytes=chunk_size * MEBIBYTE,
            overwrite=overwrite,
            job=job,
        )
    )
    print(f"{directory}: {held}, {count} arrays")
    return 0
