"""One export from start to end: write, compare with the leaves, sync, give the files their names.

A set of shards is written to a folder of its own, which gets its name when all of them are there.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs

from s2p_tui.alignment.dtypes import dtype_named
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.task import Job
from s2p_tui.conversion.contents import (
    CastLoss,
    Contents,
    OutputRecord,
    RecordTable,
    refuse_overflow,
)
from s2p_tui.conversion.convert import DEFAULT_CHUNK, SMALLEST_CHUNK, filled, refuse_to_replace
from s2p_tui.conversion.export_plan import NO_TARGET, ExportPlan, MadeEntry
from s2p_tui.conversion.plan import FileFormat, Instruction, Plan
from s2p_tui.conversion.round_trip import RoundTrip
from s2p_tui.conversion.units import share, usual_jobs
from s2p_tui.conversion.verify import Readback, verify_records
from s2p_tui.conversion.write import write_records
from s2p_tui.errors import AlignmentError, Code, Hint, OutputError, UsageError
from s2p_tui.formats.atomic import (
    AtomicFile,
    output_error,
    require_space,
    temporary_folder,
    written_atomically,
)
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.safetensors import header_for, open_safetensors
from s2p_tui.formats.tensors import ArrayTensors, FileTensors, pread_into
from s2p_tui.formats.torch_archive import Archive, Tensor, archive_for
from s2p_tui.formats.torch_files import open_torch_zip

if TYPE_CHECKING:
    from numpy.typing import NDArray

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
_READ = 1 << 20
_ENTRIES = "entry", "entries"


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of an export.

    Attributes:
        name: Its name.
        entries: Its entries.
    """

    name: str
    entries: tuple[MadeEntry, ...]

    @property
    def format(self) -> FileFormat:
        """The format its name asks for."""
        return "torch" if Path(self.name).suffix in TORCH_SUFFIXES else "safetensors"


@dataclass(frozen=True, slots=True)
class Exported:
    """A finished export.

    Attributes:
        path: The file, or the folder of shards.
        files: Names of the files, the index of shards among them.
        size: Bytes of all.
        seconds: Time from start to rename.
        losses: Entries whose numbers did not all survive a cast, by key.
        memory: Bytes of memory it took at most, beside the program's own.
    """

    path: Path
    files: tuple[str, ...]
    size: int
    seconds: float
    losses: dict[str, CastLoss]
    memory: int


def is_file_name(path: Path) -> bool:
    """Return True if a path names one file, not a folder of shards."""
    return path.suffix in (".safetensors", *TORCH_SUFFIXES) and not path.is_dir()


def shards_of(plan: ExportPlan, original: Checkpoint, path: Path) -> tuple[Shard, ...]:
    """Return the files to write: one, or for a folder the original's own.

    Raises:
        UsageError: A folder is asked for, and the original is no set of shards; or a file of a
            name that says nothing of its format.
    """
    written = tuple(one for one in plan.entries if one.source is not None)
    if is_file_name(path):
        return (Shard(path.name, written),)
    if path.suffix and not path.is_dir():
        raise UsageError(
            f"{path} ends in {path.suffix}, of which no format of checkpoints is known.",
            f"Give a name that ends in .safetensors or {' '.join(TORCH_SUFFIXES)}, or one without "
            "an ending for a folder of shards.",
        )
    held: dict[str, list[MadeEntry]] = defaultdict(list)
    folders: set[str] = set()
    for one in written:
        extent = original.tensors.extent(one.entry.key) if original.kind == "sharded" else None
        if extent is None:
            raise UsageError(
                f"{path} would be a folder of shards, and the original checkpoint has none.",
                "Give a name that ends in .safetensors or .pt.",
            )
        held[extent.file.name].append(one)
        folders.add(str(extent.file.parent))
    if len(folders) > 1:
        raise UsageError(
            f"The original's shards lie in {len(folders)} folders.",
            "Give a name that ends in .safetensors or .pt.",
        )
    return tuple(Shard(name, tuple(entries)) for name, entries in held.items())


class _Laid:
    """A shard laid out, and written to a file.

    Args:
        shard: The shard.
    """

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.archive: Archive | None = None
        first: dict[Hashable, int] = {}
        tensors: list[Tensor] = []
        kept: list[MadeEntry] = []
        # The safetensors library reads no tensor that is not aligned to its own dtype's size.
        entries = sorted(shard.entries, key=lambda one: -dtype_named(one.entry.dtype).itemsize)
        for one in shard.entries if shard.format == "torch" else entries:
            entry = one.entry
            tied = (entry.storage, one.source) if entry.storage is not None else entry.key
            number = first.setdefault(tied, len(first))
            if number == len(kept) or shard.format == "safetensors":
                kept.append(one)
            tensors.append(Tensor(entry.key, entry.shape, entry.dtype, number))
        instructions = tuple(_instruction(one) for one in kept)
        self.plan = Plan(instructions, shard.format)
        if shard.format == "torch":
            self.archive = archive_for(tensors)
            front, heads = self.archive.front, [one.head for one in self.archive.storages]
        else:
            front = header_for([tensor[:3] for tensor in tensors], "pt")
            heads = [b""] * len(kept)
        records: list[OutputRecord] = []
        position = len(front)
        for instruction, head in zip(instructions, heads, strict=True):
            records.append(OutputRecord(instruction, head, position, instruction.leaf.nbytes))
            position = records[-1].stop
        end = 0 if self.archive is None else len(self.archive.directory([0] * len(records)))
        self.table = RecordTable(front, tuple(records), position + end)

    def write(
        self, file: AtomicFile, contents: Contents, job: Job, jobs: int
    ) -> dict[str, CastLoss]:
        """Write everything; return what casts lost."""
        descriptor = file.descriptor
        losses = write_records(self.table, contents, descriptor, file.target, job, jobs)
        if self.archive is None:
            return losses
        checksums = [0] * len(self.table.records)

        def check(number: int) -> None:
            record = self.table.records[number]
            checksums[number] = _checksum(descriptor, record.data, record.stop, file.target, job)

        # The disk takes what was written meanwhile.
        checks = partial(share, range(len(checksums)), check, jobs)
        share((file.sync, checks), _call, 2)
        pairs = zip(self.archive.storages, checksums, strict=True)
        heads = [member.head_with(checksum) for member, checksum in pairs]
        records = tuple(
            structs.replace(record, head=head)
            for record, head in zip(self.table.records, heads, strict=True)
        )
        try:
            for record in records:
                os.pwrite(descriptor, record.head, record.start)
            end = self.archive.directory(checksums)
            os.pwrite(descriptor, end, self.table.size - len(end))
        except OSError as error:
            raise output_error(error, file.target) from None
        self.table = structs.replace(self.table, records=records)
        self.archive = None
        return losses

    def opened(self, path: Path) -> Checkpoint:
        """Open the file that was written."""
        if self.shard.format == "torch":
            return open_torch_zip(path, ".")
        return open_safetensors(path)


def _instruction(one: MadeEntry) -> Instruction:
    entry = one.entry
    return Instruction(Leaf(entry.key, entry.shape, entry.dtype), one.source, entry.dtype)


def _checksum(descriptor: int, start: int, stop: int, file: Path, job: Job) -> int:
    checksum = 0
    buffer = memoryview(bytearray(min(_READ, stop - start)))
    while start < stop:
        job.check()
        part = buffer[: stop - start]
        pread_into(descriptor, part, start, file)
        checksum = zlib.crc32(part, checksum)
        start += len(part)
    return checksum


def write_export(
    plan: ExportPlan,
    original: Checkpoint,
    path: Path,
    *,
    protected: Iterable[Path] = (),
    chunk_bytes: int = DEFAULT_CHUNK,
    readbacks: dict[str, Readback] | None = None,
    job: Job | None = None,
    jobs: int | None = None,
    allow_overflow: bool = False,
) -> Exported:
    """Carry out a plan. What appears under the name is complete and verified.

    Args:
        plan: The entries to write.
        original: The original checkpoint, of which a folder gets the names of shards.
        path: The file to write, or the folder; an existing file is replaced, a folder is not.
        protected: Files that must not be replaced, beside those that are read.
        chunk_bytes: Memory to stay within, about.
        readbacks: Gets what verification reads of each file, by name.
        job: Progress and cancellation.
        jobs: Threads that share the work and its memory; None for two, or one on a single core.
        allow_overflow: Write numbers that a cast made infinite or NaN.

    Raises:
        AlignmentError: Leaves hold numbers that no entry can hold; all are named.
        OutputError: The output cannot be written, or a cast made numbers infinite or NaN.
        UsageError: The file format cannot hold one of the dtypes.
        InputError: A source changed meanwhile.
        CancelledError: Someone cancelled the job; nothing is left behind.
    """
    job, jobs = job or Job(), jobs or usual_jobs()
    started = time.monotonic()
    laid = [_Laid(shard) for shard in shards_of(plan, original, path)]
    if not any(one.shard.entries for one in laid):
        raise OutputError(f"{path} would hold nothing.", Hint(Code.GIVE_ORIGINAL))
    is_folder = not is_file_name(path)
    size = job.total = sum(one.table.size for one in laid)
    refuse_to_replace(path, (*plan.both.files, *protected))
    job.free = require_space(path, size)
    chunk = max(chunk_bytes, SMALLEST_CHUNK)
    job.memory = 2 * chunk
    contents = Contents(plan.both, NO_TARGET, chunk, jobs)
    writing = _Writing(plan, contents, job, jobs, readbacks)
    with contextlib.ExitStack() as stack:
        folder = path.parent
        if is_folder:
            if os.path.lexists(path) and (not path.is_dir() or any(path.iterdir())):
                raise OutputError(f"{path} is there already.", "Give the name of a new folder.")
            # In it one that others may look into as the user's settings have it.
            private = stack.enter_context(temporary_folder(path.parent, f".{path.name}-"))
            folder = private / path.name
            folder.mkdir()
        files = [stack.enter_context(AtomicFile(folder / one.shard.name)) for one in laid]
        losses = writing.write(laid, files)
        if not allow_overflow:
            refuse_overflow(losses, _ENTRIES, Code.ALLOW_ENTRY_OVERFLOW)
        try:
            share((lambda: _sync(files), lambda: writing.verify(laid, files)), _call, 2)
        finally:
            # A source that changed is the better explanation for what verification found.
            plan.both.tensors.check_unchanged()
        job.check()
        for file in files:
            file.commit()
        names = [one.shard.name for one in laid]
        if is_folder:
            names += _write_index(folder, original, laid)
            try:
                os.rename(folder, path)
            except OSError as error:
                raise output_error(error, path) from None
    job.phase = "done"
    seconds = time.monotonic() - started
    return Exported(path, tuple(names), size, seconds, losses, job.memory)


class _Writing:
    """Writes and verifies the files of one export."""

    def __init__(
        self,
        plan: ExportPlan,
        contents: Contents,
        job: Job,
        jobs: int,
        readbacks: dict[str, Readback] | None,
    ) -> None:
        self._plan, self._contents, self._readbacks = plan, contents, readbacks
        self._job, self._jobs = job, jobs

    def write(self, laid: Sequence[_Laid], files: Sequence[AtomicFile]) -> dict[str, CastLoss]:
        """Write all files; return what casts lost, by key."""
        losses: dict[str, CastLoss] = {}
        with _in_words_of_exports():
            for one, file in zip(laid, files, strict=True):
                losses |= one.write(file, self._contents, self._job, self._jobs)
        return losses

    def verify(self, laid: Sequence[_Laid], files: Sequence[AtomicFile]) -> None:
        """Read all files back: compare them with the leaves, then what no leaf holds."""
        job, jobs = self._job, self._jobs
        job.phase = "verifying"
        opened = _joined([one.opened(f.temporary) for one, f in zip(laid, files, strict=True)])
        wanted = {
            one.entry.key: (one.entry.shape, one.entry.dtype)
            for each in laid
            for one in each.shard.entries
        }
        found = {entry.key: (entry.shape, entry.dtype) for entry in opened.state_dict}
        places = (
            (record.instruction.leaf.path, record.data)
            for one in laid
            for record in one.table.records
        )
        try:
            if found != wanted or not all(
                (extent := opened.tensors.extent(key)) is not None and extent.offset == start
                for key, start in places
            ):
                raise OutputError("The export does not list what was written.", _AGAIN)
            proven = compared(self._plan, opened, self._contents.chunk_bytes, job, jobs)
        finally:
            opened.tensors.close()
        for one, file in zip(laid, files, strict=True):
            readback = None
            if self._readbacks is not None:
                readback = self._readbacks[one.shard.name] = Readback()
            about = one.plan, one.table, self._contents, file.temporary, job
            verify_records(*about, readback, jobs, proven=proven)
        job.phase = "syncing"


@contextlib.contextmanager
def _in_words_of_exports() -> Generator[None]:
    """Turn the refusal of whole numbers that do not fit, which speaks of conversions, into ours."""
    try:
        yield
    except AlignmentError as error:
        raise AlignmentError(error.message, error.problems, Hint(Code.TURN_ROUND)) from None


_AGAIN = "Export again; if it happens again the disk or memory may be faulty."


def compared(
    plan: ExportPlan, exported: Checkpoint, chunk_bytes: int, job: Job, jobs: int
) -> frozenset[str]:
    """Compare the leaves with what the entries make; return the entries that are proven by it.

    Raises:
        AlignmentError: Leaves hold numbers that the entries do not; all are named.
    """
    trip = RoundTrip(plan, exported, job)
    problems = trip.compare(chunk_bytes, jobs)
    if problems:
        leaves = "1 leaf holds" if len(problems) == 1 else f"{len(problems):,} leaves hold"
        raise AlignmentError(
            f"{leaves} numbers that the checkpoint's entries cannot hold.",
            problems,
            Hint(Code.NO_ROOM_IN_ENTRIES),
        )
    return trip.proven


def _joined(parts: Sequence[Checkpoint]) -> Checkpoint:
    """Return several files as one checkpoint."""
    entries: list[Entry] = []
    extents: dict[str, Any] = {}
    for part in parts:
        entries += part.state_dict
        extents |= {entry.key: part.tensors.extent(entry.key) for entry in part.state_dict}
    files = tuple(file for part in parts for file in part.files)
    tensors = FileTensors(extents.get, files)
    return Checkpoint("the export", files, 0, StateDict(tuple(entries)), tensors)


def _call(do: Callable[[], None]) -> None:
    do()


def _sync(files: Iterable[AtomicFile]) -> None:
    for file in files:
        file.sync()


def _write_index(folder: Path, original: Checkpoint, laid: Sequence[_Laid]) -> list[str]:
    """Write the index of shards, if the original has one; return its name."""
    index = next((file for file in original.files if file.name.endswith(".index.json")), None)
    if index is None:
        return []
    weight_map = {one.entry.key: each.shard.name for each in laid for one in each.shard.entries}
    total = sum(one.entry.nbytes for each in laid for one in each.shard.entries)
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2)
    with written_atomically(folder / index.name) as stream:
        stream.write(f"{text}\n".encode())
    return [index.name]


def export_arrays(
    plan: ExportPlan, *, chunk_bytes: int = DEFAULT_CHUNK, allow_overflow: bool = False
) -> tuple[dict[str, NDArray[Any]], dict[str, CastLoss]]:
    """Return the entries as arrays in memory, by key, and what casts lost.

    Raises:
        AlignmentError: Leaves hold numbers that no entry can hold; all are named.
        OutputError: A cast made numbers infinite or NaN.
        InputError: A source changed meanwhile.
    """
    written = [one for one in plan.entries if one.source is not None]
    instructions = tuple(map(_instruction, written))
    arrays: dict[str, NDArray[Any]] = {}
    losses: dict[str, CastLoss] = {}
    made = filled(Plan(instructions, "torch"), plan.both, NO_TARGET, chunk_bytes=chunk_bytes)
    with _in_words_of_exports():
        for one, (array, loss) in zip(written, made, strict=True):
            assert array is not None
            arrays[one.entry.key] = array
            if loss:
                losses[one.entry.key] = loss
    if not allow_overflow:
        refuse_overflow(losses, _ENTRIES, Code.ALLOW_ENTRY_OVERFLOW)
    entries = StateDict(tuple(one.entry for one in written))
    exported = Checkpoint("the export", (), 0, entries, ArrayTensors(arrays))
    compared(plan, exported, chunk_bytes, Job(), 1)
    plan.both.tensors.check_unchanged()
    return arrays, losses
