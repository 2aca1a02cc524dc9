"""From the app's screen to SVG, and from that to PNG."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import resvg_py
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.console import Console
from textual.app import App

_FONT_SIZE = 21
"""At which DejaVu Sans Mono's box-drawing characters meet from line to line, 24.4 pixels apart."""
_ASPECT = 0.602 * _FONT_SIZE / 20
"""Width of a cell as the exporter counts it, in its own size of 20."""
_FONTS = [
    Path("/usr/share/fonts/truetype/dejavu", name)
    for name in ("DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf")
]
_COLOURS = 256
_MADE_FROM = "Made from the SVG of SHA-256"
_FORMAT = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix, .{unique_id}-title {{
font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: SIZEpx; white-space: pre
}}
.{unique_id}-title {{ font-size: 17px }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
""".replace("SIZE", str(_FONT_SIZE))


def svg_of(app: App[object], title: str) -> str:
    """The app's screen in a window of that title: the same text for the same screen.

    Textual's own export names a font on the web, and other ids for every picture.
    """
    width, height = app.size
    console = Console(
        width=width,
        height=height,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        record=True,
        legacy_windows=False,
        safe_box=False,
    )
    console.print(
        app.screen._compositor.render_update(
            full=True, screen_stack=app._background_screens, simplify=True
        )
    )
    svg = console.export_svg(
        title=title, code_format=_FORMAT, font_aspect_ratio=_ASPECT, unique_id="s"
    )
    lines = (line.strip() for line in svg.replace("><", ">\n<").splitlines())
    return "\n".join(line for line in lines if line) + "\n"


def write_png(svg: str, path: Path) -> None:
    """Draw the SVG with DejaVu Sans Mono, in few colours, and note the SVG's digest in the file."""
    if missing := [str(font) for font in _FONTS if not font.exists()]:
        raise SystemExit(f"No {', '.join(missing)}: apt-get install fonts-dejavu-core")
    drawn = bytes(
        resvg_py.svg_to_bytes(
            svg_string=svg, font_files=list(map(str, _FONTS)), skip_system_fonts=True
        )
    )
    image = Image.open(io.BytesIO(drawn)).quantize(_COLOURS, Image.Quantize.FASTOCTREE)
    note = PngInfo()
    note.add_text(_MADE_FROM, _digest(svg))
    image.save(path, "PNG", optimize=True, pnginfo=note)


def is_made_from(svg: str, path: Path) -> bool:
    """Whether a PNG says that it was drawn from this SVG."""
    with Image.open(path) as image:
        return image.info.get(_MADE_FROM) == _digest(svg)


def _digest(svg: str) -> str:
    return hashlib.sha256(svg.encode()).hexdigest()
