"""The recipes that the package ships, made from models whose truth the tests hold.

`python -m tests.models.shipped_recipes` writes them anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

import s2p_tui.session
from s2p_tui.alignment.alignment import Alignment, Row, fixed_row
from s2p_tui.alignment.mapping_file import SavedAlignment
from s2p_tui.alignment.recipe_file import to_text
from s2p_tui.alignment.recipe_learning import learn
from s2p_tui.alignment.transform import Expr, Take
from s2p_tui.conversion.output import mapping_of
from s2p_tui.formats.memory import checkpoint_in_memory
from s2p_tui.session.opening import target_in_memory
from s2p_tui.session.recipes import SUFFIX
from tests.models.bert import Bert, BertConfig, minilm_sources
from tests.models.twins import BY_NAME
from tests.networks.network import built

FOLDER = Path(s2p_tui.session.__file__).parent / "shipped"
Pair = tuple[Mapping[str, Any], Any, Callable[[str], Expr | None]]
"""A state dict, a pytree, and what fills each leaf."""


def bert(depth: int = 2) -> Pair:
    """A BERT encoder under Hugging Face's names, of two layers."""
    config = BertConfig(
        vocabulary=50, positions=24, segments=2, width=16, mlp_width=40, heads=2,
        layers=depth, norm_eps=1e-12,
    )  # fmt: skip
    tree = eqx.filter_eval_shape(lambda: Bert(config, key=jax.random.key(0)))
    skeleton = target_in_memory(tree).skeleton
    state = {minilm_sources(leaf.path): np.zeros(leaf.shape, np.float32) for leaf in skeleton}
    positions = {"embeddings.position_ids": np.arange(24)[None]}
    return state | positions, tree, lambda path: Take(minilm_sources(path))


def of_twin(name: str) -> Pair:
    """A twin of this name, by its truth."""
    twin = BY_NAME[name]
    assert twin.truth is not None
    return twin.checkpoint(twin.make_torch()), twin.eqx_shapes(), twin.truth.__getitem__


def whisper() -> Pair:
    """A Whisper encoder and decoder under OpenAI's names."""
    network = built("whisper_openai")
    keys = {_joined(path): source.keys for path, source in network.sources.items() if source}
    state = {key: entry.array for key, entry in network.entries.items()}
    return state, network.pytree(None), lambda path: Take(*keys[path])


def _joined(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)


PAIRS: dict[str, Callable[[], Pair]] = {
    "bert": bert,
    "gpt2": lambda: of_twin("gpt2"),
    "llama": lambda: of_twin("llama"),
    "resnet": lambda: of_twin("resnet_same_names"),
    "vit": lambda: of_twin("vit"),
    "whisper": whisper,
}


def mapping_by_truth(pair: Pair) -> SavedAlignment:
    """The mapping of a pair whose rows are all chosen by hand, as its truth has them."""
    state, tree, truth = pair
    checkpoint, target = checkpoint_in_memory(state), target_in_memory(tree)
    state_dict = checkpoint.state_dict
    rows = [
        fixed_row(leaf) or Row(source := truth(leaf.path), gap=source is None, by="user")
        for leaf in target.skeleton
    ]
    used = {key for row in rows for key in row.keys}
    bench = [entry.key for entry in state_dict if entry.key not in used]
    alignment = Alignment.of(rows, bench, state_dict.numbering, target.skeleton.layers)
    return mapping_of(checkpoint, target, alignment)


def text_of(name: str) -> str:
    """The recipe file of a family."""
    return to_text(learn(mapping_by_truth(PAIRS[name]()), name))


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in PAIRS:
        (FOLDER / f"{name}{SUFFIX}").write_text(text_of(name))
