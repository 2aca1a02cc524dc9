"""How rows of Claude's that the user accepted are judged."""

from __future__ import annotations

import pytest

from s2p_tui.alignment.alignment import Author, Row
from s2p_tui.alignment.evidence import Evidence, Suggestion, Suggestions, weigh
from s2p_tui.alignment.fit import Fit, Verdict
from s2p_tui.alignment.proof import UNPROVEN, Answer, proven_by
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Expr, Permute, Reshape, Take

ENTRIES = {"a": (3, 5), "b": (3, 5), "square": (4, 4), "other": (4, 4), "vector": (4,)}
STATE_DICT = StateDict(tuple(Entry(key, shape, "float32") for key, shape in ENTRIES.items()))
PROVEN = proven_by(Answer.CHOSEN)
UNKNOWN = Suggestion(None, UNPROVEN, "no entry corresponds to it")


def verdict(
    source: Expr | None,
    suggestion: Suggestion = UNKNOWN,
    *,
    by: Author = "claude",
    shape: tuple[int, ...] = (3, 5),
    owner: str = "mynet.Own",
    elsewhere: Suggestion = UNKNOWN,
) -> Verdict:
    leaf = Leaf(".here", shape, "float32", owner=owner)
    skeleton = Skeleton((leaf, Leaf(".there", shape, "float32", owner=owner)))
    row = Row(source, gap=source is None, by=by)
    return weigh(0, row, STATE_DICT, skeleton, Evidence(Suggestions((suggestion, elsewhere)), {}))


def test_what_nothing_spoke_for_is_accepted() -> None:
    assert verdict(Take("a"), by="matcher").fit is Fit.DOUBTFUL
    assert verdict(Take("a")).fit is Fit.EXACT
    assert verdict(Take("a"), Suggestion(Take("a"), UNPROVEN, "so")).fit is Fit.EXACT
    assert verdict(Take("a"), Suggestion(Take("b"), UNPROVEN, "so")).fit is Fit.EXACT


@pytest.mark.parametrize(
    ("suggestion", "elsewhere", "why"),
    [
        (Suggestion(Take("b"), PROVEN, ""), UNKNOWN, "by name and structure b belongs here"),
        (Suggestion(Take("b"), UNPROVEN, "", placed=True), UNKNOWN, "structure b belongs here"),
        (UNKNOWN, Suggestion(Take("a"), PROVEN, ""), "a belongs to .there"),
    ],
)
def test_what_names_speak_against_stays_doubtful(
    suggestion: Suggestion, elsewhere: Suggestion, why: str
) -> None:
    found = verdict(Take("a"), suggestion, elsewhere=elsewhere)
    assert (found.fit, found.blocks) == (Fit.DOUBTFUL, True)
    assert why in found.why


@pytest.mark.parametrize("source", [Take("square"), Permute(Take("square"), (1, 0))])
def test_which_way_round_a_square_goes_stays_doubtful(source: Expr) -> None:
    found = verdict(source, shape=(4, 4))
    assert found.fit is Fit.DOUBTFUL
    assert found.why.startswith("nothing shows whether square is transposed here")


def test_square_that_the_matcher_settles_is_not_doubtful() -> None:
    settled = Suggestion(Take("square"), PROVEN, "")
    assert verdict(Take("square"), settled, shape=(4, 4)).fit is Fit.EXACT
    turned = verdict(Permute(Take("square"), (1, 0)), settled, shape=(4, 4))
    assert "laid out otherwise" in turned.why
    open_ = Suggestion(Take("square"), UNPROVEN, "square, and nothing shows", placed=True)
    assert verdict(Take("square"), open_, shape=(4, 4)).fit is Fit.DOUBTFUL


def test_layer_of_equinox_keeps_the_layout() -> None:
    linear = "equinox.nn.Linear"
    assert verdict(Take("square"), shape=(4, 4), owner=linear).fit is Fit.EXACT
    turned = verdict(Permute(Take("square"), (1, 0)), shape=(4, 4), owner=linear)
    assert turned.why.startswith("this layer keeps PyTorch's layout")


def test_gap_of_claudes_stays_doubtful() -> None:
    assert verdict(None).fit is Fit.DOUBTFUL
    assert verdict(None, by="user").fit is Fit.GAP
    assert verdict(None, Suggestion(None, PROVEN, "stays 0")).fit is Fit.GAP


def test_shapes_that_leave_no_choice_are_not_doubted() -> None:
    assert verdict(Take("vector"), shape=(4,)).fit is Fit.EXACT
    assert verdict(Permute(Take("a"), (1, 0)), shape=(5, 3)).fit is Fit.TRANSFORMED
    assert verdict(Reshape(Take("a"), (3, 5, 1)), shape=(3, 5, 1)).fit is Fit.TRANSFORMED


@pytest.mark.parametrize(("key", "is_open"), [("c_proj.weight", True), ("proj.weight", False)])
def test_a_layer_of_flax_settles_a_square_unless_its_name_says_the_opposite(
    key: str, is_open: bool
) -> None:
    leaf = Leaf(".proj.kernel", (4, 4), "float32", owner="flax.nnx.Linear")
    state_dict = StateDict((Entry(key, (4, 4), "float32"),))
    for source in (Take(key), Permute(Take(key), (1, 0))):
        evidence = Evidence(Suggestions([Suggestion(source, UNPROVEN, "so")]), {})
        row = Row(source, by="claude")
        found = weigh(0, row, state_dict, Skeleton((leaf,)), evidence)
        assert (found.fit is Fit.DOUBTFUL) == is_open
        assert found.blocks == is_open
