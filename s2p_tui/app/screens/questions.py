"""Questions before and around the work: state dict, resume, quit, load a mapping."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Center, Middle
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.widgets import Input, Label, OptionList
from textual.widgets.option_list import Option

from s2p_tui.app.background import in_thread
from s2p_tui.app.paths import PathSuggester, typed_path
from s2p_tui.app.screens.convert import typable
from s2p_tui.app.text import many
from s2p_tui.app.theme import Symbols
from s2p_tui.app.widgets.frame import Box
from s2p_tui.errors import S2PError, printable

if TYPE_CHECKING:
    from s2p_tui.alignment.mapping_file import SavedAlignment
    from s2p_tui.alignment.recipe import Recipe
    from s2p_tui.session.journal_lines import Replayed
    from s2p_tui.session.saved_mapping import Offered
    from s2p_tui.session.session import Session


class Reading(Screen[None]):
    """The first frame: which files are being read.

    Attributes:
        typed: The keys typed meanwhile.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("q,escape,ctrl+c", "app.quit", show=False)]

    def __init__(self, symbols: Symbols, model_label: str, skeleton_label: str) -> None:
        super().__init__()
        self.typed: list[events.Key] = []
        self._words = symbols.plain(
            f"reading {printable(model_label)} and {printable(skeleton_label)} …"
        )

    def compose(self) -> ComposeResult:
        with Middle(), Center():
            yield Label(Content(self._words))

    def on_key(self, event: events.Key) -> None:
        """Keep what is typed for the rows that are about to come."""
        if event.key not in ("q", "escape", "ctrl+c", "ctrl+q"):
            self.typed.append(events.Key(event.key, event.character))


class WhichStateDict(ModalScreen["str | None"]):
    """Asks which of several state dicts in a checkpoint is meant."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss(None)", show=False),
        Binding("j", "app.simulate_key('down')", show=False),
        Binding("k", "app.simulate_key('up')", show=False),
    ]

    def __init__(
        self,
        symbols: Symbols,
        label: str,
        choices: Sequence[tuple[str, int]],
        meanings: Mapping[str, str],
    ) -> None:
        super().__init__()
        self._symbols = symbols
        self._label = label
        self._choices = choices
        self._meanings = meanings

    def compose(self) -> ComposeResult:
        plain = self._symbols.plain
        with Box(self._symbols, "Which state dict?", "Enter choose  Esc quit"):
            yield Label(Content(plain(f"{printable(self._label)} holds several:")))
            options = [plain(self._words(*choice)) for choice in self._choices]
            yield OptionList(*(Option(Content(option)) for option in options), compact=True)

    def _words(self, key: str, count: int) -> str:
        meaning = self._meanings.get(key, "")
        behind = f"  {meaning}" if meaning else ""
        return f"{printable(key)}  {count:,} tensors{behind}"

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._choices[event.option_index][0])


ResumeAnswer = Literal["go on", "mapping", "afresh", "quit"]


class GoOn(ModalScreen[ResumeAnswer]):
    """Asks whether to resume edits, start from a mapping file or start over."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "newest", show=False),
        Binding("y", "take('go on')", show=False),
        Binding("m", "take('mapping')", show=False),
        Binding("n", "take('afresh')", show=False),
        Binding("escape,q", "take('quit')", show=False),
    ]

    def __init__(
        self,
        symbols: Symbols,
        found: Replayed | None,
        offered: Offered | None,
        labels: tuple[str, str],
    ) -> None:
        super().__init__()
        self._symbols = symbols
        self._found = found
        self._offered = offered
        self._labels = labels
        self._choices = self._possible()

    def compose(self) -> ComposeResult:
        keys = {"go on": "y", "mapping": "m", "afresh": "n", "quit": "Esc"}
        keys[next(iter(self._choices))] = "Enter"
        with Box(self._symbols, "Resume?", "", can_focus=True):
            for line in self._facts():
                yield self._label(line)
            yield Label("")
            for answer, words in self._choices.items():
                yield self._label(f"{keys[answer]:<7}{words}")

    def on_resize(self) -> None:
        self.call_after_refresh(self.query_one(Box).scroll_end, animate=False)

    def _label(self, text: str) -> Label:
        return Label(Content(self._symbols.plain(printable(text))))

    def action_take(self, answer: ResumeAnswer) -> None:
        if answer in self._choices:
            self.dismiss(answer)

    def action_newest(self) -> None:
        self.dismiss(next(iter(self._choices)))

    def _possible(self) -> dict[ResumeAnswer, str]:
        """The answers in words, the one for Enter first."""
        found, offered = self._found, self._offered
        choices: dict[ResumeAnswer, str] = {}
        if found is not None:
            choices["go on"] = "resume the edits" if offered else "resume them"
        if offered is not None:
            choices["mapping"] = f"start from {offered.path.name}"
            if found is not None and offered.saved > found.last:
                choices = {"mapping": choices["mapping"], "go on": choices["go on"]}
        if offered is None or not offered.is_taken:
            choices["afresh"] = "start over"
        choices["quit"] = "quit, changing nothing"
        return choices

    def _facts(self) -> list[str]:
        found, offered = self._found, self._offered
        facts: list[str] = []
        if found is not None:
            made_with = found.header.source.file, found.header.target.file
            others = (
                ""
                if made_with == self._labels
                else f" They were made with {' and '.join(made_with)}."
            )
            last = _when(found.last)
            facts.append(f"This pair has {many(found.edits, 'edit')}, the last on {last}.{others}")
        if offered is not None:
            whose = "is a mapping of it too" if found else "is a mapping of this pair"
            facts.append(f"{offered.path.name} {whose}, saved on {_when(offered.saved)}.")
        if found is not None:
            facts.append("Edits you do not resume are backed up.")
        return facts


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


QuitAnswer = Literal["save", "quit", "stay"]


class ConfirmQuit(ModalScreen[QuitAnswer]):
    """Asks before edits that no mapping file holds, or a running conversion, are left."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss('quit')", show=False),
        Binding("q", "again", show=False),
        Binding("s,ctrl+s", "save", show=False),
        Binding("n,escape", "dismiss('stay')", show=False),
    ]

    def __init__(
        self, symbols: Symbols, *, unsaved: bool = True, kept: bool, converting: bool = False
    ) -> None:
        super().__init__()
        self._symbols = symbols
        self._unsaved = unsaved
        self._kept = kept
        self._converting = converting

    def compose(self) -> ComposeResult:
        again = "  (or the same key again)" if self._harmless else ""
        with Box(self._symbols, "Quit?", ""):
            yield Label("\n".join(self._lines()) + "\n")
            if self._can_save:
                yield Label("s    save the mapping and quit")
            yield Label(f"y    {'quit without saving' if self._unsaved else 'quit'}{again}")
            yield Label("Esc  stay")

    def action_again(self) -> None:
        """Quit by the key that asked for it, where nothing is lost by pressing it twice."""
        if self._harmless:
            self.dismiss("quit")

    def action_save(self) -> None:
        if self._can_save:
            self.dismiss("save")

    @property
    def _harmless(self) -> bool:
        return self._kept and not self._converting

    @property
    def _can_save(self) -> bool:
        return self._unsaved and not self._converting

    def _lines(self) -> list[str]:
        lines: list[str] = []
        if self._converting:
            lines.append("The conversion has not ended: it would be stopped, nothing written.")
        if self._unsaved and self._kept:
            lines.append(
                "Your edits are not saved in a mapping file. The journal has them: opening the "
                "pair again resumes them."
            )
        elif self._unsaved:
            lines.append(
                "Your edits are not saved in a mapping file, nor journalled: they are lost."
            )
        return lines


class SaveRecipe(ModalScreen["str | None"]):
    """The result is a recipe's name or file, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", show=False)]

    def __init__(self, name: str, symbols: Symbols) -> None:
        super().__init__()
        self._name = name
        self._symbols = symbols

    def compose(self) -> ComposeResult:
        with Box(self._symbols, "Save as a recipe", "Enter saves  Esc cancels"):
            yield Label("Name in your folder of recipes, or a .json file")
            yield Input(self._name, compact=True)

    @on(Input.Submitted)
    def take(self, event: Input.Submitted) -> None:
        if event.value.strip():
            self.dismiss(event.value.strip())


class LoadMapping(ModalScreen["SavedAlignment | Recipe | None"]):
    """The result is a mapping that belongs to the pair, a recipe, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", show=False)]

    def __init__(self, session: Session, path: Path, symbols: Symbols) -> None:
        super().__init__()
        self._session = session
        self._path = path
        self._symbols = symbols

    def compose(self) -> ComposeResult:
        """The line to type in, and what is wrong with what it names."""
        with Box(self._symbols, "Load mapping", "Enter loads  Esc cancels"):
            yield Label("Mapping or recipe file, or a recipe's name; u takes it back")
            yield Input(typable(self._path), compact=True, suggester=PathSuggester())
            yield Label("", id="remark")

    @on(Input.Changed)
    def forget(self) -> None:
        self._say("")

    @on(Input.Submitted)
    def load(self, event: Input.Submitted) -> None:
        if event.value.strip():
            self._say("reading")
            self._load(typed_path(event.value))

    @work(exclusive=True)
    async def _load(self, path: Path) -> None:
        try:
            mapping = await in_thread(
                lambda: _read(path, self._session), "Reading the mapping file"
            )
        except S2PError as error:
            self._say(str(error))
        else:
            self.dismiss(mapping)

    def _say(self, text: str) -> None:
        self.query_one("#remark", Label).update(Content(self._symbols.plain(printable(text))))


def _read(path: Path, session: Session) -> SavedAlignment | Recipe:
    """The mapping in a file, or the recipe in it or of that name.

    Raises:
        S2PError: It cannot be read, or was made for other files.
    """
    from s2p_tui.alignment.mapping_file import replay
    from s2p_tui.session.opening import load_mapping
    from s2p_tui.session.recipes import is_recipe, load_recipe

    if is_recipe(path):
        return load_recipe(path)
    mapping = load_mapping(path)
    replay(mapping, session.checkpoint.state_dict, session.target.skeleton)
    return mapping
