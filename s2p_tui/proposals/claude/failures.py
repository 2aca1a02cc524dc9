"""Errors of the connection to Claude, one line each, never in the exception's own words."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from s2p_tui.errors import ProposerError, printable
from s2p_tui.proposals.claude.account import Secret

_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason why an attempt failed.

    Attributes:
        error: The error for the user.
        again: True if another attempt may succeed.
        after: Seconds the service asks to wait; 0 if it does not say.
        status: The HTTP status, 0 if there was none.
    """

    error: ProposerError
    again: bool = False
    after: float = 0.0
    status: int = 0


def failed_status(status: int, body: Any, headers: Any, *, model: str, key: Secret) -> Failure:
    """An answer that is an error.

    Args:
        status: The HTTP status; of an error in mid-stream that of the type it names.
        body: The body, decoded if it was JSON.
        headers: The response's headers.
        model: The model asked for.
        key: The key, to keep it out of what is said.
    """
    said = _said(body, key)
    again = status in (408, 409, 429) or status >= 500
    if headers.get("x-should-retry") in ("true", "false"):
        again = headers["x-should-retry"] == "true"
    return Failure(_status_error(status, said, model, key), again, _seconds(headers), status)


def _status_error(status: int, said: str, model: str, key: Secret) -> ProposerError:
    words = f" ({said})" if said else ""
    match status:
        case 401:
            return ProposerError(
                f"Anthropic does not accept the key from {key.source}.",
                "Check that it is copied whole, is not revoked and belongs to this address.",
            )
        case 403:
            return ProposerError(
                f"The key may not use {model}{words}.", "Choose another model or another key."
            )
        case 404:
            return ProposerError(f"There is no model {model}{words}.", "Choose another model.")
        case 413:
            return ProposerError(
                "Anthropic refuses the request as too large.",
                "Line up some rows by hand first, so that less has to be asked.",
            )
        case 429:
            return ProposerError(f"Anthropic's rate limit is reached{words}.", "Ask again later.")
        case 529:
            return ProposerError("Claude is overloaded.", "Ask again in a minute.")
        case _ if status >= 500:
            return ProposerError(
                f"Anthropic's service failed with status {status}{words}.", "Ask again later."
            )
        case _:
            return ProposerError(
                f"Anthropic refused the request with status {status}{words}.",
                "Choose another model, or line the rows up by hand.",
            )


_TYPES = {
    "overloaded_error": 529,
    "rate_limit_error": 429,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "invalid_request_error": 400,
    "timeout_error": 504,
}


def status_of_type(body: Any) -> int:
    """The status that the error in a stream would have had as a response."""
    return _TYPES.get(_in(body, "type"), 500)


def _in(body: Any, name: str) -> str:
    found = _item(_item(body, "error"), name)
    return found if isinstance(found, str) else ""


def _item(value: object, name: str) -> object:
    return cast("dict[object, object]", value).get(name) if isinstance(value, dict) else None


def _said(body: Any, key: Secret) -> str:
    words = printable(" ".join(key.scrub(_in(body, "message")).split())).rstrip(".")
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 1]}…"


def _seconds(headers: Any) -> float:
    try:
        seconds = float(headers.get("retry-after", "0"))
    except ValueError:
        return 0.0
    return seconds if 0 < seconds < 1e9 else 0.0


def unreachable(error: BaseException, address: str, seconds: float) -> Failure:
    """A connection that was not made, or answered nothing."""
    host = urlsplit(address).hostname or address
    hint = "Check the network, the proxy settings and ANTHROPIC_BASE_URL."
    chain = list(_chain(error))
    if any(type(cause).__name__ in ("UnsupportedProtocol", "InvalidURL") for cause in chain):
        error = ProposerError(
            "ANTHROPIC_BASE_URL is not an address.",
            "Give one that begins with https://, or unset it.",
        )
        return Failure(error)
    if any("Timeout" in type(cause).__name__ for cause in chain):
        words = f"{host} did not answer within {seconds:.0f} s."
    elif any(isinstance(cause, socket.gaierror) for cause in chain) or _says(
        chain, "resol", "name or service"
    ):
        words = f"The name {host} cannot be resolved."
    elif any(isinstance(cause, ConnectionRefusedError) for cause in chain) or _says(
        chain, "refused"
    ):
        words = f"{host} refuses the connection."
    elif _says(chain, "certificate", "ssl"):
        words = f"The connection to {host} is not secure: its certificate is not accepted."
    else:
        words = f"{host} closed the connection without an answer."
    return Failure(ProposerError(words, hint), again=True)


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _says(chain: list[BaseException], *words: str) -> bool:
    return any(word in str(cause).lower() for cause in chain for word in words)


def broken_off() -> ProposerError:
    """An answer that began and did not end."""
    return ProposerError("The connection broke off in the middle of Claude's answer.", "Ask again.")


def not_the_api(address: str) -> ProposerError:
    """Something answered that is not Claude's API."""
    host = urlsplit(address).hostname or address
    return ProposerError(
        f"{host} answers, but not as Claude's API does.", "Check ANTHROPIC_BASE_URL and the proxy."
    )
