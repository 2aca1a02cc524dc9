"""The configuration file: what it can say, and how it is told what it cannot."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from textual.binding import Binding

from s2p_tui.app.config import Settings, as_text, load_settings, locale_is_ascii
from s2p_tui.app.keys import GROUPS, Keymap, actions, key_named, show_key
from s2p_tui.cli import run
from s2p_tui.errors import SettingsError


def settings(tmp_path: Path, text: str) -> Settings:
    (tmp_path / "config.toml").write_text(text)
    return load_settings(tmp_path / "config.toml")


def problems(tmp_path: Path, text: str) -> list[tuple[str, str]]:
    with pytest.raises(SettingsError) as caught:
        settings(tmp_path, text)
    return list(caught.value.problems)


def test_nothing_is_set_without_a_file(tmp_path: Path) -> None:
    assert load_settings(tmp_path / "none.toml") == Settings()


def test_everything_can_be_set(tmp_path: Path) -> None:
    text = 'ascii = true\nmouse = false\ntheme = "nord"\n[keys]\ngap = "f2"\nfind = ["?", "Ctrl+F"]'
    made = settings(tmp_path, f'{text}\nhelp = "F1"\npage_down = ""')
    moved = {"gap": ("f2",), "find": ("question_mark", "ctrl+f"), "help": ("f1",), "page_down": ()}
    assert made == Settings(ascii=True, mouse=False, theme="nord", keymap=Keymap(moved))


def test_every_problem_is_told_with_its_line(tmp_path: Path) -> None:
    text = """ascii = 1
moose = true
theme = "blue"
[keys]
move_dwn = "ctrl+n"
gap = "n"
undo = ["u", 3]
redo = "ctrl+foo"
bench = "7"
quit = "ctrl+c"
mark = "ctrl+i"
"""
    told = problems(tmp_path, text)
    assert [line for line, _ in told] == [f"line {n}" for n in (1, 2, 3, 5, 6, 7, 8, 9, 10, 11)]
    words = dict(told)
    assert "'move_dwn'; move_down may be meant" in words["line 5"]
    assert "n is for next_problem too" in words["line 6"]
    assert "always a way out" in words["line 10"]
    assert "as tab" in words["line 11"]


def test_keys_can_change_places(tmp_path: Path) -> None:
    made = settings(tmp_path, '[keys]\nnext_problem = "N"\nprevious_problem = "n"')
    assert made.keymap.conflicts() == {}


@pytest.mark.parametrize("content", [b"a = ", b"\xff\xfe", b"[keys\n"])
def test_what_is_no_toml_is_one_line_and_usage(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "s2p-tui").mkdir()
    (tmp_path / "s2p-tui" / "config.toml").write_bytes(content)
    assert run(["keys"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("s2p-tui: ")
    assert told.err.count("\n") == 1


def test_keys_prints_a_file_that_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert run(["keys"]) == 0
    printed = capsys.readouterr().out
    assert set(tomllib.loads(printed)["keys"]) == {key.id for key in actions()}
    made = settings(tmp_path, printed).keymap
    assert all(made.keys(key) == Keymap().keys(key) for key in actions())


def test_keys_prints_what_is_bound(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "s2p-tui").mkdir()
    (tmp_path / "s2p-tui" / "config.toml").write_text('[keys]\ngap = "f2"\n')
    assert run(["keys"]) == 0
    printed = capsys.readouterr().out
    assert tomllib.loads(printed)["keys"]["gap"] == ["f2"]
    assert list(as_text(settings(tmp_path, printed).keymap)) == printed.splitlines()
    assert run(["keys", "--shipped"]) == 0
    assert tomllib.loads(capsys.readouterr().out)["keys"]["gap"] == ["s"]


def test_action_names_are_unique_and_plain() -> None:
    names = [key.id for key in actions()]
    assert len(set(names)) == len(names)
    assert all(name.replace("_", "").isalnum() and name.islower() for name in names)


def test_shipped_keys_do_not_clash_and_are_named_as_textual_names_them() -> None:
    assert Keymap().conflicts() == {}
    for key in actions():
        for pressed in key.keys.split(","):
            assert key_named(pressed) == pressed


@pytest.mark.parametrize("char", "?/+.;'[]-_@\\!~Kj<>=#$%^&*()\"`|{}:")
def test_characters_are_named_as_textual_names_them(char: str) -> None:
    (binding,) = Binding.make_bindings([Binding(char, "x")])
    assert key_named(char) == binding.key
    assert show_key(binding.key) == char


@pytest.mark.parametrize(
    ("written", "key"),
    [("Ctrl+N", "ctrl+n"), ("shift+k", "K"), ("PageDown", "pagedown"), ("alt++", "alt+plus")],
)
def test_keys_are_understood_as_people_write_them(written: str, key: str) -> None:
    assert key_named(written) == key


@pytest.mark.parametrize(
    ("environ", "is_ascii"),
    [
        ({}, False),
        ({"LANG": "C.UTF-8"}, False),
        ({"LANG": "de_DE.utf8"}, False),
        ({"LANG": "C"}, True),
        ({"LANG": "POSIX"}, True),
        ({"LANG": "de_DE.ISO-8859-1@euro"}, True),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "C"}, True),
        ({"LANG": "C", "LC_CTYPE": "en_US.UTF-8"}, False),
        ({"LANG": "en_US.UTF-8", "LC_ALL": ""}, False),
    ],
)
def test_only_a_locale_that_says_so_is_ascii(environ: dict[str, str], is_ascii: bool) -> None:
    assert locale_is_ascii(environ) is is_ascii


def test_every_group_begins_with_a_line_that_is_shown() -> None:
    assert all(group[0].shown for group in GROUPS.values())
