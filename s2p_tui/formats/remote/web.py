"""Files of web servers, read by ranges over HTTP."""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import ssl
import threading
import weakref
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from s2p_tui.alignment.task import wait
from s2p_tui.errors import InputError, one_line
from s2p_tui.formats.remote.address import bare
from s2p_tui.formats.remote.file import REPLACED, Answer

if TYPE_CHECKING:
    import httpx2

_ATTEMPTS = 6
FIRST_WAIT = 0.25
"""Seconds; doubled from one attempt to the next, so that they take some eight seconds together."""
_LONGEST_WAIT = 30.0
_SILENCE, _CONNECTING = 60.0, 15.0
"""Seconds without a byte, and until there is a connection."""
_MOST_REDIRECTS = 10
_PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Statuses of which the next attempt may not get one."""
_EXPIRED = frozenset((400, 401, 403, 404, 410))
"""Statuses of an address that a server sent to a while ago, and would not send to any more."""
_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")
_NO_RANGES = "Download it, and give the file."
_LOGIN = "Check the address and your access to it; a login may stand in the address or ~/.netrc."
_LONGEST_REASON = 100


class _PassingError(Exception):
    """A failure that another attempt may not meet: the reason, and how long to wait at least."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.after = reason, after


class WebStore:
    """A web server. Keys are addresses, which may hold a login and a signature.

    Any thread may ask.

    Args:
        headers: Sent with each request, but not to where it is redirected.
        login: The way out where the server refuses.
    """

    def __init__(self, headers: Mapping[str, str] | None = None, login: str = _LOGIN) -> None:
        self._headers = dict(headers or {})
        self._login = login
        self._moved: dict[str, str] = {}
        self._has_answered = False
        self._client: httpx2.Client | None = None
        self._making = threading.Lock()

    def names(self, folder: str) -> Sequence[str] | None:
        """Return None: web servers have no list of files."""
        del folder
        return None

    def join(self, folder: str, name: str) -> str:
        """Return the address of a file in a folder, with the signature of the folder's."""
        parts = urlsplit(folder)
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}"))

    def split(self, key: str) -> tuple[str, str]:
        """Return the address of the folder, and the name in it."""
        parts = urlsplit(key)
        folder, _, name = parts.path.rstrip("/").rpartition("/")
        return urlunsplit(parts._replace(path=folder)), unquote(name) or (parts.hostname or "")

    def shown(self, key: str) -> str:
        """Return the address without login, query and fragment."""
        return bare(key)

    def address(self, key: str) -> str:
        """Return the address that a key is asked for at."""
        return key

    def fetch(self, key: str, start: int, stop: int) -> Answer:
        """Request the bytes of a file; tries again where that may help.

        Raises:
            FileNotFoundError: There is no such file.
            InputError: It cannot be had; the reason in one line.
            CancelledError: The work that needs it is to end.
        """
        pause = FIRST_WAIT
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                answer = self._fetch(key, start, stop)
            except _PassingError as error:
                # A wrong name or a server that is down is told soon, a hiccup later on outlasted.
                last = attempt == (_ATTEMPTS if self._has_answered else _ATTEMPTS // 2)
                if last or error.after > _LONGEST_WAIT:
                    raise InputError(
                        f"{self.shown(key)} cannot be read: {error.reason}, {attempt} times.",
                        "Try again later.",
                    ) from None
                wait(max(error.after, pause * (1 + random.random() / 4)))
                pause *= 2
                continue
            self._has_answered = True
            return answer
        raise AssertionError("unreachable")

    def _fetch(self, key: str, start: int, stop: int) -> Answer:
        """Request once; what a server redirected to is asked directly from then on."""
        import httpx2

        address = self.address(key)
        there = self._moved.get(key, address)
        try:
            with self._answered(there, start, stop, is_moved=there != address) as response:
                if there == address or response.status_code not in _EXPIRED:
                    self._moved[key] = str(response.url)
                    return self._answer(key, response, start, stop)
            del self._moved[key]
            with self._answered(address, start, stop) as response:
                self._moved[key] = str(response.url)
                return self._answer(key, response, start, stop)
        except httpx2.HTTPError as error:
            raise self._failure(key, error) from None
        except (httpx2.InvalidURL, UnicodeError):
            raise InputError(
                f"{self.shown(key)} is no usable address.", "Check it for typing errors."
            ) from None

    @contextlib.contextmanager
    def _answered(
        self, address: str, start: int, stop: int, *, is_moved: bool = False
    ) -> Generator[httpx2.Response, None, None]:
        client = self._open()
        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        if not is_moved:
            headers |= self._headers
        request = client.build_request("GET", address, headers=headers)
        for _ in range(_MOST_REDIRECTS + 1):
            response = client.send(request, stream=True)
            try:
                following = response.next_request
                if following is None:
                    yield response
                    return
                if (request.url.scheme, following.url.scheme) == ("https", "http"):
                    raise InputError(
                        f"{bare(address)} is refused: the server sends to {following.url.host} "
                        "without encryption.",
                        "Give the address it sends to, if you trust it.",
                    )
                request = following
            finally:
                response.close()
        raise InputError(
            f"{bare(address)} cannot be read: the server sends from one address to the next "
            "without end.",
            "Check the address.",
        )

    def _answer(self, key: str, response: httpx2.Response, start: int, stop: int) -> Answer:
        status = response.status_code
        if status in (404, 410):
            raise FileNotFoundError(None, "there is no such file")
        if status == 416:
            return self._behind_the_end(key, response, start)
        if status in _PASSING:
            reason = f"the server answered {_worded(response)}"
            raise _PassingError(reason, _seconds(response.headers.get("retry-after", "")))
        if status not in (200, 206):
            refused = status in (401, 403, 407)
            raise InputError(
                f"{self.shown(key)} cannot be read: the server answered {_worded(response)}.",
                self._login if refused else "Check the address.",
            )
        coding = response.headers.get("content-encoding", "identity")
        if coding != "identity":
            raise InputError(
                f"{self.shown(key)} is sent packed with {one_line(coding, 20)} whatever is asked "
                "for, so that no part of it can be read.",
                _NO_RANGES,
            )
        headers = (response.headers.get("etag", ""), response.headers.get("last-modified", ""))
        version = " ".join(filter(None, headers))
        if status == 200:
            return self._whole(key, response, start, stop, version)
        found = _RANGE.fullmatch(response.headers.get("content-range", ""))
        if found is None or found[3] == "*":
            raise InputError(
                f"{self.shown(key)}: the server does not tell which bytes it sends, or how many "
                "there are.",
                _NO_RANGES,
            )
        first, last, size = map(int, found.groups())
        if (first, last + 1) != (start, min(stop, size)):
            raise InputError(
                f"{self.shown(key)}: bytes {start:,} to {stop:,} were asked for, the server sent "
                f"{first:,} to {last + 1:,} of {size:,}.",
                _NO_RANGES,
            )
        data = self._read(response, last + 1 - first)
        if len(data) != last + 1 - first:
            raise _PassingError(
                f"{last + 1 - first:,} bytes were promised, {len(data):,} were sent"
            )
        return Answer(data, size, version)

    def _whole(
        self, key: str, response: httpx2.Response, start: int, stop: int, version: str
    ) -> Answer:
        """The answer of a server that sends the whole file, if that is no more than was wanted."""
        promised = response.headers.get("content-length", "")
        size = int(promised) if promised.isdecimal() else None
        data = self._read(response, stop) if start == 0 and (size or 0) <= stop else None
        if data is None or len(data) > stop:
            raise InputError(
                f"{self.shown(key)}: the server sends no parts of files, only the whole.",
                _NO_RANGES,
            )
        if size is not None and len(data) != size:
            raise _PassingError(f"{size:,} bytes were promised, {len(data):,} were sent")
        return Answer(data, len(data), version)

    @staticmethod
    def _read(response: httpx2.Response, most: int) -> bytearray:
        """The body, or a little more than so many bytes of it."""
        data = bytearray()
        for part in response.iter_raw():
            data += part
            if len(data) > most:
                break
        return data

    def _behind_the_end(self, key: str, response: httpx2.Response, start: int) -> Answer:
        size = response.headers.get("content-range", "").removeprefix("bytes */")
        if start == 0 and size in ("0", ""):
            return Answer(b"", 0, "")
        raise InputError(f"{self.shown(key)} was replaced while it was read.", REPLACED)

    def _open(self) -> httpx2.Client:
        import httpx2

        with self._making:
            if self._client is None:
                auth = None
                with contextlib.suppress(OSError, SyntaxError):
                    auth = httpx2.NetRCAuth(os.environ.get("NETRC"))
                timeout = httpx2.Timeout(_SILENCE, connect=_CONNECTING)
                limits = httpx2.Limits(max_connections=64, max_keepalive_connections=16)
                self._client = httpx2.Client(auth=auth, timeout=timeout, limits=limits)
                weakref.finalize(self, self._client.close)
            return self._client

    def _failure(self, key: str, error: httpx2.HTTPError) -> Exception:
        """Return the error to report of a failed request, whose own text may hold the address."""
        import httpx2

        causes = list(_causes(error))
        if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
            return InputError(
                f"{self.shown(key)} cannot be read: the certificate of the server is not trusted.",
                "Check the address; SSL_CERT_FILE names further certificates to trust.",
            )
        if isinstance(error, httpx2.UnsupportedProtocol):
            return InputError(f"{self.shown(key)} is no usable address.", "Check the address.")
        named = next((cause for cause in causes if isinstance(cause, socket.gaierror)), None)
        host = urlsplit(self.address(key)).hostname
        if named is not None and named.errno != socket.EAI_AGAIN:
            return InputError(
                f"{self.shown(key)} cannot be read: there is no host {host}.",
                "Check the address and the network.",
            )
        if isinstance(error, httpx2.TimeoutException):
            return _PassingError("the server did not answer in time")
        reason = next((c.strerror for c in causes if isinstance(c, OSError) and c.strerror), None)
        if isinstance(error, httpx2.ConnectError | httpx2.ProxyError):
            return _PassingError(f"no connection ({reason or 'unreachable'})")
        return _PassingError("the answer broke off")


def _causes(error: BaseException) -> Iterator[BaseException]:
    following: BaseException | None = error
    while following is not None:
        yield following
        following = following.__cause__ or following.__context__


def _worded(response: httpx2.Response) -> str:
    reason = one_line(response.reason_phrase, _LONGEST_REASON)
    return f"{response.status_code} {reason}".rstrip()


def _seconds(after: str) -> float:
    return float(after) if after.isdecimal() else 0.0
