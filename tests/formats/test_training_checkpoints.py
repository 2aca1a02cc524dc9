"""Checkpoints as training scripts leave them, against what torch itself loads from them."""

from __future__ import annotations

import argparse
import datetime
import enum
import io
import pathlib
import pickle
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s2p_tui.cli import run
from s2p_tui.errors import AmbiguousStateDictError, InputError
from s2p_tui.formats.registry import open_checkpoint
from tests.formats.net import Net
from tests.helpers.files import SAVE, array_bytes, assert_holds, read, save_safetensors, save_zip

both = pytest.mark.parametrize("form", SAVE)


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    shapes = {"fc1.weight": (12, 8), "fc1.bias": (12,), "fc2.weight": (5, 12), "fc2.bias": (5,)}
    return OrderedDict((name, torch.randn(shape)) for name, shape in shapes.items())


MODEL, OTHER = weights(0), weights(1)


def foreign(module: str, name: str, *bases: type, **members: Any) -> type:
    """A class of a package that is nowhere installed."""
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        known = ".".join(parts[:count])
        sys.modules.setdefault(known, types.ModuleType(known))
    made = type(name, bases, {"__module__": module, "__qualname__": name, **members})
    setattr(sys.modules[module], name, made)
    return made


def prefixed(**parts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{part}.{name}": t for part, state in parts.items() for name, t in state.items()}


class Colour(enum.Enum):
    """An enumeration of a script."""

    RED = 1


def trained() -> tuple[torch.nn.Module, dict[str, Any]]:
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(3)).sum().backward()
    optimizer.step()
    return module, optimizer.state_dict()


def _slotted() -> Any:
    made: Any = foreign("mmengine.logging", "Buffer", __slots__=("w",))()
    made.w = np.ones(3)
    return made


FOREIGN: dict[str, Callable[[], Any]] = {
    "an object": lambda: foreign("omegaconf.dictconfig", "DictConfig")(),
    "a class as a key": lambda: {foreign("lightning.callbacks", "EarlyStopping"): {"wait": 3}},
    "an object as a key": lambda: {foreign("fairseq.data", "Dictionary")(): 1},
    "an enumeration": lambda: argparse.Namespace(colour=Colour.RED, lr=0.1),
    "a dictionary's subclass": lambda: foreign("munch", "Munch", dict)(a=1),
    "a list's subclass": lambda: foreign("mmcv", "Listed", list)([1, 2]),
    "with slots": _slotted,
    "a loss module": lambda: foreign("losses", "Focal", torch.nn.Module)(),
    "a nested key": lambda: {((1, 2), (3, (4,))): "x", frozenset({1}): 2},
    "a function": lambda: print,
    "an object in a persistent id's way": lambda: torch.nn.Linear,
    "a large number": lambda: {10**2000: 1},
}


@both
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", FOREIGN)
def test_objects_of_other_packages_are_passed_over(tmp_path: Path, form: str, case: str) -> None:
    value = {"hyper_parameters": FOREIGN[case](), "state_dict": MODEL}
    checkpoint = open_checkpoint(SAVE[form](value, tmp_path / "model.ckpt"))
    assert checkpoint.key == "state_dict"
    assert_holds(checkpoint, MODEL)


def test_it_is_noted_what_was_passed_over(tmp_path: Path) -> None:
    config: Any = foreign("omegaconf.dictconfig", "DictConfig")
    settings = {"a": config(), "b": [config(), config()], "c": datetime.date(2026, 1, 1)}
    path = save_zip({"cfg": settings, "model": MODEL}, tmp_path / "model.pt")
    assert open_checkpoint(path).notes == ("passed over, not run: 3 objects of omegaconf",)


PLAIN: dict[str, Any] = {
    "numbers": (1j, 2**70, -3, 1e300, float("nan"), True, None),
    "bytes": (b"\xff\x00", bytearray(b"\x01"), "é" * 20_000, b"x" * 5_000),
    "sets": ({1, 2}, frozenset({"a"}), set()),
    "lists": (deque([1, 2], 3), defaultdict(list, a=[1]), Counter("aab"), OrderedDict(a=1)),
    "arrays": (np.zeros(3), np.float64(3), np.int64(3), np.bool_(True), np.zeros(0), np.array("x")),
    "records": np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
    "generators": (np.random.RandomState(0).get_state(), torch.Generator().get_state()),
    "dates": (datetime.datetime.now(), datetime.timedelta(1), datetime.UTC),
    "paths": (pathlib.PurePosixPath("/a"), pathlib.PureWindowsPath("C:/a"), pathlib.Path(".")),
    "spaces": (types.SimpleNamespace(a=1), argparse.Namespace(b=2)),
    "files": io.BytesIO(b"abc"),
    "torch": (torch.float16, torch.Size([2]), torch.device("cpu"), torch.qint8, torch.bits8,
              torch.strided),
}  # fmt: skip


@both
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("case", PLAIN)
def test_plain_values_are_no_hindrance(tmp_path: Path, form: str, protocol: int, case: str) -> None:
    path = tmp_path / "model.pt"
    value = {"history": PLAIN[case], "model": MODEL, "more": {"deep": [PLAIN[case]]}}
    zipped = form == "zip"
    torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    checkpoint = open_checkpoint(path)
    assert checkpoint.key == "model"
    assert not any("passed over" in note for note in checkpoint.notes)
    assert_holds(checkpoint, MODEL)


def _rebuild_odd(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


class Odd:
    """Pickles as a tensor that a function unknown here rebuilds."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __reduce__(self) -> Any:
        return (_rebuild_odd, (self.tensor,))


@both
def test_only_tensors_that_are_wanted_need_a_known_rebuild_function(
    tmp_path: Path, form: str
) -> None:
    odd = {"layer.odd": Odd(torch.ones(2)), "fine": torch.ones(1)}
    path = SAVE[form]({"optimizer": odd, "model": MODEL}, tmp_path / "a.pt")
    assert_holds(open_checkpoint(path), MODEL)
    with pytest.raises(InputError, match=r"layer.odd is rebuilt by .*_rebuild_odd") as caught:
        open_checkpoint(SAVE[form](odd, tmp_path / "b.pt"))
    assert "fine" not in caught.value.message


@both
def test_extra_state_is_left_out(tmp_path: Path, form: str) -> None:
    state = {**MODEL, "fc1._extra_state": torch.ones(3, dtype=torch.uint8), "_extra_state": {}}
    checkpoint = open_checkpoint(SAVE[form](state, tmp_path / "model.pt"))
    assert_holds(checkpoint, MODEL)
    assert any("_extra_state" in note for note in checkpoint.notes)


def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    large = rng.standard_normal((300, 40)).astype("f4")
    return {
        "large": large,
        "fortran": np.asfortranarray(rng.standard_normal((30, 20))),
        "small": np.arange(6, dtype="i2").reshape(2, 3),
        "half": rng.standard_normal(400).astype("f2"),
        "single": np.array(3.5),
        "nothing": np.zeros((0, 3)),
        "flags": np.array([True, False]),
        "complex": np.ones(200, "c8") * 1j,
        "bytes": rng.integers(0, 256, 3000, np.uint8),
        "strided": large[::2, ::3],
    }


def pickled(protocol: int) -> Callable[[Any, Path], Path]:
    def save(value: Any, path: Path) -> Path:
        path.write_bytes(pickle.dumps(value, protocol))
        return path

    return save


def old_names(value: Any, path: Path) -> Path:
    """As NumPy 1 wrote it."""
    path.write_bytes(pickle.dumps(value, 2).replace(b"numpy._core", b"numpy.core"))
    return path


SAVERS = {**SAVE, **{f"pickle {n}": pickled(n) for n in (2, 3, 4, 5)}, "numpy 1": old_names}


@pytest.mark.parametrize("place", ["", "model"])
@pytest.mark.parametrize("saver", SAVERS)
def test_numpy_arrays_are_entries(tmp_path: Path, saver: str, place: str) -> None:
    expected = arrays()
    value = {"model": expected, "__author__": "x", "epoch": 3} if place else expected
    checkpoint = open_checkpoint(SAVERS[saver](value, tmp_path / "model.pkl"))
    assert checkpoint.key == place
    assert [entry.key for entry in checkpoint.state_dict] == list(expected)
    for name, array in expected.items():
        found = read(checkpoint, name)
        assert (found.shape, found.dtype) == (array.shape, array.dtype)
        assert array_bytes(found) == array_bytes(array), name
        part = read(checkpoint, name, tuple((size // 3, size) for size in array.shape))
        box = tuple(slice(size // 3, size) for size in array.shape)
        assert array_bytes(part) == array_bytes(array[box])
    checkpoint.tensors.close()


def test_an_array_that_is_there_twice_is_tied(tmp_path: Path) -> None:
    array = np.ones(600)
    path = pickled(4)({"a": array, "b": array, "c": np.ones(600)}, tmp_path / "model.pkl")
    a, b, c = open_checkpoint(path).state_dict
    assert a.storage == b.storage != c.storage


def test_arrays_without_plain_numbers(tmp_path: Path) -> None:
    value = {"w": np.ones(3), "objects": np.array([None]), "text": np.array(["a"])}
    checkpoint = open_checkpoint(pickled(4)(value, tmp_path / "a.pkl"))
    assert [entry.key for entry in checkpoint.state_dict] == ["w"]
    value = {"w": np.ones(3), "other way": np.ones(3, ">f4")}
    with pytest.raises(InputError, match=r"other way is big-endian; call .astype"):
        open_checkpoint(pickled(4)(value, tmp_path / "b.pkl"))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_that_lie_about_their_bytes(tmp_path: Path, protocol: int) -> None:
    honest = pickle.dumps({"w": np.arange(1000.0)}, protocol)
    assert honest.count(b"M\xe8\x03") == 1
    (tmp_path / "model.pkl").write_bytes(honest.replace(b"M\xe8\x03", b"M\xff\x0f"))
    with pytest.raises(InputError, match=r"w is a damaged array|does not have"):
        read(open_checkpoint(tmp_path / "model.pkl"), "w")


BESIDE: dict[str, Any] = {
    "a metric": {"best_acc1": torch.tensor([76.1])},
    "a loss": {"loss": torch.tensor(0.3), "epoch": torch.tensor(3)},
    "a generator's state": {"generator": torch.Generator().get_state()},
    "a criterion": {"criterion": torch.ones(10)},
    "a criterion's state": {"criterion": {"weight": torch.ones(10)}},
    "statistics": {"mean": np.zeros(3), "std": torch.ones(3)},
    "metrics": {"metrics": {"acc": torch.tensor(0.5)}, "val": {"acc": torch.tensor(0.5)}},
    "an optimizer": {"opt": trained()[1]},
    "optimizers": {"optimizers": [trained()[1], trained()[1]], "optG_state": trained()[1]},
    "a scaler": {"amp": {"scale": torch.ones(2)}, "grad_scaler": {"scale": torch.ones(2)}},
    "random states": {"rng_states": {"torch": torch.get_rng_state(), "cuda": [torch.ones(16)]}},
    "an empty state": {"state": {}},
}


@both
@pytest.mark.parametrize("case", BESIDE)
def test_what_lies_beside_the_state_dict(tmp_path: Path, form: str, case: str) -> None:
    state = {f"module.{name}": tensor for name, tensor in MODEL.items()}
    for place in ("state_dict", "model", "network"):
        path = SAVE[form]({**BESIDE[case], place: state}, tmp_path / "model.pt")
        checkpoint = open_checkpoint(path)
        assert checkpoint.key == place
        assert_holds(checkpoint, state)


@pytest.mark.parametrize(
    "name",
    ["optimal", "optimus", "hypernet", "hyper_encoder", "schedule_embed", "scheduled", "loops_net",
     "rngnet", "scaler_net", "callback_head", "optional"],
)  # fmt: skip
def test_names_that_begin_like_an_optimizers(tmp_path: Path, name: str) -> None:
    path = save_zip({name: MODEL, "optimizer": trained()[1]}, tmp_path / "model.pt")
    checkpoint = open_checkpoint(path)
    assert checkpoint.key == name
    assert_holds(checkpoint, MODEL)


LISTS: list[tuple[str, Any, dict[str, torch.Tensor]]] = [
    ("0", [MODEL, trained()[1]], MODEL),
    ("1", (3, MODEL, None), MODEL),
    ("models.0", {"models": [MODEL]}, MODEL),
    ("folds.3", {"folds": {3: MODEL}}, MODEL),
    ("0.model", deque([{"model": MODEL}]), MODEL),
    ("model", defaultdict(dict, model=MODEL), MODEL),
    ("model", types.SimpleNamespace(model=MODEL, step=3), MODEL),
    ("model", argparse.Namespace(model=MODEL, args=argparse.Namespace(lr=1)), MODEL),
]


@both
@pytest.mark.parametrize(("place", "value", "expected"), LISTS)
def test_lists_numbers_and_objects_around_it(
    tmp_path: Path, form: str, place: str, value: Any, expected: dict[str, torch.Tensor]
) -> None:
    path = SAVE[form](value, tmp_path / "model.pt")
    for key in (None, place):
        checkpoint = open_checkpoint(path, key)
        assert checkpoint.key == place
        assert_holds(checkpoint, expected)


SEVERAL: list[tuple[Any, dict[str, dict[str, torch.Tensor]]]] = [
    ([MODEL, OTHER], {"0": MODEL, "1": OTHER}),
    ({"models": [MODEL, OTHER]}, {"models.0": MODEL, "models.1": OTHER}),
    ({"folds": {0: MODEL, 1: OTHER}}, {"folds.0": MODEL, "folds.1": OTHER}),
]
PAIRS = [
    ("model", "ema_model"), ("model", "model_ema"), ("state_dict", "ema"), ("net", "net_avg"),
    ("online", "target"), ("student", "teacher"), ("encoder_q", "encoder_k"),
    ("online_encoder", "target_encoder"), ("base_encoder", "momentum_encoder"),
    ("critic", "critic_target"), ("query_encoder", "key_encoder"), ("model", "shadow"),
]  # fmt: skip


@both
@pytest.mark.parametrize(("value", "choices"), SEVERAL)
def test_models_of_a_kind_are_a_question(
    tmp_path: Path, form: str, value: Any, choices: dict[str, dict[str, torch.Tensor]]
) -> None:
    path = SAVE[form](value, tmp_path / "model.pt")
    with pytest.raises(AmbiguousStateDictError) as caught:
        open_checkpoint(path)
    assert caught.value.choices == tuple((key, 4) for key in choices)
    for key, expected in choices.items():
        assert_holds(open_checkpoint(path, key), expected)


def nested_pair(original: str, copy: str) -> Any:
    return {original: MODEL, copy: OTHER, "epoch": 3}


def flat_pair(original: str, copy: str) -> Any:
    return {"state_dict": {**prefixed(**{original: MODEL, copy: OTHER}), "queue": torch.ones(3)}}


@pytest.mark.parametrize(("original", "copy"), PAIRS)
@pytest.mark.parametrize("around", [nested_pair, flat_pair])
def test_a_model_and_a_copy_of_it_are_a_question(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    original: str,
    copy: str,
    around: Callable[[str, str], Any],
) -> None:
    path = save_zip(around(original, copy), tmp_path / "model.pt")
    front = "" if around is nested_pair else "state_dict."
    with pytest.raises(AmbiguousStateDictError) as caught:
        open_checkpoint(path)
    assert caught.value.choices[:2] == ((front + original, 4), (front + copy, 4))
    meanings = caught.value.meanings
    assert meanings[front + original] != meanings[front + copy]
    assert all(meanings[front + name] in caught.value.message for name in (original, copy))
    assert_holds(open_checkpoint(path, front + original), MODEL)
    assert_holds(open_checkpoint(path, front + copy), OTHER)
    target = tmp_path / "skeleton.eqx"
    arguments = ["convert", str(path), str(target), "-o", str(tmp_path / "out.eqx")]
    assert run([*arguments, "--trust-all"]) == 4
    assert f"{front}{copy} (4 items" in capsys.readouterr().err


def test_the_whole_of_a_flat_state_dict_can_be_chosen(tmp_path: Path) -> None:
    value = flat_pair("module.encoder_q", "module.encoder_k")
    path = save_zip(value, tmp_path / "model.pt")
    with pytest.raises(AmbiguousStateDictError) as caught:
        open_checkpoint(path)
    assert caught.value.choices[2] == ("state_dict", 9)
    assert_holds(open_checkpoint(path, "state_dict"), value["state_dict"])
    flat = save_safetensors(value["state_dict"], tmp_path / "model.safetensors")
    with pytest.raises(AmbiguousStateDictError) as caught:
        open_checkpoint(flat)
    assert [key for key, _ in caught.value.choices] == [
        "module.encoder_q", "module.encoder_k", "."
    ]  # fmt: skip
    assert len(open_checkpoint(flat, ".").state_dict) == 9


def test_an_average_whose_names_have_no_dots(tmp_path: Path) -> None:
    average = {f"model_ema.{name.replace('.', '')}": t for name, t in OTHER.items()}
    state = {**prefixed(model=MODEL), **average, "model_ema.decay": torch.tensor(0.9)}
    with pytest.raises(AmbiguousStateDictError) as caught:
        open_checkpoint(save_zip({"state_dict": state}, tmp_path / "model.pt"))
    assert caught.value.choices[1] == ("state_dict.model_ema", 5)


@pytest.mark.parametrize(
    ("one", "other"),
    [("layers.0", "layers.1"), ("left", "right"), ("actor", "critic"), ("q_proj", "k_proj"),
     ("query", "key"), ("query_encoder", "ctx_encoder"), ("source_encoder", "target_encoder")],
)  # fmt: skip
def test_twins_in_one_model_are_no_question(tmp_path: Path, one: str, other: str) -> None:
    layer = {"weight": torch.ones(3, 3), "bias": torch.ones(3)}
    part = layer if one in ("q_proj", "query") else MODEL
    state = prefixed(**{one: part, other: part})
    assert_holds(open_checkpoint(save_zip(state, tmp_path / "model.pt")), state)


@both
def test_halves_are_taken_together(tmp_path: Path, form: str) -> None:
    decoder = {"0.weight": torch.ones(3, 3), "scale": torch.ones(())}
    value = {"encoder": MODEL, "decoder": decoder, "optimizer": trained()[1]}
    path = SAVE[form](value, tmp_path / "model.pt")
    with pytest.raises(AmbiguousStateDictError) as caught:
        open_checkpoint(path)
    assert caught.value.choices == (("encoder", 4), ("decoder", 2), (".", 6))
    checkpoint = open_checkpoint(path, ".")
    assert checkpoint.key == "."
    assert_holds(checkpoint, prefixed(encoder=MODEL, decoder=decoder))
    value = {"model": value}
    path = SAVE[form](value, tmp_path / "model.pt")
    assert_holds(open_checkpoint(path, "model"), prefixed(encoder=MODEL, decoder=decoder))


def test_nested_parts_of_a_language_model(tmp_path: Path) -> None:
    word, position = {"weight": torch.ones(9, 4)}, {"weight": torch.zeros(9, 4)}
    layers = {"layers.0.weight": torch.ones(4, 4), "final.bias": torch.ones(4)}
    language = {"embedding": {"word": word, "position": position}, "encoder": layers}
    value = {
        "model": {"language_model": language},
        "optimizer": {"optimizer": trained()[1]},
        "rng_state": [{"torch_rng_state": torch.get_rng_state(), "np": [1, np.ones(3)]}],
    }
    path = save_zip(value, tmp_path / "model.pt")
    flat = {
        "encoder.layers.0.weight": layers["layers.0.weight"],
        "encoder.final.bias": layers["final.bias"],
        "embedding.word.weight": word["weight"],
        "embedding.position.weight": position["weight"],
    }
    front = "model.language_model"
    assert_holds(open_checkpoint(path, front), flat)
    whole = {f"{front}.{name}": tensor for name, tensor in flat.items()}
    assert_holds(open_checkpoint(path, "."), whole)
    with pytest.raises(AmbiguousStateDictError) as caught:
        open_checkpoint(path)
    assert (front, 4) in caught.value.choices


@both
def test_averages_without_names_are_explained(tmp_path: Path, form: str) -> None:
    average = {"decay": 0.9, "shadow_params": list(OTHER.values()), "collected_params": None}
    path = SAVE[form]({"model": MODEL, "ema": average}, tmp_path / "model.pt")
    checkpoint = open_checkpoint(path)
    assert_holds(checkpoint, MODEL)
    assert "ema.shadow_params is a list of 4 tensors without names" in checkpoint.notes[0]
    for key, file in (("ema.shadow_params", path), (None, SAVE[form](average, tmp_path / "b.pt"))):
        with pytest.raises(InputError, match="without names") as caught:
            open_checkpoint(file, key)
        assert "copy_to" in caught.value.hint


@both
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_whole_modules_are_read_as_their_state_dicts(tmp_path: Path, form: str) -> None:
    module = Net()
    for value, place in ((module, ""), ({"net": module, "epoch": 3}, "net"),
                         ([module, None], "0")):  # fmt: skip
        checkpoint = open_checkpoint(SAVE[form](value, tmp_path / "model.pt"))
        assert checkpoint.key == place
        assert_holds(checkpoint, module.state_dict())
        assert "Net) was pickled" in checkpoint.notes[0]
        assert not any("passed over" in note for note in checkpoint.notes)
    parallel = torch.nn.DataParallel(module)
    checkpoint = open_checkpoint(SAVE[form](parallel, tmp_path / "model.pt"))
    assert_holds(checkpoint, parallel.state_dict())


def test_a_module_of_a_class_that_is_gone(tmp_path: Path) -> None:
    made: Any = foreign("their_models", "Gone", torch.nn.Module)()
    made.fc = torch.nn.Linear(2, 3)
    path = save_zip({"agent": argparse.Namespace(policy=made)}, tmp_path / "model.pt")
    expected = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    del sys.modules["their_models"]
    checkpoint = open_checkpoint(path)
    assert checkpoint.key == "agent.policy"
    assert_holds(checkpoint, expected)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_two_archives_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "two.pt"
    with path.open("wb") as stream:
        for state in (MODEL, OTHER, OTHER):
            torch.save(state, stream)
    checkpoint = open_checkpoint(path)
    assert_holds(checkpoint, torch.load(path))
    assert "first" in checkpoint.notes[0]


@pytest.mark.parametrize("before", [b"PK\x03\x04 and more", b"PK\x03\x04" * 4000])
def test_bytes_before_an_archive(tmp_path: Path, before: bytes) -> None:
    whole = save_zip(MODEL, tmp_path / "a.pt").read_bytes()
    path = tmp_path / "b.pt"
    path.write_bytes(before + whole)
    with pytest.raises(InputError, match="not at the first"):
        open_checkpoint(path)
    path.write_bytes(whole + b"some bytes behind it")
    assert_holds(open_checkpoint(path), torch.load(path))


def test_archives_without_checksums(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = save_zip(MODEL, tmp_path / "model.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_holds(open_checkpoint(path), MODEL)


def test_a_pickle_too_long_to_be_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2p_tui.formats.torch_files._HELD_PICKLE", 1000)
    expected = arrays()
    path = save_zip({"model": expected, "more": MODEL}, tmp_path / "model.pt")
    checkpoint = open_checkpoint(path, "model")
    for name, array in expected.items():
        assert array_bytes(read(checkpoint, name)) == array_bytes(array)
    checkpoint.tensors.close()
