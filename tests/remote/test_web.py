"""Checkpoints of web servers, which behave well or badly."""

from __future__ import annotations

import gzip
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import pytest
import torch

from s2p_tui.alignment.task import Job, ended_by
from s2p_tui.cli import run
from s2p_tui.errors import CancelledError, InputError, MissingEntriesError, S2PError
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.formats.registry import open_checkpoint
from s2p_tui.formats.remote.file import HEAD, RemoteFile, fetch_all
from s2p_tui.session.session import Session
from tests.helpers.files import (
    array_bytes,
    read,
    save_legacy,
    save_safetensors,
    save_zip,
    tensor_bytes,
)
from tests.helpers.remote_models import sharded
from tests.helpers.web_server import (
    CERTIFICATE,
    Answer,
    Behaviour,
    Exchange,
    WebServer,
    serving,
)

SAVE = {"zip": save_zip, "legacy": save_legacy, "safetensors": save_safetensors}
SECRET = "hunter2"


def model(count: int = 12, size: int = 200) -> dict[str, torch.Tensor]:
    found = {f"layers.{i}.weight": torch.randn(size, 100 + i) for i in range(count)}
    return found | {f"layers.{i}.bias": torch.randn(size) for i in range(count)}


def holds(checkpoint: Checkpoint, tensors: dict[str, torch.Tensor]) -> None:
    assert read_all(checkpoint) == {key: tensor_bytes(one) for key, one in tensors.items()}


def read_all(checkpoint: Checkpoint) -> dict[str, bytes]:
    return {entry.key: array_bytes(read(checkpoint, entry.key)) for entry in checkpoint.state_dict}


@pytest.mark.parametrize("form", SAVE)
@pytest.mark.slow("asks a server on this machine many times")
def test_every_format_holds_what_it_holds_here(
    tmp_path: Path, server: WebServer, form: str
) -> None:
    tensors = model() | {"turned": torch.arange(600.0).reshape(20, 30).T}
    if form == "safetensors":
        tensors["turned"] = tensors["turned"].contiguous()
    SAVE[form](tensors, tmp_path / "m")
    checkpoint = open_checkpoint(f"{server.url}/m")
    here = open_checkpoint(tmp_path / "m")
    assert read_all(checkpoint) == read_all(here)
    assert checkpoint.state_dict.entries == here.state_dict.entries
    assert (checkpoint.label, checkpoint.size, checkpoint.kind) == (
        here.label,
        here.size,
        here.kind,
    )


@pytest.mark.slow("asks a server on this machine many times")
def test_whole_training_checkpoints_are_searched_for_their_state_dict(
    tmp_path: Path, server: WebServer
) -> None:
    tensors = model()
    save_zip({"model": tensors, "epoch": 3}, tmp_path / "run.ckpt")
    checkpoint = open_checkpoint(f"{server.url}/run.ckpt")
    assert checkpoint.key == "model"
    holds(checkpoint, tensors)


def test_shards_are_found_beside_their_index(tmp_path: Path, server: WebServer) -> None:
    tensors = model()
    sharded(tmp_path, tensors, 5)
    checkpoint = open_checkpoint(f"{server.url}/model.safetensors.index.json?token=a")
    assert server.requests == 6
    holds(checkpoint, tensors)


def test_a_shard_that_is_not_there_is_named(tmp_path: Path, server: WebServer) -> None:
    sharded(tmp_path, model(), 5)
    (tmp_path / "model-00002-of-00005.safetensors").unlink()
    with pytest.raises(MissingEntriesError, match=r"shard model-00002-of-00005\.safetensors is"):
        open_checkpoint(f"{server.url}/model.safetensors.index.json")


@pytest.mark.slow("asks a server on this machine many times")
def test_opening_reads_headers_alone(
    tmp_path: Path, server: WebServer, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = {f"{i}.weight": torch.zeros(1000, 1000) for i in range(30)}
    index = sharded(tmp_path, tensors, 3)
    save_zip(tensors, tmp_path / "m.pt")
    save_legacy(tensors, tmp_path / "old.pt")
    assert run(["inspect", f"{server.url}/{index.name}"]) == 0
    assert server.requests == 4
    assert server.sent <= 4 * HEAD
    for name in ("m.pt", "old.pt"):
        server.forget()
        assert run(["inspect", f"{server.url}/{name}"]) == 0
        # Both ends, and what stands before each storage.
        assert server.requests <= 2 + 30 + 5
        assert server.sent <= 3 * HEAD
    assert "30 entries" in capsys.readouterr().out


class Fails:
    """A behaviour: so many answers are others than they should be."""

    def __init__(self, times: int, change: Answer) -> None:
        self.left, self.change = times, change

    def __call__(self, it: Exchange) -> Answer:
        self.left -= 1
        return self.change if self.left >= 0 else it.answer


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_fails_now_and_then_is_tried_again(
    tmp_path: Path, server: WebServer, status: int
) -> None:
    tensors = model(3)
    save_safetensors(tensors, tmp_path / "m")
    checkpoint = open_checkpoint(f"{server.url}/m")
    server.behaviours[""] = Fails(4, Answer(status, {"Retry-After": "0"}, b"busy"))
    holds(checkpoint, tensors)


def test_what_fails_always_is_told(tmp_path: Path, server: WebServer) -> None:
    save_safetensors(model(1), tmp_path / "m")
    server.behaviours[""] = Fails(1000, Answer(503, {}, b"busy"))
    with pytest.raises(InputError, match=r"the server answered 503 Service Unavailable, 3 times"):
        open_checkpoint(f"{server.url}/m")


def test_a_broken_connection_is_tried_again(tmp_path: Path, server: WebServer) -> None:
    tensors = model(3)
    save_safetensors(tensors, tmp_path / "m")
    checkpoint = open_checkpoint(f"{server.url}/m")
    left = [3]

    def cut(it: Exchange) -> Answer:
        left[0] -= 1
        if left[0] < 0:
            return it.answer
        length = {"Content-Length": str(len(it.answer.body))}
        return it.instead(206, length, it.answer.body[: len(it.answer.body) // 2])

    server.behaviours[""] = cut
    holds(checkpoint, tensors)


def ignores_ranges(it: Exchange) -> Answer:
    return Answer(200, {}, it.content)


BAD: dict[str, tuple[str, Behaviour]] = {
    "the whole instead of a part": (
        "the server sends no parts of files, only the whole",
        lambda it: Answer(200, {}, it.content),
    ),
    "the whole without a length": (
        "the server sends no parts of files, only the whole",
        lambda it: Answer(200, {"Content-Length": ""}, it.content),
    ),
    "packed": (
        "is sent packed with gzip",
        lambda it: Answer(200, {"Content-Encoding": "gzip"}, gzip.compress(it.content)
        ),
    ),
    "another part": (
        "were asked for, the server sent",
        lambda it: Answer(206,
            {"Content-Range": f"bytes 5-{len(it.answer.body) + 4}/{len(it.content)}"},
            it.answer.body,
        ),
    ),
    "no place": (
        "does not tell which bytes it sends",
        lambda it: Answer(206, {"Content-Range": ""}, it.answer.body),
    ),
    "no total": (
        "does not tell which bytes it sends, or how many there are",
        lambda it: it.instead(
            206, {"Content-Range": f"bytes 0-{len(it.answer.body) - 1}/*"}, it.answer.body
        ),
    ),
    "a page": (
        r"is a web page \('Sign in'\)",
        lambda _: Answer(200, {}, b"<!doctype html><html><title>Sign in</title>"
        ),
    ),
    "forbidden": (
        "the server answered 403 Forbidden",
        lambda _: Answer(403, {}, b"no"),
    ),
    "teapot": (
        "the server answered 418",
        lambda _: Answer(418, {}, b"no"),
    ),
    "nothing": ("is empty", lambda _: Answer(416, {}, b"")),
    "too little": (
        "bytes were promised, .* sent, 3 times",
        lambda it: Answer(206,
            {**it.answer.headers, "Content-Length": "", "Connection": "close"},
            it.answer.body[:100],
        ),
    ),
    "another total": (
        "is not a sound .safetensors file",
        lambda it: it.instead(
            206,
            {"Content-Range": f"bytes 0-{len(it.answer.body) - 1}/{2 * len(it.content)}"},
            it.answer.body,
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_answer_is_one_line(tmp_path: Path, server: WebServer, name: str) -> None:
    save_safetensors(model(), tmp_path / "m")
    problem, change = BAD[name]
    server.behaviours[""] = change
    with pytest.raises(InputError, match=problem) as caught:
        open_checkpoint(f"{server.url}/m?signature={SECRET}")
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.hint
    assert server.requests <= 3


def test_a_small_file_may_come_as_a_whole(tmp_path: Path, server: WebServer) -> None:
    tensors = {"weight": torch.randn(10, 10)}
    save_safetensors(tensors, tmp_path / "m")
    server.behaviours[""] = ignores_ranges
    holds(open_checkpoint(f"{server.url}/m"), tensors)
    assert server.requests == 1


def test_no_length_is_no_problem(tmp_path: Path, server: WebServer) -> None:
    tensors = model(3)
    save_safetensors(tensors, tmp_path / "m")
    server.behaviours[""] = lambda it: it.instead(
        206, {"Content-Length": "", "Connection": "close"}, it.answer.body
    )
    holds(open_checkpoint(f"{server.url}/m"), tensors)


@pytest.mark.parametrize("sizes", [(200, 200), (200, 150), (200, 250)])
def test_a_file_replaced_midway_is_named(
    tmp_path: Path, server: WebServer, sizes: tuple[int, int]
) -> None:
    save_safetensors(model(size=sizes[0]), tmp_path / "m")
    checkpoint = open_checkpoint(f"{server.url}/m")
    save_safetensors(model(size=sizes[1]), tmp_path / "m")
    with pytest.raises(InputError, match=r"/m was replaced while it was read"):
        read_all(checkpoint)


def test_a_file_removed_midway_is_named(tmp_path: Path, server: WebServer) -> None:
    save_safetensors(model(), tmp_path / "m")
    checkpoint = open_checkpoint(f"{server.url}/m")
    (tmp_path / "m").unlink()
    with pytest.raises(InputError, match=r"/m is no longer there"):
        checkpoint.tensors.read("layers.3.weight", ((0, 200), (0, 103)))


def test_a_server_without_versions_is_noted(tmp_path: Path, server: WebServer) -> None:
    save_safetensors(model(1), tmp_path / "m")
    server.behaviours[""] = lambda it: it.instead(206, {"ETag": ""}, it.answer.body)
    (note,) = open_checkpoint(f"{server.url}/m").notes
    assert note.startswith("the server gives files no versions")


def test_redirects_are_followed_and_logins_stay_behind(tmp_path: Path, server: WebServer) -> None:
    tensors = model(3)
    (tmp_path / "other").mkdir()
    save_safetensors(tensors, tmp_path / "other" / "m")
    with serving(tmp_path / "other") as other:
        server.behaviours["/m"] = lambda _: Answer(
            302, {"Location": f"{other.url}/m?signature={SECRET}"}, b""
        )
        address = server.url.replace("//", f"//me:{SECRET}@")
        holds(open_checkpoint(f"{address}/m"), tensors)
        assert [("authorization" in asked.headers) for asked in server.asked] == [True]
        assert not any("authorization" in asked.headers for asked in other.asked)


def test_a_redirect_out_of_encryption_is_refused(
    tmp_path: Path, server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_safetensors(model(1), tmp_path / "m")
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with serving(tmp_path, certificate=CERTIFICATE) as sealed:
        plain, hidden = f"{server.url}/m?signature={SECRET}", f"{sealed.url}/m"
        sealed.behaviours["/m"] = lambda _: Answer(302, {"Location": plain}, b"")
        address = sealed.url.replace("//", f"//me:{SECRET}@")
        with pytest.raises(InputError, match=r"sends to 127\.0\.0\.1 without encryption") as caught:
            open_checkpoint(f"{address}/m")
        assert SECRET not in str(caught.value)
        assert (len(sealed.asked), server.asked) == (1, [])
        # The other way round, and from one encrypted server to the next, nothing is lost.
        del sealed.behaviours["/m"]
        server.behaviours["/m"] = lambda _: Answer(302, {"Location": hidden}, b"")
        assert len(open_checkpoint(f"{server.url}/m").state_dict) == 2
        # Nor on the way through a third.
        sealed.behaviours["/n"] = lambda _: Answer(302, {"Location": "/m"}, b"")
        assert len(open_checkpoint(f"{sealed.url}/n").state_dict) == 2
        sealed.behaviours["/m"] = lambda _: Answer(302, {"Location": plain}, b"")
        server.forget()
        with pytest.raises(InputError, match="without encryption"):
            open_checkpoint(f"{sealed.url}/n")
        assert server.asked == []


LONG = {"Retry-After": "29"}
"""Longer than any test waits for a thread to end."""


@pytest.mark.parametrize("parts", [1, 3])
def test_waiting_to_try_again_ends_at_a_cancel(
    tmp_path: Path, server: WebServer, parts: int
) -> None:
    save_safetensors(model(), tmp_path / "m")
    checkpoint = open_checkpoint(f"{server.url}/m")
    file = checkpoint.files[0]
    assert isinstance(file, RemoteFile)
    asked = threading.Event()

    def busy(_: Exchange) -> Answer:
        asked.set()
        return Answer(503, LONG, b"busy")

    server.behaviours[""] = busy
    job, ends = Job(), [HEAD + 1000 * (number + 1) for number in range(parts)]
    outcome: list[object] = []

    def read() -> None:
        try:
            with ended_by(job.check):
                fetch_all([(file, HEAD, end) for end in ends])
        except CancelledError as error:
            outcome.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    assert asked.wait(300)
    assert thread.is_alive()
    job.cancel()
    thread.join(60)
    assert not thread.is_alive()
    assert [type(one) for one in outcome] == [CancelledError]


def test_a_conversion_that_waits_for_a_server_ends_at_a_cancel(
    tmp_path: Path, server: WebServer
) -> None:
    tensors = {f"{i}.weight": torch.randn(100, 500) for i in range(8)}
    save_safetensors(tensors, tmp_path / "m")
    tree = [{"weight": jax.ShapeDtypeStruct((100, 500), "float32")} for _ in range(8)]
    save_skeleton(tmp_path / "s.eqx", tree)
    session = Session.open(f"{server.url}/m", tmp_path / "s.eqx")
    session.trust(None)
    asked = threading.Event()

    def busy(_: Exchange) -> Answer:
        asked.set()
        return Answer(503, LONG, b"busy")

    server.behaviours[""] = busy
    with ThreadPoolExecutor(1) as pool:

        def convert(job: Job) -> object:
            pool.submit(lambda: (asked.wait(300), job.cancel()))
            return session.convert(tmp_path / "out.eqx", job=job)

        done = threading.Thread(target=lambda: outcome.append(raised(convert)), daemon=True)
        outcome: list[object] = []
        done.start()
        done.join(60)
    assert not done.is_alive()
    assert [type(one) for one in outcome] == [CancelledError]
    assert not (tmp_path / "out.eqx").exists()


def test_a_bucket_that_is_busy_ends_at_a_cancel(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library tries again by itself, and hears of no cancel."""
    monkeypatch.setenv("GOOGLE_BASE_URL", server.url)
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    asked = threading.Event()

    def busy(_: Exchange) -> Answer:
        asked.set()
        return Answer(503, {}, b"busy")

    server.behaviours[""] = busy
    outcome: list[object] = []
    job = Job()

    def open_it(_: Job) -> object:
        with ended_by(job.check):
            return open_checkpoint("gs://models/m.safetensors")

    thread = threading.Thread(target=lambda: outcome.append(raised(open_it)), daemon=True)
    thread.start()
    assert asked.wait(300)
    job.cancel()
    thread.join(60)
    assert not thread.is_alive()
    assert [type(one) for one in outcome] == [CancelledError]


def raised(work: Callable[[Job], object]) -> object:
    """What work raises; as a command runs it, but outside the main thread."""
    job = Job()
    try:
        with ended_by(job.check):
            return work(job)
    except S2PError as error:
        return error


def test_an_expired_address_is_asked_for_again(tmp_path: Path, server: WebServer) -> None:
    tensors = model(3)
    save_safetensors(tensors, tmp_path / "signed")
    server.behaviours["/m"] = lambda _: Answer(307, {"Location": "/signed?a=1"}, b"")
    checkpoint = open_checkpoint(f"{server.url}/m")
    server.behaviours["/signed"] = Fails(2, Answer(403, {}, b"expired"))
    with pytest.raises(InputError, match="403"):
        holds(checkpoint, tensors)
    server.behaviours["/signed"] = Fails(1, Answer(403, {}, b"expired"))
    holds(checkpoint, tensors)


@pytest.mark.parametrize("where", ["/m", "https://[::1"])
def test_bad_redirects_are_one_line(tmp_path: Path, server: WebServer, where: str) -> None:
    save_safetensors(model(1), tmp_path / "m")
    server.behaviours["/m"] = lambda _: Answer(302, {"Location": where}, b"")
    with pytest.raises(InputError):
        open_checkpoint(f"{server.url}/m")


def test_a_login_of_netrc_is_used(
    tmp_path: Path, server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = model(1)
    save_safetensors(tensors, tmp_path / "m")
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login me password {SECRET}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    holds(open_checkpoint(f"{server.url}/m"), tensors)
    assert all(asked.headers["authorization"].startswith("Basic") for asked in server.asked)


def test_odd_names_are_asked_for_as_they_are(tmp_path: Path, server: WebServer) -> None:
    tensors = model(4)
    (tmp_path / "my models").mkdir()
    sharded(tmp_path / "my models", tensors, 2)
    for file in (tmp_path / "my models").glob("*.safetensors"):
        file.rename(file.with_name(f"a b#{file.name}"))
    index = tmp_path / "my models" / "model.safetensors.index.json"
    index.write_text(index.read_text().replace('"model-', '"a b#model-'))
    checkpoint = open_checkpoint(f"{server.url}/my%20models/{index.name}")
    holds(checkpoint, tensors)
    assert checkpoint.label == index.name


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("ftp://127.0.0.1/m.pt", "ftp:// is not known here"),
        ("https:///m.pt", "is no usable address"),
        ("http://127.0.0.1:1/m.pt", r"no connection \(Connection refused\), 3 times"),
        ("https://huggingface.co/a/b/blob/main/m.pt", "Give hf://a/b@main/m.pt"),
        ("s3:///m.pt", "names no bucket"),
        ("hf://alone", "names no repository"),
    ],
)
def test_an_address_that_leads_nowhere_is_one_line(
    address: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", address]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(problem, line)


def test_a_missing_file_is_one_line(server: WebServer) -> None:
    with pytest.raises(InputError, match=r"/m\.pt does not exist. Check the address"):
        open_checkpoint(f"{server.url}/m.pt")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("m.tar", b"\0" * 257 + b"ustar" + b"\0" * 300, "is a tar archive. Download it"),
        ("m.gz", gzip.compress(b"weights"), "is packed with gzip. Download it"),
        ("m.gguf", b"GGUF" + bytes(100), "is a GGUF file"),
        ("m.eqx", b"\x93NUMPY" + bytes(100), "a checkpoint was expected"),
    ],
    ids=["tar", "gzip", "gguf", "eqx"],
)
def test_what_is_no_checkpoint_is_called_what_it_is(
    tmp_path: Path, server: WebServer, name: str, content: bytes, problem: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(S2PError, match=problem):
        open_checkpoint(f"{server.url}/{name}")
