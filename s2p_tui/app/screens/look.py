"""The Look screen: metadata and statistics of a row's tensors, read in the background."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from msgspec import Struct
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from s2p_tui.alignment.judge import as_taken
from s2p_tui.alignment.proof import Proof, Question
from s2p_tui.alignment.state_dict import Entry
from s2p_tui.alignment.task import Task
from s2p_tui.alignment.transform import describe, show
from s2p_tui.app.background import in_thread
from s2p_tui.app.text import many, size_in_words
from s2p_tui.app.theme import Symbols
from s2p_tui.app.widgets.frame import Box, BoxKeys
from s2p_tui.app.wording import AUTHORS, reason_of
from s2p_tui.errors import CancelledError, S2PError, printable

if TYPE_CHECKING:
    from s2p_tui.alignment.skeleton import Leaf
    from s2p_tui.conversion.statistics import Statistics
    from s2p_tui.formats.base import Tensors
    from s2p_tui.session.session import Session

_MOST_TIED = 4
_LABEL = 10
_FEWEST_BAR = 4


class Subject(Struct, frozen=True):
    """One tensor to look at.

    Attributes:
        title: What it is.
        where: Where its numbers lie.
        entry: Its name, shape and dtype.
        tensors: Gives its numbers.
    """

    title: str
    where: str
    entry: Entry
    tensors: Tensors


def subjects(session: Session, index: int) -> list[Subject]:
    """The tensors at an index: the entries, then the value the skeleton has."""
    row, key = session.row(index), session.benched(index)
    keys = row.keys if row is not None else (key,) if key is not None else ()
    checkpoint, target = session.checkpoint, session.target
    found = [
        Subject(key, _in_checkpoint(session, key), checkpoint.state_dict[key], checkpoint.tensors)
        for key in keys
    ]
    if row is not None:
        leaf = target.skeleton[index]
        if leaf.has_value:
            entry = Entry(leaf.path, leaf.shape, leaf.dtype)
            where = _place(target.values, leaf.path, target.label)
            found.append(Subject(f"{leaf.path} in the skeleton", where, entry, target.values))
    return found


def _in_checkpoint(session: Session, key: str) -> str:
    checkpoint = session.checkpoint
    where = _place(checkpoint.tensors, key, checkpoint.label)
    storage = checkpoint.state_dict[key].storage
    if storage is None:
        return where
    tied = [
        entry.key
        for entry in checkpoint.state_dict
        if entry.storage == storage and entry.key != key
    ]
    if not tied:
        return where
    more = f" and {len(tied) - _MOST_TIED:,} more" if len(tied) > _MOST_TIED else ""
    return f"{where}; tied with {', '.join(map(printable, tied[:_MOST_TIED]))}{more}"


def _place(tensors: Tensors, name: str, label: str) -> str:
    extent = tensors.extent(name)
    if extent is None:
        where = "in memory" if tensors.in_memory else "made of several pieces"
        return f"{printable(label)}, {where}"
    strides = "" if extent.is_contiguous else f", strides {extent.strides}"
    return f"{printable(extent.file.name)}, from byte {extent.offset:,}{strides}"


def about_row(session: Session, index: int, symbols: Symbols) -> list[str]:
    """All that is known of a row without its numbers."""
    row, verdict = session.row(index), session.verdict(index)
    if row is None or verdict is None:
        account = session.unused_at(index)
        return [f"On the bench: {printable(account.why)}."] if account is not None else []
    leaf = session.target.skeleton[index]
    kind = "  Python scalar" if leaf.kind == "scalar" else ""
    lines = [f"{printable(leaf.path)}  {show(leaf.shape)} {leaf.dtype}{kind}"]
    if leaf.owner:
        lines.append(f"layer: {owner_in_words(leaf)}")
    if row.source is not None:
        made = as_taken(row.source, leaf, session.checkpoint.state_dict)
        lines.append(f"transform: {describe(made) or 'none, as it is'}")
    elif row.gap:
        lines.append("a gap: the leaf keeps the skeleton's value")
    why = f": {printable(verdict.why)}" if verdict.why else ""
    lines.append(f"{symbols.sign(verdict)} {verdict.fit}{why}")
    trusted = ", trusted" if row.trusted else ""
    reason = f": {printable(reason_of(row))}" if row.why and row.why != verdict.why else ""
    lines.append(f"row {index + 1:,}, {AUTHORS[row.by]}{trusted}{reason}")
    if session.evidence is not None:
        suggestion = session.evidence.suggestions[index]
        if suggestion.reason and suggestion.reason not in (row.why, verdict.why):
            lines.append(f"the matcher: {printable(suggestion.reason)}")
        lines += proof_in_words(session.proof(index))
    return lines


def proof_in_words(proof: Proof) -> list[str]:
    """The answer to each question that could make a row wrong, or that there is none."""
    answers = proof.as_json()
    if len({*answers.values()}) == 1:
        (answer,) = {*answers.values()}
        return [f"proof: {answer or 'none'}"]
    return [f"{question.words}: {answers[question] or 'nothing shows it'}" for question in Question]


def owner_in_words(leaf: Leaf) -> str:
    """The layer that holds a leaf, with its fields: `equinox.nn.Conv2d(groups=2)`."""
    fields = ", ".join(f"{name}={value!r}" for name, value in leaf.config.items())
    return printable(f"{leaf.owner}({fields})" if fields else str(leaf.owner))


def kind_of(subject: Subject) -> str:
    """Its shape, dtype and size."""
    entry = subject.entry
    return f"{show(entry.shape)} {entry.dtype}  {size_in_words(entry.nbytes)}"


def figures(found: Statistics, dtype: str) -> list[str]:
    """The numbers in words."""
    of = "magnitudes: " if dtype.startswith("complex") else ""
    zeros = f"{found.zeros:,} zero"
    if found.zeros and found.count:
        zeros += f" ({_percent(found.zeros / found.count)})"
    counted = f"{many(found.count, 'element')}: {found.nan:,} NaN, {found.inf:,} infinite, {zeros}"
    if found.low is None or found.high is None:
        return [counted] if found.count else ["It has no elements."]
    return [
        f"{of}min {_number(found.low)}  max {_number(found.high)}",
        f"mean {_number(found.mean or 0)}  std {_number(found.std or 0)}",
        counted,
    ]


def _percent(share: float) -> str:
    return f"{share:.1%}" if 0.001 <= share <= 0.999 or share == 1 else f"{share:.2g}"


def _number(value: float | int) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.5g}"


def histogram(found: Statistics, width: int, symbols: Symbols) -> list[str]:
    """One line an interval: where it starts, a bar, how many."""
    if found.low is None or found.high is None:
        return []
    bins, most = found.bins, max(found.bins)
    counts = [f"{count:,}" for count in bins]
    step = (float(found.high) / len(bins)) - (float(found.low) / len(bins))
    starts = [_number(float(f"{found.low + step * n:.3g}")) for n in range(len(bins))]
    label = max(_LABEL, *map(len, starts))
    last = max(map(len, counts))
    room = max(_FEWEST_BAR, width - label - last - 2)
    block = "#" if symbols.is_ascii else "█"
    return [
        f"{start:>{label}} {block * _length(count, most, room):<{room}} {number:>{last}}"
        for start, count, number in zip(starts, bins, counts, strict=True)
    ]


def _length(count: int, most: int, room: int) -> int:
    """Cells of a bar; what is there is never invisible."""
    return max(1, round(count / most * room)) if count else 0


_POLLS_PER_SECOND = 10
_MOST = 32


class Look(BoxKeys, ModalScreen[None]):
    """Reads one tensor after the other in a thread; Esc stops that and closes.

    Attributes:
        progress: How far the reading is; None before it starts and after it ends.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,i,enter,ctrl+c", "dismiss(None)", show=False),
        *BoxKeys.bindings(),
    ]

    def __init__(self, session: Session, index: int, symbols: Symbols) -> None:
        super().__init__()
        self.progress: Task | None = None
        self._session = session
        self._position = index
        self._symbols = symbols
        all_of_them = subjects(session, index)
        self._subjects = all_of_them[:_MOST]
        self._more = len(all_of_them) - len(self._subjects)
        self._found: dict[int, Statistics | str] = {}

    def compose(self) -> ComposeResult:
        with Box(self._symbols, "Look", "Esc closes  j/k scroll"):
            yield Static(id="look")

    def on_mount(self) -> None:
        self.set_interval(1 / _POLLS_PER_SECOND, self._poll)
        self._show()
        self._read()

    def on_resize(self) -> None:
        self.call_after_refresh(self._show)

    def on_unmount(self) -> None:
        if self.progress is not None:
            self.progress.cancel()

    @property
    def box(self) -> Box:
        return self.query_one(Box)

    @property
    def text(self) -> str:
        """The text of the screen."""
        width = max(1, self.query_one("#look").size.width)
        lines = about_row(self._session, self._position, self._symbols)
        for number, subject in enumerate(self._subjects):
            lines += ["", printable(subject.title), kind_of(subject), subject.where]
            lines += self._numbers(number, subject, width)
        if self._more:
            lines += ["", f"and {self._more:,} more entries"]
        return "\n".join(map(self._symbols.plain, lines))

    def _numbers(self, number: int, subject: Subject, width: int) -> list[str]:
        found = self._found.get(number)
        if found is None:
            is_next = number == len(self._found)
            progress = self.progress if is_next else None
            if progress is None or not progress.total:
                return ["reading …"]
            return [f"reading … {progress.done / progress.total:.0%}"]
        if isinstance(found, str):
            return [found]
        lines = figures(found, subject.entry.dtype)
        return [*lines, *histogram(found, width, self._symbols)]

    def _poll(self) -> None:
        if self.progress is not None:
            self._show()

    def _show(self) -> None:
        if self.is_mounted:
            self.query_one("#look", Static).update(Content(self.text))

    @work
    async def _read(self) -> None:
        from s2p_tui.conversion.statistics import statistics

        for number, subject in enumerate(self._subjects):
            progress = self.progress = Task()
            entry = subject.entry
            try:
                self._found[number] = await in_thread(
                    partial(
                        statistics, subject.tensors, entry.key, entry.shape, entry.dtype, progress
                    ),
                    "Reading",
                    expected=OSError,
                )
            except CancelledError:
                return
            except S2PError as error:
                self._found[number] = printable(str(error))
            except OSError as error:
                self._found[number] = f"It cannot be read: {error.strerror}."
            self.progress = None
            self._show()
