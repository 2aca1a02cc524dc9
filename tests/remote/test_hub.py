"""Checkpoints in repositories of the Hugging Face Hub, of which a stand-in runs here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from s2p_tui.cli import run
from s2p_tui.errors import InputError, UsageError
from s2p_tui.formats.registry import open_checkpoint
from tests.helpers.files import save_safetensors, save_zip
from tests.helpers.hub_server import COMMIT, REPOSITORY, Hub, hub_of
from tests.helpers.remote_models import holds, model, sharded

ADDRESS = f"hf://{REPOSITORY}"
TOKEN = "hf_secret_token"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with hub_of(tmp_path) as hub:
        yield hub


def test_a_repository_is_its_one_checkpoint(tmp_path: Path, hub: Hub) -> None:
    tensors = model()
    save_safetensors(tensors, tmp_path / "model.safetensors")
    (tmp_path / "README.md").write_text("# A model")
    (tmp_path / "config.json").write_text("{}")
    holds(ADDRESS, tensors)
    asked = {one.path for one in hub.files.asked}
    assert asked == {"/model.safetensors"}


def test_a_sharded_repository_is_read_by_its_index(tmp_path: Path, hub: Hub) -> None:
    tensors = model(9)
    sharded(tmp_path, tensors, 4)
    holds(ADDRESS, tensors)
    hub.files.forget()
    assert open_checkpoint(ADDRESS).label == "model.safetensors.index.json"
    assert hub.files.requests == 5


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/3", "refs%2Fpr%2F3", COMMIT])
def test_all_is_read_of_one_commit(tmp_path: Path, hub: Hub, revision: str) -> None:
    tensors = model()
    (tmp_path / "sub").mkdir()
    save_zip(tensors, tmp_path / "sub" / "m.pt")
    holds(f"{ADDRESS}@{revision}/sub/m.pt", tensors)
    holds(f"{ADDRESS}@{revision}/sub", tensors)
    resolved = [one.path for one in hub.server.asked if "/resolve/" in one.path]
    assert set(resolved) == {f"/{REPOSITORY}/resolve/{COMMIT}/sub/m.pt"}


def test_where_the_hub_sends_to_is_asked_directly(tmp_path: Path, hub: Hub) -> None:
    tensors = model()
    save_safetensors(tensors, tmp_path / "m.safetensors")
    holds(f"{ADDRESS}/m.safetensors", tensors)
    assert len([one for one in hub.server.asked if "/resolve/" in one.path]) == 1


def test_the_token_goes_to_the_hub_alone(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_safetensors(model(), tmp_path / "m.safetensors")
    hub.token = TOKEN
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert run(["inspect", ADDRESS]) == 0
    assert not any("authorization" in one.headers for one in hub.files.asked)
    printed = capsys.readouterr()
    assert TOKEN not in printed.out + printed.err
    assert "signature" not in printed.out + printed.err


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("hf://organisation/another", "does not exist, or is private"),
        (f"{ADDRESS}@v9", "the repository has no such revision"),
        (f"{ADDRESS}/other.pt", "the repository has no such file"),
        ("hf://an organisation/a-model", "is no repository's name"),
        (ADDRESS, "holds several checkpoints: a.safetensors, b.pt"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    tmp_path: Path, hub: Hub, address: str, problem: str
) -> None:
    del hub
    save_safetensors(model(1), tmp_path / "a.safetensors")
    save_zip(model(2), tmp_path / "b.pt")
    with pytest.raises(InputError, match=problem) as caught:
        open_checkpoint(address)
    assert "\n" not in str(caught.value)


def test_a_gated_repository_says_how_to_get_in(tmp_path: Path, hub: Hub) -> None:
    save_safetensors(model(1), tmp_path / "a.safetensors")
    hub.token = TOKEN
    with pytest.raises(InputError, match="Log in with hf auth login"):
        open_checkpoint(ADDRESS)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"pip install 's2p-tui\[hub\]'"):
        open_checkpoint(ADDRESS)
