"""Settling a session's rows by both models' forwards: the rows that change, and the account."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import equinox
from torch import nn

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import SetRows, Trust, apply
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.judge import landing
from s2p_tui.alignment.transform import Expr, describe, keys_of
from s2p_tui.cli.check.arrays import comparable, difference
from s2p_tui.cli.check.filled import FilledModel
from s2p_tui.cli.check.inputs import Examples, code_of, digest_of, other_examples
from s2p_tui.cli.check.jax_side import jax_forward
from s2p_tui.cli.check.scopes import Bench
from s2p_tui.cli.check.settler import Settlement, Settler
from s2p_tui.cli.check.torch_side import torch_calls, torch_forward
from s2p_tui.conversion.plan import make_plan
from s2p_tui.errors import InputError
from s2p_tui.session.session import Session

eqx: Any = equinox


@dataclass(frozen=True, slots=True)
class DecidedRow:
    """A row that the forward decided, or could not decide.

    Attributes:
        path: Key path of the leaf.
        sources: Keys of the entries that fill it.
        words: What is done to these.
        why: The numbers, or why it is not decided.
        changed: True if something else filled the leaf before.
    """

    path: str
    sources: tuple[str, ...]
    words: str
    why: str
    changed: bool

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "path": self.path,
            "sources": list(self.sources),
            "words": self.words,
            "why": self.why,
            "changed": self.changed,
        }


@dataclass(frozen=True, slots=True)
class Decisions:
    """All that the forward decided.

    Attributes:
        settled: The rows that it decided.
        open: Those that stay doubtful.
        repaired: What was done to rows, in words, in the order in which it was found; where the
            models do not agree in the end, all of it was taken back.
        inputs: Digest of the inputs.
        trials: How many modules were called with other sources.
        agrees: True if both models agree in the end, on other inputs as well.
    """

    settled: tuple[DecidedRow, ...]
    open: tuple[DecidedRow, ...]
    repaired: tuple[str, ...]
    inputs: str
    trials: int
    agrees: bool

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "settled": [row.as_json() for row in self.settled],
            "open": [row.as_json() for row in self.open],
            "repaired": list(self.repaired),
            "inputs": self.inputs,
            "trials": self.trials,
        }

    def as_lines(self) -> list[str]:
        """Return what was decided, a line each."""
        done = "repaired" if self.agrees else "made modules agree, and was taken back"
        lines = [f"{done}: {words}" for words in self.repaired]
        for row in self.settled:
            words = f" ({row.words})" if row.words else ""
            lines.append(f"settled {row.path} ← {', '.join(row.sources)}{words}: {row.why}")
        lines += [f"not settled {row.path}: {row.why}" for row in self.open]
        if not self.agrees:
            lines.append("nothing was settled: no small change makes both models agree")
        elif not self.settled and not self.open:
            lines.append("nothing was doubtful, and no module differs")
        return lines


def settle(
    session: Session,
    module: nn.Module,
    tree: Any,
    examples: Examples,
    *,
    prefix: str,
    tolerance: float,
    seed: int,
    pair: Callable[[Sequence[Expr | None]], Mapping[str, str]],
    narrate: Callable[[str, int, int], None],
) -> tuple[Any, Decisions]:
    """Let the forward decide the session's doubtful rows, and rows in modules that differ.

    Args:
        session: The open pair; rows that are decided are changed there.
        module: The torch model with its weights.
        tree: The Equinox model, or `(model, state)`.
        examples: Inputs to run both on.
        prefix: What the checkpoint's keys have before the torch module's own.
        tolerance: Largest relative difference that counts as agreement.
        seed: Of the other inputs on which both have to agree in the end.
        pair: Gives pairs of modules by what fills each leaf.
        narrate: Told of each step.

    Returns:
        The Equinox model as the session's rows fill it in the end, and what was decided.

    Raises:
        AlignmentError: Rows do not fit, or entries are left over.
        InputError: A forward raised an exception, or there is but one input.
    """
    others = other_examples(examples, seed + 1)
    if others is None:
        raise InputError(
            "One input alone decides nothing, and no other one can be made of it.",
            "Give --shape for random inputs.",
        )
    state_dict, skeleton = session.checkpoint.state_dict, session.target.skeleton
    verdicts = session.verdicts
    doubtful = [n for n in range(len(skeleton)) if verdicts.sign(n).fit is Fit.DOUBTFUL]
    doubtful = [n for n in doubtful if verdicts.sign(n).blocks]
    trusted = apply(session.alignment, Trust(tuple(doubtful)))
    plan = make_plan(state_dict, skeleton, trusted, evidence=session.evidence)
    sources = [instruction.source for instruction in plan.instructions]
    with code_of("Running the modules inside", "Compare both models without settling first."):
        model = FilledModel(eqx.nn.inference_mode(tree), skeleton, session.checkpoint, sources)
        calls, reference = torch_calls(module, examples), torch_forward(module, examples)
        bench = Bench(model, examples, calls, reference, tolerance)
        settler = Settler(bench, state_dict, prefix, pair, narrate)
        agrees = settler.repair()
        filled = model.tree()
        if agrees:
            narrate("running both models on other inputs", 0, 0)
            wanted, found = torch_forward(module, others), jax_forward(filled, others)
            count = min(len(wanted), len(found))
            wanted, found = wanted[:count], found[:count]
            agrees = comparable(found, wanted)
            agrees = agrees and difference(found, wanted).relative <= tolerance
        rows = sorted({*doubtful, *settler.changed}) if agrees else []
        settlement = settler.prove(rows)
        if not agrees:
            # What is compared from now on is the alignment as it stays.
            settler.take_back()
            filled = model.tree()
    inputs = f"{digest_of(examples)} {digest_of(others)}"
    if agrees:
        session.edit(SetRows(tuple(_rows(session, settler, settlement, inputs))))
    return filled, _decisions(session, settler, settlement, inputs, agrees=agrees)


def _rows(
    session: Session, settler: Settler, settlement: Settlement, inputs: str
) -> Iterator[tuple[int, Row]]:
    """Yield the rows that the forward decided, and those that it changed and could not decide."""
    leaves, state_dict = session.target.skeleton, session.checkpoint.state_dict
    for one in settlement.settled:
        before = session.alignment.rows[one.index].source
        is_same = (
            before is not None and landing(before, leaves[one.index], state_dict) == one.source
        )
        source = before if is_same else one.source
        yield one.index, Row(source, by="forward", why=f"{_numbers(one)}, inputs {inputs}")
    for index, why in settlement.open.items():
        if index in settler.changed:
            doubt = f"the forward does not decide it: {why}"
            yield index, Row(settler.sources[index], by="pattern", why=doubt)


def _numbers(row: Any) -> str:
    return f"forward: agrees within {row.error:.1g}, next best {row.next_best:.1g}"


def _decisions(
    session: Session, settler: Settler, settlement: Settlement, inputs: str, *, agrees: bool
) -> Decisions:
    skeleton = session.target.skeleton
    changed = set(settler.changed)

    def row(index: int, why: str) -> DecidedRow:
        source = settler.sources[index]
        keys = keys_of(source) if source is not None else ()
        words = describe(source) if source is not None else ""
        return DecidedRow(skeleton[index].path, keys, words, why, index in changed)

    return Decisions(
        tuple(row(one.index, _numbers(one)) for one in settlement.settled),
        tuple(row(index, why) for index, why in settlement.open.items()),
        tuple(settler.repairs),
        inputs,
        settlement.trials,
        agrees,
    )
