"""Whatever a file's pickle asks for, no command runs it: a canary would tell."""

from __future__ import annotations

import io
import os
import pickle
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s2p_tui.cli import run
from tests.formats.hostile import CANARY, PAYLOADS, SONG, Calls, as_legacy, as_zip, text, touch

PLANTED = "s2p_planted"
"""A module that leaves the canary when it is imported."""


class Sets:
    """Pickles as an object whose state is set by a function of its own."""

    def __reduce__(self) -> Any:
        return (type, ("x", (), {}), {"__setstate__": eval, "x": SONG})


def nested() -> bytes:
    """A checkpoint in a checkpoint: torch itself would unpickle the inner one without asking."""
    inner = io.BytesIO()
    torch.save({"w": Calls(os.system, touch.decode())}, inner)
    load: Any = torch.storage._load_from_bytes
    return pickle.dumps({"w": Calls(load, inner.getvalue())}, 2)


MORE: dict[str, bytes] = {
    **{name: payload for name, (payload, _) in PAYLOADS.items()},
    "import": b"\x80\x02c" + PLANTED.encode() + b"\nvalue\n.",
    "import by string": b"\x80\x04\x8c" + bytes([len(PLANTED)]) + PLANTED.encode()
    + b"\x8c\x05value\x93.",
    "import by INST": b"\x80\x02(i" + PLANTED.encode() + b"\nvalue\n.",
    "set state": pickle.dumps(Sets(), 2),
    "chain": pickle.dumps(Calls(getattr, Calls(__import__, "os"), "system"), 2),
    "nested": nested(),
    "fx": b"\x80\x02ctorch.fx.graph_module\nreduce_graph_module\n(}" + text(b"_code")
    + text(SONG.encode()) + b"s" + text(SONG.encode()) + b"tR.",
    "jit": b"\x80\x02ctorch.jit\nload\n(" + text(touch) + b"tR.",
    "numpy load": b"\x80\x02cnumpy\nload\n(" + text(CANARY.encode()) + b"NI01\ntR.",
    "numpy array": pickle.dumps(np.array([Calls(eval, SONG)], object), 4),
    "persistent": b"\x80\x02(" + text(b"storage") + b"cbuiltins\neval\n" + text(SONG.encode())
    + text(b"cpu") + b"K\x01tQ.",
    "persistent line": b"\x80\x02P" + SONG.encode() + b"\n.",
    "buffers": b"\x80\x05\x97.",
    "in the magic number": b"",
}  # fmt: skip


def as_tar(payload: bytes, path: Path) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in ("pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            archive.addfile(info, io.BytesIO(payload))
    return path


def as_bare(payload: bytes, path: Path) -> Path:
    """A plain pickle, which a legacy file begins with too."""
    path.write_bytes(payload or pickle.dumps(Calls(eval, SONG), 2))
    return path


@pytest.mark.parametrize("wrap", [as_zip, as_legacy, as_tar, as_bare])
@pytest.mark.parametrize("case", MORE)
def test_no_command_runs_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: str,
    wrap: Callable[[bytes, Path], Path],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"{PLANTED}.py").write_text(f"{SONG}\nvalue = dict")
    model = str(wrap(MORE[case], tmp_path / "model.pt"))
    before = set(os.listdir())
    for arguments in (
        ["inspect", model],
        ["convert", model, "missing.eqx", "-o", "out.eqx"],
        ["convert", "missing.pt", model, "-o", "out.eqx"],
        ["verify", model, "--model", model, "--skeleton", model, "--mapping", model],
        ["chunk", model, "chunks"],
    ):
        assert run(arguments) == 4
        assert capsys.readouterr().err.count("\n") == 1
    assert set(os.listdir()) == before
    assert PLANTED not in sys.modules


def test_the_planted_module_would_sing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"{PLANTED}.py").write_text(f"{SONG}\nvalue = dict")
    pickle.loads(MORE["import"])
    assert Path(CANARY).exists()
    del sys.modules[PLANTED]
