"""Proofs: certain rows have an answer to every question, and lose certainty with their evidence."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.evidence import Evidence, Suggestion, Suggestions, proof_of, weigh
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.proof import UNPROVEN, Answer, Proof, Question, proven_by
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Expr, Permute, Shape, Take, keys_of, rename
from s2p_tui.proposals.matcher import match

LINEAR, OWN = "equinox.nn.Linear", "own.Dense"
Leaves = Mapping[str, tuple[Shape, str | None]]

ENTRIES: Mapping[str, Shape] = {
    **{f"blocks.{n}.norm.{role}": (8,) for n in range(2) for role in ("weight", "bias")},
    **{f"blocks.{n}.mix.weight": (8, 8) for n in range(2)},
    **{f"blocks.{n}.wide.weight": (12, 8) for n in range(2)},
    **{f"blocks.{n}.fc1.weight": (12, 8) for n in range(2)},
    **{f"blocks.{n}.fc1.bias": (12,) for n in range(2)},
    **{f"blocks.{n}.fc2.weight": (8, 12) for n in range(2)},
    "head.weight": (8, 8),
    "head.bias": (8,),
    "scale": (8, 4),
}
LEAVES: Leaves = {
    **{f".blocks[{n}].norm.{role}": ((8,), None) for n in range(2) for role in ("weight", "bias")},
    **{f".blocks[{n}].mix.weight": ((8, 8), OWN) for n in range(2)},
    **{f".blocks[{n}].wide.weight": ((8, 12), OWN) for n in range(2)},
    **{f".blocks[{n}].fc1.weight": ((12, 8), LINEAR) for n in range(2)},
    **{f".blocks[{n}].fc1.bias": ((12,), LINEAR) for n in range(2)},
    **{f".blocks[{n}].fc2.weight": ((8, 12), LINEAR) for n in range(2)},
    ".head.weight": ((8, 8), LINEAR),
    ".head.bias": ((8,), LINEAR),
    ".scale": ((8, 4), None),
}


def right() -> dict[str, Expr]:
    """The source of every leaf; a user's own layer holds the input axis first."""
    made: dict[str, Expr] = {}
    for path, (_, owner) in LEAVES.items():
        take = Take(path.replace("[", ".").replace("]", "").strip("."))
        made[path] = Permute(take, (1, 0)) if owner == OWN else take
    return made


def matched(entries: Mapping[str, Shape], leaves: Leaves) -> dict[str, Suggestion]:
    state_dict = StateDict(tuple(Entry(key, shape, "float32") for key, shape in entries.items()))
    skeleton = Skeleton(
        tuple(Leaf(path, shape, "float32", owner=owner) for path, (shape, owner) in leaves.items())
    )
    return dict(zip(leaves, match(state_dict, skeleton).suggestions, strict=True))


def test_all_of_it_is_proven() -> None:
    found = matched(ENTRIES, LEAVES)
    assert {path: one.source for path, one in found.items()} == right()
    assert all(one.proof.open == () for one in found.values())
    assert found[".blocks[0].mix.weight"].proof.axes is Answer.SAME_CLASS
    assert found[".blocks[0].wide.weight"].proof.axes is Answer.SIZES
    assert found[".blocks[1].fc1.bias"].proof == Proof(
        Answer.SAME_NAME, Answer.ONE_AXIS, Answer.WHOLE, Answer.ONE_MODULE, Answer.NOTHING
    )


@st.composite
def less_evidence(draw: st.DrawFn) -> tuple[dict[str, Shape], Leaves, dict[str, str]]:
    """The pair with pieces of evidence removed, and the new names of entries."""
    entries, leaves = dict(ENTRIES), dict(LEAVES)
    names = {key: key for key in entries}
    for _ in range(draw(st.integers(1, 2))):
        kind = draw(st.sampled_from(("word", "entry", "owner", "order", "votes")))
        key = draw(st.sampled_from(sorted(entries)))
        if kind == "word":
            step = draw(st.sampled_from([s for s in key.split(".") if not s.isdigit()]))
            names = {
                old: ".".join("zorba" if s == step else s for s in new.split("."))
                for old, new in names.items()
            }
        elif kind == "entry":
            del entries[key]
            names.pop(key)
        elif kind == "owner":
            gone = draw(st.sampled_from((LINEAR, OWN)))
            leaves = {
                path: (shape, None if owner == gone else owner)
                for path, (shape, owner) in leaves.items()
            }
        elif kind == "order":
            items = list(entries.items())
            random.Random(draw(st.integers(0, 99))).shuffle(items)
            entries = dict(items)
        else:
            leaves = {path: leaf for path, leaf in leaves.items() if ".wide." not in path}
            entries = {key: shape for key, shape in entries.items() if ".wide." not in key}
            names = {key: name for key, name in names.items() if ".wide." not in key}
    if len({*names.values()}) < len(names):
        names = {key: key for key in names}
    return {names[key]: shape for key, shape in entries.items()}, leaves, names


@settings(max_examples=150, deadline=None)
@given(less_evidence())
@pytest.mark.slow("leaves out each piece of evidence")
def test_without_a_piece_of_evidence_a_row_is_doubtful_or_right(
    pair: tuple[dict[str, Shape], Leaves, dict[str, str]],
) -> None:
    entries, leaves, names = pair
    found, wanted = matched(entries, leaves), right()
    for path, one in found.items():
        keys = keys_of(wanted[path])
        if one.certain and all(key in names for key in keys):
            assert one.source == rename(wanted[path], names), (path, one)
        elif one.certain:
            # Its entry is gone: nothing may stand in for it but what has no effect.
            assert one.source is None or not keys_of(one.source), (path, one)


@pytest.mark.parametrize("question", Question)
def test_a_row_with_an_open_question_is_doubtful(question: Question) -> None:
    proof = proven_by(Answer.SAME_NAME)
    assert proof.is_complete
    assert proof.without(question).open == (question,)
    entries = StateDict((Entry("a", (2,), "float32"),))
    skeleton = Skeleton((Leaf(".a", (2,), "float32"),))
    row = Row(Take("a"), by="matcher")
    for given_, fit in ((proof, Fit.EXACT), (proof.without(question), Fit.DOUBTFUL)):
        evidence = Evidence(Suggestions([Suggestion(Take("a"), given_, "so")]), {})
        assert weigh(0, row, entries, skeleton, evidence).fit is fit
        assert proof_of(0, row, evidence) == given_


def test_hands_and_mappings_answer_every_question() -> None:
    evidence = Evidence(Suggestions([Suggestion(None, UNPROVEN, "")]), {})
    assert proof_of(0, Row(Take("a"), by="user"), evidence).entry is Answer.CHOSEN
    assert proof_of(0, Row(Take("a"), trusted=True), evidence).axes is Answer.TRUSTED
    assert proof_of(0, Row(Take("a")), None, replayed=True).module is Answer.REPLAYED
    assert proof_of(0, Row(Take("a"), by="moved"), evidence) == UNPROVEN


@pytest.mark.parametrize(
    ("entries", "leaves", "why"),
    [
        # What is left over must not fill what is left over.
        (
            {"fc1.weight": (8, 6), "fc2.weight": (6, 8), "queue.weight": (3, 8)},
            {".fc1.weight": (8, 6), ".fc2.weight": (6, 8), ".head.weight": (3, 8)},
            "queue and head have nothing in common",
        ),
        (
            {"net.0.weight": (8, 6), "net.1.weight": (6, 8), "log_std": (3,)},
            {".net[0].weight": (8, 6), ".net[1].weight": (6, 8), ".std": (3,)},
            "log_std may be a function of std",
        ),
        # Numbers that do not count from 0 or 1.
        (
            {"stem.weight": (8, 3), **{f"lateral_p{n}.weight": (8, 8) for n in (5, 4, 3)}},
            {".stem.weight": (8, 3), **{f".lateral[{n}].weight": (8, 8) for n in range(3)}},
            "need not be an index",
        ),
        (
            {"fc1.weight": (8, 8), "fc2.weight": (8, 8), "fc.weight": (8, 8)},
            {f".layers[{n}].weight": (8, 8) for n in range(3)},
            "nothing shows whether fc is the first",
        ),
        # A ring: each leaf shares a word with two entries.
        (
            {f"{name}.weight": (8, 8) for name in ("left_top", "top_right", "right_left")},
            {f".{name}.weight": (8, 8) for name in ("left", "top", "right")},
            "others nearly as well",
        ),
    ],
)
def test_what_sizes_alone_would_settle_is_doubtful(
    entries: Mapping[str, Shape], leaves: Mapping[str, Shape], why: str
) -> None:
    found = matched(entries, {path: (shape, LINEAR) for path, shape in leaves.items()})
    doubtful = [one for one in found.values() if not one.certain]
    assert any(why in one.reason for one in doubtful), [one.reason for one in found.values()]


def test_an_entry_of_the_very_name_is_not_passed_over() -> None:
    entries = {"conv1.weight": (8, 8), "bank.weight": (8, 8), "layer.0.conv1.weight": (8, 8)}
    leaves: Leaves = {
        ".conv1.weight": ((8, 8), LINEAR),
        ".layer[0].conv1.weight": ((8, 8), LINEAR),
        ".layer[0].conv2.weight": ((8, 8), LINEAR),
    }
    found = matched(entries, leaves)
    for path, one in found.items():
        own = path.replace("[", ".").replace("]", "").strip(".")
        assert not one.certain or one.source == Take(own)
