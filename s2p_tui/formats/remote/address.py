"""Addresses of checkpoints on other machines, told from paths and looked up."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from s2p_tui.errors import InputError
from s2p_tui.formats.remote.file import RemoteFile, RemoteFolder

_SCHEMES = ("gs", "s3", "https", "http", "hf")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_OF_PATH = re.compile(rf"({'|'.join(_SCHEMES)}):/(?!/)(.*)", re.DOTALL | re.IGNORECASE)
"""An address of which a path was made, which has one slash where there were two."""
_HUB = re.compile(
    r"(?P<repository>[^/@]+/[^/@]+)(?:@(?P<revision>refs/[^/]+/[^/]+|[^/]+))?(?:/(?P<file>.*))?"
)
_PAGES = re.compile(r"/(?P<repository>[^/]+/[^/]+)/(?:blob|tree)/(?P<revision>[^/]+)/?(?P<file>.*)")
_READ = "Give gs://, s3://, https://, http:// or hf://, or a file."


def is_address(where: str | Path) -> bool:
    """Return True for an address, False for a path or an import path."""
    return bool(_OF_PATH.match(str(where)) if isinstance(where, Path) else _ADDRESS.match(where))


def shown(where: str | Path) -> str:
    """Return an address without anything secret; a path as it is."""
    return bare(_text(where)) if is_address(where) else str(where)


def name_of(where: str | Path) -> str:
    """Return the name of the file or folder that a path or an address leads to."""
    if not is_address(where):
        return Path(where).name
    text = _text(where)
    found = _HUB.fullmatch(text.removeprefix("hf://")) if text.startswith("hf://") else None
    path = (found["file"] or found["repository"]) if found else urlsplit(text).path
    return unquote(path.rstrip("/").rpartition("/")[2]) or urlsplit(text).hostname or ""


def located(where: str | Path) -> Path | RemoteFile | RemoteFolder:
    """Return the place that a path or an address leads to.

    Of buckets and repositories it is asked whether that is a file or a folder.

    Raises:
        InputError: There is no such bucket or repository, or no access to it.
        UsageError: A package is missing that this kind of address needs.
    """
    if not is_address(where):
        return Path(where)
    text = _text(where)
    scheme, _, rest = text.partition("://")
    if scheme not in _SCHEMES:
        raise InputError(f"{bare(text)} cannot be read: {scheme}:// is not known here.", _READ)
    if scheme in ("https", "http"):
        return _on_web(text)
    if scheme == "hf":
        return _on_hub(rest)
    from s2p_tui.formats.remote.buckets import BucketStore

    bucket, _, key = rest.partition("/")
    if not bucket:
        raise InputError(f"{text} names no bucket.", f"Write {scheme}://BUCKET/FILE.")
    store, folder = BucketStore(scheme, bucket), key.rstrip("/")
    file = RemoteFile(store, folder)
    if not folder or key.endswith("/") or (not file.exists() and store.names(folder)):
        return RemoteFolder(store, folder)
    return file


def bare(address: str) -> str:
    """Return an address without login, query and fragment, any of which may be secret."""
    try:
        parts = urlsplit(address)
        host = parts.netloc.rpartition("@")[2]
        shown = urlunsplit((parts.scheme, host, unquote(parts.path), "", ""))
    except ValueError:
        return f"{address.partition(':')[0]}://…"
    return f"{shown}?…" if parts.query else shown


def _text(where: str | Path) -> str:
    text = _OF_PATH.sub(r"\1://\2", str(where)) if isinstance(where, Path) else where
    scheme, colon, rest = text.partition(":")
    return f"{scheme.lower()}{colon}{rest}"


def _on_web(address: str) -> RemoteFile:
    from s2p_tui.formats.remote.web import WebStore

    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError:
        host, parts = None, urlsplit("")
    if not host:
        raise InputError(f"{bare(address)} is no usable address.", "Check it for typing errors.")
    page = _PAGES.fullmatch(parts.path)
    if host in ("huggingface.co", "www.huggingface.co", "hf.co") and page is not None:
        file = f"/{page['file']}" if page["file"] else ""
        raise InputError(
            f"{bare(address)} is the page about a file, not the file.",
            f"Give hf://{page['repository']}@{page['revision']}{file}.",
        )
    return RemoteFile(WebStore(), urlsplit(address)._replace(fragment="").geturl())


def _on_hub(rest: str) -> RemoteFile | RemoteFolder:
    from s2p_tui.formats.remote.hub import HubStore

    found = _HUB.fullmatch(rest)
    if found is None:
        raise InputError(
            f"hf://{rest} names no repository.",
            "Write hf://ORGANISATION/REPOSITORY, with @REVISION behind it and /FILE if wanted.",
        )
    store = HubStore(found["repository"], unquote(found["revision"] or ""))
    path = (found["file"] or "").rstrip("/")
    if store.has(path):
        return RemoteFile(store, path)
    if store.has_folder(path):
        return RemoteFolder(store, path)
    raise InputError(
        f"{store.shown(path)} does not exist: the repository has no such file.",
        "Check the name; without it, the repository's one checkpoint is read.",
    )
