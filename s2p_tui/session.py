"""The one mutable object: a checkpoint, a skeleton, and the alignment between them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from s2p_tui.core.alignment import Alignment, Row, in_order
from s2p_tui.core.edits import Edit, SetRows, Trust
from s2p_tui.core.errors import InputError, OtherFilesError, OutputError, UsageError
from s2p_tui.core.find import parse_query
from s2p_tui.core.fit import Fit, Verdict, as_taken, judge
from s2p_tui.core.history import History
from s2p_tui.core.kinship import could_line_up
from s2p_tui.core.mapping import End, Mapping, replay, to_text
from s2p_tui.core.names import format_of, output_path
from s2p_tui.core.plan import FileFormat, Plan, make_plan
from s2p_tui.core.pytree import Leaf
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.registry import open_checkpoint
from s2p_tui.formats.target import Target
from s2p_tui.opening import load_mapping, no_garbage_collection, open_any_target
from s2p_tui.streaming.atomic import written_atomically
from s2p_tui.streaming.convert import (
    DEFAULT_CHUNK,
    Written,
    refuse_to_replace,
    verify_file,
    write_file,
)
from s2p_tui.streaming.job import Job

Listener = Callable[[range], None]


@dataclass(frozen=True, slots=True)
class Converted:
    """What a conversion left on the disk.

    Attributes:
        written: The output.
        mapping: The mapping file saved beside it, if any.
    """

    written: Written
    mapping: Path | None


class Session:
    """An open pair of files and the edits made so far.

    Positions count leaves first, then benched entries: `0 … len(rows) + len(bench) - 1`.

    Attributes:
        checkpoint: The torch side.
        target: The JAX side.
        alignment: The current alignment; replaced by every edit, never changed.
        history: The edits made and undone.
        counts: Rows per fit.
        blocking: Rows that stand in the way of a conversion.
    """

    def __init__(
        self, checkpoint: Checkpoint, target: Target, alignment: Alignment | None = None
    ) -> None:
        self.checkpoint = checkpoint
        self.target = target
        self.history = History()
        self.alignment = alignment or in_order(checkpoint.state_dict, target.skeleton)
        self._verdicts = [
            judge(leaf, row, checkpoint.state_dict)
            for leaf, row in zip(target.skeleton, self.alignment.rows, strict=True)
        ]
        self.counts = Counter(verdict.fit for verdict in self._verdicts)
        self.blocking = sum(verdict.blocks for verdict in self._verdicts)
        self._listeners: list[Listener] = []
        self._sources = (*checkpoint.files, *target.files)
        self._own_mappings: set[Path] = set()

    @classmethod
    def open(
        cls,
        model: str | Path,
        skeleton: str | Path,
        *,
        key: str | None = None,
        like: str | None = None,
        mapping: str | Path | None = None,
    ) -> Session:
        """Open both ends. Reads no tensor data.

        Args:
            model: The checkpoint: file, index of shards, or folder that holds one.
            skeleton: A skeleton file, a plain `.eqx`, or `pkg.module:factory` (runs its code).
            key: Dotted place of the state dict in a nested checkpoint.
            like: `pkg.module:factory` that names the leaves of a plain `.eqx`.
            mapping: A mapping file to start from; else strictly by order.

        Raises:
            S2PError: Anything wrong with one of them, in one line.
        """
        with no_garbage_collection():
            checkpoint = open_checkpoint(model, key)
            target = open_any_target(skeleton, like)
            alignment = None
            if mapping is not None:
                wanted = load_mapping(mapping)
                alignment = replay(wanted, checkpoint.state_dict, target.skeleton)
            session = cls(checkpoint, target, alignment)
        if mapping is not None:
            session._own_mappings.add(Path(mapping))
        return session

    def require_kinship(self) -> None:
        """Make sure the two sides can be of one model at all, by sizes alone.

        Raises:
            OtherFilesError: No leaf could take anything from the checkpoint.
        """
        state_dict, skeleton = self.checkpoint.state_dict, self.target.skeleton
        if not could_line_up(state_dict, skeleton):
            raise OtherFilesError(
                f"{self.target.label} describes another model than {self.checkpoint.label} holds: "
                f"none of its {len(skeleton)} leaves is as large as any of the {len(state_dict)} "
                "entries, or as several of one size together.",
                hint="Check that skeleton and checkpoint belong together.",
            )

    def close(self) -> None:
        """Close the files."""
        self.checkpoint.tensors.close()
        self.target.values.close()

    def subscribe(self, listener: Listener) -> None:
        """Have the listener called with the rows that may have changed, after each edit."""
        self._listeners.append(listener)

    def __len__(self) -> int:
        return len(self.alignment.rows) + len(self.alignment.bench)

    def row(self, position: int) -> Row | None:
        """The row at a position, None for a benched entry."""
        rows = self.alignment.rows
        return rows[position] if position < len(rows) else None

    def benched(self, position: int) -> str | None:
        """The benched key at a position, None for a row."""
        number = position - len(self.alignment.rows)
        return self.alignment.bench[number] if number >= 0 else None

    def verdict(self, position: int) -> Verdict | None:
        """The fit of the row at a position, None for a benched entry."""
        return self._verdicts[position] if position < len(self._verdicts) else None

    def edit(self, edit: Edit) -> range:
        """Make an edit; returns the rows that may have changed, empty if nothing did."""
        self.alignment, changed = self.history.make(self.alignment, edit)
        return self._after(changed)

    def undo(self) -> range:
        """Take back the last edit."""
        self.alignment, changed = self.history.undo(self.alignment)
        return self._after(changed)

    def redo(self) -> range:
        """Make the last undone edit again."""
        self.alignment, changed = self.history.redo(self.alignment)
        return self._after(changed)

    def start_from(self, mapping: Mapping) -> None:
        """Take over a mapping's alignment as one edit.

        Raises:
            OtherFilesError: It was made for other files; the differences are named.
        """
        wanted = replay(mapping, self.checkpoint.state_dict, self.target.skeleton)
        self.edit(SetRows(tuple(enumerate(wanted.rows))))

    def trust(self, paths: Sequence[str] | None) -> None:
        """Take doubtful rows for right, as one edit.

        Args:
            paths: The rows' leaf key paths; None for all that are doubtful.

        Raises:
            UsageError: A path is no leaf's, or its row is not doubtful.
        """
        doubtful = {
            self.target.skeleton[position].path: position
            for position, verdict in enumerate(self._verdicts)
            if verdict.fit is Fit.DOUBTFUL
        }
        wrong = [path for path in paths or () if path not in doubtful]
        if wrong:
            raise UsageError(
                f"These rows are not doubtful: {', '.join(wrong)}.",
                f"Doubtful are: {', '.join(doubtful) or 'none'}.",
            )
        positions = doubtful.values() if paths is None else [doubtful[path] for path in paths]
        self.edit(Trust(tuple(positions)))

    def find(self, query: str) -> list[int]:
        """Positions that match every word of a query: names, shapes (`10x10`), statuses."""
        matches = parse_query(query, self.checkpoint.state_dict)
        found: list[int] = []
        for position in range(len(self)):
            row, verdict = self.row(position), self.verdict(position)
            leaf = self.target.skeleton[position] if row is not None else None
            fit = verdict.fit if verdict is not None else None
            if matches(leaf, row, self.benched(position) or "", fit):
                found.append(position)
        return found

    def next_blocking(self, position: int, step: Literal[1, -1]) -> int | None:
        """The nearest row after (or before) a position that stands in the way, going round."""
        count = len(self._verdicts)
        for distance in range(1, count + 1):
            candidate = (min(position, count) + step * distance) % count
            if self._verdicts[candidate].blocks:
                return candidate
        return None

    def problems(self) -> Iterator[tuple[int, str]]:
        """Rows that stand in the way of a conversion, with the reason."""
        for position, verdict in enumerate(self._verdicts):
            if verdict.blocks:
                yield position, verdict.why

    def plan(self, dtype: str | None = None, file_format: FileFormat = "eqx") -> Plan:
        """The alignment as instructions; see `make_plan` for what it raises."""
        return make_plan(
            self.checkpoint.state_dict,
            self.target.skeleton,
            self.alignment,
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
        job: Job | None = None,
    ) -> Converted:
        """Write the output, then the mapping file. Blocks; meant for a worker thread.

        Args:
            output: The file. `.safetensors` writes that format, anything else `.eqx`; without
                a suffix it gets `.eqx`, as Equinox itself would look for.
            dtype: Write real floating-point leaves in this dtype, not in the skeleton's.
            chunk_bytes: Memory to stay within, about.
            verify: Read the file back and compare it with its sources.
            mapping: Save the alignment there.
            job: Progress and cancellation.

        Raises:
            S2PError: Rows do not line up, the output cannot be written, or it was cancelled.
        """
        if os.path.isdir(output):
            raise OutputError(f"{output} is a folder.", "Give the name of a file in it with -o.")
        path = output_path(output)
        refuse_to_replace(path, self._own_mappings)
        if mapping is not None:
            refuse_to_replace(Path(mapping), (*self._sources, path))
            if not os.path.isdir(Path(mapping).parent):
                raise OutputError(
                    f"{mapping} cannot be written: its folder does not exist.",
                    "Create the folder first.",
                )
        alignment = self.alignment
        plan = self.plan(dtype, format_of(path))
        written = write_file(
            plan,
            self.checkpoint,
            self.target,
            path,
            chunk_bytes=chunk_bytes,
            verify=verify,
            job=job,
        )
        if mapping is not None:
            self.save_mapping(mapping, alignment)
        return Converted(written, None if mapping is None else Path(mapping))

    def verify(
        self, output: str | Path, *, dtype: str | None = None, job: Job | None = None
    ) -> int:
        """Compare an existing file with its sources; returns its size in bytes.

        Raises:
            S2PError: It differs, or something cannot be read.
        """
        path = Path(output)
        plan = self.plan(dtype, format_of(path))
        if not path.is_file():
            raise InputError(f"{path} does not exist or is no file.", "Give the converted file.")
        return verify_file(plan, self.checkpoint, self.target, path, job=job)

    def save_mapping(self, path: str | Path, alignment: Alignment | None = None) -> None:
        """Save an alignment (by default the current one) as a mapping file.

        A file of that name that this session neither started from nor saved is kept under the same
        name with `~` behind it.

        Raises:
            OutputError: It cannot be written, or would replace a source.
        """
        path = Path(path)
        refuse_to_replace(path, self._sources)
        alignment = alignment or self.alignment
        skeleton, state_dict = self.target.skeleton, self.checkpoint.state_dict
        rows = tuple(
            (leaf.path, self._written_out(leaf, row))
            for leaf, row in zip(skeleton, alignment.rows, strict=True)
        )
        mapping = Mapping(
            End(self.checkpoint.label, self.checkpoint.size, state_dict.digest, len(state_dict)),
            End(self.target.label, self.target.size, skeleton.digest, len(skeleton)),
            rows,
            alignment.bench,
        )
        text = to_text(mapping).encode()
        if os.path.isfile(path) and path not in self._own_mappings and path.read_bytes() != text:
            os.replace(path, f"{path}~")
        with written_atomically(path) as stream:
            stream.write(text)
        self._own_mappings.add(path)

    def _written_out(self, leaf: Leaf, row: Row) -> Row:
        """The row with what its layer's rule does spelled out, so that no rule is needed again."""
        source = row.source and as_taken(row.source, leaf, self.checkpoint.state_dict)
        return row if source is row.source else replace(row, source=source)

    def _judge(self, position: int) -> Verdict:
        leaf, row = self.target.skeleton[position], self.alignment.rows[position]
        return judge(leaf, row, self.checkpoint.state_dict)

    def _after(self, changed: range) -> range:
        for position in changed:
            old, new = self._verdicts[position], self._judge(position)
            if new != old:
                self.counts[old.fit] -= 1
                self.counts[new.fit] += 1
                self.blocking += new.blocks - old.blocks
                self._verdicts[position] = new
        if changed:
            for listener in self._listeners:
                listener(changed)
        return changed
