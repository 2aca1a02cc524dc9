"""The app that screens and widgets run in, with a type, and the keys it runs with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from s2p_tui.tui.bound import Bound

if TYPE_CHECKING:
    from textual.app import App
    from textual.dom import DOMNode


def app_of(node: DOMNode) -> App[object]:
    """The node's app; Textual itself leaves open what it returns."""
    untyped: Any = node
    return untyped.app


_AS_SHIPPED = Bound()


def bound_of(node: DOMNode) -> Bound:
    """The keys of the node's app; as they are shipped where the app has none of its own."""
    return cast("Bound", getattr(app_of(node), "bound", _AS_SHIPPED))
