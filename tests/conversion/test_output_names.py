"""How output files are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2p_tui.conversion.output_names import default_output


def test_the_default_output_is_never_one_of_the_two_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_output("model.pt", "skeleton.eqx") == Path("model.eqx")
    assert default_output("model.pt", tmp_path / "model.eqx") == Path("model_converted.eqx")
    assert default_output("model.eqx") == Path("model_converted.eqx")
    assert default_output(tmp_path / "far" / "model.eqx") == Path("model.eqx")
