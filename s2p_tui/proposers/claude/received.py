"""An answer as it comes in, and whether it ended of its own accord."""

from __future__ import annotations

from typing import Any

from s2p_tui.core.errors import ProposerError
from s2p_tui.core.printable import printable


class Received:
    """An answer while it comes in."""

    def __init__(self, output_tokens: int) -> None:
        self.output_tokens = output_tokens
        self.parts: list[str] = []
        self.size = 0
        self.ended = False
        self.stop_reason: str | None = None
        self.refusal = ""

    def take(self, event: Any) -> None:
        """Add what an event brings."""
        match event.type:
            case "content_block_delta" if event.delta.type == "text_delta":
                self.parts.append(event.delta.text)
                self.size += len(event.delta.text)
            case "message_delta":
                self.stop_reason = event.delta.stop_reason or self.stop_reason
                details = getattr(event.delta, "stop_details", None)
                self.refusal = getattr(details, "explanation", None) or self.refusal
            case "message_stop":
                self.ended = True
            case _:
                pass


def text_of(received: Received) -> str:
    """The answer's text if it ended of its own accord.

    Raises:
        ProposerError: It did not.
    """
    match received.stop_reason:
        case "refusal":
            said = printable(" ".join(received.refusal.split()))[:200].rstrip(".")
            why = f": {said}" if said else ""
            raise ProposerError(
                f"Claude refuses to answer{why}.",
                "Line the rows up by hand, or try another model.",
            )
        case "max_tokens":
            raise ProposerError(
                f"Claude's answer was cut off after {received.output_tokens:,} tokens.",
                "Line up some rows by hand first, so that fewer have to be asked.",
            )
        case "model_context_window_exceeded":
            raise ProposerError(
                "The request is too large for this model.", "Choose a model with a longer context."
            )
        case _:
            pass
    text = "".join(received.parts)
    if not text.strip():
        raise ProposerError("Claude's answer is empty.", "Ask again.")
    return text
