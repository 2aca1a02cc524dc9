"""`s2p-tui chunk`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from s2p_tui.cli.options import MEBIBYTE, ChunkSize, Key, Like, app


@app.command
def chunk(
    file: Annotated[
        str, Parameter(help="A checkpoint, a skeleton file, an .eqx, or pkg.module:object.")
    ],
    directory: Annotated[Path, Parameter(help="The folder to write to; made if need be.")],
    /,
    *,
    holds: Annotated[
        Literal["state-dict", "pytree"] | None,
        Parameter(name="--as", help="What it is, where its content does not tell."),
    ] = None,
    key: Key = None,
    like: Like = None,
    chunk_size: ChunkSize = 64,
    overwrite: Annotated[
        bool, Parameter(negative="", help="Replace chunks of the same kind that are there.")
    ] = False,
) -> int:
    """Split a checkpoint or a pytree into a folder of .npy files, one array a file.

    A state dict goes to DIR/state_dict with DIR/torch_fields.json, a pytree to DIR/pytree with
    DIR/jax_fields.json; one folder can hold both. Every command takes such a folder as MODEL, as
    SKELETON, or as both. What was written is read back and compared.

    Examples:
    --------
    s2p-tui chunk model.pt chunks

    s2p-tui chunk mypkg.net:make_model chunks

    s2p-tui convert chunks chunks -o model.eqx
    """
    from s2p_tui.chunking import chunkify
    from s2p_tui.console import run_with_progress

    held, count = run_with_progress(
        lambda job: chunkify(
            file,
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
