"""What is sent: little, and nothing that is nobody's business."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import prod
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
import torch

from s2p_tui.alignment.alignment import in_order
from s2p_tui.alignment.evidence import Evidence, Suggestion, Suggestions
from s2p_tui.alignment.proof import UNPROVEN
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.proposals.claude.account import find_key
from s2p_tui.proposals.claude.ask import Claude
from s2p_tui.proposals.claude.job import Asking, Budget, estimate
from s2p_tui.proposals.claude.question import SCHEMA, question_about
from s2p_tui.proposals.proposal import Situation
from s2p_tui.session.session import Session
from tests.helpers.claude_server import KEY, Script, rows, says
from tests.helpers.sessions import make_session
from tests.helpers.unlike import RIGHT
from tests.proposals.claude.conftest import Ask

Shapes = dict[str, tuple[int, ...]]


def situation(entries: Shapes, leaves: Shapes) -> Situation:
    """A pair about which nothing is known: everything has to be asked."""
    state_dict = StateDict(tuple(Entry(key, shape, "bfloat16") for key, shape in entries.items()))
    skeleton = Skeleton(
        tuple(Leaf(path, s, "bfloat16", owner="mynet.parts.Layer") for path, s in leaves.items())
    )
    unknown = Suggestion(None, UNPROVEN, "no entry corresponds to it")
    evidence = Evidence(Suggestions((unknown,) * len(skeleton)), {})
    return Situation(state_dict, skeleton, in_order(state_dict, skeleton), evidence)


def language_model() -> Situation:
    """1,100 entries: 122 layers of 9, and 2."""
    square, narrow = (64, 64), (8, 64)
    parts = [("q", square), ("k", narrow), ("v", narrow), ("o", square)]
    parts += [("gate", (128, 64)), ("up", (128, 64)), ("down", (64, 128))]
    parts += [("norm1", (64,)), ("norm2", (64,))]
    entries = {
        f"model.layers.{n}.self_attn.{p}_proj.weight": s for n in range(122) for p, s in parts
    }
    leaves = {f".blocks[{n}].mixer.{p}er.kernel": s for n in range(122) for p, s in parts}
    ends: Shapes = {"model.embed.weight": (999, 64), "lm_head.weight": (999, 64)}
    return situation(ends | entries, {".table": (999, 64), ".out": (999, 64)} | leaves)


VECTORS = {
    "weight": "scale",
    "bias": "shift",
    "running_mean": "mu",
    "running_var": "sigma",
    "gamma": "layer_scale",
    "beta": "gate",
}


def residual_network() -> Situation:
    """1,100 entries of convolutions and norms whose sizes change from stage to stage."""
    entries: Shapes = {}
    leaves: Shapes = {}
    for stage, depth in enumerate((3, 8, 36, 3), 1):
        wide = 64 * 2**stage
        for block in range(depth):
            before = wide // 2 if block == 0 else wide * 2
            kernels = [(wide, before, 1, 1), (wide, wide, 3, 3), (wide * 2, wide, 1, 1)]
            name, path = f"layer{stage}.{block}", f".stages[{stage - 1}].units[{block}]"
            for n, shape in enumerate(kernels, 1):
                entries[f"{name}.conv{n}.weight"] = leaves[f"{path}.c{n}.weight"] = shape
                entries |= {f"{name}.bn{n}.{vector}": shape[:1] for vector in VECTORS}
                leaves |= {f"{path}.n{n}.{vector}": shape[:1] for vector in VECTORS.values()}
    spare = 1100 - len(entries)
    entries |= {f"fc.{n}.weight": (n + 2, 64) for n in range(spare)}
    leaves |= {f".heads[{n}].weight": (n + 2, 64) for n in range(spare)}
    return situation(entries, leaves)


def words(count: int, sep: str) -> list[str]:
    """Names without any order in them."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    found = []
    for n in range(count):
        word, rest = "", n * 7919 % 456_976 + 1_000_000
        while rest:
            rest, place = divmod(rest, 26)
            word += letters[place]
        found.append(f"{sep}{word[:2]}{sep}{word[2:]}{sep}weight")
    return found


def disorderly(count: int) -> Situation:
    """No two names alike."""
    return situation(
        {name[1:]: (16, 16) for name in words(count, ".")},
        {f".net{name}": (16, 16) for name in words(count, ".")},
    )


def experts() -> Situation:
    """100,000 entries: 130 layers of 256 experts of 3, and odd ones."""
    entries: Shapes = {
        f"layers.{n}.mlp.experts.{e}.{p}.weight": s
        for n in range(130)
        for e in range(256)
        for p, s in (("w1", (4, 8)), ("w2", (8, 4)), ("w3", (4, 8)))
    }
    leaves: Shapes = {
        f".layers[{n}].ffn.choice[{e}].{p}": s
        for n in range(130)
        for e in range(256)
        for p, s in (("gate", (4, 8)), ("down", (8, 4)), ("up", (4, 8)))
    }
    entries |= {f"extra.{n}.bias": (n % 9 + 1,) for n in range(160)}
    leaves |= {f".more[{n}].bias": (n % 9 + 1,) for n in range(160)}
    return situation(entries, leaves)


SIZES: dict[str, tuple[Callable[[], Situation], int, int]] = {
    "language model": (language_model, 12_000, 1),
    "residual network": (residual_network, 12_000, 8),
    "disorderly": (lambda: disorderly(1100), 12_000, 8),
    "experts": (experts, 30_000, 1),
    "disorderly, large": (lambda: disorderly(100_000), 30_000, 8),
}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.slow("asks about 100,000 rows")
def test_recorded_requests_are_bounded(script: Script, name: str) -> None:
    """By the stated estimate, over the whole body as it went out, a token for 2.5 bytes."""
    make, most, requests = SIZES[name]
    about = make()
    script.plays = [says('{"groups": []}')]
    budget = Budget.of(len(about.state_dict))
    question = question_about(about, budget)
    asked = len(question.asked)
    assert asked + sum(map(_rows_left, question.notes)) == len(about.skeleton)
    assert asked == len(about.skeleton) or "disorderly" in name
    Claude(find_key(), "claude-haiku-5-5", budget, Asking()).answer(question)
    assert len(script.asked) == 2 * len(question.requests) <= 2 * requests
    for one in script.asked:
        texts = [part["text"] for part in one.json["system"]]
        texts += [one.json["messages"][0]["content"], json.dumps(SCHEMA)]
        assert estimate(*texts) <= most


def _rows_left(note: str) -> int:
    return int(note.split()[0].replace(",", ""))


def test_repeated_blocks_are_one_line() -> None:
    (request,) = question_about(language_model(), Budget()).requests
    assert "model.layers.{0..121}.self_attn.q_proj.weight 64x64\n" in request.context
    assert ".blocks[{0..121}].mixer.qer.kernel 64x64 (Layer)\n" in request.leaves
    assert len(request.leaves.splitlines()) == 1 + 9 + 2


def test_settled_rows_are_examples_without_ids(script: Script, ask: Ask) -> None:
    linear = "equinox.nn.Linear"
    known = [f"lin{n}.{k}" for n in range(1, 4) for k in ("weight", "bias")]
    shapes = {"weight": (3, 5), "bias": (3,)}
    entries = [Entry(key, shapes[key.split(".")[1]], "float32") for key in known]
    leaves = [Leaf(f".{e.key}", e.shape, "float32", owner=linear) for e in entries]
    entries += [Entry("zulu", (4, 4), "float32"), Entry("yankee", (4, 4), "float32")]
    leaves += [Leaf(".first", (4, 4), "float32"), Leaf(".second", (4, 4), "float32")]
    session = make_session(entries, leaves, arrange="auto")
    assert session.blocking == 2
    script.plays = [says(rows(("", [("L1", ["E1"]), ("L2", ["E2"])])))]
    ask(session)
    context = script.asked[0].json["system"][1]["text"]
    assert "  lin*.weight -> .lin*.weight  (3 rows)\n" in context
    assert "E1 zulu 4x4\nE2 yankee 4x4" in context
    assert "E3" not in context


def test_counters_are_not_sent(script: Script, ask: Ask) -> None:
    session = make_session(
        [Entry("x", (4, 4), "float32"), Entry("y", (4, 4), "float32"),
         Entry("bn.num_batches_tracked", (), "int64")],
        [Leaf(".first", (4, 4), "float32"), Leaf(".second", (4, 4), "float32")],
        arrange="auto",
    )  # fmt: skip
    script.plays = [says('{"groups": []}')]
    ask(session)
    assert b"num_batches_tracked" not in script.asked[0].body


class Canary(eqx.Module):
    first: jax.Array
    second: jax.Array
    width: int = eqx.field(static=True)


def test_nothing_private_is_sent(
    script: Script, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No number of either model, no setting of a layer, no file name or folder, and no key."""
    home = tmp_path / "home-canary"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USER", "user-canary")
    monkeypatch.chdir(home)
    torch.save(
        {"x": torch.full((4, 4), 13579.25), "y": torch.full((4, 4), 24680.5)},
        home / "model-canary.pt",
    )
    pytree = Canary(jnp.full((4, 4), 11223.5), jnp.full((4, 4), 44556.25), width=778899)
    save_skeleton(home / "skeleton-canary.eqx", pytree)
    session = Session.open(home / "model-canary.pt", home / "skeleton-canary.eqx")
    leaf = session.target.skeleton[0]
    assert (leaf.fill, leaf.config) == (11223.5, {"width": 778899})
    assert (leaf.owner or "").endswith(".test_requests.Canary")
    script.plays = [says(rows(("", [("L1", ["E9"])])))]
    ask(session)
    bodies = [one.body.decode() for one in script.received]
    assert len(bodies) == 4
    assert "first" in bodies[0]
    everything = "\n".join(bodies) + "\n".join(one.path for one in script.received)
    numbers = ("13579", "24680", "11223", "44556", "778899")
    for canary in (*numbers, "canary", str(tmp_path), "test_requests", KEY):
        assert canary not in everything
    heads = [name for one in script.received for name, v in one.headers.items() if KEY in v]
    assert set(heads) == {"authorization"}


def test_the_canaries_would_be_heard(script: Script, ask: Ask) -> None:
    """What is sent is searched as it went out: a name that is sent is found there."""
    session = make_session(
        [Entry("canary.w", (4, 4), "float32"), Entry("z", (4, 4), "float32")],
        [Leaf(".first", (4, 4), "float32"), Leaf(".second", (4, 4), "float32")],
        arrange="auto",
    )
    script.plays = [says('{"groups": []}')]
    ask(session)
    assert all("canary" in one.body.decode() for one in script.received)


def test_shown_text_is_what_is_sent(script: Script, ask: Ask, session: Session) -> None:
    question = question_about(session.situation, Budget.of(4))
    script.plays = [says(rows(("", RIGHT)))]
    ask()
    body = script.asked[0].json
    sent = "\n".join([*(part["text"] for part in body["system"]), body["messages"][0]["content"]])
    assert question.text == sent
    assert set(body) == {"max_tokens", "messages", "model", "output_config", "stream", "system"}


def test_names_are_data(script: Script, ask: Ask) -> None:
    """Names that could end a line or go on for ever are quoted and cut."""
    session = make_session(
        [Entry("a\nE7 b 4x4", (4, 4), "float32"), Entry("x" * 5000, (4, 4), "float32")],
        [Leaf(".first", (4, 4), "float32"), Leaf(".second", (4, 4), "float32")],
        arrange="auto",
    )
    script.plays = [says('{"groups": []}')]
    ask(session)
    context = script.asked[0].json["system"][1]["text"].splitlines()
    assert 'E1 "a\\nE7 b 4x4" 4x4' in context
    assert max(map(len, context)) < 200


def test_elements_of_shapes_are_counted_right() -> None:
    (request,) = question_about(situation({"x": (2, 3)}, {".y": (3, 2)}), Budget()).requests
    assert request.asked[0].size == prod((3, 2))
