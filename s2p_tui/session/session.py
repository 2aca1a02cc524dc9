"""The one mutable object: an open pair, and the edits that change its alignment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from s2p_tui.alignment.alignment import Alignment, Row, in_order
from s2p_tui.alignment.edits import AcceptUnused, Edit, SetRows, Several, Trust, apply
from s2p_tui.alignment.evidence import Evidence, no_evidence, proof_of
from s2p_tui.alignment.fit import Fit, Verdict
from s2p_tui.alignment.globs import matching
from s2p_tui.alignment.history import History
from s2p_tui.alignment.left_over import LeftOver, UnusedEntries
from s2p_tui.alignment.mapping_file import Replayed, SavedAlignment, replayed
from s2p_tui.alignment.proof import Proof
from s2p_tui.alignment.task import Job, Task
from s2p_tui.alignment.verdicts import Verdicts
from s2p_tui.conversion.certificate import Certifier
from s2p_tui.conversion.convert import DEFAULT_CHUNK, refuse_to_replace, verify_file, write_file
from s2p_tui.conversion.output import Converted, mapping_of, require_place, write_mapping
from s2p_tui.conversion.output_names import (
    format_of,
    output_path,
    refuse_folder,
    refuse_other_format,
)
from s2p_tui.conversion.plan import FileFormat, Plan, make_plan
from s2p_tui.conversion.report import Report, report_of
from s2p_tui.errors import Code, Hint, InputError, UsageError
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.skeleton_file import Target
from s2p_tui.proposals.proposal import Proposal, Situation
from s2p_tui.session.find import find, next_blocking
from s2p_tui.session.journal_lines import Step
from s2p_tui.session.opening import (
    Arrangement,
    Findings,
    begin,
    evidence_of,
    find_out,
    load_mapping,
    open_any_target,
    open_source,
    require_kinship,
)

Listener = Callable[[range], None]
Recorder = Callable[[Step, Alignment, range], None]
"""Told of every step, of the alignment it made and of the rows that may have changed."""


class Session:
    """An open pair of files and the edits made so far.

    Positions count leaves first, then benched entries: `0 … len(rows) + len(bench) - 1`.

    Attributes:
        checkpoint: The torch side.
        sources: The files of both sides.
        target: The JAX side.
        alignment: The current alignment; replaced by every edit, never changed.
        evidence: What names and structure say; rows they speak against are doubtful.
        history: The edits made and undone.
        verdicts: The rows' fits.
        awaits_evidence: Whether the matcher has yet to say what it makes of the two ends.
        lacks_evidence: Whether it was stopped, or failed, so that it says nothing.
        told: Differences between this pair and the one a followed mapping was made for.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        target: Target,
        alignment: Alignment | None = None,
        *,
        evidence: Evidence | None = None,
    ) -> None:
        state_dict = checkpoint.state_dict
        start = alignment or in_order(state_dict, target.skeleton)
        layers = target.skeleton.layers
        start = Alignment.of(start.rows, start.bench, state_dict.numbering, layers, start.accepted)
        self.checkpoint = checkpoint
        self.target = target
        self.alignment: Alignment = start
        self.evidence: Evidence | None = evidence
        self.sources = (*checkpoint.files, *target.files)
        self._own_mappings: set[Path] = set()
        self.history = History()
        self.verdicts = Verdicts(state_dict, target.skeleton, start.rows, evidence)
        self._unused = UnusedEntries(state_dict, start)
        self.awaits_evidence = self.lacks_evidence = False
        self.told: tuple[str, ...] = ()
        self._is_guess = self._is_unjudged = False
        self._listeners: list[Listener] = []
        self._recorder: Recorder | None = None

    @classmethod
    def open(
        cls,
        model: str | Path,
        skeleton: str | Path,
        *,
        key: str | None = None,
        allow_missing: bool = False,
        like: str | None = None,
        adapter: str | Path | None = None,
        mapping: str | Path | None = None,
        arrange: Arrangement = "auto",
        soon: bool = False,
        task: Task | None = None,
    ) -> Session:
        """Open both ends. Reads numbers only of entries left over that may be used ones again.

        Args:
            model: The checkpoint: file, index of shards, or folder that holds one; or the address
                of one.
            skeleton: A skeleton file, a plain `.eqx`, or `pkg.module:factory` (runs its code).
            key: Dotted place of the state dict in a nested checkpoint.
            allow_missing: Leave out entries that an index promises and no shard holds.
            like: `pkg.module:factory` that names the leaves of a plain `.eqx`.
            adapter: A LoRA adapter to merge into the checkpoint, see `with_adapter`.
            mapping: A mapping file to start from.
            arrange: What to start from otherwise: the offline matcher's proposal, or strictly the
                order of both sides.
            soon: With many leaves, leave the matcher for later: see `awaits_evidence`.
            task: Kept up to date by the matcher; ends it when it is cancelled.

        Raises:
            S2PError: Anything wrong with one of them, in one line.
        """
        checkpoint = open_source(model, key, allow_missing=allow_missing, adapter=adapter)
        target = open_any_target(skeleton, like)
        wanted = load_mapping(mapping) if mapping is not None else None
        session = cls.between(
            checkpoint, target, mapping=wanted, arrange=arrange, soon=soon, task=task
        )
        if mapping is not None:
            session._own_mappings.add(Path(mapping))
        return session

    @classmethod
    def between(
        cls,
        checkpoint: Checkpoint,
        target: Target,
        *,
        mapping: SavedAlignment | None = None,
        arrange: Arrangement = "auto",
        soon: bool = False,
        task: Task | None = None,
        has_numbers: bool = True,
    ) -> Session:
        """A session on two open ends; see `open`. A checkpoint may hold no numbers.

        Reads no tensor data but of entries left over that may be used ones again.

        Raises:
            OtherFilesError: The mapping was made for other files.
        """
        start = begin(
            checkpoint,
            target,
            mapping=mapping,
            arrange=arrange,
            soon=soon,
            task=task,
            has_numbers=has_numbers,
        )
        session = cls(start.checkpoint, target, start.alignment, evidence=start.evidence)
        session.awaits_evidence = start.evidence is None
        session.told = start.told
        session._is_guess = start.evidence is None and mapping is None and arrange == "auto"
        return session

    def gather_evidence(self, task: Task | None = None) -> Findings:
        """Return all that the offline matcher finds out. Slow; changes nothing, for a thread.

        Reads no tensor data but of entries left over that may be used ones again.

        Args:
            task: Kept up to date; ends it when it is cancelled.
        """
        return find_out(self.checkpoint, self.target, task)

    def take_evidence(self, found: Findings, *, keep_rows: bool = False) -> bool:
        """Weigh rows by what `gather_evidence` found from now on.

        Args:
            found: All that it found.
            keep_rows: Keep the present alignment in any case.

        Returns:
            Whether its alignment was taken over: an order nobody has touched yet is but a guess.
        """
        self.checkpoint = found.checkpoint
        self._unused = UnusedEntries(found.checkpoint.state_dict, self.alignment)
        is_touched = len(self.history) or self.history.undone
        is_taken = self._is_guess and not is_touched and not keep_rows
        if is_taken:
            self.alignment = found.suggested
        self._judge_by(found.evidence)
        return is_taken

    def do_without_evidence(self) -> None:
        """Resume although the matcher was stopped, or failed: rows nobody chose are doubtful."""
        self._judge_by(no_evidence(len(self.target.skeleton)), is_lacking=True)

    def _judge_by(self, evidence: Evidence, *, is_lacking: bool = False) -> None:
        self.evidence, self.awaits_evidence, self.lacks_evidence = evidence, False, is_lacking
        self.verdicts.judge_all(self.alignment.rows, evidence)
        everything = range(len(self.verdicts))
        for listener in self._listeners:
            listener(everything)

    def match_proposal(self) -> Proposal:
        """Return the offline matcher's proposal. Reads no tensor data and changes nothing."""
        # As in `evidence_of`: of many leaves the first rows are drawn before the matcher is needed.
        from s2p_tui.proposals.matcher.decided import propose

        state_dict, skeleton = self.checkpoint.state_dict, self.target.skeleton
        if self.evidence is None:
            self.evidence = evidence_of(state_dict, skeleton)
            self.verdicts.judge_all(self.alignment.rows, self.evidence)
        return propose(self.evidence, state_dict, skeleton, self.alignment)

    @property
    def situation(self) -> Situation:
        """The input of a proposer."""
        state_dict, skeleton = self.checkpoint.state_dict, self.target.skeleton
        evidence = self.evidence or evidence_of(state_dict, skeleton)
        return Situation(state_dict, skeleton, self.alignment, evidence)

    def subscribe(self, listener: Listener) -> None:
        """Call the listener with the rows that may have changed, after each edit.

        There are none where an edit is about the bench alone.
        """
        self._listeners.append(listener)

    def record(self, recorder: Recorder) -> None:
        """Call the recorder with every step that changes something, before listeners."""
        self._recorder = recorder

    def go_on(self, alignment: Alignment, history: History) -> None:
        """Take over where an earlier session on the same pair was left, undo and redo included."""
        self.alignment, self.history = alignment, history
        self._is_guess = False
        self.verdicts.judge_all(alignment.rows, self.evidence)

    def begin_with(self, followed: Replayed, mapping: Path) -> None:
        """Start from what a mapping file says, which saving may replace then."""
        self.go_on(followed.alignment, History())
        self.told = followed.told
        self._own_mappings.add(mapping)

    def begin_from(self, mapping: Path) -> None:
        """Start from a mapping file, which saving may replace then.

        Raises:
            InputError: It cannot be read, or was made for other files.
        """
        ends = self.checkpoint.state_dict, self.target.skeleton
        self.begin_with(replayed(load_mapping(mapping), *ends), mapping)

    def __len__(self) -> int:
        return len(self.alignment.rows) + len(self.alignment.bench)

    def row(self, index: int) -> Row | None:
        """The row at an index, None for a benched entry."""
        rows = self.alignment.rows
        return rows[index] if index < len(rows) else None

    def benched(self, index: int) -> str | None:
        """The benched key at an index, None for a row."""
        number = index - len(self.alignment.rows)
        return self.alignment.bench[number] if number >= 0 else None

    def verdict(self, index: int) -> Verdict | None:
        """The fit of the row at an index, None for a benched entry."""
        return self.verdicts.at(index) if index < len(self.verdicts) else None

    def verdict_after(self, index: int, edit: Edit) -> Verdict:
        """Return the fit that a row would have after an edit, which is not made."""
        return self.verdicts.of(index, apply(self.alignment, edit).rows)

    @property
    def counts(self) -> Counter[Fit]:
        """Rows per fit."""
        return self.verdicts.counts

    @property
    def blocking(self) -> int:
        """Rows that block a conversion."""
        return self.verdicts.blocking

    @property
    def unused(self) -> UnusedEntries:
        """The entries that no row uses."""
        self._unused.changed(self.alignment)
        return self._unused

    @property
    def is_complete(self) -> bool:
        """True if no row and no unused entry blocks a conversion."""
        return not self.blocking and not len(self.unused.blocking)

    def unused_at(self, index: int) -> LeftOver | None:
        """The account of the benched entry at an index, None for a row."""
        number = index - len(self.alignment.rows)
        return self.unused.at(number) if 0 <= number < len(self.unused) else None

    def preview(self, edit: Edit) -> Alignment:
        """The alignment after an edit, which is not made."""
        return self.history.preview(self.alignment, edit)

    def edit(self, edit: Edit) -> range:
        """Make an edit; returns the rows that may have changed, empty if nothing did."""
        return self._judged(self._recorded(edit, *self.history.make(self.alignment, edit)))

    def undo(self) -> range:
        """Take back the last edit; of a move that was made row by row, all of it."""
        goes_on, changed = True, range(0)
        while goes_on:
            goes_on = self.history.undo_goes_on
            changed = self._recorded("undo", *self.history.undo(self.alignment), changed)
        return self._judged(changed)

    def redo(self) -> range:
        """Make the last undone edit again; of a move that was made row by row, all of it."""
        goes_on, changed = True, range(0)
        while goes_on:
            changed = self._recorded("redo", *self.history.redo(self.alignment), changed)
            goes_on = self.history.redo_goes_on
        return self._judged(changed)

    def start_from(self, mapping: SavedAlignment) -> range:
        """Take over a mapping's alignment as one edit; returns the rows that may have changed.

        Raises:
            OtherFilesError: It was made for other files; the differences are named.
        """
        followed = replayed(mapping, self.checkpoint.state_dict, self.target.skeleton)
        wanted, self.told = followed.alignment, followed.told
        before = tuple(sorted(self.alignment.accepted - wanted.accepted))
        accepted = AcceptUnused(before, accept=False), AcceptUnused(tuple(sorted(wanted.accepted)))
        rows = SetRows(tuple(enumerate(wanted.rows)))
        edits = [rows, *(edit for edit in accepted if edit.keys)]
        return self.edit(rows if len(edits) == 1 else Several(tuple(edits)))

    def trust(self, paths: Sequence[str] | None) -> None:
        """Take doubtful rows for right, as one edit.

        Args:
            paths: The rows' leaf key paths, or patterns of them; None for all that are doubtful.

        Raises:
            UsageError: A path is no leaf's, or its row is not doubtful.
        """
        doubtful = {
            self.target.skeleton[index].path: index
            for index in range(len(self.verdicts))
            if self.verdicts.fit(index) is Fit.DOUBTFUL
        }
        wanted = {path: matching([path], doubtful) for path in paths or ()}
        if wrong := [path for path, found in wanted.items() if not found]:
            raise UsageError(
                f"These rows are not doubtful: {', '.join(wrong)}.",
                f"Trust doubtful rows only: {', '.join(doubtful) or 'there are none'}.",
            )
        chosen = (doubtful[path] for found in wanted.values() for path in found)
        self.edit(Trust(tuple(doubtful.values() if paths is None else dict.fromkeys(chosen))))

    def allow_unused(self, globs: Sequence[str] | None) -> None:
        """Accept that entries that block are left out, as one edit.

        Args:
            globs: Their keys, or patterns of them; one that names no such entry does nothing.
                None for all of them.
        """
        keys = [one.key for one in self.unused.blocking_entries()]
        if accepted := tuple(keys if globs is None else matching(globs, keys)):
            self.edit(AcceptUnused(accepted))

    def find(self, query: str, within: range | None = None) -> list[int]:
        """Indices that match every word of a query; see `s2p_tui.session.find`."""
        return find(self, query, within)

    @property
    def problem_count(self) -> int:
        """Rows and unused entries that block a conversion."""
        return self.blocking + len(self.unused.blocking)

    def next_blocking(self, index: int, step: Literal[1, -1]) -> int | None:
        """The nearest index after (or before) one that blocks a conversion, going round."""
        return next_blocking(self, index, step)

    def problems(self) -> Iterator[tuple[int, str]]:
        """Rows that stand in the way of a conversion, with the reason."""
        rest = range(len(self.verdicts))
        while (found := self.verdicts.blocking_in(rest)) is not None:
            rest = range(found + 1, len(self.verdicts))
            yield found, self.verdicts.at(found).why

    def proof(self, index: int, alignment: Alignment | None = None) -> Proof:
        """Return the answers that prove a row right, of the current alignment if none is given."""
        row = (alignment or self.alignment).rows[index]
        if self.evidence is None and not self.awaits_evidence:
            return proof_of(index, row, None, replayed=True)
        return proof_of(index, row, self.evidence)

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
        certificate: str | Path | None = None,
        job: Job | None = None,
        jobs: int | None = None,
        allow_overflow: bool = False,
        file_format: FileFormat | None = None,
    ) -> Converted:
        """Write the output, then the mapping file. Blocks; meant for a worker thread.

        Args:
            output: The file. `.safetensors` and `.orbax` write these formats, all else `.eqx`,
                which is added where there is no suffix, as Equinox itself would look for.
            dtype: Write real floating-point leaves in this dtype, not in the skeleton's.
            chunk_bytes: Memory to stay within, about.
            verify: Read the file back and compare it with its sources.
            mapping: Save the alignment there.
            certificate: Write one there, see `s2p_tui.conversion.certificate`; needs `verify`.
            job: Progress and cancellation.
            jobs: Threads that share the work; None for two, or one on a single core.
            allow_overflow: Write numbers that a cast makes infinite or NaN.
            file_format: `orbax` for a name that does not ask for it.

        Raises:
            S2PError: Rows do not line up, entries are left over, the output cannot be written, or
                it was cancelled.
        """
        if "orbax" in (file_format, format_of(output)):
            from s2p_tui.session.orbax import convert_to_orbax

            return convert_to_orbax(
                self, output, dtype=dtype, chunk_bytes=chunk_bytes, verify=verify,
                mapping=mapping, certificate=certificate, job=job, jobs=jobs,
                allow_overflow=allow_overflow,
            )  # fmt: skip
        refuse_folder(Path(output))
        path = output_path(output)
        refuse_to_replace(path, (*self._own_mappings, *self.sources))
        if certificate is not None and not verify:
            raise UsageError(
                "A certificate needs verification, which is switched off.",
                Hint(Code.VERIFY_OR_NO_CERTIFICATE),
            )
        if mapping is not None:
            require_place(Path(mapping), (*self.sources, path))
        others = [] if mapping is None else [Path(mapping)]
        certifier = self._certifier(certificate, path, *others)
        refuse_other_format(path)
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
            allow_overflow=allow_overflow,
        )
        if mapping is not None:
            self.save_mapping(mapping, alignment)
        if certifier is not None:
            certifier.write(path, plan, alignment, lambda n: self.proof(n, alignment))
        files = (None if file is None else Path(file) for file in (mapping, certificate))
        return Converted(written, *files)

    def verify(
        self,
        output: str | Path,
        *,
        dtype: str | None = None,
        certificate: str | Path | None = None,
        job: Job | None = None,
        jobs: int | None = None,
    ) -> int:
        """Compare an existing file with its sources; returns its size in bytes.

        Args:
            output: The file.
            dtype: As it was converted with.
            certificate: Write one there, see `s2p_tui.conversion.certificate`.
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
        certifier = self._certifier(certificate, path)
        readback = certifier and certifier.readback
        size = verify_file(
            plan, self.checkpoint, self.target, path, readback=readback, job=job, jobs=jobs
        )
        if certifier is not None:
            certifier.write(path, plan, alignment, lambda n: self.proof(n, alignment))
        return size

    def _certifier(self, certificate: str | Path | None, *outputs: Path) -> Certifier | None:
        if certificate is None:
            return None
        require_place(Path(certificate), (*self.sources, *self._own_mappings, *outputs))
        return Certifier(Path(certificate), self.checkpoint, self.target)

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
        refuse_to_replace(path, self.sources)
        content = mapping_of(self.checkpoint, self.target, alignment or self.alignment)
        kept = write_mapping(path, content, keep_old=path not in self._own_mappings)
        self._own_mappings.add(path)
        return kept

    def report_of(self, converted: Converted) -> Report:
        """Return the report of a conversion of this session."""
        return report_of(self, converted)

    def _recorded(
        self, step: Step, alignment: Alignment, changed: range, before: range = range(0)
    ) -> range:
        """Take over the alignment that a step made; return its rows with those of steps before."""
        if alignment is not self.alignment:
            self._is_unjudged = True
            self.alignment = alignment
            if self._recorder is not None:
                self._recorder(step, alignment, changed)
        spans = [span for span in (before, changed) if span]
        if not spans:
            return changed
        return range(min(one.start for one in spans), max(one.stop for one in spans))

    def _judged(self, changed: range) -> range:
        """Judge changed rows, and call the listeners, if anything has changed."""
        if self._is_unjudged:
            self._is_unjudged = False
            judged = self.verdicts.changed(self.alignment.rows, changed)
            for listener in self._listeners:
                listener(judged)
        return changed
