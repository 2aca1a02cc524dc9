"""Every pair of models the tests have, as files or as names alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s2p_tui.cli.demo import make_pair
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.session.session import Session
from tests.benchmarks import alignment_pairs
from tests.benchmarks.alignment import nameless, shuffled
from tests.helpers.sessions import checkpoint_of, target_of
from tests.models.pairs import pairs as table_pairs
from tests.models.twin import Truth, Twin
from tests.models.twins import TWINS


@dataclass(frozen=True)
class Case:
    """A pair to try.

    Attributes:
        name: Where it comes from and what it is called there.
        write: Writes `model.pt` and `skeleton.eqx`; None where there are `named` alone.
        truths: What the user would choose for each leaf.
    """

    name: str
    write: Callable[[], object] | None = None
    truths: tuple[Truth, ...] = ()
    named: alignment_pairs.Pair | None = None

    def open(self) -> Session:
        """Line the pair up by names and structure; files are written to the working directory."""
        if self.write is not None:
            self.write()
        if self.named is None:
            return Session.open("model.pt", "skeleton.eqx")
        # Arrays of any size that take no memory.
        ends = (
            {t.name: np.broadcast_to(np.zeros((), t.dtype), t.shape) for t in tensors}
            for tensors in (self.named.source, self.named.target)
        )
        return Session.between(checkpoint_of(next(ends)), target_of(next(ends)))


def cases(folder: Path | None) -> Iterator[Case]:
    """The twins, the tables, the demo, and pairs of names in a folder, changed too."""
    for twin in TWINS:
        truths = () if twin.truth is None else (twin.truth, *twin.also)
        yield Case(f"twin/{twin.name}", partial(_write_twin, twin), truths)
    for pair in (*table_pairs(), *table_pairs("unclear")):
        yield Case(f"table/{pair.name}", partial(_write, pair.state_dict, pair.model))
    yield Case("demo", _write_demo)
    for pair in alignment_pairs.read_pairs([folder] if folder is not None else []):
        yield Case(f"dev/{pair.id}", named=pair)
        yield Case(f"shuffled/{pair.id}", named=shuffled(pair))
        yield Case(f"nameless/{pair.id}", named=nameless(pair))


def _write(make_torch: Callable[[], Any], make_eqx: Callable[[], Any]) -> None:
    torch.save(make_torch(), "model.pt")
    save_skeleton("skeleton.eqx", make_eqx())


def _write_twin(twin: Twin) -> None:
    with twin.precision():
        _write(lambda: twin.checkpoint(twin.make_torch()), twin.make_eqx)


def _write_demo() -> None:
    make_pair(Path()).skeleton.rename("skeleton.eqx")
