"""Adding a command to the app: its docstring and its examples become its help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from s2p_tui.cli.options import app

Command = TypeVar("Command", bound=Callable[..., Any])


def command(examples: str) -> Callable[[Command], Command]:
    """Have a function answer to its name.

    Args:
        examples: Commands as one types them, each below a line that says what it does; at most 78
            characters a line, as terminals are 80 wide.
    """

    def added(function: Command) -> Command:
        app.command(
            function, help=unwrapped(function.__doc__ or ""), help_epilogue=as_epilogue(examples)
        )
        return function

    return added


def unwrapped(text: str) -> str:
    """A docstring with each paragraph in one line, for a terminal of any width to wrap."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def as_epilogue(examples: str) -> str:
    """Examples as they stand at the end of a help text."""
    lines = inspect.cleandoc(examples).splitlines()
    return "\n".join(["Examples:", *(f"  {line}".rstrip() for line in lines)])
