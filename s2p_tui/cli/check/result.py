"""The result of a check, as text or JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from s2p_tui.alignment.transform import Shape
from s2p_tui.cli.check.arrays import Difference
from s2p_tui.errors import S2PError, printable

if TYPE_CHECKING:
    from s2p_tui.cli.check.gradients import GradientParity
    from s2p_tui.cli.check.parity import ModuleParity
    from s2p_tui.cli.check.settle import Decisions

DIFFER = 6
"""Exit status: both models ran, and their outputs differ."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One call of two modules that stand for each other.

    Attributes:
        torch: Path of the torch module.
        jax: Key path of the JAX module.
        outputs: How far what they returned is apart.
        inputs: How far what they were called with is apart; None if it cannot be compared.
        dtypes: Of what torch's module and its twin returned.
    """

    torch: str
    jax: str
    outputs: Difference
    inputs: Difference | None
    dtypes: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True)
class Modules:
    """The result of comparing the modules inside.

    Attributes:
        first: The first pair, in the order of torch's forward, that differs.
        before: The last pair before it, which agrees.
        agreed: How many calls before it agree.
    """

    first: Pair | None
    before: Pair | None
    agreed: int


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """Both forwards held against each other.

    Attributes:
        torch: The torch factory.
        jax: The JAX factory.
        examples: How many inputs both were run on.
        tolerance: Largest relative difference that counts as agreement.
        outputs: Shape and difference of each array they both return.
        returned: How many arrays torch's model and the JAX one return; the first ones are compared.
        modules: What was found inside, or why nothing could be; None if the outputs agree.
        parity: Every pair of modules, where they were compared, in the order of the forward.
        decisions: What the forward decided, where it was asked to.
        mapping: The mapping file that was saved then.
        note: What else explains the difference; empty if nothing is known to.
        gradients: Every parameter's, where they were asked for, in torch's order.
    """

    torch: str
    jax: str
    examples: int
    tolerance: float
    outputs: tuple[tuple[Shape, Difference], ...]
    returned: tuple[int, int]
    modules: Modules | S2PError | None = None
    parity: tuple[ModuleParity, ...] = ()
    decisions: Decisions | None = None
    mapping: str | None = None
    note: str = ""
    gradients: tuple[GradientParity, ...] | None = None

    @property
    def agrees(self) -> bool:
        """True if every output is within the tolerance, and every gradient that was asked for."""
        settled = self.decisions is None or self.decisions.agrees
        settled = settled and all(one.agrees for one in self.gradients or ())
        return settled and all(apart.relative <= self.tolerance for _, apart in self.outputs)

    @property
    def exit_code(self) -> int:
        """The exit status it amounts to."""
        return 0 if self.agrees else DIFFER

    @property
    def worst(self) -> Difference:
        """The largest differences of all outputs."""
        return Difference(
            max(apart.absolute for _, apart in self.outputs),
            max(apart.relative for _, apart in self.outputs),
        )

    def as_text(self) -> str:
        """Say whether the models agree, and name the first difference."""
        verdict = "agree" if self.agrees else "DIFFER"
        number = f"{self.examples} example{'s' * (self.examples != 1)}"
        lines = [
            f"{self.torch} and {self.jax} {verdict}: {_words(self.worst)}, "
            f"tolerance {self.tolerance:.0e}, {number}"
        ]
        if self.returned[0] != self.returned[1]:
            lines.append(
                f"torch returns {self.returned[0]} arrays and the JAX model {self.returned[1]}: "
                f"the first {min(self.returned)} of both compared"
            )
        if self.note:
            lines.append(self.note)
        match self.modules:
            case Modules():
                lines += _inside(self.modules, self.tolerance)
            case S2PError():
                lines.append(f"the modules inside were not compared: {self.modules}")
            case None:
                pass
        if self.gradients is not None:
            lines.append(_of_gradients(self.gradients))
        if self.decisions is not None:
            lines += self.decisions.as_lines()
        if self.mapping is not None:
            lines.append(f"mapping: {self.mapping}")
        return "\n".join(map(printable, lines))

    def as_json(self) -> str:
        """Return one JSON object; numbers that are not finite are null."""
        inside = self.modules if isinstance(self.modules, Modules) else None
        report = {
            "status": "agree" if self.agrees else "differ",
            **numbers(self.worst),
            "tolerance": self.tolerance,
            "examples": self.examples,
            "outputs": [{"shape": list(shape), **numbers(apart)} for shape, apart in self.outputs],
            "returned": {"torch": self.returned[0], "jax": self.returned[1]},
            "first_difference": _pair(inside.first) if inside is not None else None,
            "agreed_before": _pair(inside.before) if inside is not None else None,
            "modules_agreed": inside.agreed if inside is not None else None,
            "error": str(self.modules) if isinstance(self.modules, S2PError) else None,
        }
        if self.note:
            report["note"] = self.note
        if self.decisions is not None:
            report |= self.decisions.as_json() | {"mapping": self.mapping}
        if self.parity:
            report["modules"] = [module.as_json() for module in self.parity]
        if self.gradients is not None:
            report["gradients"] = [one.as_json() for one in self.gradients]
        return json.dumps(report)


def failed_as_json(error: S2PError) -> str:
    """Return the object for a check that failed."""
    return json.dumps({"status": "failed", "error": error.line, "message": error.message})


def _inside(modules: Modules, tolerance: float) -> list[str]:
    first, before = modules.first, modules.before
    if first is None and not modules.agreed:
        return ["no module is called alike on both sides, so that none could be compared"]
    if first is None:
        return [
            f"every pair of modules that could be compared agrees ({modules.agreed} calls): look "
            "at what the forwards do between and after them"
        ]
    line = f"first difference: {first.torch} ↔ {first.jax} ({_words(first.outputs)})"
    if first.inputs is not None and first.inputs.relative <= tolerance:
        line += f", called with inputs that agree to {first.inputs.relative:.1e}"
    elif first.inputs is not None:
        line += (
            f", called with inputs that differ already (relative {first.inputs.relative:.2g}): "
            "either these two are not twins and the alignment is wrong here, or what the "
            "forwards do just before them differs"
        )
    if before is None:
        return [line]
    return [
        line,
        f"before it {before.torch} ↔ {before.jax} agreed to {before.outputs.relative:.1e} "
        f"({modules.agreed} calls agree)",
    ]


def _of_gradients(found: Sequence[GradientParity]) -> str:
    if not found:
        return "no gradients could be compared: no parameter feeds a leaf as it is"
    wrong = [one for one in found if not one.agrees]
    worst = max(wrong or found, key=lambda one: one.apart.relative)
    where = f"{worst.key} ↔ {', '.join(worst.leaves)} ({_words(worst.apart)})"
    if wrong:
        return f"gradients of {len(wrong)} of {len(found)} parameters DIFFER, most {where}"
    return f"gradients of all {len(found)} parameters agree, least {where}"


def _words(apart: Difference) -> str:
    return f"max |Δ| {apart.absolute:.2g}, relative {apart.relative:.2g}"


def numbers(apart: Difference) -> dict[str, float | None]:
    """Return a difference as JSON values; numbers that are not finite are null."""
    return {
        "max_abs_difference": apart.absolute if math.isfinite(apart.absolute) else None,
        "relative_difference": apart.relative if math.isfinite(apart.relative) else None,
    }


def _pair(pair: Pair | None) -> dict[str, Any] | None:
    if pair is None:
        return None
    inputs = None if pair.inputs is None else numbers(pair.inputs)
    return {"torch": pair.torch, "jax": pair.jax, **numbers(pair.outputs), "inputs": inputs}
