"""Arguments in; files, output and exit status out."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from s2p_tui.alignment.evidence import Evidence
from s2p_tui.alignment.skeleton import Skeleton
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.task import Task
from s2p_tui.cli import progress, run
from s2p_tui.cli.demo import Pair, compare
from s2p_tui.cli.demo import make_pair as demo_pair
from s2p_tui.errors import OutputError
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.session import opening
from s2p_tui.session.session import Session
from tests.models.linears import EqxNet, make_pair


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return make_pair(tmp_path)


@pytest.fixture
def mapping(pair: Pair) -> Path:
    """The right mapping for the pair, from a mapping file that strict order got wrong."""
    file = pair.output.with_name("order.mapping.json")
    arguments = [str(pair.model), str(pair.skeleton), "-o", str(pair.output)]
    assert (
        run(
            [
                "convert",
                *arguments,
                "--arrange",
                "order",
                "--trust-all",
                "--save-mapping",
                str(file),
            ]
        )
        == 0
    )
    content = json.loads(file.read_text())
    for row in content["rows"]:
        row["sources"] = [row["path"].removeprefix(".")]
    file.write_text(json.dumps(content))
    pair.output.unlink()
    return file


def _forwards_agree(pair: Pair) -> bool:
    like = EqxNet(key=jax.random.PRNGKey(7))
    model = eqx.tree_deserialise_leaves(pair.output, like)
    weights = torch.load(pair.model, weights_only=True)
    x = np.linspace(-1, 1, 10, dtype=np.float32)
    y = torch.tensor(x)
    for name in ("lin1", "lin2", "lin3"):
        y = weights[f"{name}.weight"] @ y + weights[f"{name}.bias"]
        y = y if name == "lin3" else torch.relu(y)
    return bool(np.allclose(np.asarray(model(jnp.asarray(x))), y.numpy(), atol=1e-6))


def test_convert_follows_a_mapping_file(
    pair: Pair, mapping: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    arguments = [str(pair.model), str(pair.skeleton), "-o", str(pair.output)]
    assert run(["convert", *arguments, "--mapping", str(mapping)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{pair.output}: 2,088 bytes in ")
    assert "verified" in out
    assert err == ""
    assert _forwards_agree(pair)


def test_convert_shows_a_match_that_takes_long(
    pair: Pair, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    match, shown = opening.evidence_of, "matching by names and structure"

    def slow(state_dict: StateDict, skeleton: Skeleton, task: Task) -> Evidence:
        task.total = len(skeleton)
        (watcher,) = (one for one in threading.enumerate() if one.name == "matching")
        watcher.join(300)
        return match(state_dict, skeleton, task)

    arguments = [str(pair.model), str(pair.skeleton), "-o", str(pair.output), "--trust-all"]
    assert run(["convert", *arguments]) == 0
    assert shown not in capsys.readouterr().err
    monkeypatch.setattr(progress, "_QUIET_SECONDS", 0.0)
    monkeypatch.setattr(opening, "evidence_of", slow)
    assert run(["convert", *arguments]) == 0
    out, err = capsys.readouterr()
    assert shown in err
    assert shown not in out
    assert _forwards_agree(pair)


@pytest.mark.slow("runs several commands")
def test_verify_accepts_the_file_and_refuses_a_flipped_bit(
    pair: Pair, mapping: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(pair.model), str(pair.skeleton), "-o", str(pair.output)]
    assert run(["convert", *arguments, "--mapping", str(mapping)]) == 0
    again = [str(pair.output), "--model", str(pair.model), "--skeleton", str(pair.skeleton)]
    assert run(["verify", *again, "--mapping", str(mapping)]) == 0
    data = bytearray(pair.output.read_bytes())
    data[-1] ^= 1
    pair.output.write_bytes(data)
    capsys.readouterr()
    assert run(["verify", *again, "--mapping", str(mapping)]) == 5
    assert ".lin3.bias differs from its source" in capsys.readouterr().err


def test_what_was_trusted_by_an_option_is_verified_with_it(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(6.0).reshape(2, 3)}, tmp_path / "m.pt")
    save_skeleton(tmp_path / "sk.eqx", {"a": jnp.zeros((3, 2))})
    ends = [str(tmp_path / "m.pt"), str(tmp_path / "sk.eqx")]
    mapping = tmp_path / "m.json"
    session = Session.open(*ends, arrange="order")
    session.save_mapping(mapping)
    session.close()
    again = ["--mapping", str(mapping), "--trust", "['a']"]
    output = str(tmp_path / "o.eqx")
    assert run(["convert", *ends, "-o", output, *again]) == 0
    verify = ["verify", output, "--checkpoint", ends[0], "--skeleton", ends[1]]
    assert run([*verify, *again[:2]]) == 3
    assert run([*verify, *again]) == 0


@pytest.mark.parametrize("name", ["parity.html", "parity.MD"])
def test_a_certificate_is_no_page(
    pair: Pair, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = pair.output.with_name(name)
    arguments = [str(pair.model), str(pair.skeleton), "-o", str(pair.output), "--trust-all"]
    assert run(["convert", *arguments, "--report", str(report)]) == 2
    assert "s2p-tui check --report writes" in capsys.readouterr().err
    assert not report.exists()


def test_json_tells_what_was_done(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    kept = pair.output.with_name("kept.json")
    arguments = [str(pair.model), str(pair.skeleton), "-o", str(pair.output), "--json"]
    assert (
        run(
            [
                "convert",
                *arguments,
                "--save-mapping",
                str(kept),
            ]
        )
        == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert report.pop("seconds") >= 0
    assert report == {
        "status": "done",
        "output": str(pair.output),
        "rows": {"exact": 6, "transformed": 0, "doubtful": 0, "mismatched": 0, "gap": 0},
        "doubtful": [],
        "mismatched": [],
        "notes": [],
        "unused": [],
        "parts_unused": {},
        "gaps": [],
        "mapping": str(kept),
        "report": None,
        "bytes": pair.output.stat().st_size,
        "memory": 128 << 20,
        "verified": True,
        "lost": {},
        "error": None,
    }


def test_json_names_what_proves_each_row(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(pair.model), str(pair.skeleton), "-o", str(pair.output), "--proof"]
    certificate = pair.output.with_name("certificate.json")
    assert run(["convert", *arguments, "--json", "--certificate", str(certificate)]) == 0
    proofs = json.loads(capsys.readouterr().out)["proof"]
    assert [proof["path"] for proof in proofs][:2] == [".lin1.weight", ".lin1.bias"]
    assert all(proof["certain"] and all(proof["answers"].values()) for proof in proofs)
    assert proofs[0]["answers"] == {
        "entry": "it has the same name",
        "axes": "the layer keeps PyTorch's layout",
        "grouping": "it is taken whole",
        "module": "what its layer holds comes from one module",
        "left_over": "nothing of its module is left over",
    }
    leaves = json.loads(certificate.read_text())["leaves"]
    assert [leaf["proof"] for leaf in leaves] == [proof["answers"] for proof in proofs]
    assert run(["convert", *arguments]) == 2
    assert "--proof goes with --json alone" in capsys.readouterr().err


def test_rows_that_do_not_line_up_are_all_listed(
    pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = torch.load(pair.model, weights_only=True)
    torch.save({"extra": torch.zeros(3), **weights}, pair.model)
    arguments = [str(pair.model), str(pair.skeleton), "-o", str(pair.output)]
    assert run(["convert", *arguments, "--arrange", "order"]) == 3
    err = capsys.readouterr().err
    assert "6 of 6 rows do not line up, and 1 unused entry." in err
    assert "--allow-unused 'lin1.bias'" in err
    assert "  .lin1.weight: extra: expected 10×10 (100 elements), got 3 (3)" in err
    assert err.count("\n") == 8
    assert not pair.output.exists()
    assert run(["convert", *arguments, "--arrange", "order", "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    assert report["status"] == "refused"
    unused = {"key": "lin1.bias", "why": "no leaf takes it", "blocks": True}
    assert report["unused"] == [unused]
    assert len(report["mismatched"]) == 6
    assert report["mismatched"][0] == {
        "path": ".lin1.weight",
        "sources": ["extra"],
        "why": "expected 10×10 (100 elements), got 3 (3)",
    }


def test_a_mapping_for_other_files_says_what_differs(
    pair: Pair, mapping: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"lin1.weight": torch.zeros(10, 10)}, pair.model)
    arguments = [str(pair.model), str(pair.skeleton), "-o", str(pair.output)]
    capsys.readouterr()
    assert run(["convert", *arguments, "--mapping", str(mapping)]) == 4
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"{mapping} was made for other files: " in err
    assert ".lin1.bias: its source lin1.bias is not in the checkpoint" in err


def test_doubtful_rows_wait_for_trust(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4)}, tmp_path / "m.pt")
    save_skeleton(tmp_path / "sk.eqx", {"a": jnp.zeros((3, 2)), "b": jnp.zeros((2, 2))})
    arguments = [str(tmp_path / "m.pt"), str(tmp_path / "sk.eqx"), "-o", str(tmp_path / "o.eqx")]
    arguments += ["--arrange", "order", "--save-mapping", str(tmp_path / "m.json")]
    assert run(["convert", *arguments]) == 3
    assert "reshape 2×3 to 3×2 has the right size but may mix" in capsys.readouterr().err
    assert run(["convert", *arguments, "--trust", "['a']"]) == 3
    assert run(["convert", *arguments, "--trust", "['c']"]) == 2
    assert "Trust doubtful rows only: ['a'], ['b']." in capsys.readouterr().err
    assert run(["convert", *arguments, "--trust", "['a']", "--trust", "['b']"]) == 0
    assert run(["convert", *arguments, "--trust-all"]) == 0
    rows = json.loads((tmp_path / "m.json").read_text())["rows"]
    assert [row["trusted"] for row in rows] == [True, True]
    loaded = eqx.tree_deserialise_leaves(
        tmp_path / "o.eqx", {"a": jnp.zeros((3, 2)), "b": jnp.zeros((2, 2))}
    )
    assert np.array_equal(loaded["a"], np.arange(6.0).reshape(3, 2))


def _pickle_that_runs(canary: Path) -> bytes:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {canary}",)

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({"w": Evil()}, protocol=2))
        archive.writestr("model/version", "3\n")
    return buffer.getvalue()


def _bad_models(folder: Path, good: bytes) -> dict[str, bytes]:
    return {
        "empty.pt": b"",
        "notes.txt": b"These are my notes about the model.\n",
        "cut.pt": good[: len(good) // 2],
        "evil.pt": _pickle_that_runs(folder / "canary"),
        "page.pt": b"<!DOCTYPE html><html></html>",
    }


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.pt", "does not exist"),
        ("folder.pt", "is a folder without"),
        ("empty.pt", "is empty"),
        ("notes.txt", "is a text, no checkpoint; it begins 'These are my notes"),
        ("cut.pt", "damaged zip archive"),
        ("evil.pt", "posix.system, which are not part of a state dict. Nothing in it was run."),
        ("page.pt", "a web page"),
        ("model_skeleton.eqx", "is a skeleton file, a checkpoint was expected"),
    ],
)
@pytest.mark.slow("starts a program for each bad file")
def test_a_bad_checkpoint_gets_one_line(
    pair: Pair, name: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pair.model.parent
    (folder / "folder.pt").mkdir()
    for other, content in _bad_models(folder, pair.model.read_bytes()).items():
        (folder / other).write_bytes(content)
    before = sorted(folder.iterdir())
    arguments = [str(folder / name), str(pair.skeleton), "-o", str(pair.output)]
    assert run(["convert", *arguments, "--arrange", "order", "--trust-all"]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f"{folder / name}" in err
    assert reason in err
    assert sorted(folder.iterdir()) == before


def test_a_skeleton_of_another_model_is_refused(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.eqx"
    save_skeleton(other, eqx.nn.MLP(2, 3, 4, 1, key=jax.random.PRNGKey(0)))
    arguments = [str(pair.model), str(other), "-o", str(pair.output)]
    assert run(["convert", *arguments, "--arrange", "order", "--trust-all"]) == 4
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "other.eqx describes another model than model.pt holds" in err
    assert not pair.output.exists()


def test_several_state_dicts_need_a_key(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    weights = torch.load(pair.model, weights_only=True)
    torch.save({"model": weights, "ema": dict(weights), "epoch": 1}, pair.model)
    arguments = [
        str(pair.model),
        str(pair.skeleton),
        "-o",
        str(pair.output),
        "--arrange",
        "order",
        "--trust-all",
    ]
    assert run(["convert", *arguments]) == 4
    assert (
        "model (6 items: the trained weights), ema (6 items: a moving average"
        in capsys.readouterr().err
    )
    assert run(["convert", *arguments, "--key", "ema"]) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert"],
        ["convert", "a.pt", "b.eqx", "--mapping", "m.json", "--arrange", "order"],
        ["convert", "a.pt", "b.eqx", "--arrange", "sideways"],
        ["convert", "a.pt", "b.eqx", "--no-such-option"],
        ["skeleton", "no.such.module:factory"],
        ["skeleton", "json:no_such_name"],
        ["skeleton", "json:dumps", "--kwargs", "[1"],
        ["frobnicate"],
    ],
)
def test_wrong_usage_is_one_line_and_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("s2p-tui: ")
    assert err.count("\n") == 1


def test_skeleton_from_a_file_with_arguments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = tmp_path / "my_net.py"
    code.write_text(
        "import equinox as eqx\n"
        "def make(width, *, key):\n"
        "    return eqx.nn.MLP(2, 3, width, 1, key=key)\n"
    )
    out = tmp_path / "sk.eqx"
    spec = f"{code}:make"
    assert run(["skeleton", spec, "-o", str(out), "--kwargs", '{"width": 5}']) == 0
    assert run(["inspect", str(out), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(leaf["path"], leaf["shape"], leaf["owner"]) for leaf in listed["leaves"]] == [
        (".layers[0].weight", [5, 2], "equinox.nn.Linear"),
        (".layers[0].bias", [5], "equinox.nn.Linear"),
        (".layers[1].weight", [3, 5], "equinox.nn.Linear"),
        (".layers[1].bias", [3], "equinox.nn.Linear"),
    ]
    assert run(["skeleton", spec, "-o", str(out)]) == 4
    assert "raised TypeError" in capsys.readouterr().err


def test_inspect_lists_names_as_inert_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "odd.pt"
    torch.save({"a\x1b[31m\nb [red]": torch.zeros(2, 3)}, file)
    assert run(["inspect", str(file)]) == 0
    out = capsys.readouterr().out
    assert r"a\x1b[31m\nb [red]  2×3    float32" in out
    assert "\x1b" not in out


@pytest.mark.slow("compiles and runs models in both frameworks")
def test_demo_converts_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--headless", "--directory", str(tmp_path / "demo")]) == 0
    out = capsys.readouterr().out
    assert "38 entries, fc.weight first" in out
    assert "44 leaves, [0].stem.weight first" in out
    assert "differ by" in out


@pytest.mark.slow("runs models in both frameworks")
def test_the_demo_needs_lining_up(tmp_path: Path) -> None:
    pair = demo_pair(tmp_path)
    arguments = [str(pair.model), str(pair.skeleton), "-o", str(pair.output)]
    assert run(["convert", *arguments, "--arrange", "order"]) == 3
    assert run(["convert", *arguments]) == 0
    compare(pair)
    content = bytearray(pair.output.read_bytes())
    content[-1] ^= 0x40
    pair.output.write_bytes(content)
    with pytest.raises(OutputError, match="two forwards differ"):
        compare(pair)


def test_the_app_wants_a_terminal(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([str(pair.model), str(pair.skeleton)]) == 2
    assert "needs a terminal" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
@pytest.mark.slow("starts programs")
def test_a_signal_leaves_nothing_behind(tmp_path: Path, number: int, status: int) -> None:
    model = tmp_path / "model.pt"
    torch.save({"w": torch.zeros(4096, 4096)}, model)
    save_skeleton(tmp_path / "sk.eqx", jnp.zeros((4096, 4096), jnp.float16))
    before = sorted(tmp_path.iterdir())
    # The child sends itself the signal from inside the conversion, at its first look for one.
    code = (
        "import os, sys; from s2p_tui.alignment.task import Job; from s2p_tui.cli import main\n"
        "check = Job.check\n"
        "def signalled(job):\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    job._cancel.wait(300)\n"
        "    check(job)\n"
        "Job.check = signalled\n"
        "sys.argv[1:] = ['convert', 'model.pt', 'sk.eqx', '-o', 'out.eqx', '--arrange', 'order',"
        " '--trust-all']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (
        status,
        "s2p-tui: Cancelled; nothing was written.\n",
    )
    assert sorted(tmp_path.iterdir()) == before


def test_a_slip_of_the_pen_is_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for word, meant in (("convrt", "convert"), ("Inspct", "inspect"), ("skelton", "skeleton")):
        assert run([word, "model.pt"]) == 2
        assert f"Do you mean {meant}?" in capsys.readouterr().err
    assert run(["model", "skeleton"]) != 0
    assert "Do you mean" not in capsys.readouterr().err


def test_convert_says_what_it_replaces(
    pair: Pair, mapping: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["convert", str(pair.model), str(pair.skeleton), "-o", str(pair.output)]
    arguments += ["--mapping", str(mapping)]
    pair.output.unlink(missing_ok=True)
    for more, said in (([], False), ([], True), (["--force"], False)):
        assert run([*arguments, *more]) == 0
        assert ("exists and will be replaced" in capsys.readouterr().err) is said


def test_inspect_lists_what_a_factory_makes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small.py").write_text(
        "import jax\ndef make():\n    return {'w': jax.numpy.ones(3)}\n"
    )
    assert run(["inspect", f"{tmp_path}/small.py:make"]) == 0
    out = capsys.readouterr().out
    assert "factory, 1 leaves" in out
    assert "['w']" in out
