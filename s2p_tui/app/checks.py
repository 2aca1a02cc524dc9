"""Running both models on the alignment as it is: what is typed, the process, its result."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from s2p_tui.alignment.dtypes import dtype_named
from s2p_tui.app.agreement import Found
from s2p_tui.conversion.output import mapping_of, write_mapping
from s2p_tui.errors import CancelledError, InputError, S2PError, UsageError, printable
from s2p_tui.formats.models import Factory, Models, factory_in
from s2p_tui.formats.torch_archive import write_entries
from s2p_tui.session.opening import load_mapping

if TYPE_CHECKING:
    from s2p_tui.alignment.mapping_file import SavedAlignment
    from s2p_tui.session.session import Session

_SHAPE = re.compile(r"\(\)|\d+(?:[x×,]\d+)*")
_EXAMPLES = "3x32x32, 128 int32 --below 30000, or net.py:example"
# A process that waits for a disk may outlive its kill by seconds; the app need not.
_KILL_SECONDS = 5.0
_LINES_KEPT = 20


class Typed(Struct, frozen=True):
    """The factories of both models and their inputs, as somebody typed it.

    Attributes:
        torch: The factory of PyTorch's model.
        jax: The factory of the pytree.
        inputs: Shapes and dtypes of one example, or a function that returns one; after them
            further options of the command.
    """

    torch: str = ""
    jax: str = ""
    inputs: str = ""

    def obstacle(self) -> str:
        """Return the reason why nothing can be run so; empty if it can."""
        try:
            self.arguments()
        except UsageError as error:
            return error.line
        return ""

    def arguments(self) -> list[str]:
        """Return the command's options.

        Raises:
            UsageError: Something is missing, or not written as it should be.
        """
        made: list[str] = []
        for side, text in (("torch", self.torch), ("jax", self.jax)):
            if not text.strip():
                raise UsageError(f"The factory of the {_SIDES[side]} is missing.", "Type it.")
            factory = factory_in(text)
            made += [f"--{side}", factory.name, f"--{side}-kwargs", json.dumps(factory.kwargs)]
        return [*made, *_input_arguments(self.inputs)]


class Source(Struct, frozen=True):
    """The place at which the other process finds the session's checkpoint.

    Attributes:
        checkpoint: Its file, folder or address; None for a state dict in memory.
        adapter: A LoRA adapter that is merged into it.
        allow_missing: Leave out entries that an index promises and no shard holds.
    """

    checkpoint: Path | str | None = None
    adapter: Path | str | None = None
    allow_missing: bool = False


_SIDES = {"torch": "PyTorch model", "jax": "JAX model"}


def typed_of(session: Session, given: Models | None, inputs: str) -> Typed:
    """Return what is known of both models: as given, else as the skeleton records it.

    A file of code is looked for here, and beside the skeleton.
    """
    given, recorded = given or Models(), session.target.models
    folder = session.target.files[0].parent if session.target.files else Path()

    def text(factory: Factory | None) -> str:
        if factory is None:
            return ""
        where, _, name = factory.name.rpartition(":")
        beside = folder / where
        if where.endswith(".py") and not os.path.exists(where) and beside.exists():
            return Factory(f"{beside}:{name}", factory.kwargs).text
        return factory.text

    return Typed(text(given.torch or recorded.torch), text(given.jax or recorded.jax), inputs)


def _input_arguments(text: str) -> list[str]:
    words = text.split()
    start = next((n for n, word in enumerate(words) if word.startswith("--")), len(words))
    words, more = words[:start], words[start:]
    shapes = [word for word in words if _SHAPE.fullmatch(word)]
    functions = [word for word in words if ":" in word]
    dtypes = [word for word in words if word not in shapes and word not in functions]
    if not shapes and not functions:
        raise UsageError("There is no input to run both models on.", f"Type one: {_EXAMPLES}.")
    if functions and (shapes or dtypes or len(functions) > 1):
        raise UsageError(
            "The input is a function and something else.", f"Type one of both: {_EXAMPLES}."
        )
    for dtype in dtypes:
        try:
            dtype_named(dtype)
        except S2PError:
            raise UsageError(
                f"{dtype} is neither a shape nor a dtype.", f"Type such as {_EXAMPLES}."
            ) from None
    made = [part for shape in shapes for part in ("--shape", shape)]
    made += [part for dtype in dtypes for part in ("--dtype", dtype)]
    made += [part for function in functions for part in ("--sample-input", function)]
    return [*made, *more]


class _Step(Struct):
    step: str
    done: int = 0
    total: int = 0


class _Failed(Struct):
    status: str
    error: str = ""
    message: str = ""


class CheckJob:
    """One run of both models in a process of its own, which may crash and can be ended.

    Attributes:
        step: What it does now.
        settled: The mapping with which both models agreed, if the forward was to decide and they
            did.
    """

    def __init__(self) -> None:
        self.step = "starting Python"
        self.settled: SavedAlignment | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: str | None = None
        self._is_cancelled = False
        self._lock = threading.Lock()

    def run(
        self,
        session: Session,
        typed: Typed,
        source: Source,
        *,
        settles: bool = False,
    ) -> Found:
        """Run both models on the session's alignment; nothing else is left on the disk.

        Args:
            session: The session; nothing is changed there.
            typed: Both models and their inputs.
            source: Where the checkpoint is.
            settles: Let the forward decide doubtful rows, and rows of modules that differ.

        Raises:
            S2PError: It was cancelled, or failed: the user's code, wrong shapes, no memory.
        """
        arguments = typed.arguments()
        try:
            with self._lock:
                self._folder = tempfile.mkdtemp(prefix="s2p-tui-check-")
            mapping = Path(self._folder) / "now.mapping.json"
            content = mapping_of(session.checkpoint, session.target, session.alignment)
            write_mapping(mapping, content, keep_old=False)
            arguments += [*self._source_arguments(session, source), "--mapping", str(mapping)]
            if not settles:
                return self._result([*arguments, "--trust-all"])
            settled = Path(self._folder) / "settled.mapping.json"
            found = self._result([*arguments, "--settle", "--save-mapping", str(settled)])
            if settled.exists():
                self.settled = load_mapping(settled)
            return found
        except OSError as error:
            raise InputError(
                f"The check cannot be started: {error.strerror or error}.", "Try again."
            ) from None
        finally:
            self._clear_up()

    def _source_arguments(self, session: Session, source: Source) -> list[str]:
        """Return the options that name the checkpoint; one in memory is written down first."""
        if source.checkpoint is None:
            self.step = "writing the state dict"
            file = Path(str(self._folder)) / "model.pt"
            write_entries(session.checkpoint, file, self._check)
            self.step = "starting Python"
            return ["--checkpoint", str(file)]
        named = ["--checkpoint", str(source.checkpoint)]
        if session.checkpoint.key:
            named += ["--key", session.checkpoint.key]
        if source.adapter is not None:
            named += ["--adapter", str(source.adapter)]
        return [*named, *["--allow-missing"] * source.allow_missing]

    def _check(self) -> None:
        if self._is_cancelled:
            raise _cancelled()

    def cancel(self) -> None:
        """End the process, if there is one, and remove what it wrote."""
        self._is_cancelled = True
        with self._lock:
            process = self._process
        # One that has ended may have left its number to another program's process.
        if process is not None and process.poll() is None:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_KILL_SECONDS)
        self._clear_up()

    def _clear_up(self) -> None:
        with self._lock:
            folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _result(self, arguments: list[str]) -> Found:
        command = [sys.executable, "-m", "s2p_tui", "check", *arguments]
        command += ["--modules", "--progress", "--json", "--allow-unused", "*"]
        # What it writes lies in the folder that is removed, even if it is killed.
        environment = os.environ | {"TMPDIR": str(self._folder), "PYTHONUNBUFFERED": "1"}
        last: deque[str] = deque(maxlen=_LINES_KEPT)
        with self._lock:
            self._check()
            process = self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        with process:
            reader = threading.Thread(target=self._read_steps, args=(process, last), daemon=True)
            reader.start()
            assert process.stdout is not None
            lines = process.stdout.read().splitlines()
            status = process.wait()
            reader.join()
        self._check()
        return _found(lines[-1] if lines else b"", status, last[-1] if last else "")

    def _read_steps(self, process: subprocess.Popen[bytes], last: deque[str]) -> None:
        """Take down steps, which are JSON, and the last of other lines."""
        assert process.stderr is not None
        for line in process.stderr:
            try:
                step = msgspec.json.decode(line, type=_Step)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                if text := line.decode(errors="replace").strip():
                    last.append(text)
            else:
                figures = f" {step.done:,} of {step.total:,}" if step.total else ""
                self.step = printable(f"{step.step}{figures}")


def _cancelled() -> CancelledError:
    return CancelledError("The check was cancelled.")


def _found(line: bytes, status: int, last: str) -> Found:
    """Return the result in the last line, or raise what it says instead."""
    if status < 0:
        name = signal.Signals(-status).name
        raise InputError(f"The check was ended by {name}.", _NO_MEMORY * (name == "SIGKILL"))
    try:
        return msgspec.json.decode(line, type=Found)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    try:
        failed = msgspec.json.decode(line, type=_Failed)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        why = f": {printable(last)}" if last else ""
        raise InputError(f"The check ended without a result{why}.", "") from None
    raise InputError(f"Both models could not be run: {failed.message or failed.error}", "")


_NO_MEMORY = "The machine may have too little memory for both models."
