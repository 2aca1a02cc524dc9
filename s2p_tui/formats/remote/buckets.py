"""Objects in buckets of Google Cloud Storage and S3."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from configparser import ConfigParser
from configparser import Error as ConfigError
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from s2p_tui.alignment.task import unless_ended
from s2p_tui.errors import CancelledError, InputError, UsageError, one_line
from s2p_tui.formats.remote.file import Answer

_WAYS_OUT = {
    "gs": "Log in with gcloud auth application-default login, or name a key file in "
    "GOOGLE_APPLICATION_CREDENTIALS; GOOGLE_SKIP_SIGNATURE=true reads public buckets.",
    "s3": "Check the keys and the region (AWS_PROFILE, AWS_ACCESS_KEY_ID, AWS_REGION, "
    "~/.aws/credentials); AWS_SKIP_SIGNATURE=true reads public buckets.",
}
_ATTEMPTS = 6
_LONGEST = timedelta(seconds=30)
_SETTINGS: Mapping[str, str] = {
    "aws_access_key_id": "aws_access_key_id",
    "aws_secret_access_key": "aws_secret_access_key",
    "aws_session_token": "aws_session_token",
    "region": "aws_region",
    "endpoint_url": "aws_endpoint_url",
}
"""Settings of a profile as the files of the AWS command line name them, and as obstore does."""
_ELSEWHERE = ("credential_process", "role_arn", "sso_session", "sso_start_url")
"""Settings that say that the keys of a profile have to be fetched by a program."""
_STATUS = re.compile(r"\b([345]\d\d) ([A-Z][A-Za-z ]{2,40})")


class BucketStore:
    """A bucket. Keys are those of its objects.

    Failed requests are tried again by obstore.

    Args:
        scheme: `gs` or `s3`.
        bucket: Its name.

    Raises:
        UsageError: obstore is not installed, or its settings make no sense.
    """

    def __init__(self, scheme: str, bucket: str) -> None:
        try:
            import obstore
            from obstore import store
        except ImportError:
            raise UsageError(
                f"{scheme}:// addresses need the package obstore.",
                "Install it: pip install 's2p-tui[scale]'.",
            ) from None
        self._scheme, self._bucket = scheme, bucket
        self._obstore: Any = obstore
        self._listed: dict[str, Sequence[str]] = {}
        settings = _profile() if scheme == "s3" else {}
        endpoint = settings.get("aws_endpoint_url") or _endpoint(scheme)
        options: dict[str, Any] = {
            "retry_config": {"max_retries": _ATTEMPTS - 1, "retry_timeout": _LONGEST},
            "client_options": {"allow_http": endpoint.startswith("http://")},
        }
        kind: Any = store.S3Store if scheme == "s3" else store.GCSStore
        if settings:
            options["config"] = settings
        try:
            self._store: Any = kind(bucket, **options)
        except Exception as error:
            raise UsageError(
                f"{scheme}://{bucket} cannot be used: {_reason(error)}.", _WAYS_OUT[scheme]
            ) from None

    def fetch(self, key: str, start: int, stop: int) -> Answer:
        """Request the bytes of an object.

        Raises:
            FileNotFoundError: There is no such object.
            InputError: It cannot be had; the reason in one line.
            CancelledError: The work that needs it is to end.
        """

        def get() -> tuple[Any, tuple[int, int], memoryview]:
            result = self._obstore.get(self._store, key, options={"range": (start, stop)})
            return result.meta, result.range, memoryview(result.bytes())

        try:
            # It tries again for half a minute, and hears of no cancel.
            meta, (first, last), data = unless_ended(get)
        except (FileNotFoundError, CancelledError):
            raise
        except Exception as error:
            if start == 0 and self._is_empty(key):
                return Answer(b"", 0, "")
            self._refuse(key, error)
        if first != start or last - first != len(data):
            raise InputError(
                f"{self.shown(key)}: bytes {start:,} to {stop:,} were asked for, {first:,} to "
                f"{last:,} were sent.",
                "Download it, and give the file.",
            )
        version = " ".join(filter(None, (meta["e_tag"], meta["version"])))
        return Answer(data, meta["size"], version or str(meta["last_modified"]))

    def _is_empty(self, key: str) -> bool:
        """Ask for the size alone: no range is one of an empty object."""
        with suppress(Exception):
            return self._obstore.head(self._store, key)["size"] == 0
        return False

    def names(self, folder: str) -> Sequence[str]:
        """Return the names of the objects in a folder.

        Raises:
            InputError: They cannot be had; the reason in one line.
        """
        if folder not in self._listed:
            try:
                found = self._obstore.list_with_delimiter(self._store, folder or None)
            except FileNotFoundError:
                return ()
            except Exception as error:
                self._refuse(folder, error)
            self._listed[folder] = [self.split(one["path"])[1] for one in found["objects"]]
        return self._listed[folder]

    def join(self, folder: str, name: str) -> str:
        """Return the key of an object in a folder."""
        return f"{folder}/{name}" if folder else name

    def split(self, key: str) -> tuple[str, str]:
        """Return the folder of a key, and the name in it."""
        folder, _, name = key.rpartition("/")
        return folder, name or self._bucket

    def shown(self, key: str) -> str:
        """Return the address as the user writes it."""
        return (
            f"{self._scheme}://{self._bucket}/{key}" if key else f"{self._scheme}://{self._bucket}"
        )

    def _refuse(self, key: str, error: Exception) -> NoReturn:
        raise InputError(
            f"{self.shown(key)} cannot be read: {_reason(error)}.", _WAYS_OUT[self._scheme]
        ) from None


def _reason(error: Exception) -> str:
    """Return a failure in a few words. Its own text may hold signed addresses, and keys."""
    text = str(error)
    status = _STATUS.search(text)
    kind = type(error).__name__
    if status is not None:
        return f"the server answered {status[1]} {one_line(status[2].strip(), 40)}"
    if kind in ("PermissionDeniedError", "UnauthenticatedError"):
        return "the login was not accepted, or there is none"
    if "redential" in text or "metadata" in text.lower():
        return "there is no usable login"
    if "error sending request" in text or "connect" in text.lower():
        return "the server cannot be reached"
    return f"obstore reports {one_line(kind, 60)}"


def _endpoint(scheme: str) -> str:
    names = {
        "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
        "gs": ("GOOGLE_BASE_URL",),
    }[scheme]
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


def _profile() -> dict[str, str]:
    """Return what the files of the AWS command line say of the chosen profile.

    Empty where the environment holds keys: obstore reads it, but not the files.

    Raises:
        UsageError: Its keys have to be fetched by a program.
    """
    if os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_SKIP_SIGNATURE"):
        return {}
    named = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
    name = named or "default"
    found: dict[str, str] = {}
    files = (
        (os.environ.get("AWS_CONFIG_FILE", "~/.aws/config"), f"profile {name}"),
        (os.environ.get("AWS_CONFIG_FILE", "~/.aws/config"), name),
        (os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), name),
    )
    for file, section in files:
        parser = ConfigParser(interpolation=None, strict=False)
        with suppress(OSError, ConfigError, UnicodeDecodeError):
            parser.read(Path(file).expanduser())
        if parser.has_section(section):
            found |= dict(parser.items(section))
    fetched = [setting for setting in _ELSEWHERE if setting in found]
    if fetched and "aws_access_key_id" not in found:
        raise UsageError(
            f"The keys of the profile {one_line(name, 60)} are not in its files but come from "
            f"{fetched[0]}.",
            "Put them into the environment, as aws configure export-credentials prints them.",
        )
    if named and not found:
        raise UsageError(
            f"There is no profile {one_line(name, 60)} in ~/.aws.", "Check AWS_PROFILE."
        )
    given = {_SETTINGS[setting]: value for setting, value in found.items() if setting in _SETTINGS}
    # What the environment says comes before the files.
    return {name: value for name, value in given.items() if not os.environ.get(name.upper())}
