"""Small pairs for the tests of the app, and proposals about them."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import structs

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry
from s2p_tui.proposals.proposal import Confidence, Proposal, proposed
from s2p_tui.session.session import Session
from tests.helpers.sessions import make_session, reordered

HOSTILE = [
    "esc\x1b[31mred",
    "new\nline\ttab",
    "[bold]markup[/]",
    "日本語の鍵" * 9 + ".weight",
    "e\u0301" * 50,
    "right\u202eto left",
    "\x9b31m c1",
    "lone \ud800 surrogate",
    "x" * 500 + ".tail",
    "",
]


def hostile() -> Session:
    return make_session(
        (Entry(name, (3,), "float32") for name in HOSTILE),
        (Leaf(f".{name}", (3,), "float32", owner=name) for name in HOSTILE),
    )


Shapes = Mapping[str, tuple[int, ...]]


def session_of(entries: Shapes, leaves: Shapes, owner: str | None = None) -> Session:
    return make_session(
        (Entry(key, shape, "float32") for key, shape in entries.items()),
        (Leaf(path, shape, "float32", owner=owner) for path, shape in leaves.items()),
    )


def turned() -> Session:
    return session_of({"lin.weight": (3, 5), "wide": (10, 3)}, {".kernel": (5, 3), ".x": (5, 7)})


def fused() -> Session:
    """`qkv` on `.q`, two others on `.k` and `.v`; nothing on `.out`."""
    return session_of(
        {"qkv": (6, 2), "out": (2, 2), "bias": (2,)},
        {".q": (2, 2), ".k": (2, 2), ".v": (2, 2), ".out": (2, 2), ".bias": (2,)},
    )


def scanned(count: int = 3) -> Session:
    """One leaf stacked, its entries in several rows, as they come by order."""
    entries: dict[str, tuple[int, ...]] = {f"layers.{n}.weight": (2, 3) for n in range(count)}
    return session_of(
        {**entries, "head": (4,)}, {".layers.weight": (count, 2, 3), ".a": (4,), ".b": (2, 3)}
    )


def turned_up() -> Session:
    owner = "equinox.nn.ConvTranspose2d"
    return session_of({"up.weight": (2, 2, 3, 3)}, {".up.weight": (2, 2, 3, 3)}, owner)


def many_keys() -> Session:
    names = [f"encoder.block_{n}.attention.weight_{n}" for n in range(100)]
    return session_of(dict.fromkeys(names, (1,)), {".w": (100,)})


BY_NAME = [f"lin{n}.{kind}" for n in (1, 2, 3) for kind in ("weight", "bias")]


BY_ORDER = [f"lin{n}.{kind}" for n in (3, 2, 1) for kind in ("weight", "bias")]


def blocks(count: int = 3) -> Session:
    """Two leaves a block, entries in order."""
    order = [(n, name) for n in range(count) for name in ("w", "b")]
    shapes = {"w": (2, 2), "b": (2,)}
    return make_session(
        (Entry(f"h.{n}.{k}", shapes[k], "float32") for n, k in order),
        (Leaf(f".h[{n}].{k}", shapes[k], "float32") for n, k in order),
    )


def swapping(session: Session, *pairs: tuple[int, int], sure: dict[int, Confidence]) -> Proposal:
    """A proposal that exchanges rows, with objection and notes."""
    rows = session.alignment.rows
    wanted: list[tuple[int, Row]] = []
    for one, other in pairs:
        wanted += [
            (one, Row(rows[other].source, by="claude", why=f"row {other} says so")),
            (other, Row(rows[one].source, by="claude", why=f"row {one} says so")),
        ]
    made = proposed(
        "claude", session.alignment, wanted, session.target.skeleton, sure, ("an id was invented",)
    )
    first, *others = made.hunks
    changes = (
        structs.replace(first.changes[0], objection="the matcher has another"),
        *first.changes[1:],
    )
    return structs.replace(made, hunks=(structs.replace(first, changes=changes), *others))


SURE = {
    0: Confidence.CERTAIN,
    1: Confidence.LIKELY,
    2: Confidence.UNSURE,
    3: Confidence.CERTAIN,
}


def layers(count: int, odd: int = -1) -> Session:
    """`.layers[n]`: two leaves each, entries in another order; one layer's weight is smaller."""
    return make_session(
        (
            Entry(f"h.{n}.{name}", (3, 3) if n == odd and name == "w" else shape, "float32")
            for n in range(count)
            for name, shape in (("b", (5,)), ("w", (3, 5)))
        ),
        (
            Leaf(f".layers[{n}].{name}", shape, "float32")
            for n in range(count)
            for name, shape in (("kernel", (5, 3)), ("bias", (5,)))
        ),
    )


def soon() -> Session:
    """Layers in another order, lined up while the app shows them."""
    ends = reordered(None)
    return Session.between(ends.checkpoint, ends.target, soon=True)
