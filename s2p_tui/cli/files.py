"""`s2p-tui skeleton`, `s2p-tui inspect` and `s2p-tui chunk`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from s2p_tui.cli.options import (
    MEBIBYTE,
    AllowMissing,
    AsJson,
    ChunkSize,
    Key,
    Like,
    command,
    json_object,
    place,
)
from s2p_tui.cli.progress import narrated
from s2p_tui.errors import printable


@command(
    """
    # of the model that net.py's Net creates
    s2p-tui skeleton net.py:Net

    # with arguments, and without its initial values
    s2p-tui skeleton net.py:make --kwargs '{"width": 64}' --no-values \\
        -o wide_skeleton.eqx

    # with the PyTorch model beside it, for V in the app
    s2p-tui skeleton net.py:Net --torch net.py:TorchNet
    """
)
def skeleton(
    factory: Annotated[
        str,
        Parameter(
            help="Factory of the model: pkg.module:factory or file.py:factory. A required argument "
            "named key gets jax.random.PRNGKey(0), one named rngs flax.nnx.Rngs(0). For Linen it "
            "returns the variables that init makes."
        ),
    ],
    /,
    *,
    output: Annotated[
        Path, Parameter(name=["--output", "-o"], help="Skeleton file to write.")
    ] = Path("model_skeleton.eqx"),
    kwargs: Annotated[str, Parameter(help="The factory's arguments, as a JSON object.")] = "{}",
    values: Annotated[
        bool,
        Parameter(help="Store the model's own values, for leaves that the checkpoint cannot fill."),
    ] = True,
    torch: Annotated[
        str | None,
        Parameter(
            help="Factory of the same model in PyTorch, for the record: pkg.module:factory or "
            "file.py:factory, with its arguments as a JSON object behind it if it has any."
        ),
    ] = None,
) -> int:
    """Write a skeleton file of a model that your own code creates.

    It holds key paths, shapes, dtypes and layer classes, all that a conversion needs of the model,
    and the names of both factories, which the app proposes when it is asked to run both models.
    Imports and calls FACTORY, not the one of the PyTorch model; other commands run your code only
    if they are given a factory too.
    """
    from s2p_tui.formats.models import Models, factory_in

    twin = None if torch is None else factory_in(torch)
    arguments = json_object("--kwargs", kwargs)
    with narrated() as say:
        say("importing JAX and Equinox")
        from s2p_tui.formats.pytree.factory import model_and_factory
        from s2p_tui.formats.pytree.skeleton import save_skeleton

        say(f"making the model of {printable(factory)}")
        pytree, made = model_and_factory(factory, arguments, abstract=not values)
        saved = save_skeleton(output, pytree, values=values, models=Models(made, twin))
    print(f"{output}: {len(saved)} leaves, {output.stat().st_size:,} bytes")
    return 0


@command(
    """
    # names, shapes and dtypes of a checkpoint
    s2p-tui inspect model.pt

    # key paths, layer classes and their settings, as JSON
    s2p-tui inspect model_skeleton.eqx --json

    # one of several state dicts in a training checkpoint
    s2p-tui inspect checkpoint.pt --key ema

    # headers alone of a checkpoint on the Hub, at one revision
    s2p-tui inspect hf://organisation/model@main/model.safetensors
    """
)
def inspect(
    file: Annotated[
        Path | str,
        Parameter(
            converter=place,
            help="Checkpoint, skeleton, .eqx, mapping or recipe file, a folder of shards or "
            "chunks, an Orbax checkpoint, or pkg.module:factory; or the address of a checkpoint: "
            "https://, gs://, s3:// or hf://ORGANISATION/REPOSITORY.",
        ),
    ],
    /,
    *,
    key: Key = None,
    allow_missing: AllowMissing = False,
    json: AsJson = False,
) -> int:
    """List the contents of a file or folder.

    Reads no tensor data and runs nothing that a file contains; only a factory is your own code.
    Of an address it reads headers.
    """
    from s2p_tui.cli.listing import describe

    described = describe(file, key, allow_missing=allow_missing)
    for line in [described.as_json()] if json else described.as_lines():
        print(line)
    return 0


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
        Path | str,
        Parameter(
            converter=place,
            help="Checkpoint or its address, skeleton file or .eqx, or pkg.module:name of an "
            "object or of a function that returns one.",
        ),
    ],
    directory: Annotated[Path, Parameter(help="Folder to write to; created if missing.")],
    /,
    *,
    holds: Annotated[
        Literal["state-dict", "pytree"] | None,
        Parameter(name="--as", help="Kind of FILE, where its content does not show it."),
    ] = None,
    key: Key = None,
    allow_missing: AllowMissing = False,
    like: Like = None,
    chunk_size: ChunkSize = 64,
    overwrite: Annotated[
        bool, Parameter(negative="", help="Replace chunks of the same kind in DIRECTORY.")
    ] = False,
) -> int:
    """Split a checkpoint or a pytree into .npy files, one array a file.

    A state dict goes to DIRECTORY/state_dict with DIRECTORY/torch_fields.json, a pytree to
    DIRECTORY/pytree with DIRECTORY/jax_fields.json; one folder can hold both. Every command takes
    such a folder as CHECKPOINT, as SKELETON, or as both. Chunks are read back and compared.
    """
    from s2p_tui.cli.progress import run_with_progress
    from s2p_tui.converter.chunks import chunkify

    held, count = run_with_progress(
        lambda job: chunkify(
            str(file),
            directory,
            holds=holds,
            key=key,
            allow_missing=allow_missing,
            like=like,
            chunk_bytes=chunk_size * MEBIBYTE,
            overwrite=overwrite,
            job=job,
        )
    )
    print(f"{directory}: {held}, {count} arrays")
    return 0
