"""A certificate says what was read back of every leaf, and says so only if that was right."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import SetRows
from s2p_tui.alignment.proof import Question
from s2p_tui.alignment.transform import Permute, Sum, Take
from s2p_tui.cli import run
from s2p_tui.conversion import contents
from s2p_tui.conversion.evaluate import tiles
from s2p_tui.errors import OutputError, UsageError
from s2p_tui.session.session import Session
from tests.helpers.sessions import open_pair

SMALL = 4096
"""Bytes of a chunk: the larger leaves are converted and compared in many regions."""


def _tensors() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {
        "copied": torch.randn(5_000, generator=rng),
        "permuted": torch.randn(100, 60, generator=rng),
        "cast": torch.randn(3_000, generator=rng),
        "lost": torch.tensor([1.0, 1e5, -1e6, float("inf"), float("nan"), 3e-8]),
        "a": torch.randn(4, generator=rng),
        "b": torch.randn(4, generator=rng),
        "odd": torch.randn(3, 4, generator=rng),
        "extra": torch.ones(1),
    }


def _tree() -> dict[str, Any]:
    return {
        "0": jnp.zeros(5_000),
        "1": jnp.zeros((60, 100)),
        "2": jnp.zeros(3_000, jnp.bfloat16),
        "3": jnp.zeros(6, jnp.float16),
        "4": jnp.zeros(4),
        "5": jnp.zeros((4, 3)),
        "6": jnp.arange(5.0),
        "7": 0.25,
    }


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    (tmp_path / "in").mkdir()
    found = open_pair(tmp_path / "in", _tensors(), _tree())
    rows = (
        Row(Take("copied"), by="user"),
        Row(Permute(Take("permuted"), (1, 0)), by="user", why="turned"),
        Row(Take("cast"), by="user"),
        Row(Take("lost"), by="user"),
        Row(Sum((Take("a"), Take("b"))), by="user"),
        Row(Take("odd"), by="user", trusted=True),
        Row(gap=True, by="user"),
        Row(gap=True),
    )
    found.edit(SetRows(tuple(enumerate(rows))))
    found.allow_unused(["extra"])
    yield found
    found.close()


def _records(path: Path) -> list[bytes]:
    return [b"\x93NUMPY" + part for part in path.read_bytes().split(b"\x93NUMPY")[1:]]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("chunk", [SMALL, 1 << 26])
def test_a_certificate_tells_what_is_in_the_file(
    session: Session, tmp_path: Path, chunk: int
) -> None:
    out, report = tmp_path / "out.eqx", tmp_path / "report.json"
    converted = session.convert(out, chunk_bytes=chunk, certificate=report, allow_overflow=True)
    assert converted.certificate == report
    found = json.loads(report.read_text())
    leaves = found.pop("leaves")
    model = tmp_path / "in" / "model.pt"
    assert found == {
        "format": "s2p-certificate",
        "version": 1,
        "verified": True,
        "source": {
            "file": "model.pt",
            "size": model.stat().st_size,
            "entries": 8,
            "digest": session.checkpoint.state_dict.digest,
            "files": [str(model)],
            "key": "",
        },
        "target": {
            "file": "skeleton.eqx",
            "size": (tmp_path / "in" / "skeleton.eqx").stat().st_size,
            "leaves": 8,
            "digest": session.target.skeleton.digest,
        },
        "output": {
            "path": str(out),
            "bytes": out.stat().st_size,
            "sha256": _sha256(out.read_bytes()),
        },
        "versions": found["versions"],
        "dtype": None,
        "unused": [{"key": "extra", "why": "accepted as unused", "blocks": False}],
        "parts_unused": {},
    }
    assert found["versions"]["s2p-tui"] == version("s2p-tui")
    assert found["versions"]["numpy"] == np.__version__
    assert [leaf["sha256"] for leaf in leaves] == [_sha256(record) for record in _records(out)]
    assert [leaf["bytes"] for leaf in leaves] == [len(record) for record in _records(out)]
    tensors = _tensors()
    cast = tensors["cast"].numpy()
    moved = np.abs(cast.astype(np.float64) - cast.astype(ml_dtypes.bfloat16).astype(np.float64))
    tiny = float(np.float32(3e-8)) - float(np.float16(3e-8))
    differences = [0.0, 0.0, float(moved.max()), abs(tiny), 0.0, 0.0, 0.0, 0.0]
    assert [leaf["max_abs_difference"] for leaf in leaves] == differences
    assert [(leaf["overflowed"], leaf["new_nan"]) for leaf in leaves] == [
        (2, 0) if number == 3 else (0, 0) for number in range(8)
    ]
    assert [leaf["path"] for leaf in leaves] == [f"['{number}']" for number in range(8)]
    assert [leaf["sources"] for leaf in leaves] == [
        ["copied"], ["permuted"], ["cast"], ["lost"], ["a", "b"], ["odd"], [], [],
    ]  # fmt: skip
    assert leaves[1] | {"sha256": "", "bytes": 0} == {
        "path": "['1']",
        "shape": [60, 100],
        "dtype": "float32",
        "sources": ["permuted"],
        "source_dtypes": ["float32"],
        "transform": {"op": "permute", "of": 0, "axes": [1, 0]},
        "words": "permute axes to (1, 0)",
        "bytes": 0,
        "sha256": "",
        "max_abs_difference": 0.0,
        "overflowed": 0,
        "new_nan": 0,
        "flushed": 0,
        "fit": "transformed",
        "gap": False,
        "by": "user",
        "why": "turned",
        "trusted": False,
        "proof": dict.fromkeys(Question, "as the mapping says"),
    }
    assert (leaves[0]["transform"], leaves[0]["words"]) == (None, "")
    assert (leaves[2]["dtype"], leaves[2]["source_dtypes"]) == ("bfloat16", ["float32"])
    assert leaves[5]["transform"] == {"op": "reshape", "of": 0, "shape": [4, 3]}
    assert (leaves[5]["fit"], leaves[5]["trusted"]) == ("doubtful", True)
    assert "may mix the elements" in leaves[5]["why"]
    assert (leaves[6]["gap"], leaves[6]["words"]) == (True, "keeps the skeleton's value")
    assert leaves[6]["source_dtypes"] == ["float32"]


UNIT_ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24}


@pytest.mark.parametrize("target", UNIT_ROUNDOFF)
@pytest.mark.parametrize("source", ["float64", "float32", "float16", "bfloat16"])
def test_a_cast_moves_no_number_by_more_than_half_a_unit(
    tmp_path: Path, source: str, target: str
) -> None:
    numbers = torch.randn(2_000, generator=torch.Generator().manual_seed(1))
    numbers = numbers.double().mul(1.0 + 2.0**-30).to(getattr(torch, source))
    tree = [jnp.zeros(2_000, target)]
    session = open_pair(tmp_path, {"a": numbers}, tree)
    session.convert(
        tmp_path / "out.eqx",
        certificate=tmp_path / "r.json",
        chunk_bytes=SMALL,
        allow_overflow=True,
    )
    session.close()
    (leaf,) = json.loads((tmp_path / "r.json").read_text())["leaves"]
    raw = _records(tmp_path / "out.eqx")[0][-2_000 * jnp.dtype(target).itemsize :]
    written = np.frombuffer(raw, jnp.dtype(target)).astype(np.float64)
    moved = np.abs(written - numbers.double().numpy())
    assert leaf["max_abs_difference"] == moved.max()
    tiny = float(ml_dtypes.finfo(jnp.dtype(target)).smallest_subnormal)
    bound = UNIT_ROUNDOFF[target] * np.abs(numbers.double().numpy()) * (1 + 2.0**-12) + tiny
    assert np.all(moved <= bound)
    coarser = ml_dtypes.finfo(source).nmant > ml_dtypes.finfo(target).nmant
    assert (leaf["max_abs_difference"] > 0) == coarser


def test_complex_numbers_and_whole_numbers(tmp_path: Path) -> None:
    tensors = {
        "complex": torch.tensor([1 + 1e-12j, 1e-9 + 1j], dtype=torch.complex128),
        "whole": torch.tensor([3, -4]),
    }
    session = open_pair(tmp_path, tensors, [jnp.zeros(2, jnp.complex64), jnp.zeros(2, jnp.int8)])
    session.convert(tmp_path / "out.eqx", certificate=tmp_path / "r.json", allow_overflow=True)
    session.close()
    first, second = json.loads((tmp_path / "r.json").read_text())["leaves"]
    before = np.array([1 + 1e-12j, 1e-9 + 1j])
    moved = np.abs(before.astype(np.complex64).astype(np.complex128) - before)
    assert first["max_abs_difference"] == moved.max() > 0
    assert second["max_abs_difference"] == 0


def test_safetensors_records_are_the_elements(session: Session, tmp_path: Path) -> None:
    out, report = tmp_path / "out.safetensors", tmp_path / "r.json"
    session.convert(
        out, certificate=report, chunk_bytes=SMALL, dtype="float32", allow_overflow=True
    )
    found = json.loads(report.read_text())
    assert found["output"]["sha256"] == _sha256(out.read_bytes())
    assert found["output"]["bytes"] == out.stat().st_size
    assert found["dtype"] == "float32"
    permuted = _tensors()["permuted"].numpy().T
    assert found["leaves"][1]["sha256"] == _sha256(np.ascontiguousarray(permuted).tobytes())


def test_a_broken_file_gets_no_certificate(session: Session, tmp_path: Path) -> None:
    out, report = tmp_path / "out.eqx", tmp_path / "report.json"
    session.convert(out, allow_overflow=True)
    session.verify(out, certificate=report)
    certified = report.read_text()
    again = tmp_path / "again.json"
    session.convert(out, certificate=again, chunk_bytes=SMALL, allow_overflow=True)
    assert again.read_text() == certified
    out.write_bytes(out.read_bytes() + b"\0")
    report.unlink()
    with pytest.raises(OutputError, match="were expected"):
        session.verify(out, certificate=report)
    assert not report.exists()


def test_a_region_left_out_is_noticed(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "tiles", lambda *args: list(tiles(*args))[:-1])
    with pytest.raises(OutputError, match=r"\['1'\] differs from its source"):
        session.convert(tmp_path / "out.eqx", chunk_bytes=SMALL, allow_overflow=True)
    assert not (tmp_path / "out.eqx").exists()


def test_nothing_needed_is_replaced_and_nothing_unverified_certified(
    session: Session, tmp_path: Path
) -> None:
    out, mapping = tmp_path / "out.eqx", tmp_path / "m.json"
    victims = (out, mapping, *session.checkpoint.files, *session.target.files)
    for report in victims:
        with pytest.raises(OutputError, match="would overwrite a file"):
            session.convert(out, mapping=mapping, certificate=report, allow_overflow=True)
    with pytest.raises(OutputError, match="its folder does not exist"):
        session.convert(out, certificate=tmp_path / "missing" / "r.json", allow_overflow=True)
    with pytest.raises(OutputError, match="is a folder, a file was expected"):
        session.convert(out, certificate=tmp_path, allow_overflow=True)
    with pytest.raises(UsageError, match="certificate needs verification"):
        session.convert(out, certificate=tmp_path / "r.json", verify=False, allow_overflow=True)
    assert [file.name for file in tmp_path.iterdir()] == ["in"]
    session.convert(out, mapping=mapping, allow_overflow=True)
    for report in victims:
        with pytest.raises(OutputError, match="would overwrite a file"):
            session.verify(out, certificate=report)


def test_the_commands_write_certificates_and_show_losses(
    session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mapping, out = tmp_path / "m.json", tmp_path / "out.eqx"
    session.save_mapping(mapping)
    model, skeleton = (str(tmp_path / "in" / name) for name in ("model.pt", "skeleton.eqx"))
    report, second = tmp_path / "r.json", tmp_path / "s.json"
    arguments = ["convert", model, skeleton, "-o", str(out), "--mapping", str(mapping)]
    assert run([*arguments, "--report", str(report)]) == 5
    assert not out.exists()
    assert "['3']: 2 numbers became infinite" in capsys.readouterr().err
    arguments.append("--allow-overflow")
    assert run([*arguments, "--report", str(report)]) == 0
    told = capsys.readouterr().out
    assert f"certificate: {report}" in told
    assert "['3']: 2 numbers became infinite" in told
    assert run([*arguments, "--report", str(report), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["report"] == str(report)
    assert told["lost"] == {"['3']": {"overflowed": 2, "new_nan": 0, "flushed": 0}}
    ends = ["--model", model, "--skeleton", skeleton, "--mapping", str(mapping)]
    assert run(["verify", str(out), *ends, "--report", str(second)]) == 0
    assert json.loads(second.read_text()) == json.loads(report.read_text())
    assert run([*arguments, "--report", str(report), "--no-verify"]) == 2
    assert run([*arguments, "--report", str(mapping)]) == 5
