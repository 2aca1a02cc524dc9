"""The conversion form, and the summary after a conversion."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec import Struct
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Checkbox, Input, Label, RadioButton, RadioSet, Static

from s2p_tui.app.paths import PathSuggester, typed_path
from s2p_tui.app.terminal.clipboard import copy
from s2p_tui.app.text import many, size_in_words
from s2p_tui.app.theme import Symbols
from s2p_tui.app.widgets.frame import Box
from s2p_tui.conversion.output_names import (
    format_of,
    is_bucket,
    is_other_format,
    location,
    output_path,
)
from s2p_tui.errors import printable

if TYPE_CHECKING:
    from s2p_tui.conversion.output import Converted
    from s2p_tui.formats.models import Factory
    from s2p_tui.session.session import Session

_DTYPES = (None, "float32", "bfloat16", "float16")


class Order(Struct, frozen=True):
    """An output file and its dtype.

    Attributes:
        output: The file.
        dtype: Dtype of the floating-point leaves; None for the skeleton's.
        allow_overflow: Write numbers that the dtype makes infinite or NaN.
    """

    output: Path
    dtype: str | None = None
    allow_overflow: bool = False


def typable(path: Path) -> str:
    """The name as one could type it: bytes that are no text, and control characters, become `_`."""
    return "".join(char if char.isprintable() else "_" for char in str(path))


def obstacle(name: str, sources: Sequence[str | Path] = ()) -> str:
    """Return the reason why an output name cannot be written to; empty if it can.

    Args:
        name: The name.
        sources: Files that are read, which an output must not replace.
    """
    if not name.strip():
        return "Give the file a name."
    path, is_orbax = _named(name)
    if is_bucket(path):
        return ""
    if is_orbax and path.exists():
        return f"{printable(str(path))} exists: remove it first, or choose another name."
    if is_other_format(path):
        return f"{path.suffix} is another format: give it a name in .eqx, .safetensors or .orbax."
    if os.path.realpath(path) in {os.path.realpath(source) for source in sources}:
        return f"{printable(str(path))} is read here: give the output another name."
    if path.is_dir():
        return f"{printable(str(path))} is a folder."
    if not path.parent.is_dir():
        return f"There is no folder {printable(str(path.parent))}."
    return ""


def _named(name: str) -> tuple[Path, bool]:
    """Return the path that a name stands for, and True if it is that of an Orbax checkpoint."""
    is_orbax, typed = format_of(name.strip()) == "orbax", typed_path(name)
    return typed if is_orbax else output_path(typed), is_orbax


def remark(name: str, sources: Sequence[str | Path] = ()) -> str:
    """Return a remark on an output name: an obstacle, a file to be replaced, another suffix."""
    if stop := obstacle(name, sources):
        return stop
    path, is_orbax = _named(name)
    if is_orbax:
        return "An Orbax checkpoint: a folder that loads sharded."
    if path.exists():
        return f"{printable(str(path))} exists: you are asked before it is replaced."
    if path != typed_path(name):
        other = printable(f"{name.strip()}.orbax")
        return f"Will be written as {printable(str(path))}; {other} for Orbax."
    return ""


class PlainRadioButton(RadioButton):
    """A radio button whose state is a sign, not a colour."""

    BUTTON_LEFT = "("
    BUTTON_INNER = " "
    BUTTON_RIGHT = ")"

    def watch_value(self) -> None:
        # Textual has it as a constant of the class and reads it of the button.
        untyped: Any = self
        untyped.BUTTON_INNER = "x" if self.value else " "
        super().watch_value()


class PlainCheckbox(Checkbox):
    """A checkbox whose state is a sign, not a colour."""

    BUTTON_LEFT = "["
    BUTTON_INNER = " "
    BUTTON_RIGHT = "]"

    def watch_value(self) -> None:
        untyped: Any = self
        untyped.BUTTON_INNER = "x" if self.value else " "
        super().watch_value()


class ConvertForm(ModalScreen[Order | None]):
    """Asks for the output's name and dtype; Enter in the name converts.

    Args:
        order: What to begin with.
        symbols: What the terminal can draw.
        remarks: What the user should know, a line each.
        refused: Why the last conversion was refused, if its numbers do not fit their dtype: whether
            to write them in spite of it is asked too.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", show=False),
        Binding("down", "app.focus_next", show=False),
        Binding("up", "app.focus_previous", show=False),
    ]

    def __init__(
        self,
        order: Order,
        symbols: Symbols,
        remarks: Sequence[str] = (),
        sources: Sequence[str | Path] = (),
        refused: str = "",
    ) -> None:
        super().__init__()
        self._sources = sources
        self._refused = printable(refused)
        self._remarks = [printable(line) for line in remarks]
        self._symbols = symbols
        self._order = order
        given = order.dtype
        self._dtypes = _DTYPES if given in _DTYPES else (*_DTYPES, given)
        self._replaced: Path | None = None

    def compose(self) -> ComposeResult:
        with Box(self._symbols, "Convert", "Tab next  Enter convert  Esc cancel"):
            yield Label("Output (.eqx, .safetensors or .orbax)")
            yield Input(
                typable(self._order.output), id="output", compact=True, suggester=PathSuggester()
            )
            yield Label("", id="remark")
            yield Label("Floating-point numbers")
            with RadioSet(id="dtype", compact=True):
                for dtype in self._dtypes:
                    yield PlainRadioButton(
                        dtype or "as in the skeleton", dtype == self._order.dtype
                    )
            if self._refused:
                yield Label(Content(self._symbols.plain(self._refused)), id="refused")
                yield PlainCheckbox(
                    "write them as infinite or NaN", id="allow-overflow", compact=True
                )
            for line in self._remarks:
                yield Label(Content(self._symbols.plain(line)), classes="told")
            with Horizontal(id="buttons"):
                yield Button("Convert", variant="primary", id="convert", compact=True)
                yield Button("Cancel", id="cancel", compact=True)

    @on(Input.Changed)
    def warn(self, event: Input.Changed) -> None:
        self._replaced = None
        self._say(remark(event.value, self._sources))

    def _say(self, remark: str) -> None:
        self.query_one("#remark", Label).update(Content(self._symbols.plain(remark)))

    @on(Input.Submitted)
    @on(Button.Pressed, "#convert")
    def accept(self) -> None:
        name = self.query_one(Input).value.strip()
        if obstacle(name, self._sources):
            self.query_one(Input).focus()
            return
        path, _ = _named(name)
        if not is_bucket(path) and path.exists() and self._replaced != path:
            self._replaced = path
            self._say(f"Replace {printable(str(path))}? Enter again does it, Esc cancels.")
            return
        pressed = self.query_one(RadioSet).pressed_index
        is_allowed = any(box.value for box in self.query(PlainCheckbox))
        self.dismiss(Order(typed_path(name), self._dtypes[max(0, pressed)], is_allowed))

    @on(Button.Pressed, "#cancel")
    def action_cancel(self) -> None:
        self.dismiss(None)


def snippet(
    path: Path,
    leaf_paths: Sequence[str],
    dtype: str | None = None,
    *,
    has_keys: bool = False,
    factory: Factory | None = None,
    library: str = "equinox",
) -> str:
    """Python code that loads the file.

    Args:
        path: The converted file.
        leaf_paths: Key paths of the skeleton; `[0]…` and `[1]…` mean `(model, state)`.
        dtype: The dtype floating-point leaves were written in, if not the skeleton's.
        has_keys: The model holds typed PRNG keys, which are in no file.
        factory: The function that makes the model, if it is known.
        library: `equinox`, `nnx` or `linen`, as `library_of` tells.
    """
    if library == "nnx":
        return _nnx_snippet(path, dtype)
    name = _quoted(str(path))
    is_pair = _is_model_and_state(leaf_paths)
    made = "model, state" if is_pair else "model"
    imports, like = _like(factory, is_pair=is_pair, is_abstract=not has_keys)
    if library == "linen":
        made, like = "variables", "model.init(key, x)"
    if format_of(path) == "orbax":
        return _orbax_snippet(
            _quoted(_absolute(path)), made, imports, like, dtype, has_keys=has_keys
        )
    if path.suffix == ".safetensors":
        return f"from safetensors.flax import load_file\n\nleaves = load_file({name})"
    modules = ["import jax"] if has_keys or "jax." in like else []
    head = "\n".join(["import equinox as eqx", *modules, *imports])
    spec = ", filter_spec=spec" if has_keys else ""
    return (
        f"{head}\n{_EXCEPT_KEYS if has_keys else ''}\n"
        f"like = {like}{f'  # with {dtype} leaves, as in the file' if dtype else ''}\n"
        f"{made} = eqx.tree_deserialise_leaves({name}, like{spec})"
    )


def _like(factory: Factory | None, *, is_pair: bool, is_abstract: bool) -> tuple[list[str], str]:
    """Return imports, and the expression of a model like the one in the file."""
    imports: list[str] = []
    maker, arguments = "Model", ["..."]
    is_split = is_pair
    if factory is not None and factory.module:
        maker, is_split = factory.attribute, factory.holds_state
        imports.append(f"from {factory.module} import {maker.partition('.')[0]}")
        arguments = [f"{name}={value!r}" for name, value in factory.kwargs.items()]
        arguments += ["key=jax.random.PRNGKey(0)"] * factory.takes_key
    if is_split:
        maker = f"eqx.nn.make_with_state({maker})"
    if is_abstract:
        return imports, f"eqx.filter_eval_shape({', '.join([maker, *arguments])})"
    # Keys that the file does not hold are those of this model.
    return imports, f"{maker}({', '.join(arguments)})"


def library_of(owners: Iterable[str | None]) -> str:
    """Return the library that layers are of: `nnx` or `linen` of Flax, or else `equinox`."""
    packages = {owner.split(".")[1] for owner in owners if owner and owner.startswith("flax.")}
    return packages.pop() if len(packages) == 1 else "equinox"


def _nnx_snippet(path: Path, dtype: str | None) -> str:
    name = _quoted(str(path))
    written = f"  # with {dtype} leaves, as in the file" if dtype else ""
    model = (
        f"model = Model(..., rngs=nnx.Rngs(0)){written}\n"
        "state = nnx.state(model, nnx.Not(nnx.RngState))\n"
    )
    if format_of(path) == "orbax":
        return (
            f"import orbax.checkpoint as ocp\nfrom flax import nnx\n\n{model}"
            "wanted = nnx.to_pure_dict(state)\n"
            f"restored = ocp.StandardCheckpointer().restore({_quoted(_absolute(path))}, wanted)\n"
            "nnx.replace_by_pure_dict(state, restored)\nnnx.update(model, state)"
        )
    if path.suffix == ".safetensors":
        return (
            "from flax import nnx\nfrom safetensors.flax import load_file\n\n"
            "def name(path):\n"
            '    return "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in path)\n\n'
            f"{model}leaves = load_file({name})\n"
            "nnx.update(model, nnx.map_state(lambda p, v: v.replace(leaves[name(p)]), state))"
        )
    return (
        f"import equinox as eqx\nfrom flax import nnx\n\n{model}"
        f"nnx.update(model, eqx.tree_deserialise_leaves({name}, state))"
    )


def _absolute(path: Path) -> str:
    """The path as Orbax takes it."""
    return location(path) if is_bucket(path) else str(path.absolute())


def _orbax_snippet(
    name: str,
    made: str,
    imports: Sequence[str],
    like: str,
    dtype: str | None,
    *,
    has_keys: bool,
) -> str:
    is_array = "isinstance(x, jax.ShapeDtypeStruct)"
    if has_keys:
        is_array += " and not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)"
    written = f"  # with {dtype} leaves, as in the checkpoint" if dtype else ""
    head = "\n".join(["import equinox as eqx, jax, orbax.checkpoint as ocp", *imports])
    return (
        f"{head}\n\nlike = {like}{written}\n"
        f"arrays, static = eqx.partition(like, lambda x: {is_array})\n"
        "wanted = jax.tree.map(\n"
        "    lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=...), arrays\n)\n"
        f"restored = ocp.StandardCheckpointer().restore({name}, wanted)\n"
        f"{made} = eqx.combine(restored, static)"
    )


_EXCEPT_KEYS = """
def spec(file, leaf):
    is_jax = isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct))
    if is_jax and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    return eqx.default_deserialise_filter_spec(file, leaf)
"""


def _quoted(name: str) -> str:
    plain = name.isprintable() and not set(name) & {'"', "\\"}
    return f'"{name}"' if plain else repr(name)


def _is_model_and_state(paths: Sequence[str]) -> bool:
    """Both halves have named leaves below: a bare `[0]`, `[1]` is a plain `.eqx` without names."""
    heads = {path[:3] for path in paths if len(path) > 3}
    return heads == {"[0]", "[1]"}


_SHOWN_LOSSES = 5


def report(session: Session, converted: Converted) -> list[str]:
    """Return the summary of a conversion, line by line."""
    from s2p_tui.conversion.report import remarks

    report = session.report_of(converted)
    name = printable(location(report.path))
    lines = [
        f"{name}  {size_in_words(report.bytes)} in {report.seconds:.1f} s",
        "Read back and compared with its sources: equal." if report.verified else "Not verified.",
    ]
    if report.mapping is not None:
        lines.append(f"Mapping: {printable(str(report.mapping))}")
    if unused := len(report.unused):
        accepted = len(session.alignment.accepted)
        of_them = f", {accepted:,} accepted by you" if accepted else ""
        lines.append(f"Not used: {many(unused, 'entry', 'entries')} on the bench{of_them}.")
    for key, left in list(report.parts_unused.items())[:_SHOWN_LOSSES]:
        lines.append(f"Not used of {printable(key)}: {left}.")
    lines += map(printable, remarks(session.alignment.rows, session.target.skeleton))
    losses = list(report.lost.items())
    for path, loss in losses[:_SHOWN_LOSSES]:
        lines.append(f"! {printable(path)}: {loss.words}.")
    if len(losses) > _SHOWN_LOSSES:
        lines.append(f"! And {len(losses) - _SHOWN_LOSSES:,} more leaves lost numbers in the cast.")
    return lines


class Result(ModalScreen[None]):
    """Shown once after each conversion."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,space", "dismiss", show=False),
        Binding("y,Y", "copy", show=False),
        Binding("q", "app.ask_quit", show=False),
    ]

    def __init__(
        self,
        session: Session,
        converted: Converted,
        symbols: Symbols,
        dtype: str | None = None,
        found: str = "",
    ) -> None:
        super().__init__()
        self._lines = [*report(session, converted), *([found] if found else [])]
        paths = [leaf.path for leaf in session.target.skeleton]
        skeleton = session.target.skeleton
        self._snippet = snippet(
            converted.written.path,
            paths,
            dtype,
            has_keys=bool(skeleton.keys),
            factory=session.target.models.jax,
            library=library_of(leaf.owner for leaf in skeleton),
        )
        self._symbols = symbols

    def compose(self) -> ComposeResult:
        with Box(
            self._symbols, "Converted", "y copy the code  Enter close  q quit", can_focus=True
        ):
            facts = "\n".join(map(self._symbols.plain, self._lines))
            yield Static(Content(facts), id="facts")
            yield Static(Content(self._snippet), id="snippet")
            yield Static("", id="copied")

    def action_copy(self) -> None:
        self.query_one("#copied", Static).update(Content(copy(self, self._snippet)))
