"""Every example runs that is shown to those who come from statedict2pytree."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import jax
import pytest

from s2p_tui import app, converter
from s2p_tui.cli import run

ROOT = Path(__file__).parents[1]


def section() -> str:
    text = (ROOT / "README.md").read_text()
    found = re.search(r"^## Coming from statedict2pytree$(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def blocks() -> list[tuple[str, str]]:
    text = section() + (ROOT / "s2p_tui/converter/README.md").read_text()
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.slow("runs every example")
def test_every_example_runs_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert [language for language, _ in blocks()] == ["python"] * 3 + ["bash", "python"]
    names: dict[str, object] = {}
    for language, text in blocks():
        if language == "python":
            exec(text, names)  # The pages' own text.
        else:
            for line in text.splitlines():
                program, *arguments = shlex.split(line)
                assert program == "s2p-tui"
                assert run(arguments) == 0
    out = capsys.readouterr().out
    assert "model.eqx: " in out
    assert "chunks, 4 entries" in out
    assert "2 of 2 rows do not line up.\n  ['a']: " in out
    assert (tmp_path / "again.eqx").read_bytes() == (tmp_path / "from_chunks.eqx").read_bytes()
    network, filled = names["network"], names["model"]
    for name in ("lin1", "lin2"):
        expected = network[name].weight.detach().numpy()  # pyright: ignore[reportIndexIssue]
        assert (jax.numpy.asarray(expected) == filled[name].weight).all()


def test_the_table_names_what_there_is() -> None:
    rows = [line for line in section().splitlines() if line.startswith("| ")]
    assert len(rows) > 8
    text = "\n".join(rows)
    parameters = converter.convert.__annotations__.keys()
    for name in re.findall(r"(\w+)=", text):
        assert name in parameters, name
    for name in re.findall(r"start_conversion_\w+|chunkify_\w+", text):
        assert hasattr(app, name) or hasattr(converter, name), name


def test_the_arguments_are_those_of_the_ancestor_in_its_order() -> None:
    import inspect

    parameters = inspect.signature(converter.convert).parameters.values()
    positional = {p.name: p.default for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
    assert list(positional.items()) == [
        ("from_memory", False), ("from_path", False), ("state_dict", None), ("pytree", None),
        ("path_to_state_dict_object", None), ("path_to_pytree_object", None), ("chunkify", False),
        ("path_to_state_dict_chunks", None), ("path_to_pytree_chunks", None),
        ("arrange_with_anthropic", False), ("anthropic_model", "sonnet3.5"),
        ("target_name", "model.eqx"), ("target_dir", "."),
    ]  # fmt: skip
    others = [p for p in parameters if p.name not in positional]
    assert all(p.kind is p.KEYWORD_ONLY for p in others)
