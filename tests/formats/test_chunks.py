"""Chunk folders: written from anything, read as anything, and trusted in nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2p_tui.alignment.dtypes import BY_NAME, numpy_dtype
from s2p_tui.cli import run
from s2p_tui.converter import chunkify_pytree, chunkify_state_dict
from s2p_tui.errors import InputError, OutputError, S2PError
from s2p_tui.formats.pytree.skeleton import target_of
from s2p_tui.formats.registry import open_checkpoint, open_target
from tests.helpers.files import (
    TORCH_DTYPES,
    array_bytes,
    assert_holds,
    folder,
    outcome,
    random_tensor,
    tensor_bytes,
)
from tests.models.linears import EqxNet, Pair, make_pair

SHARED = torch.arange(6.0).reshape(2, 3)
STATE = {
    "plain": SHARED,
    "tied": SHARED,
    "turned": torch.arange(12).reshape(3, 4).t(),
    "half": torch.arange(4).to(torch.bfloat16),
    "eighth": torch.ones(3).to(torch.float8_e4m3fn),
    "number": torch.tensor(7),
    "empty": torch.zeros(0, 3),
    "layers/../../etc/passwd": torch.ones(2),
    "a b\nc": torch.ones(1),
    "é" * 300: torch.zeros(1),
}


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=12),
        st.tuples(st.sampled_from(TORCH_DTYPES), st.lists(st.integers(0, 4), max_size=3)),
        min_size=1,
        max_size=6,
    ),
    st.booleans(),
)
@pytest.mark.slow("writes a hundred folders")
def test_any_state_dict_comes_back_bit_by_bit(
    described: dict[str, tuple[str, list[int]]], turned: bool
) -> None:
    state = {
        key: random_tensor(dtype, tuple(shape), n)
        for n, (key, (dtype, shape)) in enumerate(described.items())
    }
    if turned:
        state = {key: tensor.permute(tuple(reversed(range(tensor.ndim))))
                 for key, tensor in state.items()}  # fmt: skip
    with folder() as place:
        chunkify_state_dict(state, place, chunk_size=1)
        assert_holds(open_checkpoint(place), state)


def test_plain_numpy_reads_the_files_and_the_manifest_has_the_true_names(tmp_path: Path) -> None:
    assert chunkify_state_dict(STATE, tmp_path / "chunks") == tmp_path / "chunks"
    manifest = json.loads((tmp_path / "chunks/torch_fields.json").read_text())
    assert [field["key"] for field in manifest["fields"]] == [*STATE]
    for field in manifest["fields"]:
        tensor = STATE[field["key"]]
        loaded = np.load(tmp_path / "chunks/state_dict" / field["file"], allow_pickle=False)
        assert list(loaded.shape) == field["shape"] == list(tensor.shape)
        assert field["dtype"] == str(tensor.dtype).removeprefix("torch.")
        assert array_bytes(loaded.view(numpy_dtype(field["dtype"]))) == tensor_bytes(tensor)
    named = {field["file"] for field in manifest["fields"]}
    assert {path.name for path in (tmp_path / "chunks/state_dict").iterdir()} == named
    assert all(name.isascii() and len(name) < 120 for name in named)
    assert len(named) == len(STATE) - 1, "tied tensors share a file"
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_dir()) == [
        "chunks",
        "state_dict",
    ]


def test_tied_tensors_stay_tied(tmp_path: Path) -> None:
    entries = open_checkpoint(chunkify_state_dict(STATE, tmp_path)).state_dict
    assert entries["plain"].storage == entries["tied"].storage
    assert len({entry.storage for entry in entries}) == len(STATE) - 1


@pytest.mark.parametrize("given", ["folder", "subfolder", "manifest"])
def test_a_folder_is_found_by_any_of_its_names(
    tmp_path: Path, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunkify_state_dict(STATE, tmp_path / "c")
    chunkify_pytree({"w": jnp.ones(2)}, tmp_path / "c")
    torch_side = {"folder": "c", "subfolder": "c/state_dict", "manifest": "c/torch_fields.json"}
    jax_side = {"folder": "c", "subfolder": "c/pytree", "manifest": "c/jax_fields.json"}
    monkeypatch.chdir(tmp_path)
    assert_holds(open_checkpoint(torch_side[given]), STATE)
    assert [leaf.path for leaf in open_target(jax_side[given]).skeleton] == ["['w']"]
    monkeypatch.chdir(tmp_path / "c/state_dict")
    assert_holds(open_checkpoint("."), STATE)


def leaves_of(pytree: Any, place: Path) -> None:
    """The chunk folder at the place describes and holds what the pytree does."""
    expected, found = target_of(pytree, "pytree"), open_target(place)
    # JSON has lists only.
    assert json.loads(json.dumps([_as_json(leaf) for leaf in expected.skeleton])) == [
        _as_json(leaf) for leaf in found.skeleton
    ]
    for leaf in expected.skeleton:
        region = tuple((0, size) for size in leaf.shape)
        if leaf.has_value:
            before = np.asarray(expected.values.read(leaf.path, region))
            after = found.values.read(leaf.path, region)
            assert (after.dtype, after.shape) == (before.dtype, before.shape)
            assert array_bytes(after) == array_bytes(before)
    found.values.close()


def _as_json(leaf: Any) -> list[Any]:
    return [leaf.path, list(leaf.shape), leaf.dtype, leaf.kind, leaf.owner, dict(leaf.config),
            leaf.has_value, leaf.fill]  # fmt: skip


def stateful() -> Any:
    key = jax.random.PRNGKey(0)
    return {
        "norm": eqx.nn.BatchNorm(3, "batch", mode="batch"),
        "p": 0.5, "count": 3, "flag": True, "z": 1j,
        "conv": eqx.nn.ConvTranspose2d(2, 3, 3, key=key),
        "half": jnp.arange(3, dtype=jnp.bfloat16), "column major": np.asfortranarray(np.eye(3, 4)),
        "fp8": jnp.ones(2, jnp.float8_e5m2),
    }  # fmt: skip


def test_pytrees_come_back_with_owners_scalars_and_values(tmp_path: Path) -> None:
    pytree = stateful()
    leaves_of(pytree, chunkify_pytree(pytree, tmp_path / "values"))
    abstract = eqx.filter_eval_shape(stateful)
    leaves_of(abstract, chunkify_pytree(abstract, tmp_path / "none"))
    held = {path.suffix for path in (tmp_path / "none/pytree").iterdir()}
    assert held <= {".npy"}


def test_more_files_than_may_be_open_at_once(tmp_path: Path) -> None:
    import resource

    state = {f"w{n}": torch.full((3,), float(n)) for n in range(300)}
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 100, hard))
    try:
        assert_holds(open_checkpoint(chunkify_state_dict(state, tmp_path)), state)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_is_there_is_replaced_only_when_asked(tmp_path: Path) -> None:
    chunkify_state_dict(STATE, tmp_path)
    with pytest.raises(OutputError, match="holds a state_dict in chunks already"):
        chunkify_state_dict({"w": torch.ones(1)}, tmp_path)
    assert_holds(open_checkpoint(tmp_path), STATE)
    chunkify_state_dict({"w": torch.ones(1)}, tmp_path, overwrite=True)
    assert_holds(open_checkpoint(tmp_path), {"w": torch.ones(1)})
    (tmp_path / "state_dict/notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"not only chunks, and is left alone: notes\.txt"):
        chunkify_state_dict(STATE, tmp_path, overwrite=True)
    assert (tmp_path / "state_dict/notes.txt").read_text() == "mine"


def test_dtypes_numpy_lacks_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    packed = torch.zeros(3, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    with pytest.raises(InputError, match="w is float4_e2m1fn_x2"):
        chunkify_state_dict({"fine": torch.ones(2), "w": packed}, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_unwritable_folders_and_files_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        chunkify_state_dict(STATE, tmp_path / "file")
    with pytest.raises(OutputError, match="cannot be written"):
        chunkify_state_dict(STATE, tmp_path / "file/below")
    assert (tmp_path / "file").read_text() == ""


def test_what_differs_after_writing_is_never_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite

    def flipping(file: int, data: Any, position: int) -> int:
        wrong = bytearray(data)
        if wrong.endswith(SHARED.numpy().tobytes()):
            wrong[-1] ^= 1
        return pwrite(file, wrong, position)

    monkeypatch.setattr(os, "pwrite", flipping)
    with pytest.raises(OutputError, match="What was written of plain differs from its source"):
        chunkify_state_dict(STATE, tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- what others may have made of a folder ---

Harm = Callable[[Path, dict[str, Any]], object]


def _field(field: str, value: Any) -> Harm:
    return lambda _place, head: head["fields"][0].update({field: value})


def _link(place: Path, head: dict[str, Any]) -> None:
    file = place / "state_dict" / head["fields"][0]["file"]
    file.rename(place / "elsewhere.npy")
    file.symlink_to("../elsewhere.npy")


def _pipe(place: Path, head: dict[str, Any]) -> None:
    file = place / "state_dict" / head["fields"][0]["file"]
    file.unlink()
    os.mkfifo(file)


def _folder_link(place: Path, _head: dict[str, Any]) -> None:
    (place / "state_dict").rename(place / "other")
    (place / "state_dict").symlink_to("other")


def _saved(array: Any) -> Harm:
    return lambda place, head: np.save(
        place / "state_dict" / head["fields"][0]["file"], array, allow_pickle=True
    )


def _appended(place: Path, head: dict[str, Any]) -> None:
    file = place / "state_dict" / head["fields"][0]["file"]
    file.write_bytes(file.read_bytes() * 2)


def _cut(place: Path, head: dict[str, Any]) -> None:
    file = place / "state_dict" / head["fields"][0]["file"]
    os.truncate(file, file.stat().st_size - 1)


def _again(_place: Path, head: dict[str, Any]) -> None:
    head["fields"].append(dict(head["fields"][0], file=head["fields"][2]["file"]))


HARM: dict[str, tuple[Harm, str]] = {
    "escapes": (_field("file", "../../secret.npy"), "no plain name of a .npy file"),
    "absolute": (_field("file", "/etc/passwd.npy"), "no plain name of a .npy file"),
    "not npy": (_field("file", "passwd"), "no plain name of a .npy file"),
    "dots": (_field("file", ".."), "no plain name of a .npy file"),
    "file is a number": (_field("file", 3), "expected a string, got int"),
    "no file": (_field("file", None), "names no file for plain"),
    "missing": (_field("file", "gone.npy"), "gone.npy cannot be read"),
    "negative": (_field("shape", [-2, 3]), "sizes are not whole numbers"),
    "huge": (_field("shape", [2**61]), r"shape \[2305843009213693952\] is larger than any"),
    "other shape": (_field("shape", [3, 2]), r"is \[2, 3\] <f4, the manifest says \[3, 2\]"),
    "other dtype": (_field("dtype", "int32"), "the manifest says .* int32"),
    "same width": (_field("dtype", "float16"), "the manifest says .* float16"),
    "unknown dtype": (_field("dtype", "object"), "dtype 'object' is not known"),
    "packed dtype": (_field("dtype", "complex32"), "complex32 tensors cannot be converted"),
    "dtype is a list": (_field("dtype", []), "expected a string, got list"),
    "link": (_link, "is a symbolic link"),
    "pipe": (_pipe, "is no plain file"),
    "folder is a link": (_folder_link, "which is no plain folder"),
    "objects": (_saved(np.array([print], object)), "does not describe an array of plain numbers"),
    "records": (_saved(np.zeros(3, [("a", "<f4")])), "does not describe an array of plain numbers"),
    "text": (_saved(np.array(["abc"])), "does not describe an array of plain numbers"),
    "two arrays": (_appended, "holds 2 arrays"),
    "cut short": (_cut, "claims 24 bytes of data, 23 are left"),
    "twice": (_again, "plain is there twice"),
    "version": (lambda _place, head: head.update(version=2), "of version 2"),
    "other side": (lambda _place, head: head.update(holds="pytree"), "is the manifest of a pytree"),
    "no fields": (lambda _place, head: head.pop("fields"), "'fields' is missing"),
    "fields": (lambda _place, head: head.update(fields={}), "expected a list, got dict"),
    "field": (lambda _place, head: head.update(fields=[3]), "expected an object, got int"),
    "no key": (lambda _place, head: head["fields"][0].pop("key"), "'key' is missing"),
    "surrogate": (_field("key", "\ud800"), "surrogates not allowed"),
}


@pytest.mark.parametrize("harm", sorted(HARM))
def test_a_folder_made_to_harm_is_refused(tmp_path: Path, harm: str) -> None:
    np.save(tmp_path / "secret.npy", np.zeros((2, 3), np.float32))
    place = tmp_path / "a/b"
    chunkify_state_dict(STATE, place)
    manifest = place / "torch_fields.json"
    head = json.loads(manifest.read_text())
    change, reason = HARM[harm]
    change(place, head)
    manifest.write_text(json.dumps(head))
    with pytest.raises(InputError, match=reason) as caught:
        open_checkpoint(place)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"{", "neither a checkpoint"),
        (b'{"format": "s2p-chunks", "version": 1', "not a usable manifest"),
        (b'{"format": "s2p-chunks", "format": "s2p-chunks"}', "names format twice"),
        (b'["s2p-chunks"]', "neither a checkpoint"),
        (b'{"format": "s2p-chunks", "x": ' + b"[" * 100_000, "not a usable manifest"),
        (b'{"format": "s2p-chunks", "x": "\xff"}', "not a usable manifest"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    chunkify_state_dict(STATE, tmp_path)
    (tmp_path / "torch_fields.json").write_bytes(content)
    with pytest.raises(InputError, match=reason):
        open_checkpoint(tmp_path)


def test_a_manifest_that_is_a_link_is_refused(tmp_path: Path) -> None:
    chunkify_state_dict(STATE, tmp_path / "c")
    manifest = tmp_path / "c/torch_fields.json"
    manifest.rename(tmp_path / "other.json")
    manifest.symlink_to(tmp_path / "other.json")
    with pytest.raises(InputError, match="cannot be read"):
        open_checkpoint(tmp_path / "c")


@settings(max_examples=150, deadline=None)
@given(st.data())
@pytest.mark.slow("writes and damages 150 folders")
def test_flipped_bytes_are_refused_or_harmless(data: st.DataObject) -> None:
    with folder() as place:
        chunkify_state_dict({"w": torch.arange(6.0), "b": torch.ones(2)}, place)
        chunkify_pytree({"w": jnp.arange(6.0), "p": 0.5}, place)
        files = sorted(path for path in place.rglob("*") if path.is_file())
        file = data.draw(st.sampled_from(files))
        content = bytearray(file.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        file.write_bytes(content)

        def read_all() -> None:
            checkpoint, target = open_checkpoint(place), open_target(place)
            for entry in checkpoint.state_dict:
                checkpoint.tensors.read(entry.key, tuple((0, n) for n in entry.shape))
            for leaf in target.skeleton:
                if leaf.has_value:
                    target.values.read(leaf.path, tuple((0, n) for n in leaf.shape))

        outcome(read_all)


def test_a_value_without_a_file_is_refused(tmp_path: Path) -> None:
    chunkify_pytree({"w": jnp.ones(2)}, tmp_path)
    manifest = tmp_path / "jax_fields.json"
    head = json.loads(manifest.read_text())
    head["fields"][0]["file"] = None
    manifest.write_text(json.dumps(head))
    with pytest.raises(InputError, match="has a value without a file"):
        open_target(tmp_path)


def test_strangers_in_the_folder_are_told_of(tmp_path: Path) -> None:
    chunkify_state_dict({"w": torch.ones(2)}, tmp_path)
    np.save(tmp_path / "state_dict/other.npy", np.ones(2))
    assert open_checkpoint(tmp_path).notes == ("1 files are not in the manifest: other.npy",)


def test_a_pickled_list_of_chunks_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "state_dict").mkdir()
    (tmp_path / "torch_fields.pkl").write_bytes(b"")
    with pytest.raises(InputError, match=r"pickled manifest, .* s2p-tui chunk"):
        open_checkpoint(tmp_path)


def test_the_wrong_side_is_named(tmp_path: Path) -> None:
    chunkify_pytree({"w": jnp.ones(2)}, tmp_path / "p")
    chunkify_state_dict({"w": torch.ones(2)}, tmp_path / "s")
    with pytest.raises(InputError, match="holds a pytree in chunks and no"):
        open_checkpoint(tmp_path / "p")
    with pytest.raises(InputError, match="holds a state_dict in chunks and no"):
        open_target(tmp_path / "s")
    with pytest.raises(InputError, match=r"is no chunk folder with a pytree"):
        open_target(tmp_path)
    with pytest.raises(InputError, match="there is none at 'model'"):
        open_checkpoint(tmp_path / "s", "model")


def test_a_chunk_swapped_while_open_is_noticed(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(chunkify_state_dict(STATE, tmp_path))
    file = checkpoint.files[1]
    file.rename(tmp_path / "other.npy")
    file.symlink_to(tmp_path / "other.npy")
    assert isinstance(outcome(lambda: checkpoint.tensors.read("plain", ((0, 2), (0, 3)))), S2PError)
    with pytest.raises(InputError, match="was changed while it was open"):
        checkpoint.tensors.check_unchanged()


# --- the command line ---


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return make_pair(tmp_path / "pair")


def test_every_command_takes_chunk_folders(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chunks, plain = tmp_path / "chunks", tmp_path / "plain.eqx"
    assert run(["convert", str(pair.model), str(pair.skeleton), "-o", str(plain)]) == 0
    capsys.readouterr()
    assert run(["chunk", str(pair.model), str(chunks)]) == 0
    assert capsys.readouterr().out == f"{chunks}: state dict, 6 arrays\n"
    assert run(["chunk", str(pair.skeleton), str(chunks)]) == 0
    assert capsys.readouterr().out == f"{chunks}: pytree, 6 arrays\n"
    assert run(["chunk", str(pair.skeleton), str(chunks)]) == 5
    assert run(["chunk", str(pair.skeleton), str(chunks), "--overwrite"]) == 0

    output, mapping = tmp_path / "o.eqx", tmp_path / "m.json"
    arguments = [str(chunks), str(chunks), "-o", str(output), "--save-mapping", str(mapping)]
    assert run(["convert", *arguments]) == 0
    assert output.read_bytes() == plain.read_bytes()
    again = ["--model", str(chunks), "--skeleton", str(chunks), "--mapping", str(mapping)]
    assert run(["verify", str(output), *again]) == 0
    mixed = [str(chunks), str(pair.skeleton), "-o", str(output), "--mapping", str(mapping)]
    assert run(["convert", *mixed]) == 0
    capsys.readouterr()
    assert run(["inspect", str(chunks)]) == 0
    listed = capsys.readouterr().out
    assert "chunks, 6 entries" in listed
    assert "it holds a pytree too" in listed
    assert run(["inspect", str(chunks / "pytree"), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert (listed["kind"], len(listed["leaves"])) == ("pytree chunks", 6)


def test_an_output_never_replaces_a_chunk(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chunks = tmp_path / "chunks"
    assert run(["chunk", str(pair.model), str(chunks)]) == 0
    file = next((chunks / "state_dict").iterdir())
    for output in (file, chunks / "torch_fields.json"):
        before = output.read_bytes()
        assert run(["convert", str(chunks), str(pair.skeleton), "-o", str(output)]) == 5
        assert "would overwrite a file" in capsys.readouterr().err
        assert output.read_bytes() == before


ROOT = Path(__file__).parents[2]
OBJECTS = f"""
import sys
sys.path.append({str(ROOT)!r})
import torch, jax, numpy as np
from tests.models.linears import EqxNet, TorchNet
def torch_side(): return TorchNet()
state = {{"w": torch.ones(2)}}
def jax_side(key): return EqxNet(key=key)
arrays = {{"w": np.ones(3)}}
def broken(): raise ValueError("no weights here")
"""


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("torch_side", [], "state dict, 6 arrays"),
        ("state", [], "state dict, 1 arrays"),
        ("jax_side", [], "pytree, 6 arrays"),
        ("arrays", [], "pytree, 1 arrays"),
        ("arrays", ["--as", "state-dict"], "state dict, 1 arrays"),
    ],
)
def test_objects_are_chunked(
    tmp_path: Path, name: str, options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = tmp_path / "objects.py"
    code.write_text(OBJECTS)
    assert run(["chunk", f"{code}:{name}", str(tmp_path / "c"), *options]) == 0
    assert told in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "status", "reason"),
    [
        ("missing.pt", 4, "missing.pt does not exist"),
        ("no_such_module:x", 2, "no_such_module cannot be imported"),
        ("no_such_module.x", 2, "names nothing that can be imported"),
        ("json.nothing", 2, "json has no 'nothing'"),
        ("OBJECTS:broken", 4, "broken raised ValueError: no weights here"),
    ],
)
def test_what_cannot_be_chunked_gets_one_line(
    tmp_path: Path, given: str, status: int, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = tmp_path / "objects.py"
    code.write_text(OBJECTS)
    assert run(["chunk", given.replace("OBJECTS", str(code)), str(tmp_path / "c")]) == status
    err = capsys.readouterr().err
    assert reason in err
    assert err.count("\n") == 1
    assert not (tmp_path / "c").exists()


def test_chunking_a_large_file_stays_within_chunks(tmp_path: Path) -> None:
    """Regions of a strided tensor are read in bounded reads: every chunk size gives the same."""
    state = {"w": torch.randn(700, 600).t(), "half": torch.randn(500, 500).to(torch.bfloat16)}
    for size in (1, 64):
        place = tmp_path / str(size)
        chunkify_state_dict(state, place, chunk_size=size)
        assert_holds(open_checkpoint(place), state)


def test_every_dtype_but_packed_ones_has_a_stored_form() -> None:
    from s2p_tui.formats.chunks import stored_as

    for name, dtype in BY_NAME.items():
        if dtype.kind != "packed":
            stored = numpy_dtype(stored_as(name))
            assert stored.itemsize == numpy_dtype(name).itemsize
            assert stored.kind in "biufc"


def test_models_are_described_the_same_from_chunks_and_from_memory(tmp_path: Path) -> None:
    model = EqxNet(key=jax.random.PRNGKey(0))
    chunkify_pytree(model, tmp_path)
    assert open_target(tmp_path).skeleton.digest == target_of(model, "m").skeleton.digest
