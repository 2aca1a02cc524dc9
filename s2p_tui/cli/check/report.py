"""The parity report: every pair of modules as a table in the terminal, Markdown, HTML or JSON."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from s2p_tui.cli.check.arrays import Difference
from s2p_tui.cli.check.gradients import GradientParity
from s2p_tui.cli.check.parity import ModuleParity, worst_first
from s2p_tui.cli.check.result import CheckResult
from s2p_tui.errors import UsageError, printable
from s2p_tui.formats.atomic import written_atomically

SUFFIXES = (".md", ".html", ".json")
_GRADIENT = "gradient"
_PARAMETER_HEADS = ("parameter", "leaves", "max |Δ|", "relative", "cosine")
_HEADS = ("torch", "JAX", "max |Δ|", "relative", "cosine", "dtype", "rows")
# A terminal's page; the file holds all.
_MOST_LINES = 40
_BARS = "▁▂▃▄▅▆▇█"
# The lowest bar: what float32 itself rounds.
_LEAST = 1e-8


def require_suffix(path: Path) -> None:
    """Make sure a report can be written under this name.

    Raises:
        UsageError: Its suffix is none of `SUFFIXES`.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"--report {path} has no known suffix: expected {', '.join(SUFFIXES)}.",
            "Name it parity.md, parity.html or parity.json.",
        )


def write_report(path: Path, result: CheckResult) -> None:
    """Write the report in the format of the file's suffix.

    Raises:
        OutputError: It cannot be written.
    """
    match path.suffix.lower():
        case ".json":
            text = result.as_json() + "\n"
        case ".html":
            text = _html(result)
        case _:
            text = _markdown(result)
    with written_atomically(path) as stream:
        stream.write(text.encode())


def heat(module: ModuleParity) -> str:
    """Return a bar that is as high as the outputs are apart, by powers of ten."""
    relative = module.outputs.relative
    if not math.isfinite(relative):
        return _BARS[-1]
    powers = math.log10(max(relative, _LEAST) / _LEAST)
    return _BARS[min(len(_BARS) - 1, int(powers))]


def table_of(modules: Sequence[ModuleParity]) -> str:
    """Return a heat strip in the order of the forward and a table, those that differ first.

    In colours where stdout is a terminal.
    """
    console = Console(file=io.StringIO(), force_terminal=Console().is_terminal, width=_width())
    has_gradients = any(module.gradients is not None for module in modules)
    strip = Text("forward  ")
    for module in modules:
        strip.append(heat(module), style="green" if module.agrees else "red")
    console.print(strip)
    table = Table(box=None, pad_edge=False)
    for number, head in enumerate(("", *_HEADS, *[_GRADIENT] * has_gradients)):
        aligned = "right" if head in ("max |Δ|", "relative", "cosine", _GRADIENT) else "left"
        table.add_column(head, justify=aligned, overflow="fold", ratio=None, no_wrap=number > 2)
    listed = worst_first(modules)
    for module in listed[:_MOST_LINES]:
        style = "" if module.agrees else "red"
        mark = " " if module.agrees else "✗"
        cells = [mark, *(printable(cell) for cell in _cells(module)[:-1]), str(len(module.rows))]
        if has_gradients:
            apart = module.gradients
            cells.append("" if apart is None else f"{apart.relative:.2g}")
        table.add_row(*(Text(cell, style=style) for cell in cells))
    console.print(table)
    if more := listed[_MOST_LINES:]:
        differ = sum(not module.agrees for module in more)
        console.print(f"and {len(more)} more, of which {differ} differ: the report names all")
    file = console.file
    assert isinstance(file, io.StringIO)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def _width() -> int:
    """The terminal's width; wide enough for everything where there is none."""
    console = Console()
    return console.width if console.is_terminal else 160


def _cells(module: ModuleParity) -> tuple[str, ...]:
    same = module.dtypes[0] == module.dtypes[1]
    dtype = module.dtypes[0] if same else f"{module.dtypes[0]} → {module.dtypes[1]}"
    return (
        module.torch or "(the whole model)",
        module.jax or "(the whole model)",
        *_numbers(module.outputs),
        dtype,
        ", ".join(module.rows),
    )


def _numbers(apart: Difference) -> tuple[str, str, str]:
    cosine = "" if apart.cosine is None else f"{apart.cosine:.6f}"
    return f"{apart.absolute:.2g}", f"{apart.relative:.2g}", cosine


def _verdict(one: ModuleParity | GradientParity) -> str:
    return "agrees" if one.agrees else "DIFFERS"


def _markdown(result: CheckResult) -> str:
    lines = ["# Parity of two models", "", *(f"{line}  " for line in result.as_text().splitlines())]
    lines += _heading("", "", *_HEADS)
    for module in worst_first(result.parity):
        *cells, rows = _cells(module)
        shown = [_code(cell) if place < 2 else cell for place, cell in enumerate(cells)]
        named = "<br>".join(map(_code, module.rows)) if rows else ""
        lines.append(f"| {' | '.join((heat(module), _verdict(module), *shown, named))} |")
    if result.gradients is not None:
        lines += ["", "## Gradients", *_heading("", *_PARAMETER_HEADS)]
        for one in sorted(result.gradients, key=lambda one: one.agrees):
            leaves = "<br>".join(map(_code, one.leaves))
            cells = (_verdict(one), _code(one.key), leaves, *_numbers(one.apart))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join((*lines, ""))


def _heading(*heads: str) -> list[str]:
    safe = (head.replace("|", "\\|") for head in heads)
    return ["", f"| {' | '.join(safe)} |", f"|{'---|' * len(heads)}"]


def _code(text: str) -> str:
    safe = printable(text).replace("|", "\\|").replace("`", "'")
    return f"`{safe}`"


_STYLE = """body { font: 15px/1.5 system-ui, sans-serif; margin: 2em }
table { border-collapse: collapse } td, th { padding: .2em .7em; text-align: left }
td:nth-child(n+4):nth-child(-n+6) { text-align: right; font-variant-numeric: tabular-nums }
tr.differs { background: #b0302022 } .strip i { display: inline-block; width: 6px; margin: 0 1px;
background: #2a8a4a } .strip i.differs { background: #b03020 } details { max-width: 40em }"""


def _html(result: CheckResult) -> str:
    kinds = {True: "agrees", False: "differs"}
    strip = "".join(
        f'<i class="{kinds[module.agrees]}" title="{_safe(module.torch)}" '
        f'style="height: {4 + 4 * _BARS.index(heat(module))}px"></i>'
        for module in result.parity
    )
    lines = [
        "<!doctype html>",
        '<meta charset="utf-8"><title>Parity of two models</title>',
        f"<style>{_STYLE}</style><h1>Parity of two models</h1>",
        *(f"<p>{_safe(line)}</p>" for line in result.as_text().splitlines()),
        f'<p class="strip">{strip}</p>',
        "<table><tr>" + "".join(f"<th>{head}</th>" for head in ("", *_HEADS)) + "</tr>",
    ]
    for module in worst_first(result.parity):
        *cells, _ = _cells(module)
        shown = "".join(f"<td>{_safe(cell)}</td>" for cell in (_verdict(module), *cells))
        rows = "<br>".join(map(_safe, module.rows))
        count = f"<details><summary>{len(module.rows)}</summary>{rows}</details>" if rows else "0"
        lines.append(f'<tr class="{kinds[module.agrees]}">{shown}<td>{count}</td></tr>')
    lines.append("</table>")
    if result.gradients is not None:
        heads = "".join(f"<th>{head}</th>" for head in ("", *_PARAMETER_HEADS))
        lines.append(f"<h2>Gradients</h2><table><tr>{heads}</tr>")
        for one in sorted(result.gradients, key=lambda one: one.agrees):
            leaves = "<br>".join(map(_safe, one.leaves))
            cells = (_safe(_verdict(one)), _safe(one.key), leaves, *_numbers(one.apart))
            shown = "".join(f"<td>{cell}</td>" for cell in cells)
            lines.append(f'<tr class="{kinds[one.agrees]}">{shown}</tr>')
        lines.append("</table>")
    return "\n".join((*lines, ""))


def _safe(text: str) -> str:
    return html.escape(printable(text))
