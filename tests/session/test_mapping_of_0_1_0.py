"""A mapping file that 0.1.0 saved replays, and is judged as mappings are judged today."""

from __future__ import annotations

import json
from pathlib import Path

from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry
from s2p_tui.session.opening import load_mapping
from s2p_tui.session.session import Session
from tests.helpers.sessions import make_session

SAVED = Path(__file__).parent.parent / "alignment" / "tables" / "mapping_0_1_0.json"
BATCH_NORM, CONV, LINEAR = (f"equinox.nn.{name}" for name in ("BatchNorm", "Conv2d", "Linear"))


def pair() -> Session:
    """The two ends it was made for."""
    entries: dict[str, tuple[int, ...]] = {
        "stem.weight": (4, 3, 3, 3),
        "stem.bias": (4,),
        **{f"norm.{role}": (4,) for role in ("weight", "bias", "running_mean", "running_var")},
        "norm.num_batches_tracked": (),
        "attn.qkv.weight": (12, 4),
        "attn.qkv.bias": (12,),
        "head.kernel": (4, 5),
        "aa.x": (3,),
        "bb.x": (3,),
        "left.over": (7,),
    }
    linear = {"weight": (4, 4), "bias": (4,)}
    leaves = [
        Leaf("[0].stem.weight", (4, 3, 3, 3), "float32", owner=CONV),
        Leaf("[0].stem.bias", (4, 1, 1), "float32", owner=CONV),
        *(Leaf(f"[0].norm.{role}", (4,), "float32", owner=BATCH_NORM) for role in linear),
        Leaf("[0].norm.inference", (), "bool", "scalar", owner=BATCH_NORM),
        *(
            Leaf(f"[0].attn.{name}.{role}", shape, "float32", owner=LINEAR)
            for name in "qkv"
            for role, shape in linear.items()
        ),
        Leaf("[0].head.weight", (5, 4), "float32"),
        *(Leaf(f"[0].{name}", (3,), "float32") for name in ("odd", "even")),
        Leaf("[0].scale", (7,), "float32"),
        Leaf("[1].norm.ema_first_time_index", (), "bool", owner=BATCH_NORM),
        *(
            Leaf(f"[1].norm.ema_state_index[{number}]", (4,), "float32", owner=BATCH_NORM)
            for number in range(2)
        ),
    ]
    return make_session(
        (
            Entry(key, shape, "int64" if key.endswith("tracked") else "float32")
            for key, shape in entries.items()
        ),
        leaves,
        arrange="auto",
    )


def test_every_row_is_as_it_was_saved(tmp_path: Path) -> None:
    session = pair()
    session.start_from(load_mapping(SAVED))
    session.save_mapping(tmp_path / "again.json")
    saved, again = json.loads(SAVED.read_text()), json.loads((tmp_path / "again.json").read_text())
    assert again["rows"] == saved["rows"]
    assert again["bench"] == saved["bench"]
    session.undo()
    session.begin_from(SAVED)
    assert [row.trusted for row in session.alignment.rows].count(True) == 2


def test_what_0_1_0_took_for_certain_and_is_not_is_doubtful() -> None:
    session = pair()
    session.start_from(load_mapping(SAVED))
    skeleton = session.target.skeleton
    doubtful = {
        skeleton[index].path
        for index in range(len(skeleton))
        if session.verdicts.fit(index) is Fit.DOUBTFUL and not session.alignment.rows[index].trusted
    }
    # Its rows transposed the parts of a fused weight for layers that keep PyTorch's layout.
    assert {f"[0].attn.{name}.weight" for name in "qkv"} <= doubtful
    assert "[0].norm.weight" not in doubtful
