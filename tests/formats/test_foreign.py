"""Files that are not checkpoints: each is called what it is, and the way out is tried."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.numpy import save_file

from s2p_tui.errors import InputError
from s2p_tui.formats.memory import checkpoint_in_memory
from s2p_tui.formats.registry import open_checkpoint, open_target
from tests.helpers.files import assert_holds, save_legacy, save_safetensors, save_zip

STATE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.ones(2)}


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(path: str | Path, *words: str) -> InputError:
    """What is said of a file, on either side of a conversion."""
    said: list[InputError] = []
    for opened in (open_checkpoint, open_target):
        with pytest.raises(InputError) as caught:
            opened(path)
        said.append(caught.value)
    assert "\n" not in said[0].line
    for word in words:
        assert word in said[0].line
    return said[0]


def command(error: InputError) -> str:
    """The shell command of a way out, which ends where the sentence goes on."""
    return (
        error.hint.partition(" with ")[2].partition(", and give")[0]
        or (error.hint.partition(": ")[2])
    )


def shell(line: str) -> None:
    subprocess.run(line, shell=True, check=True, timeout=300)


PACKERS: Mapping[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": (".gz", gzip.compress),
    "xz": (".xz", lzma.compress),
    "bzip2": (".bz2", bz2.compress),
}


@pytest.mark.parametrize("name", ["model.pt", "my model's.pth", "model"])
@pytest.mark.parametrize("packer", PACKERS)
def test_a_packed_checkpoint_is_unpacked_as_told(packer: str, name: str) -> None:
    suffix, pack = PACKERS[packer]
    save_zip(STATE, Path("plain"))
    for file, out in ((name + suffix, name), (name, f"{name}.unpacked")):
        Path(file).write_bytes(pack(Path("plain").read_bytes()))
        error = refused(file, f"is packed with {packer}")
        shell(command(error))
        assert_holds(open_checkpoint(out), STATE)


def test_a_checkpoint_packed_with_zstandard() -> None:
    assert shutil.which("zstd"), "this test needs zstd: apt-get install zstd"
    save_zip(STATE, Path("model.pt"))
    shell("zstd -q model.pt")
    Path("model.pt").unlink()
    shell(command(refused("model.pt.zst", "is packed with zstandard")))
    assert_holds(open_checkpoint("model.pt"), STATE)


def write_members(directory: Path) -> list[str]:
    """What reinforcement learning libraries put into an archive."""
    directory.mkdir()
    (directory / "data").write_text("{}")
    save_zip({"state": {}, "param_groups": [{"x": "y" * 9999}]}, directory / "policy.optimizer.pth")
    save_zip(STATE, directory / "policy.pth")
    return sorted(file.name for file in directory.iterdir())


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
@pytest.mark.parametrize("suffix", [".nemo", ".tar", ".pth.tar"])
def test_a_tar_of_checkpoints_names_them(tmp_path: Path, mode: Any, suffix: str) -> None:
    names = write_members(tmp_path / "inside")
    with tarfile.open(f"all{suffix}", mode) as archive:
        for name in names:
            archive.add(tmp_path / "inside" / name, name)
    error = refused(f"all{suffix}", "tar archive", "policy.pth, policy.optimizer.pth")
    shell(command(error))
    assert_holds(open_checkpoint("policy.pth"), STATE)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("name", ["agent.zip", "agent", "an agent.zip"])
def test_a_zip_of_checkpoints_names_them(tmp_path: Path, compression: int, name: str) -> None:
    names = write_members(tmp_path / "inside")
    with zipfile.ZipFile(name, "w", compression) as archive:
        for member in names:
            archive.write(tmp_path / "inside" / member, member)
    error = refused_as_checkpoint(name, "zip archive that holds policy.pth, policy.optimizer.pth")
    shell(command(error))
    folder = Path(name).stem if Path(name).suffix else f"{name}.unpacked"
    assert_holds(open_checkpoint(Path(folder) / "policy.pth"), STATE)


def refused_as_checkpoint(path: str, *words: str) -> InputError:
    """What is said of a file that is of a known kind, and is no skeleton either."""
    with pytest.raises(InputError) as caught:
        open_checkpoint(path)
    for word in words:
        assert word in caught.value.line
    return caught.value


def run_in_torch(hint: str, file: str, out: str) -> None:
    """Run the Python of a way out, with the names that it leaves open."""
    code = hint.partition(": ")[2].removesuffix(".")
    names = {"file": file, "other_file": out, "torch": torch, "numpy": np}
    import safetensors.numpy

    exec(code, names | {"safetensors": safetensors})


def test_a_zip_of_nothing_known() -> None:
    with zipfile.ZipFile("notes.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused_as_checkpoint("notes.zip", "not one written by torch.save")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(save: Callable[..., None]) -> None:
    arrays = {name: tensor.numpy() for name, tensor in STATE.items()}
    save("a.npz", **arrays)
    error = refused_as_checkpoint("a.npz", "NumPy archive (.npz) of fc.weight.npy, fc.bias.npy")
    run_in_torch(error.hint, "a.npz", "a.safetensors")
    opened = open_checkpoint("a.safetensors")
    assert {entry.key for entry in opened.state_dict} == {*STATE}


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript() -> None:
    net = Net().eval()
    torch.jit.save(torch.jit.trace(net, torch.ones(1, 3)), "net.ts")
    error = refused_as_checkpoint("net.ts", "TorchScript", 'map_location="cpu"')
    run_in_torch(error.hint, "net.ts", "net.pt")
    assert_holds(open_checkpoint("net.pt"), net.state_dict())


def test_torch_export() -> None:
    net = Net().eval()
    torch.export.save(torch.export.export(net, (torch.ones(1, 3),)), "net.pt2")
    error = refused_as_checkpoint("net.pt2", "torch.export (.pt2)")
    run_in_torch(error.hint, "net.pt2", "net.pt")
    assert_holds(open_checkpoint("net.pt"), net.state_dict())


def test_a_gguf_header() -> None:
    Path("model.gguf").write_bytes(b"GGUF" + (3).to_bytes(4, "little") + bytes(16))
    refused("model.gguf", "GGUF", "quantised")


def test_zeros_alone() -> None:
    Path("model.pt").write_bytes(bytes(4096))
    refused("model.pt", "nothing but zeros")


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 438007537\n"
FAILED = {
    "html": ("<!doctype html><html>", "web page"),
    "capitals": ("<HTML><HEAD><TITLE>404 Not Found</TITLE></HEAD>", "web page ('404 Not Found')"),
    "newlines": ("\r\n\n  <!DOCTYPE HTML PUBLIC '-//IETF'>\n<html>", "web page"),
    "comment": ("<!-- cached --><html lang='en'>", "web page"),
    "xhtml": ("<?xml version='1.0'?><!DOCTYPE html PUBLIC '-//W3C'><html>", "web page"),
    "no doctype": ("<head><title>Sign in</title>", "web page ('Sign in')"),
    "s3": (
        "<?xml version='1.0' encoding='UTF-8'?>\n<Error><Code>AccessDenied</Code>"
        "<Message>Access Denied</Message></Error>",
        "a server answered in XML in place of the file: AccessDenied: Access Denied.",
    ),
    "azure": ("<?xml version='1.0'?><Error><Code>BlobNotFound</Code>", "BlobNotFound"),
    "hub": ("Entry not found", "message: 'Entry not found'"),
    "hub repo": ("Repository not found", "message: 'Repository not found'"),
    "hub login": ("Invalid username or password.", "Invalid username or password."),
    "gated": ("Access to model x/y is restricted. You must be authenticated.", "restricted"),
    "github": ("404: Not Found", "'404: Not Found'"),
    "long text": ("Rate limit exceeded for this address. " * 20, "message: 'Rate limit"),
    "json error": (
        '{"error": "Repository not found"}',
        "in JSON in place of the file: 'Repository not found'",
    ),
    "json message": (
        '\n{"message": "Not Found", "documentation_url": "https://docs.github.com"}',
        "in JSON in place of the file: 'Not Found'",
    ),
    "json nested": ('{"error": {"code": 403, "message": "denied"}}', "in JSON in place"),
    "json detail": ('{"detail": "Not authenticated"}', "'Not authenticated'"),
    "lfs": (LFS, "git-lfs pointer for 438,007,537 bytes"),
    "lfs newline": ("\n" + LFS, "git-lfs pointer"),
    "annex": ("/annex/objects/SHA256E-s438007537--4d7a.pt\n", "git-annex pointer"),
    "text": ("Epoch 1: 3.1\n" * 300, "is a text, no checkpoint; it begins 'Epoch 1: 3.1'"),
    "config": ('{"hidden_size": 768}', "text in JSON, neither a checkpoint"),
}


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "bom"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
@pytest.mark.parametrize("case", FAILED)
def test_failed_downloads(case: str, encoding: str, mark: str) -> None:
    text, words = FAILED[case]
    Path("model.safetensors").write_bytes(
        (mark if encoding == "utf-8" else "").encode() + text.encode(encoding)
    )
    refused("model.safetensors", words)


def test_a_text_with_letters_of_other_scripts() -> None:
    Path("model.pt").write_text("Доступ запрещён: 请登录 🙂", encoding="utf-8")
    refused("model.pt", "it begins 'Доступ запрещён: 请登录 🙂'")


def test_escape_sequences_of_a_page_do_not_reach_the_terminal() -> None:
    Path("model.pt").write_bytes(b"<html><title>\x1b[31mred\x9b</title>")
    assert "\x1b" not in refused("model.pt", "").line


@pytest.mark.parametrize("endless", [PACKERS["gzip"][1], PACKERS["xz"][1]])
@pytest.mark.slow("unpacks gigabytes")
def test_an_archive_that_unpacks_without_end(endless: Callable[[bytes], bytes]) -> None:
    """A tar archive whose first file alone has four gigabytes of zeros, when unpacked."""
    member = tarfile.TarInfo("zeros")
    member.size = 1 << 32
    piece = endless(bytes(1 << 24))
    Path("bomb.tar").write_bytes(endless(member.tobuf()) + piece * 16)
    refused("bomb.tar", "tar archive", "no checkpoint")


def swapped(state: Mapping[str, torch.Tensor], path: str) -> None:
    """What a big-endian machine writes."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            data = source.read(info)
            if info.filename.endswith("byteorder"):
                data = b"big"
            elif "/data/" in info.filename:
                data = np.frombuffer(data, np.float32).byteswap().tobytes()
            target.writestr(info.filename, data)


def test_a_big_endian_file() -> None:
    swapped(STATE, "big.pt")
    error = refused_as_checkpoint("big.pt", "big-endian")
    run_in_torch(error.hint, "big.pt", "little.pt")
    assert_holds(open_checkpoint("little.pt"), STATE)


def test_a_big_endian_legacy_file() -> None:
    """Such files hold little-endian numbers on any machine, and say where they were written."""
    save_legacy(STATE, Path("little.pt"))
    content = Path("little.pt").read_bytes()
    said = b"little_endianq\x02\x88"
    assert content.count(said) == 1
    Path("big.pt").write_bytes(content.replace(said, said[:-1] + b"\x89"))
    error = refused_as_checkpoint("big.pt", "big-endian")
    run_in_torch(error.hint, "big.pt", "again.pt")
    assert_holds(open_checkpoint("again.pt"), STATE)


def test_what_is_no_checkpoint_leaves_checkpoints_alone() -> None:
    save_safetensors(STATE, Path("a.txt"))
    assert_holds(open_checkpoint("a.txt"), dict(sorted(STATE.items())))
    save_file({"x": np.ones(1)}, "b.html")
    assert len(open_checkpoint("b.html").state_dict) == 1


@pytest.fixture
def one_process() -> Iterator[Any]:
    """A mesh of this process alone."""
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_dtensors(one_process: Any) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    spread = {key: distribute_tensor(t, one_process, [Shard(0)]) for key, t in STATE.items()}
    save_zip(spread, Path("spread.pt"))
    refused_as_checkpoint("spread.pt", "fc.weight is a DTensor", "call .full_tensor()")
    with pytest.raises(InputError, match=r"fc\.weight is a DTensor.*call \.full_tensor\(\)"):
        checkpoint_in_memory(spread)
    save_zip({key: tensor.full_tensor() for key, tensor in spread.items()}, Path("whole.pt"))
    assert_holds(open_checkpoint("whole.pt"), STATE)


UNUSABLE: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "quantised": (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "dequantize"),
    "sparse": (lambda t: t.to_sparse(), "to_dense"),
    "conjugated": (lambda t: t.to(torch.complex64).conj(), "resolve_conj"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", UNUSABLE)
def test_tensors_that_have_to_be_converted_first(kind: str) -> None:
    make, method = UNUSABLE[kind]
    made = make(STATE["fc.weight"])
    save_zip({"fc.weight": made, "fc.bias": STATE["fc.bias"]}, Path("model.pt"))
    refused_as_checkpoint("model.pt", "fc.weight is ", f".{method}()")
    save_zip({"fc.weight": getattr(made, method)()}, Path("again.pt"))
    assert len(open_checkpoint("again.pt").state_dict) == 1
