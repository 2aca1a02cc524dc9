"""Names of models, and the last one chosen."""

from __future__ import annotations

import typing
from pathlib import Path

import pytest

from s2p_tui.errors import UsageError
from s2p_tui.proposals.claude.account import (
    ALIASES,
    DEFAULT,
    last_choice,
    model_named,
    remember,
    retirement,
)


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases_stand_for_models_the_sdk_knows_and_does_not_retire(alias: str) -> None:
    from anthropic.types import Model as SdkModel  # Takes seconds.

    known = typing.get_args(typing.get_args(SdkModel)[0])
    assert model_named(alias).id in known
    assert retirement(model_named(alias).id) == ""


def test_only_the_retired_alias_is_warned_of() -> None:
    assert [alias for alias in ALIASES if model_named(alias).warning] == ["sonnet3.5"]
    assert "retired: claude-sonnet-5-5 instead" in model_named("sonnet3.5").warning


def test_any_full_id_is_taken() -> None:
    for name in ("claude-opus-4-8", "us.anthropic.claude-x-v1:0", "  claude-next  "):
        assert model_named(name).id == name.strip()


@pytest.mark.parametrize("name", ["", "a", "two words", "new\nline", "-x", "x" * 200, "é-claude"])
def test_what_can_be_no_model(name: str) -> None:
    with pytest.raises(UsageError, match=r"is no model\. Give haiku, sonnet, opus"):
        model_named(name)


def test_retirement_is_the_sdks() -> None:
    assert retirement("claude-3-opus-20240229").endswith("retired by January 5th, 2026.")


def test_last_choice_is_remembered(state_home: Path) -> None:
    assert last_choice() == DEFAULT
    remember("opus")
    assert last_choice() == "opus"
    remember("claude-next-7")
    assert last_choice() == "claude-next-7"
    (file,) = (path for path in state_home.rglob("*") if path.is_file())
    file.write_bytes(b"\xff\xfe no model")
    assert last_choice() == DEFAULT


def test_choice_that_cannot_be_kept_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    remember("opus")
    assert last_choice() == DEFAULT
