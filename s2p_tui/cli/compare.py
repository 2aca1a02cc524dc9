"""`s2p-tui check`."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from json import dumps
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from s2p_tui.cli.options import (
    WAYS_OUT,
    Adapter,
    AllowMissing,
    AllowUnused,
    AsJson,
    Key,
    MappingFile,
    Trust,
    TrustAll,
    command,
    json_object,
    place,
)
from s2p_tui.cli.progress import narrated
from s2p_tui.errors import S2PError, UsageError


def step_as_json(step: str, done: int, total: int) -> None:
    """Print a step on stderr as one JSON object."""
    counted = {"done": done, "total": total} if total else {}
    print(dumps({"step": step, **counted}), file=sys.stderr, flush=True)


@command(
    """
    # on two random images
    s2p-tui check --torch net.py:TorchNet --jax net.py:Net --checkpoint model.pt \\
        --mapping model.mapping.json --shape 3x8x8

    # on an example of your own, with a tighter tolerance
    s2p-tui check --torch net.py:TorchNet --jax net.py:Net --checkpoint model.pt \\
        --sample-input net.py:example --tolerance 1e-5

    # every pair of modules, with the rows under it
    s2p-tui check --torch net.py:TorchNet --jax net.py:Net --checkpoint model.pt \\
        --shape 3x8x8 --report parity.html

    # token ids below 30000, for a model with two arguments
    s2p-tui check --torch bert.py:Torch --jax bert.py:Bert --checkpoint bert.pt \\
        --shape 128 --shape 128 --dtype int32 --below 30000
    """
)
def check(
    *,
    torch: Annotated[
        str, Parameter(help="pkg.module:factory or file.py:factory of the torch module.")
    ],
    jax: Annotated[
        str,
        Parameter(
            help="pkg.module:factory or file.py:factory of the Equinox module, of (model, state), "
            "of an NNX module, or of (module, variables) of Linen."
        ),
    ],
    mapping: MappingFile = None,
    checkpoint: Annotated[
        Path | str | None,
        Parameter(
            name=["--checkpoint", "--model"],
            converter=place,
            help="Checkpoint to load into the torch model, or its address. Default: the weights "
            "the factory creates.",
        ),
    ] = None,
    key: Key = None,
    allow_missing: AllowMissing = False,
    adapter: Adapter = None,
    torch_kwargs: Annotated[
        str, Parameter(help="The torch factory's arguments, as a JSON object.")
    ] = "{}",
    jax_kwargs: Annotated[
        str, Parameter(help="The JAX factory's arguments, as a JSON object.")
    ] = "{}",
    trust: Trust = (),
    trust_all: TrustAll = False,
    allow_unused: AllowUnused = (),
    shape: Annotated[
        tuple[str, ...],
        Parameter(
            negative="",
            help="Shape of one example, as 3x32x32, or () for a number. Repeat it per argument.",
        ),
    ] = (),
    dtype: Annotated[
        tuple[str, ...],
        Parameter(negative="", help="Dtype of all arguments, or one per argument."),
    ] = ("float32",),
    below: Annotated[
        int,
        Parameter(
            help="Exclusive upper bound for random integers.", validator=validators.Number(gte=1)
        ),
    ] = 10,
    batch: Annotated[
        int,
        Parameter(
            help="Number of examples; 0 for a single one that torch gets without a batch axis.",
            validator=validators.Number(gte=0),
        ),
    ] = 2,
    seed: Annotated[int, Parameter(help="Seed of the random numbers.")] = 0,
    sample_input: Annotated[
        str | None,
        Parameter(
            help="pkg.module:function that returns one example, an array or a tuple of arrays, "
            "instead of --shape."
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        Parameter(
            help="Largest difference to accept, relative to the largest output. Default: 1e-4; "
            "with weights of float16 4e-3, of bfloat16 3e-2.",
            validator=validators.Number(gt=0),
        ),
    ] = None,
    report: Annotated[
        Path | None,
        Parameter(
            help="Write how far each pair of modules is apart, and the rows under it: a .md, .html "
            "or .json file. The table is printed, too."
        ),
    ] = None,
    modules: Annotated[
        bool,
        Parameter(
            negative="",
            help="Compare every pair of modules even where the outputs agree, and print the table.",
        ),
    ] = False,
    gradients: Annotated[
        bool,
        Parameter(
            negative="",
            help="Compare the gradients of all parameters, too: of the outputs' sum, each element "
            "times a random number. In the table and the report.",
        ),
    ] = False,
    settle: Annotated[
        bool,
        Parameter(
            negative="",
            help="Let the forward decide doubtful rows, and look for what makes modules that "
            "differ agree.",
        ),
    ] = False,
    save_mapping: Annotated[
        Path | None,
        Parameter(help="With --settle, save the mapping there if both models agree then."),
    ] = None,
    progress: Annotated[
        bool,
        Parameter(negative="", help="Print each step on stderr as one JSON object a line."),
    ] = False,
    json: AsJson = False,
) -> int:
    """Run both models on the same input and compare their outputs.

    Creates both models with your own factories, converts the torch model's weights by the mapping
    file or by names and structure, loads them with Equinox, and runs both forwards in inference
    mode, torch on a batch and JAX on one example at a time. If the outputs differ, it names the
    first module whose output does: exit status 6.
    --report compares every pair of modules.
    """
    shown = ExitStack()
    say = shown.enter_context(narrated())

    def narrate(step: str, done: int, total: int) -> None:
        if progress:
            step_as_json(step, done, total)
        else:
            say(f"{step}, {done:,} of {total:,}" if total else step)

    narrate("importing PyTorch, JAX and Equinox", 0, 0)
    from s2p_tui.cli.check.inputs import random_examples, sample_examples
    from s2p_tui.cli.check.report import require_suffix, table_of, write_report
    from s2p_tui.cli.check.result import failed_as_json
    from s2p_tui.cli.check.run import Request
    from s2p_tui.cli.check.run import check as run_check

    try:
        if report is not None:
            require_suffix(report)
        if save_mapping is not None and not settle:
            raise UsageError(
                "--save-mapping goes with --settle alone.", "Add --settle, or leave it out."
            )
        if bool(shape) == (sample_input is not None):
            both = "--shape and --sample-input both say"
            neither = "Neither --shape nor --sample-input says"
            raise UsageError(
                f"{both if shape else neither} what to run the models on.",
                "Give --shape 3x32x32, once per argument, or --sample-input pkg.module:function.",
            )
        if key is not None and checkpoint is None:
            raise UsageError(
                f"--key {key} is a path in a checkpoint, and no checkpoint is given.",
                "Give one with --checkpoint, or leave --key out.",
            )
        if adapter is not None and checkpoint is None:
            raise UsageError(
                f"--adapter {adapter} is merged into a checkpoint, and none is given.",
                "Give the one it was trained on with --checkpoint.",
            )
        if sample_input is not None:
            examples = sample_examples(sample_input, batched=batch > 0)
        else:
            examples = random_examples(shape, dtype, batch=batch, seed=seed, below=below)
        request = Request(
            torch=torch,
            jax=jax,
            torch_kwargs=json_object("--torch-kwargs", torch_kwargs),
            jax_kwargs=json_object("--jax-kwargs", jax_kwargs),
            checkpoint=checkpoint,
            adapter=adapter,
            key=key,
            allow_missing=allow_missing,
            mapping=mapping,
            trust=None if trust_all else trust,
            allow_unused=allow_unused,
            tolerance=tolerance,
            seed=seed,
            inside=modules or gradients or report is not None,
            gradients=gradients,
            settle=settle,
            save_mapping=save_mapping,
        )
        result = run_check(request, examples, narrate)
        if report is not None:
            write_report(report, result)
    except S2PError as error:
        shown.close()
        if not json:
            raise
        print(failed_as_json(error.put_into(WAYS_OUT)))
        return error.exit_code
    shown.close()
    print(result.as_json() if json else result.as_text())
    if result.parity and not json:
        print(table_of(result.parity))
    return result.exit_code
