"""Keys typed faster than screens open: none is lost, none hits another screen."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2p_tui.alignment.mapping_file import SavedAlignment
from s2p_tui.session.opening import load_mapping
from tests.helpers.killing import Program
from tests.models.linears import make_pair

pytestmark = pytest.mark.slow("starts the app in a terminal")
STRAIGHT = [f"lin{n}.{kind}" for n in (1, 2, 3) for kind in ("weight", "bias")]


def keys_of(mapping: SavedAlignment) -> list[str]:
    return [" ".join(row.keys) or "-" for _, row in mapping.rows]


@pytest.mark.parametrize(
    ("typed", "rows", "bench"),
    [
        (b"\x1b[3~a\r", STRAIGHT, []),
        (b"\x1b[3~a \r", ["-", *STRAIGHT[1:]], ["lin1.weight"]),
        (b"1G\rlin3.w\r", ["lin3.weight", *STRAIGHT[1:4], "-", "lin3.bias"], ["lin1.weight"]),
        (b"1G\rlin3.w\x18", ["lin3.weight", *STRAIGHT[1:4], "lin1.weight", "lin3.bias"], []),
        (b"1G\rs\x7f\x03", STRAIGHT, []),
    ],
)
def test_typed_at_once(tmp_path: Path, typed: bytes, rows: list[str], bench: list[str]) -> None:
    pair = make_pair(tmp_path)
    output = tmp_path / "out.eqx"
    arguments = str(pair.model), str(pair.skeleton), "-o", str(output), "--fresh"
    program = Program(*arguments, state_home=tmp_path / "state")
    try:
        program.until(b"lin1.weight")
        program.send(typed)
        program.send(b"\x13")
        program.until(b"Mapping saved")
    finally:
        program.kill_after(0)
    saved = load_mapping(tmp_path / "out.mapping.json")
    assert keys_of(saved) == rows
    assert list(saved.bench) == bench
