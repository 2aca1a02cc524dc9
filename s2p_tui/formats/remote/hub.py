"""Repositories of the Hugging Face Hub, pinned to one commit."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from s2p_tui.errors import InputError, UsageError
from s2p_tui.formats.remote.web import WebStore

if TYPE_CHECKING:
    from collections.abc import Generator

_LOGIN = (
    "Log in with hf auth login or set HF_TOKEN, and ask for access on the model's page if it is "
    "gated."
)
_ADDRESS = "Write hf://ORGANISATION/REPOSITORY, with @REVISION behind it and /FILE if wanted."


class HubStore(WebStore):
    """A repository of models. Keys are paths in it.

    The list of its files and the commit are asked for once; everything is read of that commit.

    Args:
        repository: `organisation/name`.
        revision: A branch, tag or commit; empty for the main branch.

    Raises:
        InputError: There is no such repository or revision, or it may not be read.
        UsageError: huggingface_hub is not installed.
    """

    def __init__(self, repository: str, revision: str = "") -> None:
        try:
            import huggingface_hub
        except ImportError:
            raise UsageError(
                "hf:// addresses need the package huggingface_hub.",
                "Install it: pip install 's2p-tui[hub]'.",
            ) from None
        from huggingface_hub import utils

        self._address = f"hf://{repository}{f'@{revision}' if revision else ''}"
        self._repository = repository
        # It warns of limits and of redirects on standard error, in the middle of the app.
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        with self._worded():
            found: Any = huggingface_hub.HfApi().model_info(
                repository, revision=revision or None, timeout=30
            )
        self._commit: str = found.sha
        self._names: list[str] = [file.rfilename for file in found.siblings or ()]
        self._hub: Any = huggingface_hub
        headers: Any = utils
        super().__init__(headers.build_hf_headers(), _LOGIN)

    def names(self, folder: str) -> Sequence[str]:
        """Return the names of the files in a folder."""
        start = f"{folder}/" if folder else ""
        inside = (name[len(start) :] for name in self._names if name.startswith(start))
        return [name for name in inside if "/" not in name]

    def has(self, path: str) -> bool:
        """Return True if the repository has a file of this path."""
        return path in self._names

    def has_folder(self, path: str) -> bool:
        """Return True if the repository has files in a folder of this path."""
        return not path or any(name.startswith(f"{path}/") for name in self._names)

    def join(self, folder: str, name: str) -> str:
        """Return the path of a file in a folder."""
        return f"{folder}/{name}" if folder else name

    def split(self, key: str) -> tuple[str, str]:
        """Return the folder of a path, and the name in it."""
        folder, _, name = key.rpartition("/")
        return folder, name or self._repository.rpartition("/")[2]

    def shown(self, key: str) -> str:
        """Return the address as the user writes it."""
        return f"{self._address}/{key}" if key else self._address

    def address(self, key: str) -> str:
        """Return the address that a file is asked for at: that of the pinned commit."""
        return self._hub.hf_hub_url(self._repository, key, revision=self._commit)

    @contextmanager
    def _worded(self) -> Generator[None, None, None]:
        """Tell failures of the Hub's own library in one line each."""
        import httpx2
        from huggingface_hub import errors

        def refuse(problem: str, way_out: str) -> NoReturn:
            raise InputError(f"{self._address} {problem}.", way_out) from None

        try:
            yield
        except errors.GatedRepoError:
            refuse("is gated, and you have no access to it", _LOGIN)
        except errors.RevisionNotFoundError:
            refuse("does not exist: the repository has no such revision", "Check the revision.")
        except errors.RepositoryNotFoundError:
            refuse("does not exist, or is private", f"Check the name. {_LOGIN}")
        except errors.OfflineModeIsEnabled:
            refuse("cannot be read: HF_HUB_OFFLINE forbids it", "Unset it.")
        except errors.HFValidationError:
            refuse("is no repository's name", _ADDRESS)
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            way_out = _LOGIN if status in (401, 403) else "Try again later."
            refuse(f"cannot be read: the Hub answered {status}", way_out)
        except (httpx2.HTTPError, OSError):
            refuse("cannot be read: the Hub cannot be reached", "Check the network.")
