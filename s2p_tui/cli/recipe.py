"""`s2p-tui recipe` and `s2p-tui eject`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from s2p_tui.cli.options import AllowUnused, Key, Like, Skeleton, command
from s2p_tui.errors import UsageError

Mapping = Annotated[
    Path,
    Parameter(help="Mapping file, as convert --save-mapping, or ctrl+s in the app, writes it."),
]


@command(
    """
    # learn from a small model, convert a large one
    s2p-tui recipe model.mapping.json -o net.recipe.json
    s2p-tui convert model.pt model_skeleton.eqx --recipe net.recipe.json

    # known by its name from then on; the app offers it for pairs that it fits
    s2p-tui recipe model.mapping.json --keep net
    """
)
def recipe(
    mapping: Mapping,
    /,
    *,
    output: Annotated[
        Path | None,
        Parameter(name=["--output", "-o"], help="Recipe file to write."),
    ] = None,
    keep: Annotated[
        str | None,
        Parameter(help="Write it to your folder of recipes instead, under this name."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        Parameter(
            help="Checkpoint the mapping was made for. Only mappings of version 0.1.0 need it, and "
            "--skeleton: they hold no shapes."
        ),
    ] = None,
    skeleton: Annotated[
        Path | None, Parameter(help="Skeleton the mapping was made for; see --checkpoint.")
    ] = None,
    key: Key = None,
    like: Like = None,
) -> int:
    """Write a mapping as a recipe, for other depths, widths and dtypes of the same network.

    Rows that are alike but for their numbers become one pattern, 'layers.{i}.weight' to
    '.blocks[{i}].weight', and sizes follow from shapes. On the pair it was made from the recipe
    gives the mapping back; that is checked. Elsewhere, rows that were settled by hand are settled,
    and what was doubtful and accepted is doubtful again.
    """
    from s2p_tui.session.opening import load_mapping
    from s2p_tui.session.recipes import SUFFIX, folder, save_recipe

    if (output is None) == (keep is None):
        raise UsageError(
            "A recipe needs a file or a name to be kept under.", "Give one of -o and --keep."
        )
    if keep is not None and (not keep or Path(keep).name != keep):
        raise UsageError(f"{keep!r} is no name for a recipe.", "Give a plain name, such as bert.")
    path = output if output is not None else folder() / f"{keep}{SUFFIX}"
    saved = load_mapping(mapping)
    if checkpoint is not None or skeleton is not None:
        from s2p_tui.conversion.output import mapping_of
        from s2p_tui.session.session import Session

        if checkpoint is None or skeleton is None:
            raise UsageError(
                "A recipe can be made with both ends at hand, or with neither.",
                "Give both --checkpoint and --skeleton, or leave both out.",
            )
        session = Session.open(checkpoint, skeleton, key=key, like=like, mapping=mapping)
        saved = mapping_of(session.checkpoint, session.target, session.alignment)
        session.close()
    elif not saved.entries:
        raise UsageError(
            f"{mapping} is of version 0.1.0, which did not save shapes.",
            "Give the --checkpoint and --skeleton it was made for.",
        )
    made, kept = save_recipe(saved, path, protected=(mapping,))
    other = "" if kept is None else f"; another was there: now {kept}"
    print(f"{path}: {len(saved.rows)} rows as {len(made.patterns)} patterns{other}")
    return 0


@command(
    """
    # a file that loads the checkpoint without s2p-tui
    s2p-tui eject model.mapping.json --skeleton model_skeleton.eqx \\
        -o load_model.py
    """
)
def eject(
    mapping: Mapping,
    /,
    *,
    skeleton: Skeleton,
    output: Annotated[
        Path, Parameter(name=["--output", "-o"], help="Python file to write.")
    ] = Path("load_model.py"),
    allow_unused: AllowUnused = (),
    like: Like = None,
) -> int:
    """Write a mapping as a Python file that needs neither the mapping nor s2p-tui.

    It says leaf by leaf what fills it. Its load(checkpoint, like) returns the filled pytree; it
    imports numpy, jax, equinox, and torch for files that torch.save wrote. Rows that block a
    conversion are listed, and nothing is written: exit status 3.
    """
    from s2p_tui.session.loader import save_loader
    from s2p_tui.session.opening import load_mapping, open_any_target

    saved = load_mapping(mapping)
    if not saved.entries:
        raise UsageError(
            f"{mapping} is of version 0.1.0, which did not save shapes.",
            "Convert with it once more, and save the mapping anew with --save-mapping.",
        )
    target = open_any_target(skeleton, like)
    sources = mapping, skeleton
    kept = save_loader(saved, target, output, allow_unused=allow_unused, protected=sources)
    other = "" if kept is None else f"; another was there: now {kept}"
    print(f"{output}: loads {len(target.skeleton)} leaves{other}")
    return 0
