"""The app that screens and widgets run in, with a type."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from textual.app import App
    from textual.dom import DOMNode


def app_of(node: DOMNode) -> App[object]:
    """The node's app; Textual itself leaves open what it returns."""
    return node.app  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
