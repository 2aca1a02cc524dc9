"""`s2p-tui export`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from s2p_tui.cli.options import (
    MEBIBYTE,
    WAYS_OUT,
    AllowMissing,
    AllowOverflow,
    AsJson,
    Certificate,
    ChunkSize,
    Jobs,
    Key,
    Like,
    Skeleton,
    Trust,
    TrustAll,
    command,
    place,
)
from s2p_tui.errors import S2PError


@command(
    """
    # a trained model back into the checkpoint it was converted from
    s2p-tui export model.eqx --skeleton model_skeleton.eqx \\
        --mapping model.mapping.json --checkpoint model.pt -o trained.safetensors

    # as torch.save writes it, with a record of each entry
    s2p-tui export model.eqx --skeleton model_skeleton.eqx \\
        --mapping model.mapping.json --checkpoint model.pt -o trained.pt \\
        --certificate trained.certificate.json

    # an Orbax checkpoint, as Orbax or convert --format orbax writes it
    s2p-tui export model.orbax --skeleton model_skeleton.eqx \\
        --mapping model.mapping.json --checkpoint model.pt -o trained.safetensors

    # without the original: entries that no leaf holds are missing
    s2p-tui export model.eqx --skeleton model_skeleton.eqx \\
        --mapping model.mapping.json -o alone.safetensors
    """
)
def export(
    file: Annotated[
        Path | str,
        Parameter(
            converter=place,
            help="File of the pytree: .eqx or .safetensors as convert writes them, or as "
            "equinox.tree_serialise_leaves does; or an Orbax checkpoint, a folder or gs:// URL.",
        ),
    ],
    /,
    *,
    skeleton: Skeleton,
    mapping: Annotated[Path, Parameter(help="Mapping file it was converted with.")],
    output: Annotated[
        Path,
        Parameter(
            name=["--output", "-o"],
            help="File to write: .safetensors, or .pt, .pth, .bin, .ckpt for torch.load. A name "
            "without an ending is a folder of shards like the original's.",
        ),
    ],
    checkpoint: Annotated[
        Path | str | None,
        Parameter(
            converter=place,
            help="Original checkpoint or its address, for what no leaf holds: counters, buffers, "
            "unused entries. Default: these are missing.",
        ),
    ] = None,
    key: Key = None,
    allow_missing: AllowMissing = False,
    like: Like = None,
    trust: Trust = (),
    trust_all: TrustAll = False,
    allow_overflow: AllowOverflow = False,
    chunk_size: ChunkSize = 64,
    jobs: Jobs = None,
    certificate: Certificate = None,
    json: AsJson = False,
) -> int:
    """Export a pytree's file as a PyTorch checkpoint, by the mapping it was converted with.

    Each entry gets its name, shape, dtype and place back. The result is converted forward again and
    compared with the file; leaves with numbers that no entry can hold are listed, and nothing is
    written: exit status 3. Progress goes to standard error, the summary to standard output.
    """
    from s2p_tui.cli.progress import matching_shown, run_with_progress
    from s2p_tui.conversion.export_report import export_as_json
    from s2p_tui.session.export import open_export
    from s2p_tui.session.opening import load_mapping

    try:
        with matching_shown() as task:
            opened = open_export(
                file,
                skeleton,
                load_mapping(mapping),
                checkpoint,
                key=key,
                allow_missing=allow_missing,
                like=like,
                trust=None if trust_all else trust,
                task=task,
            )
        opened = replace(opened, protected=(*opened.protected, mapping))
        report = run_with_progress(
            lambda job: opened.write(
                output,
                certificate=certificate,
                chunk_bytes=chunk_size * MEBIBYTE,
                job=job,
                jobs=jobs,
                allow_overflow=allow_overflow,
            )
        )
    except S2PError as error:
        if not json:
            raise
        print(export_as_json(output, None, error.put_into(WAYS_OUT)))
        return error.exit_code
    print(export_as_json(output, report, None) if json else report)
    return 0
