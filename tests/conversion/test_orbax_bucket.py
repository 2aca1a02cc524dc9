"""Orbax checkpoints in a bucket, served on the loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from s2p_tui.conversion.output_names import format_of, location
from s2p_tui.session.orbax import convert_to_orbax
from tests.helpers.bucket import Bucket, bucket_served
from tests.helpers.commands import ended, started
from tests.helpers.orbax_pair import Pair, arrays_in, pair_in

pytestmark = pytest.mark.slow("starts programs that write to a server")
OUTPUT = "gs://models/some/m"


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with bucket_served() as bucket:
        yield bucket


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair_in(tmp_path_factory.mktemp("pair"))


def run_at(bucket: Bucket, *arguments: str) -> tuple[int, str, str]:
    return ended(started(*arguments, env=bucket.environment))


def steps(pair: Pair, *options: str) -> list[list[str]]:
    arguments = ["convert", str(pair.model), str(pair.skeleton), "--mapping", str(pair.mapping)]
    return [
        [*arguments, "-o", OUTPUT, "--part", "0/2", *options],
        [*arguments, "-o", OUTPUT, "--part", "1/2", *options],
        ["finish", OUTPUT, *pair.options],
        ["verify", OUTPUT, *pair.options, "--part", "0/2"],
        ["verify", OUTPUT, *pair.options, "--part", "1/2"],
    ]


def arrays_of(bucket: Bucket, folder: Path) -> dict[str, np.ndarray]:
    for name, (content, _) in bucket.objects.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return arrays_in(folder / "some" / "m")


def test_workers_write_to_a_bucket(pair: Pair, bucket: Bucket, tmp_path: Path) -> None:
    for step in steps(pair):
        code, out, said = run_at(bucket, *step)
        assert code == 0, said
        assert OUTPUT in out
        # Orbax looks for this before it loads.
        assert "some/m/commit_success.txt" not in bucket.objects
    code, _, said = run_at(bucket, "finish", OUTPUT, *pair.options, "--commit")
    assert code == 0, said
    assert {name for name in bucket.names() if "s2p" in name} == set()
    assert {"some/m/_METADATA", "some/m/commit_success.txt"} <= bucket.names()
    convert_to_orbax(pair.session(), tmp_path / "here.orbax")
    expected, found = arrays_in(tmp_path / "here.orbax"), arrays_of(bucket, tmp_path)
    assert found.keys() == expected.keys()
    assert all(found[name].tobytes() == array.tobytes() for name, array in expected.items())
    code, out, said = run_at(bucket, "verify", OUTPUT, *pair.options)
    assert (code, "verified 18 arrays" in out) == (0, True), said
    code, _, said = run_at(bucket, *steps(pair)[0])
    assert code == 5
    assert "holds a finished checkpoint" in said


def test_one_process_writes_to_a_bucket_and_takes_it_back(
    pair: Pair, bucket: Bucket, tmp_path: Path
) -> None:
    arguments = ["convert", str(pair.model), str(pair.skeleton), "--mapping", str(pair.mapping)]
    code, out, said = run_at(bucket, *arguments, "-o", OUTPUT)
    assert code == 0, said
    assert out.startswith(f"{OUTPUT}: ")
    assert "some/m/commit_success.txt" in bucket.objects
    back = tmp_path / "back.safetensors"
    code, _, said = run_at(bucket, "export", OUTPUT, *pair.options, "-o", str(back))
    assert code == 0, said
    convert_to_orbax(pair.session(), tmp_path / "here.orbax")
    here = tmp_path / "here.safetensors"
    code, _, said = run_at(
        bucket, "export", str(tmp_path / "here.orbax"), *pair.options, "-o", str(here)
    )
    assert code == 0, said
    assert back.read_bytes() == here.read_bytes()


def test_gaps_and_other_plans_are_refused_there_too(pair: Pair, bucket: Bucket) -> None:
    first, second, merge, *_ = steps(pair)
    assert run_at(bucket, *first)[0] == 0
    code, _, said = run_at(bucket, *second, "--dtype", "bfloat16")
    assert (code, "another dtype" in said) == (5, True), said
    code, _, said = run_at(bucket, *merge)
    assert (code, "missing, of part 1/2" in said) == (5, True), said


def test_urls_survive_as_paths() -> None:
    path = Path(OUTPUT)
    assert location(path) == OUTPUT
    assert format_of(path) == "orbax"
    assert location("model.orbax") == "model.orbax"
