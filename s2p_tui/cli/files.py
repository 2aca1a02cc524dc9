"""`s2p-tui skeleton` and `s2p-tui inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from s2p_tui.cli.commands import command
from s2p_tui.cli.options import AsJson, Key, json_object


@command(
    """
    # of what net.py's Net makes
    s2p-tui skeleton net.py:Net

    # with arguments, and without the numbers it is initialised with
    s2p-tui skeleton net.py:make --kwargs '{"width": 64}' --no-values \\
        -o wide_skeleton.eqx
    """
)
def skeleton(
    factory: Annotated[
        str,
        Parameter(
            help="What makes the model: pkg.module:factory or file.py:factory. A required argument "
            "named key gets jax.random.PRNGKey(0)."
        ),
    ],
    /,
    *,
    output: Annotated[
        Path, Parameter(name=["--output", "-o"], help="The skeleton file to write.")
    ] = Path("model_skeleton.eqx"),
    kwargs: Annotated[str, Parameter(help="The factory's arguments, as a JSON object.")] = "{}",
    values: Annotated[
        bool,
        Parameter(
            help="Store the model's own numbers, for leaves that the checkpoint has nothing for."
        ),
    ] = True,
) -> int:
    """Write a skeleton file of the model that your own code makes.

    It holds key paths, shapes, dtypes and layer classes, all that a conversion needs to know of the
    model. Imports and calls the factory; other commands run code of yours only where they are given
    a factory too.
    """
    from s2p_tui.factory import call_factory
    from s2p_tui.skeleton import save_skeleton

    pytree = call_factory(factory, json_object("--kwargs", kwargs), abstract=not values)
    saved = save_skeleton(output, pytree, values=values)
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
    """
)
def inspect(
    file: Annotated[
        Path,
        Parameter(
            help="A checkpoint, skeleton, .eqx or mapping file, or a folder of shards or chunks."
        ),
    ],
    /,
    *,
    key: Key = None,
    json: AsJson = False,
) -> int:
    """List what a file or folder holds.

    Reads no tensor data and runs nothing that a file contains.
    """
    from s2p_tui.inspect import describe

    described = describe(file, key)
    for line in [described.as_json()] if json else described.as_lines():
        print(line)
    return 0
