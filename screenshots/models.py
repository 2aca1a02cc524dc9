"""The two pairs of files that are shown: a trained model, and a large one that does not fit."""

from __future__ import annotations

from pathlib import Path

import equinox as eqx
import msgspec

from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.cli.demo import make_pair
from s2p_tui.formats.models import Factory, Models
from s2p_tui.formats.pytree.skeleton import save_skeleton, target_of
from s2p_tui.formats.skeleton_file import head_line
from s2p_tui.session.session import Arrangement, Session
from tests.benchmarks.alignment_scale import mixture
from tests.benchmarks.inputs import write_hollow
from tests.models.bert import make_minilm, minilm_folder

_LAYERS, _EXPERTS = 28, 64
_NARROWER = (
    ".blocks[9].mlp.experts[17].",
    *(f".blocks[20].mlp.experts[{n}]." for n in (4, 41, 42)),
)
_HIDDEN, _LESS = 96, 80


def minilm(arrange: Arrangement) -> Session:
    """all-MiniLM-L6-v2 as it was published, and a BERT in Equinox's own layers.

    Writes the skeleton into the current folder.
    """
    skeleton = Path("minilm_skeleton.eqx")
    models = Models(Factory(f"{make_minilm.__module__}:{make_minilm.__name__}"))
    save_skeleton(skeleton, eqx.filter_eval_shape(make_minilm), models=models)
    return Session.open(minilm_folder() / "model.safetensors", skeleton, arrange=arrange)


def own_attention() -> Session:
    """The same, but the attention's layers are of a class of the model's own.

    Nothing shows whether that class keeps its square weights transposed. Writes the skeleton into
    the current folder.
    """
    skeleton = Path("minilm_skeleton.eqx")
    leaves = target_of(eqx.filter_eval_shape(make_minilm), "minilm").skeleton.leaves
    skeleton.write_bytes(
        head_line(
            msgspec.structs.replace(
                leaf,
                owner="bert.Dense" if ".attention." in leaf.path else leaf.owner,
                has_value=False,
            )
            for leaf in leaves
        )
    )
    return Session.open(minilm_folder() / "model.safetensors", skeleton)


def demo() -> Session:
    """The demo's residual network, whose files name the code of both models."""
    pair = make_pair(Path())
    return Session.open(pair.model, pair.skeleton)


def mixture_of_experts() -> Session:
    """10,950 leaves, a few experts of which are narrower than those of the checkpoint.

    Writes both files into the current folder; the checkpoint's numbers take no room on the disk.
    """
    entries, leaves = mixture(_LAYERS, _EXPERTS)
    model, skeleton = Path("moe.safetensors"), Path("moe_skeleton.eqx")
    write_hollow(model, [(key, shape, "bfloat16") for key, shape in entries])
    skeleton.write_bytes(head_line(_leaf(path, shape) for path, shape in leaves))
    return Session.open(model, skeleton)


def _leaf(path: str, shape: tuple[int, ...]) -> Leaf:
    if path.startswith(_NARROWER):
        shape = tuple(_LESS if size == _HIDDEN else size for size in shape)
    owner = "equinox.nn.Linear" if path.endswith(".weight") else ""
    return Leaf(path, shape, "bfloat16", owner=owner, has_value=False)
