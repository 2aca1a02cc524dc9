"""LoRA adapters merged while reading: the numbers, what is understood, what is refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2p_tui import convert, convert_tree
from s2p_tui.cli import run
from s2p_tui.errors import AlignmentError, InputError, UsageError
from s2p_tui.formats.adapter import with_adapter
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.memory import checkpoint_in_memory
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.formats.registry import open_checkpoint
from s2p_tui.session.session import Session

Tensors = dict[str, torch.Tensor]
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["first"]}


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator).to(dtype)


BASE: Tensors = {
    "net.first.weight": numbers(5, 4),
    "net.first.bias": numbers(5),
    "net.second.weight": numbers(4, 5),
    "net.conv.weight": numbers(6, 4, 3, 3),
    "net.table.weight": numbers(7, 5),
}
FIRST: Tensors = {
    "base_model.model.net.first.lora_A.weight": numbers(2, 4),
    "base_model.model.net.first.lora_B.weight": numbers(5, 2),
}


def adapter(folder: Path, factors: Mapping[str, torch.Tensor], **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    copies = {key: tensor.clone().contiguous() for key, tensor in factors.items()}
    safetensors.torch.save_file(copies, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    return folder / "adapter_model.safetensors"


def merged(folder: Path, factors: Tensors, base: Tensors | None = None, **config: Any) -> Tensors:
    base = BASE if base is None else base
    found = with_adapter(checkpoint_in_memory(base), adapter(folder, factors, **config))
    assert [(e.key, e.shape) for e in found.state_dict] == [
        (key, tuple(tensor.shape)) for key, tensor in base.items()
    ]
    return {entry.key: whole(found, entry.key) for entry in found.state_dict}


def whole(checkpoint: Checkpoint, key: str) -> torch.Tensor:
    entry = checkpoint.state_dict[key]
    array = np.asarray(checkpoint.tensors.read(key, tuple((0, size) for size in entry.shape)))
    assert array.dtype.name == entry.dtype
    wide = torch.from_numpy(np.array(array.astype(np.float64)))
    return wide.to(getattr(torch, entry.dtype))


def a(name: str) -> torch.Tensor:
    return FIRST[f"base_model.model.net.first.lora_{name}.weight"]


def test_the_product_is_added_and_the_rest_is_the_checkpoints(tmp_path: Path) -> None:
    found = merged(tmp_path, FIRST)
    expected = BASE["net.first.weight"] + 3 * (a("B") @ a("A"))
    torch.testing.assert_close(found.pop("net.first.weight"), expected, rtol=1e-6, atol=1e-6)
    assert all(torch.equal(tensor, BASE[key]) for key, tensor in found.items())
    assert len(found) == len(BASE) - 1


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"lora_alpha": 8}, 4.0),
        ({"lora_alpha": 0.5}, 0.25),
        ({"use_rslora": True}, 6 / math.sqrt(2)),
        ({"alpha_pattern": {"first": 16}}, 8.0),
        ({"alpha_pattern": {"net.first": 16, "first": 2}}, 8.0),
        ({"alpha_pattern": {"other": 16, "^net.first": 4}}, 2.0),
        ({"alpha_pattern": {"irst": 16}}, 3.0),
        ({"alpha_pattern": {r".*\.f\w+": 4}}, 2.0),
        ({"r": 8, "rank_pattern": {"first": 2}}, 3.0),
        ({"use_rslora": True, "r": 8, "rank_pattern": {"first": 2}}, 6 / math.sqrt(2)),
    ],
)
def test_scales(tmp_path: Path, config: dict[str, Any], scale: float) -> None:
    found = merged(tmp_path, FIRST, **config)["net.first.weight"]
    expected = BASE["net.first.weight"] + scale * (a("B") @ a("A"))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("factors", ["float16", "bfloat16", "float32"])
def test_dtypes_are_the_checkpoints_and_rounded_once(
    tmp_path: Path, dtype: str, factors: str
) -> None:
    base = {"net.first.weight": BASE["net.first.weight"].to(getattr(torch, dtype))}
    cast = {key: tensor.to(getattr(torch, factors)) for key, tensor in FIRST.items()}
    found = merged(tmp_path, cast, base)["net.first.weight"]
    first, second = (cast[f"base_model.model.net.first.lora_{n}.weight"].float() for n in "AB")
    delta = second[:, :1] * first[:1] + second[:, 1:] * first[1:]
    wide = torch.float64 if dtype == "float64" else torch.float32
    expected = (base["net.first.weight"].to(wide) + delta * 3).to(getattr(torch, dtype))
    assert torch.equal(found, expected)


def test_convolutions_embeddings_biases_and_turned_weights(tmp_path: Path) -> None:
    prefix = "base_model.model.net"
    conv, table = numbers(2, 4, 3, 3), numbers(2, 7)
    more = {
        f"{prefix}.conv.lora_A.weight": conv,
        f"{prefix}.conv.lora_B.weight": numbers(6, 2, 1, 1),
        f"{prefix}.table.lora_embedding_A": table,
        f"{prefix}.table.lora_embedding_B": numbers(5, 2),
        f"{prefix}.first.lora_B.bias": numbers(5, seed=9),
    }
    found = merged(tmp_path / "one", FIRST | more, lora_bias=True)
    product = torch.einsum("or,rihw->oihw", more[f"{prefix}.conv.lora_B.weight"][..., 0, 0], conv)
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(found["net.conv.weight"], BASE["net.conv.weight"] + 3 * product,
                               **close)  # fmt: skip
    product = (more[f"{prefix}.table.lora_embedding_B"] @ table).T
    torch.testing.assert_close(found["net.table.weight"], BASE["net.table.weight"] + 3 * product,
                               **close)  # fmt: skip
    bias = BASE["net.first.bias"] + 3 * more[f"{prefix}.first.lora_B.bias"]
    torch.testing.assert_close(found["net.first.bias"], bias, **close)
    turned = {
        f"{prefix}.{name}.lora_{side}.weight": tensor
        for name, inner, out in (("first", 5, 4), ("second", 4, 5))
        for side, tensor in (("A", numbers(2, inner)), ("B", numbers(out, 2)))
    }
    found = merged(tmp_path / "two", turned, fan_in_fan_out=True)
    for name in ("first", "second"):
        first, second = (turned[f"{prefix}.{name}.lora_{side}.weight"] for side in "AB")
        expected = BASE[f"net.{name}.weight"] + 3 * (second @ first).T
        torch.testing.assert_close(found[f"net.{name}.weight"], expected, **close)


def test_square_weights_follow_the_configuration_unless_others_contradict_it(
    tmp_path: Path,
) -> None:
    base = {"q.weight": numbers(4, 4), "up.weight": numbers(4, 6)}
    square = {"q.lora_A.weight": numbers(2, 4, seed=3), "q.lora_B.weight": numbers(4, 2)}
    product = square["q.lora_B.weight"] @ square["q.lora_A.weight"]
    for is_turned, expected in ((False, product), (True, product.T)):
        found = merged(tmp_path / str(is_turned), square, base, fan_in_fan_out=is_turned)
        torch.testing.assert_close(found["q.weight"], base["q.weight"] + 3 * expected)
    mixed = square | {"up.lora_A.weight": numbers(2, 4), "up.lora_B.weight": numbers(6, 2)}
    with pytest.raises(InputError, match=r"lie both ways, and which way is that of q\.weight"):
        merged(tmp_path / "mixed", mixed, base)
    only = {key: tensor for key, tensor in mixed.items() if key.startswith("up")}
    found = merged(tmp_path / "only", only, base)["up.weight"]
    product = (only["up.lora_B.weight"] @ only["up.lora_A.weight"]).T
    torch.testing.assert_close(found, base["up.weight"] + 3 * product)


@pytest.mark.parametrize("prefix", ["", "bert.", "some.deep."])
def test_names_may_have_more_or_less_in_front(tmp_path: Path, prefix: str) -> None:
    base = {key.replace("net.", prefix): tensor for key, tensor in BASE.items()}
    found = merged(tmp_path / "more", FIRST, base) if prefix == "net." else None
    trained = {key.replace("net.first", "first"): tensor for key, tensor in FIRST.items()}
    found = merged(tmp_path / "less", trained, base)[f"{prefix}first.weight"]
    expected = BASE["net.first.weight"] + 3 * (a("B") @ a("A"))
    torch.testing.assert_close(found, expected)
    # Trained on a model around the one that the checkpoint holds.
    around = {key.replace("net.first", f"head.{prefix}first"): t for key, t in FIRST.items()}
    torch.testing.assert_close(merged(tmp_path / "in", around, base)[f"{prefix}first.weight"],
                               expected)  # fmt: skip


def test_tied_entries_change_together(tmp_path: Path) -> None:
    base = dict(BASE)
    base["net.head.weight"] = base["net.first.weight"]
    torch.save(base, tmp_path / "model.pt")
    found = with_adapter(open_checkpoint(tmp_path / "model.pt"), adapter(tmp_path, FIRST))
    first, head = (found.state_dict[f"net.{name}.weight"] for name in ("first", "head"))
    assert first.storage == head.storage is not None
    assert torch.equal(whole(found, first.key), whole(found, head.key))
    assert not torch.equal(whole(found, head.key), BASE["net.first.weight"])
    both = FIRST | {key.replace("first", "head"): tensor for key, tensor in FIRST.items()}
    with pytest.raises(InputError, match="are one tensor, and are changed twice"):
        with_adapter(open_checkpoint(tmp_path / "model.pt"), adapter(tmp_path, both))


@pytest.mark.parametrize("saved", [["head"], ["first"], ["first", "head"]])
def test_modules_that_were_trained_in_a_copy_are_tied_no_longer(
    tmp_path: Path, saved: list[str]
) -> None:
    """PEFT copies each module of `modules_to_save`."""
    torch.save(BASE | {"net.head.weight": BASE["net.first.weight"]}, tmp_path / "model.pt")
    own = {f"net.{name}.weight": numbers(5, 4, seed=n) for n, name in enumerate(saved, 7)}
    more = {f"base_model.model.{key}": tensor for key, tensor in own.items()}
    found = with_adapter(
        open_checkpoint(tmp_path / "model.pt"), adapter(tmp_path, more, modules_to_save=saved)
    )
    for key in ("net.first.weight", "net.head.weight"):
        assert torch.equal(whole(found, key), own.get(key, BASE["net.first.weight"]))
    storages = [found.state_dict[f"net.{name}.weight"].storage for name in ("first", "head")]
    assert storages[0] is None or storages[0] != storages[1]


def test_what_was_trained_in_full_replaces_the_checkpoints(tmp_path: Path) -> None:
    bias, second = numbers(5, seed=4), numbers(4, 5, seed=4)
    more = {
        "base_model.model.net.first.base_layer.bias": bias,
        "base_model.model.net.second.modules_to_save.weight": second,
        "base_model.model.net.table.weight": numbers(7, 5, seed=5),
    }
    del more["base_model.model.net.second.modules_to_save.weight"]
    more["base_model.model.net.second.weight"] = second
    found = merged(tmp_path, FIRST | more, bias="all", modules_to_save=["second"])
    assert torch.equal(found["net.first.bias"], bias)
    assert torch.equal(found["net.second.weight"], second)
    assert not torch.equal(found["net.first.weight"], BASE["net.first.weight"])


@given(data=st.data())
def test_parts_are_those_of_the_whole_bit_for_bit(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rank, shape = (
        data.draw(st.integers(1, 9)),
        data.draw(st.lists(st.integers(1, 7), min_size=2, max_size=4)),
    )
    base = {
        "x.weight": numbers(
            *shape, dtype=data.draw(st.sampled_from([torch.float32, torch.bfloat16]))
        )
    }
    ones = (1,) * (len(shape) - 2)
    factors = {
        "x.lora_A.weight": numbers(rank, *shape[1:]),
        "x.lora_B.weight": numbers(shape[0], rank, *ones),
    }
    folder = tmp_path_factory.mktemp("adapter")
    found = with_adapter(checkpoint_in_memory(base), adapter(folder, factors, r=rank))
    bounds = [sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2))) for n in shape]
    region = tuple((start, stop) for start, stop in bounds)
    all_of_it = tuple((0, size) for size in shape)
    part = found.tensors.read("x.weight", region)
    expected = found.tensors.read("x.weight", all_of_it)[tuple(slice(*b) for b in bounds)]
    assert part.tobytes() == np.ascontiguousarray(expected).tobytes()


REFUSED: list[tuple[Callable[[Tensors], Tensors], dict[str, Any], str]] = [
    (lambda f: f, {"use_dora": True}, "use_dora is True"),
    (lambda f: f | {"net.first.lora_magnitude_vector": numbers(5)}, {}, "lora_magnitude_vector"),
    (lambda f: f, {"peft_type": "LOHA"}, "'LOHA', not LORA"),
    (lambda f: f, {"layer_replication": [[0, 2]]}, "layer_replication"),
    (lambda f: f, {"some_day": {"new": 1}}, "some_day"),
    (lambda f: f, {"init_lora_weights": "pissa"}, "pissa.*changes the base weights too"),
    (lambda f: f, {"r": 4}, "of rank 2, the configuration says 4"),
    (lambda f: f, {"lora_alpha": "much"}, "lora_alpha of net.first is 'much'"),
    (lambda f: f, {"alpha_pattern": {"(a+)+": 1}}, "too much of a pattern"),
    (lambda f: f, {"alpha_pattern": {"[": 1}}, r"alpha_pattern has '\['"),
    (lambda f: f, {"alpha_pattern": [1]}, "no adapter's configuration"),
    (lambda f: dict([*f.items()][:1]), {}, "net.first lacks factor B"),
    (lambda f: {k: t.T for k, t in f.items()}, {"r": 4}, "is not what factors"),
    (lambda f: {k: t.to(torch.int32) for k, t in f.items()}, {}, "is int32"),
    (lambda f: f | {"net.new.weight": numbers(2)}, {}, "net.new.weight is not in the checkpoint"),
    (lambda f: f | {"net.first.bias": numbers(4)}, {}, r"expected 5, got 4"),
    (lambda f: {k.replace("first", "third"): t for k, t in f.items()}, {}, "net.third.weight is"),
    (lambda f: {k.replace(".weight", ".one.weight"): t for k, t in f.items()}
     | {k.replace(".weight", ".two.weight").replace("first", "second"): t for k, t in f.items()},
     {}, "several adapters: one, two"),
    (lambda _: {"net.first.bias": numbers(4)}, {}, "expected 5"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "config", "message"), REFUSED)
def test_what_is_not_understood_is_refused_by_name(
    tmp_path: Path, change: Callable[[Tensors], Tensors], config: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        merged(tmp_path, change(FIRST), **config)
    assert "merge_and_unload" in str(caught.value)


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    more = {"net.lora_A.weight": numbers(2, 4), "net.new.weight": numbers(2)}
    with pytest.raises(InputError) as caught:
        merged(tmp_path, FIRST | more, r=3)
    for part in ("net lacks factor B", "net.new.weight", "of rank 2"):
        assert part in str(caught.value)


def test_files_that_are_missing_or_too_much_are_one_line(tmp_path: Path) -> None:
    file = adapter(tmp_path / "a", FIRST)
    (tmp_path / "a" / "adapter_config.json").unlink()
    checkpoint = checkpoint_in_memory(BASE)
    with pytest.raises(InputError, match=r"has no adapter_config\.json beside it"):
        with_adapter(checkpoint, file)
    (tmp_path / "a" / "adapter_config.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="no adapter's configuration"):
        with_adapter(checkpoint, file)
    with pytest.raises(InputError, match=r"neither adapter_model\.safetensors nor"):
        with_adapter(checkpoint, tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        with_adapter(checkpoint, tmp_path / "nothing.safetensors")
    big = {key: tensor * 1e4 for key, tensor in FIRST.items()}
    base = {key: tensor.half() for key, tensor in BASE.items()}
    with pytest.raises(InputError, match="too large for float16"):
        merged(tmp_path / "b", big, base)


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("S2P_TEST", "1")
    safetensors.torch.save_file(BASE, "model.safetensors")
    adapter(tmp_path / "lora", FIRST)
    tree = {
        "net": {
            name: {key: jnp.zeros(BASE[f"net.{name}.{key}"].shape) for key in keys}
            for name, keys in (
                ("first", ("weight", "bias")), ("second", ("weight",)), ("conv", ("weight",)),
                ("table", ("weight",)),
            )
        }
    }  # fmt: skip
    save_skeleton("skeleton.eqx", tree)
    return tmp_path


def test_every_door_takes_it(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ends = ["model.safetensors", "skeleton.eqx"]
    expected = BASE["net.first.weight"] + 3 * (a("B") @ a("A"))
    lora = ["--adapter", "lora"]
    for output in ("out.eqx", "out.safetensors", "out.orbax"):
        options = ["--save-mapping", "m.json", "--trust-all", "--certificate", "c.json"]
        assert run(["convert", *ends, "-o", output, *options, *lora]) == 0
        assert (
            "merged with the adapter lora/adapter_model.safetensors: 1 entry, rank 2, scale 3"
            in (capsys.readouterr().out)
        )
        sides = ["--checkpoint", ends[0], "--skeleton", ends[1], "--mapping", "m.json"]
        assert run(["verify", output, *sides, *lora]) == 0
        assert run(["verify", output, *sides]) in (4, 5)
        assert run(["export", output, *sides, "-o", "back.safetensors"]) == 0
        found = safetensors.torch.load_file("back.safetensors")
        torch.testing.assert_close(found.pop("net.first.weight"), expected)
        assert all(torch.equal(tensor, BASE[key]) for key, tensor in found.items())
        capsys.readouterr()
    tree = {"w": jnp.zeros((5, 4))}
    base = {"net.first.weight": BASE["net.first.weight"]}
    filled = convert_tree(base, tree, adapter=pair / "lora")
    torch.testing.assert_close(torch.tensor(np.asarray(filled["w"])), expected)
    report = convert(from_memory=True, state_dict=base, pytree=tree, adapter="lora",
                     target_name="again.eqx")  # fmt: skip
    assert report.verified
    np.testing.assert_array_equal(np.load("again.eqx"), filled["w"])


def test_the_app_opens_the_merged_checkpoint(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Checkpoint] = []

    def run_app(open_session: Callable[[str | None], Session], **_: Any) -> None:
        opened.append(open_session(None).checkpoint)
        raise UsageError("Enough seen.")

    monkeypatch.setattr("s2p_tui.app.start.run_app", run_app)
    assert run(["model.safetensors", "skeleton.eqx", "--adapter", str(pair / "lora")]) == 2
    (checkpoint,) = opened
    assert not torch.equal(whole(checkpoint, "net.first.weight"), BASE["net.first.weight"])
    assert any("merged with the adapter" in note for note in checkpoint.notes)


def test_without_it_factors_in_the_checkpoint_block(
    pair: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del pair
    torch.save(BASE | FIRST, "all.pt")
    assert run(["convert", "all.pt", "skeleton.eqx", "-o", "out.eqx", "--trust-all"]) == 3
    assert "give the base model's CHECKPOINT and --adapter" in capsys.readouterr().err
    with pytest.raises(AlignmentError, match=r"(?s)2 unused entries.*adapter="):
        convert_tree(FIRST | {"w": numbers(5, 4)}, {"w": jnp.zeros((5, 4))}, trust=True)
