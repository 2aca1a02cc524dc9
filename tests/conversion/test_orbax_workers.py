"""Orbax checkpoints written by many workers: shares, gaps, damage, agreement, interruptions."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from s2p_tui.alignment.task import Job
from s2p_tui.cli import run
from s2p_tui.cli.parts import part_of
from s2p_tui.conversion.orbax import OrbaxConversion, merge, write_part
from s2p_tui.conversion.orbax_estimate import estimate
from s2p_tui.conversion.orbax_finish import commit, verified_chunks, verify_part
from s2p_tui.conversion.orbax_store import Store
from s2p_tui.errors import CancelledError, InputError, OutputError, UsageError
from s2p_tui.formats import tensors
from s2p_tui.session.orbax import convert_to_orbax, orbax_conversion
from tests.helpers.commands import ended
from tests.helpers.orbax_pair import Pair, arrays_in, pair_in

SMALL = 1 << 14


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair_in(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def expected(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The arrays as one process writes them."""
    output = tmp_path_factory.mktemp("alone") / "model.orbax"
    convert_to_orbax(pair.session(), output, chunk_bytes=SMALL)
    return arrays_in(output)


def conversion_to(pair: Pair, output: Path) -> OrbaxConversion:
    return orbax_conversion(pair.session(), output, chunk_bytes=SMALL)


def finished(conversion: OrbaxConversion, workers: int = 1) -> None:
    merge(conversion)
    for part in range(workers):
        verify_part(conversion, part, workers)
    commit(conversion, verified_chunks(conversion), {})


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].tobytes() == array.tobytes() for name, array in expected.items()
    )


@pytest.mark.parametrize("workers", [1, 2, 5, 64])
@pytest.mark.slow("writes several checkpoints")
def test_any_number_of_workers_writes_the_same(
    pair: Pair, tmp_path: Path, expected: dict[str, np.ndarray], workers: int
) -> None:
    conversion = conversion_to(pair, tmp_path / "m.orbax")
    for part in reversed(range(workers)):
        write_part(conversion, part, workers)
        assert not (tmp_path / "m.orbax").exists()
    finished(conversion, workers=3)
    assert same(arrays_in(tmp_path / "m.orbax"), expected)


def test_the_certificate_does_not_depend_on_the_workers(pair: Pair, tmp_path: Path) -> None:
    digests: list[object] = []
    for workers in (1, 3):
        conversion = conversion_to(pair, tmp_path / f"{workers}.orbax")
        for part in range(workers):
            write_part(conversion, part, workers)
        finished(conversion, workers)
        facts = json.loads((tmp_path / f"{workers}.orbax/_CHECKPOINT_METADATA").read_text())
        digests.append(facts["custom_metadata"]["s2p"]["leaves"])
    assert digests[0] == digests[1]


def test_shares_are_all_chunks_once_and_even(pair: Pair, tmp_path: Path) -> None:
    grid = conversion_to(pair, tmp_path / "m.orbax").grid
    for workers in (1, 2, 3, 7, 500):
        shares = grid.shares(workers)
        chunks = [chunk for share in shares for group in share for chunk in group]
        assert sorted(chunk.key for chunk in chunks) == sorted(one.key for one in grid.chunks)
        most = max(sum(one.nbytes for group in share for one in group) for share in shares)
        assert most <= grid.total / workers + SMALL


@pytest.mark.slow("writes several checkpoints")
def test_another_number_of_workers_may_finish(
    pair: Pair, tmp_path: Path, expected: dict[str, np.ndarray]
) -> None:
    conversion = conversion_to(pair, tmp_path / "m.orbax")
    write_part(conversion, 1, 4)
    write_part(conversion, 3, 4)
    job = Job()
    for part in range(3):
        write_part(conversion, part, 3, job)
    finished(conversion)
    assert same(arrays_in(tmp_path / "m.orbax"), expected)


def test_what_is_there_is_not_written_again(pair: Pair, tmp_path: Path) -> None:
    conversion = conversion_to(pair, tmp_path / "m.orbax")
    write_part(conversion, 0, 2)
    held = set((tmp_path / "m.orbax.s2p-partial").rglob("d/*"))
    write_part(conversion, 0, 2)
    assert set((tmp_path / "m.orbax.s2p-partial").rglob("d/*")) == held


def test_gaps_are_refused_and_named(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "m.orbax"
    for part in ("0/3", "2/3"):
        assert run(pair.convert(output, "--part", part, "--chunk-size", "1")) == 0
    capsys.readouterr()
    assert run(["finish", str(output), *pair.options]) == 5
    said = capsys.readouterr().err
    assert "are missing, of part 1/3: " in said
    assert "Run convert again" in said
    assert run(["verify", str(output), *pair.options]) == 5
    assert "is not merged yet" in capsys.readouterr().err
    assert run(["finish", str(output), *pair.options, "--commit"]) == 5
    assert "are not verified" in capsys.readouterr().err
    assert not output.exists()


def test_the_steps_by_the_command_line(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    expected: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    output = tmp_path / "m.orbax"
    monkeypatch.setenv("SLURM_NTASKS", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("SLURM_PROCID", rank)
        assert run(pair.convert(output, "--part", "auto")) == 0
    assert "part 1/2 is written" in capsys.readouterr().out
    assert run(["finish", str(output), *pair.options]) == 0
    for part in ("0/2", "1/2"):
        assert run(["verify", str(output), *pair.options, "--part", part]) == 0
    certificate = tmp_path / "certificate.json"
    final = ["finish", str(output), *pair.options, "--commit", "--certificate", str(certificate)]
    assert run(final) == 0
    assert "finished" in capsys.readouterr().out
    assert same(arrays_in(output), expected)
    assert json.loads(certificate.read_text())["verified"] is True
    assert run(["verify", str(output), *pair.options]) == 0
    assert "verified 18 arrays" in capsys.readouterr().out


def test_one_process_does_all_four(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str], expected: dict[str, np.ndarray]
) -> None:
    output = tmp_path / "model"
    assert run(pair.convert(output, "--format", "orbax", "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["status"], result["verified"]) == ("done", True)
    assert same(arrays_in(output), expected)


REFUSED = {
    "finished": (5, "holds a finished checkpoint"),
    "a folder": (5, "exists and is not an unfinished checkpoint"),
    "another chunk size": (5, "another chunk size"),
    "another dtype": (5, "another dtype"),
    "no plan": (5, "s2p-plan.json is missing or damaged"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_there_of_others_is_refused_by_name(
    case: str, pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, options = tmp_path / "m.orbax", ["--part", "0/2"]
    match case:
        case "finished":
            assert run(pair.convert(output)) == 0
        case "a folder":
            output.mkdir()
            (output / "mine.txt").write_text("kept")
        case _:
            assert run(pair.convert(output, "--part", "1/2")) == 0
    if case == "another chunk size":
        options += ["--chunk-size", "1"]
    if case == "another dtype":
        options += ["--dtype", "bfloat16"]
    if case == "no plan":
        (tmp_path / "m.orbax.s2p-partial" / "s2p-plan.json").write_text("{")
    capsys.readouterr()
    code, message = REFUSED[case]
    assert run(pair.convert(output, *options)) == code
    assert message in capsys.readouterr().err


def test_another_mapping_is_refused(pair: Pair, tmp_path: Path) -> None:
    write_part(conversion_to(pair, tmp_path / "m.orbax"), 0, 2)
    text = pair.mapping.read_text()
    other = tmp_path / "other.json"
    # The other half of the fused weight.
    other.write_text(text.replace('"start": 0, "stop": 64', '"start": 64, "stop": 128'))
    assert other.read_text() != text
    changed = Pair(pair.model, pair.skeleton, other)
    with pytest.raises(OutputError, match="of another conversion: another mapping"):
        write_part(conversion_to(changed, tmp_path / "m.orbax"), 1, 2)


def test_two_workers_with_one_part_are_refused(pair: Pair, tmp_path: Path) -> None:
    conversion = conversion_to(pair, tmp_path / "m.orbax")
    store = Store(conversion.output)
    store.make()
    with store.claimed(0, 2), pytest.raises(OutputError, match=r"works on part 0/2 of .*m\.orbax"):
        write_part(conversion, 0, 2)
    write_part(conversion, 0, 2)


def test_damage_is_found_removed_and_written_again(
    pair: Pair, tmp_path: Path, expected: dict[str, np.ndarray]
) -> None:
    """A flipped bit of a chunk's numbers, which no checksum is of."""
    conversion = conversion_to(pair, tmp_path / "m.orbax")
    write_part(conversion)
    merge(conversion)
    numbers = expected["0.embed"].tobytes()[:64]
    partial = tmp_path / "m.orbax.s2p-partial"
    (file,) = [path for path in partial.rglob("d/*") if numbers in path.read_bytes()]
    data = bytearray(file.read_bytes())
    data[data.index(numbers) + 5] ^= 4
    file.write_bytes(data)
    with pytest.raises(OutputError, match=r"\[0\]\.embed differs .* 1 chunks were removed"):
        verify_part(conversion)
    with pytest.raises(OutputError, match=r"1 of .* chunks .* are missing"):
        merge(conversion)
    write_part(conversion)
    finished(conversion)
    assert same(arrays_in(tmp_path / "m.orbax"), expected)


def test_damage_of_a_finished_checkpoint_is_found(
    pair: Pair, tmp_path: Path, expected: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "m.orbax"
    convert_to_orbax(pair.session(), output, chunk_bytes=SMALL)
    numbers = expected["0.stacked"].tobytes()[:64]
    (file,) = [path for path in output.rglob("d/*") if numbers in path.read_bytes()]
    data = bytearray(file.read_bytes())
    data[data.index(numbers)] ^= 1
    file.write_bytes(data)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert run(["verify", str(output), *pair.options]) == 5
    assert "[0].stacked differs from its source" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_a_lost_database_is_a_gap(pair: Pair, tmp_path: Path) -> None:
    conversion = conversion_to(pair, tmp_path / "m.orbax")
    for part in range(2):
        write_part(conversion, part, 2)
    merge(conversion)
    verify_part(conversion)
    shutil.rmtree(next((tmp_path / "m.orbax.s2p-partial").glob("ocdbt.process_1x*")))
    with pytest.raises(OutputError, match="are missing, of part 1/2"):
        merge(conversion)


def test_a_damaged_database_is_named(pair: Pair, tmp_path: Path) -> None:
    conversion = conversion_to(pair, tmp_path / "m.orbax")
    write_part(conversion)
    (manifest,) = (tmp_path / "m.orbax.s2p-partial").glob("ocdbt.process_*/manifest.ocdbt")
    manifest.write_bytes(manifest.read_bytes()[:-9] + b"nonsense!")
    with pytest.raises(OutputError, match=rf"{manifest.parent.name}/ is damaged.*Remove that"):
        merge(conversion)


def test_what_was_verified_before_a_chunk_was_lost_does_not_count(
    pair: Pair, tmp_path: Path
) -> None:
    conversion = conversion_to(pair, tmp_path / "m.orbax")
    write_part(conversion)
    merge(conversion)
    verify_part(conversion)
    shutil.rmtree(next((tmp_path / "m.orbax.s2p-partial").glob("ocdbt.process_*")))
    write_part(conversion)
    merge(conversion)
    with pytest.raises(OutputError, match="are not verified"):
        verified_chunks(conversion)


def test_a_source_that_changed_is_named(tmp_path: Path) -> None:
    own = pair_in(tmp_path)
    conversion = conversion_to(own, tmp_path / "m.orbax")
    shard = tmp_path / "model-00001-of-00002.safetensors"
    os.utime(shard, ns=(1, 1))
    with pytest.raises(InputError, match=f"{shard.name} was changed"):
        write_part(conversion)


def test_cancelling_keeps_what_is_written(
    pair: Pair, tmp_path: Path, expected: dict[str, np.ndarray]
) -> None:
    class Impatient(Job):
        def check(self) -> None:
            if self.written > 1 << 17:
                self.cancel()
            super().check()

    session = pair.session()
    with pytest.raises(CancelledError, match=r"not there yet\. The same again resumes"):
        convert_to_orbax(session, tmp_path / "m.orbax", chunk_bytes=SMALL, job=Impatient(), jobs=1)
    assert not (tmp_path / "m.orbax").exists()
    kept = set((tmp_path / "m.orbax.s2p-partial").rglob("d/*"))
    assert kept
    convert_to_orbax(session, tmp_path / "m.orbax", chunk_bytes=SMALL)
    assert same(arrays_in(tmp_path / "m.orbax"), expected)
    assert {path.name for path in kept} <= {path.name for path in (tmp_path / "m.orbax").rglob("*")}


@contextmanager
def reads_counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The bytes of each read of a source."""
    found: list[int] = []
    original = tensors.pread_into

    def counted(descriptor: int, buffer: memoryview, position: int, file: Path) -> None:
        found.append(len(buffer))
        original(descriptor, buffer, position, file)

    with monkeypatch.context() as patched:
        patched.setattr(tensors, "pread_into", counted)
        yield found


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_the_estimate_is_what_is_read(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hosts: int
) -> None:
    conversion = conversion_to(pair, tmp_path / "m.orbax")
    costs = estimate(conversion, hosts)
    assert sum(cost.written for cost in costs) == conversion.grid.total
    for part, cost in enumerate(costs):
        with reads_counted(monkeypatch) as reads:
            write_part(conversion, part, hosts)
        assert (sum(reads), len(reads)) == (cost.read, cost.requests)
    needed = sum(entry.nbytes for entry in conversion.checkpoint.state_dict)
    # Two thirds of the fused weight are not needed.
    assert sum(cost.read for cost in costs) <= 1.05 * needed


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_the_memory_told_is_enough_for_wider_sources(
    pair: Pair, tmp_path: Path, dtype: str | None
) -> None:
    output = tmp_path / "m.orbax"
    conversion = orbax_conversion(pair.session(), output, dtype=dtype, chunk_bytes=SMALL)
    assert estimate(conversion, 1)[0].memory <= conversion.memory


def test_a_dry_run_writes_nothing(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "m.orbax"
    assert run(pair.convert(output, "--dry-run", "--hosts", "4")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert "Nothing was written" in lines[-1]
    assert list(tmp_path.iterdir()) == []


WRONG = {
    "a part alone": (["--part", "0/2", "--arrange", "order"], "--part needs --mapping"),
    "of a file": (["--part", "0/2", "-o", "m.eqx"], "--part goes with Orbax"),
    "an estimate of a file": (["--dry-run", "-o", "m.safetensors"], "--dry-run goes with Orbax"),
    "beyond": (["--part", "2/2"], "--part 2/2 is not a share"),
    "nonsense": (["--part", "half"], "--part half is not a share"),
    "a name of another format": (["--format", "orbax", "-o", "m.eqx"], "another format"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_usage_is_explained(
    case: str, pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    options, message = WRONG[case]
    arguments = ["convert", str(pair.model), str(pair.skeleton)]
    arguments += [] if "-o" in options else ["-o", "m.orbax"]
    if case != "a part alone":
        arguments += ["--mapping", str(pair.mapping)]
    assert run([*arguments, *options]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


SLURM = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8"}
MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}
ARRAY = {
    "SLURM_ARRAY_TASK_ID": "12", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_COUNT": "5",
    "SLURM_PROCID": "0", "SLURM_NTASKS": "1",
}  # fmt: skip


def test_parts_by_launchers() -> None:
    assert part_of("7/64", {}) == (7, 64)
    assert part_of("auto", SLURM) == (3, 8)
    assert part_of("auto", MPI) == (1, 4)
    assert part_of("auto", ARRAY) == (2, 5)
    with pytest.raises(UsageError, match="finds no launcher"):
        part_of("auto", {})
    with pytest.raises(UsageError, match="array have gaps"):
        part_of("auto", ARRAY | {"SLURM_ARRAY_TASK_ID": "20"})


ANNOUNCED = """
import sys
from s2p_tui.cli import run
from s2p_tui.conversion import orbax
from s2p_tui.conversion.orbax_store import Store

original = Store.write_chunks

def announced(self, database, chunks):
    print(flush=True)
    original(self, database, chunks)

Store.write_chunks = announced
orbax._BATCH = 1
sys.exit(run(sys.argv[1:]))
"""
"""The command line, each chunk in a transaction of its own, with a line before it."""


def announced(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ANNOUNCED, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow("starts a program")
def test_a_signal_ends_it_and_the_same_again_resumes(
    pair: Pair, tmp_path: Path, expected: dict[str, np.ndarray]
) -> None:
    output = tmp_path / "m.orbax"
    process = announced(*pair.convert(output))
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    code, _, said = ended(process)
    assert code == 128 + signal.SIGTERM, said
    assert "The same again resumes it" in said
    assert not output.exists()
    assert run(pair.convert(output)) == 0
    assert same(arrays_in(output), expected)


@pytest.mark.slow("starts and kills a dozen programs")
def test_killed_at_any_moment_it_is_never_visible_and_resumes(
    pair: Pair, tmp_path: Path, expected: dict[str, np.ndarray]
) -> None:
    """Ten workers killed after some chunks, each rerun with another number of workers."""
    rng = random.Random(0)
    output, held = tmp_path / "m.orbax", set[str]()
    for _ in range(10):
        of = rng.randint(1, 3)
        arguments = pair.convert(output, "--part", f"{rng.randrange(of)}/{of}")
        process = announced(*arguments)
        assert process.stdout is not None
        for _ in range(rng.randint(0, 9)):
            process.stdout.readline()
        process.kill()
        process.communicate()
        assert not output.exists()
        now = Store(str(output)).held() if (tmp_path / "m.orbax.s2p-partial").exists() else set()
        assert held <= now
        held = now
    assert held
    for part in ("0/2", "1/2"):
        assert run(pair.convert(output, "--part", part)) == 0
    assert run(["finish", str(output), *pair.options]) == 0
    assert run(["verify", str(output), *pair.options]) == 0
    assert run(["finish", str(output), *pair.options, "--commit"]) == 0
    assert same(arrays_in(output), expected)
