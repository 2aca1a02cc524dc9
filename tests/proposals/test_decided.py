"""What a user decided is evidence for the rest of its layer and for sibling blocks."""

from __future__ import annotations

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import SetRows, Swap
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry
from s2p_tui.alignment.transform import Expr, Split, Take
from s2p_tui.proposals.proposal import Confidence, Proposal
from s2p_tui.session.session import Session
from tests.helpers.sessions import make_session

ROLES = {"weight": (4, 4), "bias": (4,)}
ODD = ("alpha", "zeta", "mu")


def odd_names(count: int = 3, names: tuple[str, ...] = ODD) -> Session:
    """Blocks whose entries are named as nothing is."""
    return make_session(
        (
            Entry(f"blocks.{n}.attn.{name}.{role}", shape, "float32")
            for n in range(count)
            for name in names
            for role, shape in ROLES.items()
        ),
        (
            Leaf(f".blocks[{n}].attn.{name}.{role}", shape, "float32", owner="equinox.nn.Linear")
            for n in range(count)
            for name in "qkv"
            for role, shape in ROLES.items()
        ),
        arrange="auto",
    )


def decide(session: Session, path: str, source: Expr) -> None:
    index = session.target.skeleton.index(path)
    session.edit(SetRows(((index, Row(source, by="user")),)))


def ticked(session: Session, proposal: Proposal) -> dict[str, str]:
    skeleton = session.target.skeleton
    return {
        skeleton[change.index].path: "+".join(change.new.keys)
        for hunk in proposal.hunks
        if hunk.ticked
        for change in hunk.changes
    }


def test_bias_and_sibling_blocks_follow() -> None:
    session = odd_names()
    decide(session, ".blocks[0].attn.q.weight", Take("blocks.0.attn.mu.weight"))
    proposal = session.match_proposal()
    assert ticked(session, proposal) == {
        f".blocks[{n}].attn.q.{role}": f"blocks.{n}.attn.mu.{role}"
        for n in range(3)
        for role in ROLES
        if (n, role) != (0, "weight")
    }
    assert {change.confidence for change in proposal.changes} == {Confidence.LIKELY}
    session.edit(proposal.accepted({change.index for change in proposal.changes}))
    followed = session.target.skeleton.index(".blocks[1].attn.q.weight")
    assert session.verdicts.fit(followed) is Fit.DOUBTFUL
    assert "as you decided for .blocks[0].attn.q.weight" in session.alignment.rows[followed].why
    assert not session.match_proposal().hunks


def test_a_part_of_an_entry_is_followed_by_the_same_part() -> None:
    shapes = {"weight": (12, 4), "bias": (12,)}
    session = make_session(
        (Entry(f"blocks.{n}.mix.{r}", s, "float32") for n in range(2) for r, s in shapes.items()),
        (
            Leaf(f".blocks[{n}].attn.{name}.{role}", shape, "float32", owner="equinox.nn.Linear")
            for n in range(2)
            for name in "qkv"
            for role, shape in ROLES.items()
        ),
        arrange="order",
    )
    decide(session, ".blocks[0].attn.k.weight", Split(Take("blocks.0.mix.weight"), 0, 4, 8))
    session.edit(session.match_proposal().accepted(
        {change.index for change in session.match_proposal().changes}
    ))  # fmt: skip
    for n in range(2):
        bias = session.target.skeleton.index(f".blocks[{n}].attn.k.bias")
        assert session.alignment.rows[bias].source == Split(Take(f"blocks.{n}.mix.bias"), 0, 4, 8)


def test_statistics_of_another_tree_follow() -> None:
    owner = "equinox.nn.BatchNorm"
    roles = ("weight", "bias", "running_mean", "running_var")
    session = make_session(
        (Entry(f"stem.{name}.{role}", (4,), "float32") for name in ODD for role in roles),
        (
            *(
                Leaf(f"[0].{name}.{role}", (4,), "float32", owner=owner)
                for name in "pqr"
                for role in roles[:2]
            ),
            *(
                Leaf(f"[1].{name}.ema_state_index[{number}]", (4,), "float32", owner=owner)
                for name in "pqr"
                for number in range(2)
            ),
        ),
        arrange="auto",
    )
    decide(session, "[0].p.weight", Take("stem.mu.weight"))
    assert ticked(session, session.match_proposal()) == {
        "[0].p.bias": "stem.mu.bias",
        "[1].p.ema_state_index[0]": "stem.mu.running_mean",
        "[1].p.ema_state_index[1]": "stem.mu.running_var",
    }


def test_nothing_follows_where_names_are_certain_or_decisions_differ() -> None:
    session = odd_names(names=("q", "k", "v"))
    skeleton = session.target.skeleton
    one, other = (skeleton.index(f".blocks[0].attn.{name}.weight") for name in "qk")
    session.edit(Swap(one, other))
    assert ticked(session, session.match_proposal()) == {}
    (undone,) = session.match_proposal().hunks
    assert not undone.ticked
    assert {change.index for change in undone.changes} == {one, other}

    session = odd_names()
    decide(session, ".blocks[0].attn.q.weight", Take("blocks.0.attn.mu.weight"))
    decide(session, ".blocks[1].attn.q.weight", Take("blocks.1.attn.zeta.weight"))
    followed = ticked(session, session.match_proposal())
    assert not any(path.startswith(".blocks[2].attn.q") for path in followed)
