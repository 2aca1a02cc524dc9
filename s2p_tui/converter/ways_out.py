"""The ways out of errors as those who call from Python take them."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from s2p_tui.errors import Code, S2PError

_LINE_UP = (
    "Look at them in the app (s2p_tui.app.start_conversion_from_…), trust doubtful ones with "
    'trust=["…"] or trust=True, follow a mapping="file", or the order with arrange="order".'
)
WAYS_OUT = {
    Code.CHOOSE_STATE_DICT: "Choose one with key=; there are {choices}.",
    Code.ALLOW_MISSING: (
        "Copy or download the whole set again, or leave them out with allow_missing=True."
    ),
    Code.NO_NESTED_STATE_DICT: "Leave key= out.",
    Code.SWAPPED_SIDES: "Check which argument takes the state dict, and which the pytree.",
    Code.NO_NAMES_FOR_LEAVES: "Leave like= out.",
    Code.SAVED_MAPPING: "Give a mapping file that save_mapping=, or ctrl+s in the app, wrote.",
    Code.SAVED_RECIPE: "Give a recipe file that s2p-tui recipe wrote, or the name of one.",
    Code.OTHER_FILES: (
        "Use the files it names, or align these anew. For another depth or width make a recipe of "
        "it (s2p-tui recipe), and give that as recipe=."
    ),
    Code.LINE_UP_ROWS: _LINE_UP,
    Code.LINE_UP_MISMATCHED_ROWS: (
        'Look at them in the app (s2p_tui.app.start_conversion_from_…), or follow a mapping="file".'
    ),
    Code.LINE_UP_NAMELESS_ROWS: (
        f'{_LINE_UP} The leaves of a plain .eqx can be named with like="pkg.module:factory".'
    ),
    Code.ACCEPT_UNUSED: "Accept entries that the model does not need: allow_unused=[{unused}].",
    Code.MERGE_ADAPTER: (
        "Some are a LoRA adapter's, which has to be merged: give the base model's checkpoint and "
        "adapter=, or merge them with PEFT (merge_and_unload) first."
    ),
    Code.ALLOW_OVERFLOW: (
        'Write dtype="bfloat16" or "float32", or allow it with allow_overflow=True.'
    ),
    Code.LOADABLE_DTYPE: (
        'Write bfloat16 with dtype="bfloat16", or a target_name= that ends in .safetensors.'
    ),
    Code.VERIFY_OR_NO_CERTIFICATE: "Leave out certificate= or verify=False.",
    Code.OVERWRITE_CHUNKS: "Choose another folder, or replace these with overwrite=True.",
    Code.SETTLE_MAPPING: (
        'Give the mapping that the conversion saved, or trust=["…"] or trust=True.'
    ),
    Code.GIVE_ORIGINAL: "Give the original as checkpoint=.",
    Code.ALLOW_ENTRY_OVERFLOW: "Scale them down first, or allow it with allow_overflow=True.",
    Code.NOBODY_TO_ASK: (
        "Run it in a terminal, or pass confirm=: a function that takes the question and returns "
        "True to go on."
    ),
}
"""The wording of ways out for those who call from Python."""


@contextlib.contextmanager
def in_words_of_python() -> Generator[None]:
    """Word the hints of errors with the arguments of the calls below."""
    try:
        yield
    except S2PError as error:
        error.put_into(WAYS_OUT)
        raise
