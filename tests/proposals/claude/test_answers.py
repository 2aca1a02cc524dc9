"""Answers that come: right ones, and what is made of wrong ones."""

from __future__ import annotations

import json

import pytest

from s2p_tui.alignment.alignment import Alignment
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry
from s2p_tui.alignment.transform import Flip, Permute, Split, Stack, Sum, Take, WeightNorm
from s2p_tui.proposals.claude.job import Asking, Budget
from s2p_tui.proposals.proposal import Confidence, Proposal
from s2p_tui.session.session import Session
from tests.helpers.claude_server import Script, fails, rows, says
from tests.helpers.sessions import make_session
from tests.helpers.unlike import LINEAR, RIGHT, RIGHT_KEYS
from tests.proposals.claude.conftest import Ask, refusal


def proposed(proposal: Proposal) -> dict[int, str]:
    """Places and the entries they would take."""
    return {change.index: "+".join(change.new.keys) or "gap" for change in proposal.changes}


def accept_all(session: Session, proposal: Proposal) -> Alignment:
    session.edit(proposal.accepted({change.index for change in proposal.changes}))
    return session.alignment


def nameless(entries: list[Entry], leaves: list[Leaf]) -> Session:
    """A session in which every row is empty: everything is left to be asked."""
    session = make_session(entries, leaves, arrange="auto")
    return Session(
        session.checkpoint,
        session.target,
        Alignment.of(tuple(type(row)() for row in session.alignment.rows)),
        evidence=session.evidence,
    )


@pytest.mark.slow("asks a server on this machine")
def test_right_answer(script: Script, ask: Ask, session: Session) -> None:
    script.plays = [says(rows(("they are named so", RIGHT)))]
    job = Asking()
    proposal = ask(job=job)
    assert proposal.by == "claude"
    assert proposed(proposal) == dict(enumerate(RIGHT_KEYS))
    assert [(hunk.title, hunk.reason) for hunk in proposal.hunks] == [
        (".one and 1 more", "they are named so")
    ]
    assert {change.confidence for change in proposal.changes} == {Confidence.LIKELY}
    assert proposal.notes == ()
    first = next(proposal.changes)
    assert first.objection.startswith("the matcher takes alpha.w, unsure: ")
    assert (job.sent, job.counted) == (777, True)
    assert session.blocking == 4
    alignment = accept_all(session, proposal)
    assert [(row.by, row.why) for row in alignment.rows] == [("claude", "they are named so")] * 4
    assert [verdict.fit for verdict in map(session.verdict, range(4)) if verdict] == [Fit.EXACT] * 4
    session.undo()
    assert session.blocking == 4


@pytest.mark.slow("asks a server on this machine")
def test_hunks_are_by_reason(script: Script, ask: Ask) -> None:
    script.plays = [says(rows(("second layer", RIGHT[2:]), ("first\nlayer", RIGHT[:2])))]
    assert [(hunk.title, hunk.reason) for hunk in ask().hunks] == [
        (".one", "first layer"),
        (".two", "second layer"),
    ]


def test_agreement_settles_what_only_the_order_spoke_for(
    script: Script, ask: Ask, session: Session
) -> None:
    same = [("L1", ["E1"]), ("L2", ["E3"]), ("L3", ["E2"]), ("L4", ["E4"])]
    script.plays = [says(rows(("in order", same)))]
    proposal = ask()
    assert len(list(proposal.changes)) == 4
    assert {change.objection for change in proposal.changes} == {""}
    accept_all(session, proposal)
    assert not session.blocking


def test_permutation_with_a_duplicate_and_an_omission_is_repaired(script: Script, ask: Ask) -> None:
    wrong = [("L1", ["E2"]), ("L2", ["E4"]), ("L3", ["E2"])]
    script.plays = [says(rows(("", wrong))), says(rows(("", [RIGHT[0], *RIGHT[2:]])))]
    assert proposed(ask()) == dict(enumerate(RIGHT_KEYS))
    repair = script.asked[1].json["messages"][0]["content"]
    assert "L1: beta.w is used by .two.weight too" in repair
    assert "L3: beta.w is used by .one.weight too" in repair
    assert "L4: nothing was said of it" in repair
    assert "Answer again, for these leaves only: L1, L3, L4" in repair
    assert "L2 .one.bias" not in repair


def test_what_stays_wrong_is_dropped_with_the_reason(
    script: Script, ask: Ask, session: Session
) -> None:
    wrong = [("L1", ["E2"]), ("L2", ["E4"]), ("L3", ["E2"])]
    script.plays = [says(rows(("", wrong)))]
    proposal = ask()
    assert proposed(proposal) == {1: "beta.b"}
    assert "Left out: .two.bias: nothing was said of it." in proposal.notes
    assert any(note.startswith("Left out: .one.weight: beta.w is used") for note in proposal.notes)
    assert len(script.asked) == 2
    assert len(session.alignment.rows) == 4


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (("L1", ["E9"]), "'E9' is not an entry's id"),
        (("L1", ["alpha.w"]), "'alpha.w' is not an entry's id"),
        (("L1", ["invented.weight"]), "'invented.weight' is not an entry's id"),
        (("L1", ["L2"]), "'L2' is not an entry's id"),
        (("L1", ["E1[0]"]), "'E1[0]' needs 0 numbers in brackets"),
        (("L1", ["E3"]), "no layout change turns 4 into 4×4"),
        (("L1", ["E3#5/2"]), "names no part that there is"),
        (("L1", ["E1", "E1"]), "alpha.w is named twice for one leaf"),
        (("L1", ["E3"], "stack"), "No layout change turns 4 into 4×4"),
        (("L1", ["E1", "E2"], "stack"), "alpha.w, beta.w cannot fill .one.weight by 'stack'"),
        (("L1", ["E1", "E2"]), "alpha.w, beta.w cannot fill .one.weight by 'auto'"),
        (("L1", ["E1"], "flip"), "alpha.w cannot fill .one.weight by 'flip'"),
    ],
)
def test_impossible_rows_are_dropped(
    script: Script, ask: Ask, row: tuple[str, list[str]], why: str
) -> None:
    script.plays = [says(rows(("", [row, ("L2", ["E4"])])))]
    proposal = ask()
    assert proposed(proposal) == {1: "beta.b"}
    noted = next(note for note in proposal.notes if note.startswith("Left out: .one.weight"))
    assert why.lower() in noted.lower()


@pytest.mark.parametrize("leaf", ["L9", "E1", ".one.weight", "L1[3]", "L1#1/2", ""])
def test_leaves_nobody_asked_about_are_ignored(script: Script, ask: Ask, leaf: str) -> None:
    script.plays = [says(rows(("", [(leaf, ["E1"]), *RIGHT[1:2]])))]
    proposal = ask()
    assert proposed(proposal) == {1: "beta.b"}
    assert any(note.startswith(f"Ignored: {leaf!r}") for note in proposal.notes)


def test_leaf_answered_twice_is_not_believed(script: Script, ask: Ask) -> None:
    script.plays = [says(rows(("", [*RIGHT, ("L1", ["E1"])])))]
    proposal = ask()
    assert 0 not in proposed(proposal)
    assert "Left out: .one.weight: it was answered more than once." in proposal.notes


def test_words_around_an_answer_are_ignored_and_said(script: Script, ask: Ask) -> None:
    text = f"Sure! Here it is:\n```json\n{rows(('', RIGHT))}\n```\nHope this helps."
    script.plays = [says(text)]
    proposal = ask()
    assert proposed(proposal) == dict(enumerate(RIGHT_KEYS))
    assert proposal.notes == ("Words around the answer were ignored.",)
    assert len(script.asked) == 1


def test_unreadable_answer_is_asked_for_again(script: Script, ask: Ask) -> None:
    script.plays = [says(rows(("", RIGHT))[:-30]), says(rows(("", RIGHT)))]
    assert proposed(ask()) == dict(enumerate(RIGHT_KEYS))
    assert "its JSON breaks off" in script.asked[1].json["messages"][0]["content"]


def test_repair_that_fails_keeps_what_was_right(script: Script, ask: Ask) -> None:
    script.plays = [says(rows(("", RIGHT[:1]))), fails(401)]
    proposal = ask()
    assert proposed(proposal) == {0: "beta.w"}
    assert any("1 of 1 requests failed: Anthropic does not accept" in n for n in proposal.notes)


def test_reason_is_inert_and_short(script: Script, ask: Ask) -> None:
    script.plays = [says(rows(("\x1b[31mred\u202e " + "long " * 200, RIGHT)))]
    (hunk,) = ask().hunks
    assert "\x1b" not in hunk.reason
    assert "\u202e" not in hunk.reason
    assert len(hunk.reason) <= 300


def test_gap(script: Script, ask: Ask, session: Session) -> None:
    script.plays = [says(rows(("none", [*RIGHT[:3], ("L4", [])])))]
    proposal = ask()
    assert proposed(proposal)[3] == "gap"
    accept_all(session, proposal)
    assert session.alignment.rows[3].gap
    assert session.alignment.bench == ("alpha.b",)
    verdict = session.verdict(3)
    assert verdict is not None
    assert verdict.fit is Fit.DOUBTFUL


def test_gap_without_a_value_is_impossible(script: Script, ask: Ask) -> None:
    leaves = [Leaf(".w", (2, 3), "float32", has_value=False), Leaf(".b", (2,), "float32")]
    session = nameless([Entry("x", (2, 3), "float32"), Entry("y", (2,), "float32")], leaves)
    script.plays = [says(rows(("", [("L1", []), ("L2", ["E2"])])))]
    proposal = ask(session)
    assert proposed(proposal) == {1: "y"}
    assert any("saved without values" in note for note in proposal.notes)


OWN = "mynet.Own"
MAKES: dict[str, tuple[list[Entry], list[Leaf], list[tuple[str, list[str], str]], object]] = {
    "turned": (
        [Entry("x", (3, 5), "float32")],
        [Leaf(".w", (5, 3), "float32", owner=OWN)],
        [("L1", ["E1"], "auto")],
        Permute(Take("x"), (1, 0)),
    ),
    "transposed square": (
        [Entry("x", (3, 3), "float32")],
        [Leaf(".w", (3, 3), "float32", owner=OWN)],
        [("L1", ["E1"], "transpose")],
        Permute(Take("x"), (1, 0)),
    ),
    "flipped": (
        [Entry("x", (3, 3, 5), "float32")],
        [Leaf(".w", (3, 3, 5), "float32", owner=OWN)],
        [("L1", ["E1"], "flip")],
        Flip(Take("x"), (2,)),
    ),
    "stacked by number": (
        [Entry(f"h.{n}.w", (2, 3), "float32") for n in (0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9)],
        [Leaf(".w", (11, 2, 3), "float32", owner=OWN)],
        [("L1", ["E1"], "auto")],
        Stack(tuple(Take(f"h.{n}.w") for n in range(11)), 0),
    ),
    "added": (
        [Entry("x", (3,), "float32"), Entry("y", (3,), "float32")],
        [Leaf(".b", (3,), "float32", owner=OWN)],
        [("L1", ["E1", "E2"], "sum")],
        Sum((Take("x"), Take("y"))),
    ),
    "weight norm": (
        [Entry("x.weight_g", (3, 1), "float32"), Entry("x.weight_v", (3, 5), "float32")],
        [Leaf(".w", (3, 5), "float32", owner=LINEAR)],
        [("L1", ["E1", "E2"], "auto")],
        WeightNorm((Take("x.weight_g"), Take("x.weight_v"))),
    ),
    "part": (
        [Entry("qkv", (9, 3), "float32")],
        [Leaf(".k", (3, 3), "float32", owner=LINEAR)],
        [("L1", ["E1#2/3"], "auto")],
        Split(Take("qkv"), 0, 3, 6),
    ),
    "as its layer needs": (
        [Entry("up.k", (4, 2, 3), "float32")],
        [
            Leaf(
                ".up.weight", (2, 4, 3), "float32", owner="equinox.nn.ConvTranspose1d",
                config={"groups": 1, "num_spatial_dims": 1},
            )
        ],
        [("L1", ["E1"], "auto")],
        Take("up.k"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MAKES)
def test_words_become_what_shapes_and_layer_allow(script: Script, ask: Ask, name: str) -> None:
    entries, leaves, answered, expected = MAKES[name]
    script.plays = [says(rows(("", answered)))]
    (change,) = ask(nameless(entries, leaves)).changes
    assert change.new.source == expected


def test_parts_of_one_entry_fill_several_leaves(script: Script, ask: Ask) -> None:
    leaves = [Leaf(f".{n}", (3, 3), "float32", owner=LINEAR) for n in "qkv"]
    session = nameless([Entry("all", (9, 3), "float32")], leaves)
    answered = [(f"L{n}", [f"E1#{n}/3"]) for n in (1, 2, 3)]
    script.plays = [says(rows(("", answered)))]
    assert [change.new.source for change in ask(session).changes] == [
        Split(Take("all"), 0, 3 * n, 3 * n + 3) for n in range(3)
    ]


def test_overlapping_parts_are_not_believed(script: Script, ask: Ask) -> None:
    leaves = [Leaf(f".{n}", (3, 3), "float32", owner=LINEAR) for n in "qkv"]
    session = nameless([Entry("all", (9, 3), "float32")], leaves)
    script.plays = [says(rows(("", [("L1", ["E1#1/3"]), ("L2", ["E1#1/3"]), ("L3", ["E1#3/3"])])))]
    assert proposed(ask(session)) == {2: "all"}


def blocks(count: int) -> Session:
    entries = [Entry(f"h.{n}.{k}", (2, 3), "float32") for n in range(count) for k in "ab"]
    leaves = [
        Leaf(f".body[{n}].{k}", (2, 3), "float32", owner=OWN)
        for n in range(count)
        for k in ("one", "two")
    ]
    return nameless(entries, leaves)


def test_blocks_are_answered_as_one(script: Script, ask: Ask) -> None:
    session = blocks(12)
    script.plays = [
        says(rows(("", [("L1", ["E2"]), ("L2[0..10]", ["E1[0..10]"]), ("L2[11]", ["E1[11]"])])))
    ]
    proposal = ask(session)
    assert len(list(proposal.changes)) == 24
    assert proposed(proposal)[0] == "h.0.b"
    assert proposed(proposal)[21] == "h.10.a"
    assert proposed(proposal)[23] == "h.11.a"
    assert [hunk.title for hunk in proposal.hunks] == [".body[{0..11}]"]


@pytest.mark.parametrize("several", [True, False])
def test_several_requests_are_one_proposal(script: Script, ask: Ask, several: bool) -> None:
    session = blocks(2)
    plays = [says(rows(("", [("L1", ["E1"])]))), says(rows(("", [("L2", ["E2"])])))]
    script.plays = plays if several else [plays[0], fails(413)]
    proposal = ask(session, budget=Budget(lines=1))
    assert proposed(proposal) == {0: "h.0.a", 2: "h.1.a"} | (
        {1: "h.0.b", 3: "h.1.b"} if several else {}
    )
    assert any("1 of 2 requests failed" in note for note in proposal.notes) is not several
    first, second = (one.json["system"][1] for one in script.asked)
    assert first == second
    assert first["cache_control"] == {"type": "ephemeral"}


def test_one_request_keeps_nothing(script: Script, ask: Ask) -> None:
    script.plays = [says(rows(("", RIGHT)))]
    ask()
    assert "cache_control" not in json.dumps(script.asked[0].json)


def test_entry_taken_in_one_request_is_not_free_in_the_next(script: Script, ask: Ask) -> None:
    script.plays = [says(rows(("", [("L1", ["E1"])]))), says(rows(("", [("L2", ["E1"])])))]
    proposal = ask(blocks(2), budget=Budget(lines=1))
    assert proposed(proposal) == {0: "h.0.a", 2: "h.1.a"}
    assert any("h.0.a is used by .body[0].one too" in note for note in proposal.notes)


def test_requests_beyond_the_bound_are_said(script: Script, ask: Ask) -> None:
    script.plays = [says(rows(("", [("L1", ["E1"])])))]
    proposal = ask(blocks(2), budget=Budget(lines=1, requests=1))
    assert proposed(proposal) == {0: "h.0.a", 2: "h.1.a"}
    assert (
        proposal.notes[0] == "2 rows were not asked about: more than fits. Ask again after these."
    )


def test_estimate_stands_in_where_the_service_does_not_count(script: Script, ask: Ask) -> None:
    script.plays = [says(rows(("", RIGHT)))]
    script.tokens = None
    job = Asking()
    ask(job=job)
    assert not job.counted
    assert job.sent == pytest.approx(len(script.asked[0].body) / 2.5, rel=0.25)


def test_everything_wrong_is_no_proposal_but_says_so(script: Script, ask: Ask) -> None:
    script.plays = [says(rows(("", [("L1", ["E3"])])))]
    proposal = ask()
    assert proposal.hunks == ()
    assert len(proposal.notes) > 1


def test_no_groups_at_all(script: Script, ask: Ask) -> None:
    script.plays = [says('{"groups": []}')]
    assert ask().hunks == ()


@pytest.mark.parametrize("text", ["[" * 100_000, "{" * 5000, '{"groups": 1e999}', '{"groups":[3]}'])
def test_hostile_json(script: Script, ask: Ask, text: str) -> None:
    script.plays = [says(text)]
    assert "cannot be read" in refusal(ask)
