"""An open pair of files, the alignment between them, and the files made of these."""

from __future__ import annotations

import os
from pathlib import Path

from s2p_tui.certificate import Certifier
from s2p_tui.core.alignment import Alignment
from s2p_tui.core.errors import InputError, OutputError, UsageError
from s2p_tui.core.evidence import Evidence
from s2p_tui.core.names import format_of, output_path
from s2p_tui.core.plan import FileFormat, Plan, make_plan
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.target import Target
from s2p_tui.opening import require_kinship
from s2p_tui.saving import Converted, mapping_of, require_place, write_mapping
from s2p_tui.streaming.convert import (
    DEFAULT_CHUNK,
    refuse_to_replace,
    verify_file,
    write_file,
)
from s2p_tui.streaming.job import Job


class Pair:
    """A checkpoint, a skeleton, and the alignment that a conversion follows.

    Attributes:
        checkpoint: The torch side.
        target: The JAX side.
        alignment: The current alignment; replaced by every edit, never changed.
        evidence: What names and structure say; rows they speak against are doubtful.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        target: Target,
        alignment: Alignment,
        evidence: Evidence | None,
    ) -> None:
        self.checkpoint = checkpoint
        self.target = target
        self.alignment: Alignment = alignment
        self.evidence: Evidence | None = evidence
        self._sources = (*checkpoint.files, *target.files)
        self._own_mappings: set[Path] = set()

    def require_kinship(self) -> None:
        """Make sure the two sides can be of one model at all, by sizes alone.

        Raises:
            OtherFilesError: No leaf could take anything from the checkpoint.
        """
        require_kinship(self.checkpoint, self.target)

    def close(self) -> None:
        """Close the files."""
        self.checkpoint.tensors.close()
        self.target.values.close()

    def plan(self, dtype: str | None = None, file_format: FileFormat = "eqx") -> Plan:
        """The alignment as instructions; see `make_plan` for what it raises."""
        return make_plan(
            self.checkpoint.state_dict,
            self.target.skeleton,
            self.alignment,
            evidence=self.evidence,
            dtype=dtype,
            file_format=file_format,
        )

    def convert(
        self,
        output: str | Path,
        *,
        dtype: str | None = None,
        chunk_bytes: int = DEFAULT_CHUNK,
        verify: bool = True,
        mapping: str | Path | None = None,
        report: str | Path | None = None,
        job: Job | None = None,
        jobs: int | None = None,
    ) -> Converted:
        """Write the output, then the mapping file. Blocks; meant for a worker thread.

        Args:
            output: The file. `.safetensors` writes that format, anything else `.eqx`; without
                a suffix it gets `.eqx`, as Equinox itself would look for.
            dtype: Write real floating-point leaves in this dtype, not in the skeleton's.
            chunk_bytes: Memory to stay within, about.
            verify: Read the file back and compare it with its sources.
            mapping: Save the alignment there.
            report: Write a certificate there, see `s2p_tui.certificate`; needs `verify`.
            job: Progress and cancellation.
            jobs: Threads that share the work; None for two, or one on a single core.

        Raises:
            S2PError: Rows do not line up, the output cannot be written, or it was cancelled.
        """
        if os.path.isdir(output):
            raise OutputError(
                f"{output} is a folder, a file was expected.",
                "Give the name of a file in it with -o.",
            )
        path = output_path(output)
        refuse_to_replace(path, self._own_mappings)
        if report is not None and not verify:
            raise UsageError(
                "--report certifies what verification finds, and --no-verify leaves it out.",
                "Give one of the two.",
            )
        if mapping is not None:
            require_place(Path(mapping), (*self._sources, path))
        certifier = self._certifier(report, path, *([] if mapping is None else [Path(mapping)]))
        alignment = self.alignment
        plan = self.plan(dtype, format_of(path))
        written = write_file(
            plan,
            self.checkpoint,
            self.target,
            path,
            chunk_bytes=chunk_bytes,
            verify=verify,
            readback=certifier and certifier.readback,
            job=job,
            jobs=jobs,
        )
        if mapping is not None:
            self.save_mapping(mapping, alignment)
        if certifier is not None:
            certifier.write(path, plan, alignment)
        return Converted(
            written, *(None if file is None else Path(file) for file in (mapping, report))
        )

    def verify(
        self,
        output: str | Path,
        *,
        dtype: str | None = None,
        report: str | Path | None = None,
        job: Job | None = None,
        jobs: int | None = None,
    ) -> int:
        """Compare an existing file with its sources; returns its size in bytes.

        Args:
            output: The file.
            dtype: As it was converted with.
            report: Write a certificate there, see `s2p_tui.certificate`.
            job: Progress and cancellation.
            jobs: Threads that share the work; None for two, or one on a single core.

        Raises:
            S2PError: It differs, or something cannot be read or written.
        """
        path = Path(output)
        alignment = self.alignment
        plan = self.plan(dtype, format_of(path))
        if not path.is_file():
            raise InputError(
                f"{path} does not exist or is no file, a converted file was expected.",
                "Give the file that convert or the app wrote.",
            )
        certifier = self._certifier(report, path)
        readback = certifier and certifier.readback
        size = verify_file(
            plan, self.checkpoint, self.target, path, readback=readback, job=job, jobs=jobs
        )
        if certifier is not None:
            certifier.write(path, plan, alignment)
        return size

    def _certifier(self, report: str | Path | None, *outputs: Path) -> Certifier | None:
        if report is None:
            return None
        require_place(Path(report), (*self._sources, *self._own_mappings, *outputs))
        return Certifier(Path(report), self.checkpoint, self.target)

    def save_mapping(self, path: str | Path, alignment: Alignment | None = None) -> Path | None:
        """Save an alignment (by default the current one) as a mapping file.

        A file of that name that this session neither started from nor saved is kept under the same
        name with `~` behind it, or `~2`, `~3` and so on.

        Returns:
            Where such a file is kept now; None if there was none.

        Raises:
            OutputError: It cannot be written, or would replace a source.
        """
        path = Path(path)
        refuse_to_replace(path, self._sources)
        content = mapping_of(self.checkpoint, self.target, alignment or self.alignment)
        kept = write_mapping(path, content, keep_old=path not in self._own_mappings)
        self._own_mappings.add(path)
        return kept
