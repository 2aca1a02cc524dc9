"""`s2p-tui skeleton` and `s2p-tui inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from s2p_tui.cli.options import AsJson, Key, app, json_object


@app.command
def skeleton(
    factory: Annotated[
        str,
        Parameter(
            help="pkg.module:factory or file.py:factory. A required argument named key gets "
            "PRNGKey(0)."
        ),
    ],
    /,
    *,
    output: Annotated[
        Path, Parameter(name=["--output", "-o"], help="The skeleton file to write.")
    ] = Path("model_skeleton.eqx"),
    kwargs: Annotated[str, Parameter(help="The factory's arguments, a JSON object.")] = "{}",
    values: Annotated[
        bool, Parameter(help="Keep the model's own numbers, so that gaps can keep them.")
    ] = True,
) -> int:
    """Write a skeleton file for the model your own code makes.

    Imports and calls the factory; this is the only command that runs code of yours, besides those
    given a factory in place of a skeleton file.

    Examples:
    --------
    s2p-tui skeleton mypkg.net:make_resnet -o resnet_skeleton.eqx --kwargs '{"depth": 18}'
    """
    from s2p_tui.factory import call_factory
    from s2p_tui.skeleton import save_skeleton

    pytree = call_factory(factory, json_object("--kwargs", kwargs), abstract=not values)
    saved = save_skeleton(output, pytree, values=values)
    print(f"{output}: {len(saved)} leaves, {output.stat().st_size:,} bytes")
    return 0


@app.command
def inspect(
    file: Annotated[Path, Parameter(help="The file, or the folder of shards or chunks.")],
    /,
    *,
    key: Key = None,
    json: AsJson = False,
) -> int:
    """List what any of the files or a chunk folder holds; reads no tensor data."""
    from s2p_tui.inspect import describe

    described = describe(file, key)
    for line in [described.as_json()] if json else described.as_lines():
        print(line)
    return 0
