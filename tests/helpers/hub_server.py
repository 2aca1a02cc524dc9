"""A stand-in of the Hugging Face Hub on this machine: one repository, and where its files lie."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.web_server import Answer, Asked, WebServer, serving

REPOSITORY = "organisation/model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """The Hub and the server that it sends to.

    Attributes:
        server: Answers questions about the repository, and sends on who asks for files.
        files: Holds the files.
        token: Needed to see the repository, if set.
        revisions: What there is besides the commit.
    """

    def __init__(self, server: WebServer, files: WebServer) -> None:
        self.server, self.files = server, files
        self.token = ""
        self.revisions = {"main", "v1.0", "refs/pr/3"}
        server.answer = self._answer  # type: ignore[method-assign]

    def _answer(self, asked: Asked, *, has_range: bool) -> Answer:
        del has_range
        if self.token and asked.headers.get("authorization") != f"Bearer {self.token}":
            return Answer(401, {"X-Error-Code": "RepoNotFound"}, b"{}")
        about, resolve = f"/api/models/{REPOSITORY}", f"/{REPOSITORY}/resolve/{COMMIT}/"
        if asked.path == about or asked.path.startswith(f"{about}/revision/"):
            revision = asked.path.removeprefix(about).removeprefix("/revision/") or "main"
            if revision not in self.revisions | {COMMIT}:
                return Answer(404, {"X-Error-Code": "RevisionNotFound"}, b"{}")
            names = sorted(
                str(file.relative_to(self.files.root))
                for file in self.files.root.rglob("*")
                if file.is_file()
            )
            found = {
                "id": REPOSITORY,
                "sha": COMMIT,
                "siblings": [{"rfilename": name} for name in names],
            }
            return Answer(200, {"Content-Type": "application/json"}, json.dumps(found).encode())
        if asked.path.startswith(resolve):
            name = asked.path.removeprefix(resolve)
            where = f"{self.files.url}/{name}?signature=secret"
            return Answer(302, {"Location": where, "X-Repo-Commit": COMMIT}, b"")
        return Answer(404, {"X-Error-Code": "RepoNotFound"}, b"{}")


@contextmanager
def hub_of(folder: Path) -> Iterator[Hub]:
    """Serve a folder as a repository meanwhile, and have `huggingface_hub` ask for it here."""
    from huggingface_hub import constants

    with (
        serving(folder) as files,
        serving(folder) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no token"))
        patch.delenv("HF_TOKEN", raising=False)
        yield Hub(server, files)
