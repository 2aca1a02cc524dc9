"""The one module that talks to Anthropic's service, through the official SDK."""

from __future__ import annotations

import socket
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

from s2p_tui.errors import CancelledError, ProposerError, printable
from s2p_tui.proposals.claude.account import Secret
from s2p_tui.proposals.claude.job import Asking, Budget, estimate
from s2p_tui.proposals.claude.question import INSTRUCTIONS, SCHEMA

if TYPE_CHECKING:
    from anthropic import Anthropic, Timeout


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


_REFUSED = {
    401: (
        "Anthropic does not accept the key from {source}.",
        "Check that it is copied whole, is not revoked and belongs to this address.",
    ),
    403: ("The key may not use {model}{said}.", "Choose another model or another key."),
    404: ("There is no model {model}{said}.", "Choose another model."),
    413: (
        "Anthropic refuses the request as too large.",
        "Line up some rows by hand first, so that less has to be asked.",
    ),
    429: ("Anthropic's rate limit is reached{said}.", "Ask again later."),
    529: ("Claude is overloaded.", "Ask again in a minute."),
}
_FAILED = ("Anthropic's service failed with status {status}{said}.", "Ask again later.")
_OTHERWISE = (
    "Anthropic refused the request with status {status}{said}.",
    "Choose another model, or line the rows up by hand.",
)


def _status_error(status: int, said: str, model: str, key: Secret) -> ProposerError:
    message, hint = _REFUSED.get(status, _FAILED if status >= 500 else _OTHERWISE)
    words = f" ({said})" if said else ""
    return ProposerError(
        message.format(source=key.source, model=model, said=words, status=status), hint
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


T = TypeVar("T")
_CONNECT_SECONDS = 15.0
_COUNT_SECONDS = 10.0
_FIRST_WAIT = 1.0


@dataclass(frozen=True, slots=True)
class Prompt:
    """The words of one request.

    Attributes:
        context: The common beginning of several requests.
        question: The rest.
        keep: True if the beginning will be sent again soon, so that caching it pays.
    """

    context: str
    question: str
    keep: bool = False

    @property
    def tokens(self) -> int:
        """By estimate, instructions and schema included."""
        return estimate(INSTRUCTIONS, repr(SCHEMA), self.context, self.question)

    def request(self, model: str) -> dict[str, Any]:
        """The arguments that counting and asking have in common."""
        context: dict[str, Any] = {"type": "text", "text": self.context}
        if self.keep:
            context["cache_control"] = {"type": "ephemeral"}
        return {
            "model": model,
            "system": [{"type": "text", "text": INSTRUCTIONS}, context],
            "messages": [{"role": "user", "content": self.question}],
            "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
        }


@dataclass(frozen=True, slots=True)
class Listed:
    """A model that the service offers.

    Attributes:
        id: Its id.
        name: Its display name.
        note: That it will be retired; empty if not.
    """

    id: str
    name: str
    note: str = ""


class Client:
    """A connection to the service; every method may block and stops when the job is cancelled.

    The SDK's own retries are off: it obeys `retry-after` almost without limit.

    Args:
        key: The key.
        budget: The spending limits.
        job: Progress and cancellation.
    """

    def __init__(self, key: Secret, budget: Budget, job: Asking) -> None:
        self._key = key
        self._budget = budget
        self._job = job
        self._client: Anthropic | None = None

    @contextmanager
    def connected(self) -> Generator[Client]:
        """Import the SDK and keep connections while inside."""
        self._job.phase = "loading"
        import anthropic

        self._job.check()
        # Retired models are reported in this program's own words.
        warnings.filterwarnings("ignore", r"The model '.*' is deprecated", DeprecationWarning)
        timeout = anthropic.Timeout(self._budget.silence, connect=_CONNECT_SECONDS)
        client = self._made(timeout)
        if client is None:
            raise ProposerError(
                "The address to reach Claude at cannot be used.",
                "Check ANTHROPIC_BASE_URL and the proxy settings.",
            )
        try:
            self._client = client
            yield self
        finally:
            self._client = None
            client.close()

    def _made(self, timeout: Timeout) -> Anthropic | None:
        """The SDK's client; None if the environment's addresses make no sense."""
        import anthropic

        hooks = {"request": [self._job.watch]}
        try:
            return anthropic.Anthropic(
                api_key=self._key.reveal(),
                max_retries=0,
                timeout=timeout,
                http_client=anthropic.DefaultHttpxClient(event_hooks=hooks, timeout=timeout),
                open_telemetry=False,
            )
        # Whatever the SDK makes of these addresses and proxies, its words may hold the key.
        except Exception:
            return None

    def count(self, prompt: Prompt, model: str) -> int | None:
        """Input tokens by the service's own count; None if it does not say."""

        def call(client: Anthropic) -> int | None:
            counted = client.messages.count_tokens(**prompt.request(model), timeout=_COUNT_SECONDS)
            tokens = getattr(counted, "input_tokens", None)
            return tokens if isinstance(tokens, int) else None

        outcome = self._attempt(call, model)
        self._job.check()
        return None if isinstance(outcome, Failure) else outcome

    def models(self) -> list[Listed]:
        """The models that the service offers, newest first.

        Raises:
            ProposerError: It does not say.
            CancelledError: The job was cancelled.
        """

        def call(client: Anthropic) -> list[Listed]:
            return [
                Listed(printable(model.id), printable(model.display_name), _lifecycle(model))
                for model in client.models.list(limit=100, timeout=_COUNT_SECONDS).data
                if model.lifecycle != "retired"
            ]

        outcome = self._attempt(call, "")
        self._job.check()
        if isinstance(outcome, Failure):
            raise outcome.error
        return outcome

    def ask(self, prompt: Prompt, model: str) -> str:
        """The text of an answer that ended as it should.

        Raises:
            ProposerError: There is none.
            CancelledError: The job was cancelled.
        """
        deadline = time.monotonic() + self._budget.deadline
        for attempt in range(1, self._budget.attempts + 1):
            self._job.check()
            outcome = self._attempt(
                lambda client: self._stream(client, prompt, model, deadline), model
            )
            self._job.check()
            if not isinstance(outcome, Failure):
                return text_of(outcome)
            wait = outcome.after or _FIRST_WAIT * 2 ** (attempt - 1)
            too_long = wait > min(self._budget.longest_wait, deadline - time.monotonic())
            if not outcome.again or attempt == self._budget.attempts or too_long:
                raise _last(outcome, attempt)
            self._job.phase = f"{outcome.error.message.rstrip('.')}; trying again in {wait:.0f} s"
            self._job.wait(wait)
        raise AssertionError("unreachable")

    def _attempt(self, call: Callable[[Anthropic], T], model: str) -> T | Failure:
        """The outcome of a call. No exception of the SDK leaves here, as it may hold the key."""
        import anthropic
        import httpx2

        client = self._client
        assert client is not None
        address = str(client.base_url)
        try:
            return call(client)
        except (ProposerError, CancelledError) as error:
            failure = error
        except anthropic.APIStatusError as error:
            in_stream = error.status_code < 400
            status = status_of_type(error.body) if in_stream else error.status_code
            refused = failed_status(
                status, error.body, error.response.headers, model=model, key=self._key
            )
            return Failure(refused.error) if in_stream else refused
        except anthropic.APIConnectionError as error:
            return unreachable(error, address, self._budget.silence)
        except httpx2.HTTPError:
            return Failure(broken_off())
        except (anthropic.AnthropicError, ValueError, AssertionError, AttributeError):
            return Failure(not_the_api(address))
        except Exception as error:
            failure = ProposerError(
                f"Unexpected {type(error).__name__} while asking Claude.", "Please report this."
            )
        if isinstance(failure, CancelledError):
            self._job.check()
        return Failure(failure if isinstance(failure, ProposerError) else broken_off())

    def _stream(self, client: Anthropic, prompt: Prompt, model: str, deadline: float) -> Received:
        self._job.phase = "waiting for the answer to begin"
        stream = client.messages.create(
            **prompt.request(model), max_tokens=self._budget.output_tokens, stream=True
        )
        received = Received(self._budget.output_tokens)
        with stream:
            if "text/event-stream" not in stream.response.headers.get("content-type", ""):
                raise not_the_api(str(client.base_url))
            for event in stream:
                self._job.check()
                if time.monotonic() > deadline:
                    raise ProposerError(
                        f"Claude took longer than {self._budget.deadline:.0f} s.",
                        "Ask again, or about fewer rows.",
                    )
                before = received.size
                received.take(event)
                self._job.received += received.size - before
                if received.size:
                    self._job.phase = "receiving the answer"
                if received.size > self._budget.answer_bytes:
                    raise ProposerError(
                        f"Claude's answer is longer than {self._budget.answer_bytes:,} bytes, more "
                        "than any could need.",
                        "Ask again, or choose another model.",
                    )
        if not received.ended:
            raise broken_off()
        return received


def _last(failure: Failure, attempts: int) -> ProposerError:
    """Return the error to report after the last attempt."""
    error, hint = failure.error, failure.error.hint
    message = error.message
    if attempts > 1:
        message = f"{message.rstrip('.')}, {attempts} times in a row."
    if failure.after:
        hint = f"Ask again after {failure.after:.0f} s, as it says."
    return ProposerError(message, hint)


def _lifecycle(model: Any) -> str:
    if model.lifecycle != "deprecated":
        return ""
    return f"retires {model.retires_at:%Y-%m-%d}" if model.retires_at else "will be retired"
