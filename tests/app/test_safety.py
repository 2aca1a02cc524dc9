"""Hands make no row certain that they did not choose."""

from __future__ import annotations

import pytest

from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry
from s2p_tui.app.screens.main import Workspace
from s2p_tui.session.session import Session
from tests.app.reading import keys, status
from tests.helpers.running_app import Opened
from tests.helpers.sessions import make_session


def fits(workspace: Workspace) -> list[Fit]:
    session = workspace.session
    return [session.verdicts.fit(index) for index in range(len(session.alignment.rows))]


def why(workspace: Workspace, index: int) -> str:
    verdict = workspace.session.verdict(index)
    assert verdict is not None
    return verdict.why


def nameless(count: int = 30) -> Session:
    return make_session(
        (Entry(f"layers.{n}.weight", (2, 2), "float32") for n in range(count)),
        (Leaf(f"[{n}]", (2, 2), "float32") for n in range(count)),
        arrange="auto",
    )


ROLES = ("weight", "bias", "running_mean", "running_var")


def norms(count: int = 3) -> Session:
    """Norms in Equinox and PyTorch whose names do not go together: nothing speaks against a row."""
    session = make_session(
        (Entry(f"m{n}.{role}", (4,), "float32") for n in range(count) for role in ROLES),
        (Leaf(f".norms[{n}].{role}", (4,), "float32") for n in range(count) for role in ROLES),
    )
    assert session.counts == {Fit.EXACT: count * len(ROLES)}
    return session


@pytest.mark.parametrize(
    ("pressed", "certain"),
    [
        ("m G enter", {29}),
        ("m 1 0 G x", {0, 9}),
        ("J", {1}),
        ("J J J", {3}),
        ("space j space J", {1, 3}),
        ("m G x m g x", set()),
    ],
)
@pytest.mark.slow("opens the app for every case")
async def test_only_rows_that_were_chosen_are_settled(
    opened: Opened, pressed: str, certain: set[int]
) -> None:
    async with opened(nameless()) as (pilot, workspace):
        assert fits(workspace) == [Fit.DOUBTFUL] * 30
        await pilot.press(*pressed.split())
        assert {n for n, fit in enumerate(fits(workspace)) if fit is not Fit.DOUBTFUL} == certain
        assert workspace.session.blocking == 30 - len(certain)
        await pilot.press("c")
        assert "y trusts it). And 2" in status(workspace)


async def test_a_gap_and_its_end_settle_nothing(opened: Opened) -> None:
    async with opened(nameless()) as (pilot, workspace):
        await pilot.press("s")
        assert fits(workspace)[0] is Fit.GAP
        assert set(fits(workspace)[1:]) == {Fit.DOUBTFUL}
        await pilot.press("s")
        assert keys(workspace) == [f"layers.{n}.weight" for n in range(30)]
        assert fits(workspace) == [Fit.DOUBTFUL] * 30


@pytest.mark.parametrize("pressed", ["3 G m 7 G x", "3 G m 7 G enter"])
async def test_a_layer_of_two_modules_is_doubtful(opened: Opened, pressed: str) -> None:
    async with opened(norms()) as (pilot, workspace):
        await pilot.press(*pressed.split())
        assert fits(workspace)[2] is fits(workspace)[0] is Fit.DOUBTFUL
        assert "of another module" in why(workspace, 2)
        assert "of another module" in why(workspace, 0)
        assert workspace.session.blocking >= 4


@pytest.mark.slow("drives the app through many screens")
async def test_rows_of_another_module_are_trusted_one_by_one(opened: Opened) -> None:
    async with opened(norms(2)) as (pilot, workspace):
        await pilot.press(*["3", "G", "m", "7", "G", "x"])
        assert workspace.session.blocking == 8
        for row in range(1, 9):
            await pilot.press(*str(row), "G", "y")
        assert workspace.session.blocking == 0
        await pilot.press(*["4", "G", "m", "8", "G", "x"])
        assert {n for n, fit in enumerate(fits(workspace)) if fit is Fit.DOUBTFUL} == set(range(8))
        assert workspace.session.blocking == 8


@pytest.mark.slow("drives the app through many screens")
async def test_a_chosen_entry_of_another_module_is_doubtful(opened: Opened) -> None:
    async with opened(norms()) as (pilot, workspace):
        await pilot.press(
            *[
                "3",
                "G",
                "enter",
                "m",
                "1",
                ".",
                "r",
                "u",
                "n",
                "n",
                "i",
                "n",
                "g",
                "_",
                "m",
                "enter",
            ]
        )
        await pilot.pause()
        assert keys(workspace)[2] == "m1.running_mean"
        assert fits(workspace)[2] is Fit.DOUBTFUL


async def test_a_part_of_an_entry_that_nothing_else_takes_is_doubtful(opened: Opened) -> None:
    session = make_session(
        [Entry("big", (100, 32), "float32")], [Leaf(".a", (32,), "float32")], arrange="auto"
    )
    async with opened(session) as (pilot, workspace):
        await pilot.press("enter", "enter")
        await pilot.pause()
        assert keys(workspace) == ["big"]
        assert fits(workspace) == [Fit.DOUBTFUL]
        assert "no row takes the rest of big" in why(workspace, 0)
        assert workspace.session.blocking == 1


async def test_trust_ends_with_a_sibling(opened: Opened) -> None:
    entries = [Entry(key, (4,), "float32") for key in ("a.weight", "b.bias", "b.other", "c.last")]
    leaves = [Leaf(f".n.{role}", (4,), "float32") for role in ("weight", "bias")]
    leaves += [Leaf(".x", (4,), "float32"), Leaf(".y", (4,), "float32")]
    async with opened(make_session(entries, leaves)) as (pilot, workspace):
        await pilot.press("g", "y", "y", "2", "G")
        assert workspace.session.blocking == 0
        await pilot.press(*["m", "j", "x"])
        assert keys(workspace)[1] == "b.other"
        assert workspace.session.row(0).trusted is False
        assert workspace.session.blocking == 2
        await pilot.press("u")
        assert workspace.session.row(0).trusted is True


@pytest.mark.slow("drives the app through many screens")
async def test_what_a_rule_fills_goes_nowhere(opened: Opened) -> None:
    owner = "equinox.nn.BatchNorm"
    leaves = [
        Leaf("[0].bn.weight", (4,), "float32", owner=owner),
        Leaf("[0].bn.inference", (), "bool", kind="scalar", owner=owner),
        Leaf("[1].bn.ema_first_time_index", (), "bool", owner=owner),
        Leaf("[1].bn.ema_state_index[0]", (4,), "float32", owner=owner),
    ]
    entries = [Entry(f"bn.{key}", (4,), "float32") for key in ("weight", "running_mean")]
    async with opened(make_session(entries, leaves, arrange="auto")) as (pilot, workspace):
        before = list(workspace.session.alignment.rows)
        for pressed in ("3 G m 2 G x", "3 G m 2 G enter", "3 G K", "2 G J", "1 G m 3 G x"):
            await pilot.press(*pressed.split())
            await pilot.press("escape")
        assert list(workspace.session.alignment.rows)[1:3] == before[1:3]


@pytest.mark.slow("drives the app through many screens")
async def test_marked_rows_are_picked_up_together(opened: Opened) -> None:
    async with opened(norms(3)) as (pilot, workspace):
        before = keys(workspace)
        await pilot.press(*["1", "G", "v", "4", "G", "m", "9", "G", "x"])
        assert keys(workspace) == [*before[8:], *before[4:8], *before[:4]]
        assert len(workspace.session.history) == 1
        assert workspace.session.counts == {Fit.EXACT: 12}
        await pilot.press("u")
        assert keys(workspace) == before
        await pilot.press(*["1", "G", "v", "4", "G", "m", "6", "G", "enter"])
        assert len(workspace.session.history) == 1
        assert keys(workspace)[4:8] == before[:4]


async def test_marked_rows_apart_from_each_other_are_not_picked_up(opened: Opened) -> None:
    async with opened(norms(2)) as (pilot, workspace):
        await pilot.press(*["1", "G", "space", "5", "G", "space", "m"])
        assert workspace.cursor.picked is None
        assert "next to each other" in status(workspace)


async def test_a_doubtful_gap_is_confirmed(opened: Opened) -> None:
    session = make_session(
        [Entry(f"layers.{n}.weight", (2, 2), "float32") for n in range(2)],
        [Leaf(f".layers[{n}].{role}", (2, 2), "float32") for n in range(2) for role in "wv"],
        arrange="auto",
    )
    gaps = [n for n, row in enumerate(session.alignment.rows) if row.gap]
    doubtful = [n for n in gaps if session.verdicts.fit(n) is Fit.DOUBTFUL]
    assert doubtful
    async with opened(session) as (pilot, workspace):
        await pilot.press(str(doubtful[0] + 1), "G", "s")
        assert fits(workspace)[doubtful[0]] is Fit.GAP
        assert "Confirmed" in status(workspace)


async def test_the_matcher_leaves_what_was_decided(opened: Opened) -> None:
    entries = [Entry(f"lin{n}.weight", (2, 2), "float32") for n in (3, 2, 1)]
    leaves = [Leaf(f".lin{n}.weight", (2, 2), "float32") for n in (1, 2, 3)]
    async with opened(make_session(entries, leaves, arrange="order")) as (pilot, workspace):
        await pilot.press(*["1", "G", "m", "2", "G", "x"])
        assert keys(workspace) == ["lin2.weight", "lin3.weight", "lin1.weight"]
        assert not any(hunk.ticked for hunk in workspace.session.match_proposal().hunks)
        await pilot.press("u")
        proposed = {change.index for change in workspace.session.match_proposal().changes}
        assert proposed == {0, 2}
