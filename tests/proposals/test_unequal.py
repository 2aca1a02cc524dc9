"""Lists of modules of which one side has more than the other."""

from __future__ import annotations

import pytest

from s2p_tui.alignment.evidence import Evidence
from s2p_tui.alignment.transform import Shape
from tests.proposals.matched import Tensors, certain, keys, matched

PARTS: Tensors = [("norm.weight", (8,)), ("up.weight", (16, 8)), ("down.weight", (8, 16))]
ENDS: tuple[Tensors, Tensors] = ([("embed.weight", (30, 8))], [(".embed.weight", (30, 8))])


def _blocks(template: str, count: int, parts: Tensors = PARTS) -> Tensors:
    return [(template.format(n) + name, shape) for n in range(count) for name, shape in parts]


def _reasons(evidence: Evidence) -> set[str]:
    return {suggestion.reason for suggestion in evidence.suggestions if not suggestion.certain}


@pytest.mark.parametrize("template", [".h[{}].", ".trunk.blocks[{}].", ".block_{}."])
@pytest.mark.parametrize(("count", "rest"), [(11, "h.11"), (9, "h.9 and 2 more")])
def test_a_model_of_fewer_blocks_is_doubted_in_all_of_them(
    template: str, count: int, rest: str
) -> None:
    entries = ENDS[0] + _blocks("h.{}.", 12)
    evidence = matched(entries, ENDS[1] + _blocks(template, count))
    assert keys(evidence) == [key for key, _ in entries[: 1 + 3 * count]]
    assert certain(evidence) == [True, *[False] * (3 * count)]
    assert _reasons(evidence) == {
        f"of 12 alike h.* in the checkpoint the model takes {count}, not {rest}"
    }


def test_a_model_of_more_blocks_is_doubted_in_all_of_them() -> None:
    entries = ENDS[0] + _blocks("h.{}.", 11)
    evidence = matched(entries, ENDS[1] + _blocks(".h[{}].", 12))
    assert certain(evidence) == [True, *[False] * 36]
    assert _reasons(evidence) == {"of 12 alike h.* in the model the checkpoint fills 11, not h.11"}


def test_one_stage_of_fewer_blocks_leaves_the_others_settled() -> None:
    def stages(template: str, depths: tuple[int, int]) -> Tensors:
        return [
            (template.format(stage + 1, n), (size, size, 3, 3))
            for stage, (size, depth) in enumerate(zip((8, 16), depths, strict=True))
            for n in range(depth)
        ]

    evidence = matched(
        stages("layer{}.{}.conv.weight", (2, 3)), stages(".layer{}[{}].conv.weight", (2, 2))
    )
    assert certain(evidence)[2:] == [False, False]
    assert "of 3 alike layer2.* in the checkpoint the model takes 2, not layer2.2" in _reasons(
        evidence
    )
    assert not any("layer1" in reason for reason in _reasons(evidence))


HEADS: list[tuple[str, Shape]] = [("aux_heads.0.weight", (5, 8)), ("aux_heads.1.weight", (5, 8))]


@pytest.mark.parametrize(
    "extra",
    [
        HEADS,
        [("classifier.weight", (5, 8)), ("classifier.bias", (5,))],
        [("h.12.gate.weight", (3, 8)), ("h.12.wide.weight", (24, 8))],
    ],
    ids=["aux heads", "classifier", "a block of another kind"],
)
def test_modules_unlike_those_in_use_are_left_over_without_doubt(extra: Tensors) -> None:
    entries = ENDS[0] + _blocks("h.{}.", 12)
    evidence = matched(entries + extra, ENDS[1] + _blocks(".h[{}].", 12))
    assert keys(evidence) == [key for key, _ in entries]
    assert all(certain(evidence))
