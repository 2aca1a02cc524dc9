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
    Code.ACCEPT_UNUSED: "n goes to the next unused entry: y accepts it.",
    Code.ALLOW_OVERFLOW: "Choose bfloat16 or float32 in the dialog.",
    Code.LOADABLE_DTYPE: "Choose bfloat16 in the dialog, or a name that ends in .safetensors.",
    Code.ANOTHER_PROGRAM: "Quit that one and start again, or save with ctrl+s.",
}
"""The app's wording of ways out; errors that end the app are worded by the caller."""


def in_words_of_the_app(error: Failure) -> Failure:
    """Put the hint of an error into the app's words; returns the error."""
    return error.put_into(WAYS_OUT)
