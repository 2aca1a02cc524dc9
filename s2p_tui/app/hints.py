"""The app's wording of errors: ways out name keys and dialogs."""

from __future__ import annotations

from typing import TypeVar

from s2p_tui.errors import Code, S2PError

Failure = TypeVar("Failure", bound=S2PError)
_LINE_UP = "n goes to the next one: move its entry there, or trust it with y."
WAYS_OUT = {
    Code.SAVED_MAPPING: "Give a file that ctrl+s saved.",
    Code.LINE_UP_ROWS: _LINE_UP,
    Code.LINE_UP_MISMATCHED_ROWS: "n goes to the next one: move its entry there.",
    Code.LINE_UP_NAMELESS_ROWS: _LINE_UP,
    Code.LOADABLE_DTYPE: "Choose bfloat16 in the dialog, or a name that ends in .safetensors.",
    Code.ANOTHER_PROGRAM: "Quit that one and start again, or save with ctrl+s.",
}
"""What errors can be shown in the app, in its words; others end it, in the caller's words."""


def in_words_of_the_app(error: Failure) -> Failure:
    """Put the hint of an error into the app's words; returns the error."""
    return error.put_into(WAYS_OUT)
