"""The nodes of a pytree in skeleton files; `test_orbax.py` compares them with Orbax's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2p_tui.errors import InputError
from s2p_tui.formats.pytree.skeleton import save_skeleton, target_of
from s2p_tui.formats.skeleton_file import open_target
from s2p_tui.formats.tree_nodes import nodes_of


def kinds(tree: Any) -> list[tuple[str, tuple]]:
    return [(node.kind, node.keys) for node in nodes_of(target_of(tree, "tree"))]


def test_every_node_is_recorded_in_flatten_order() -> None:
    tree = {
        "w": [jnp.ones(2), 1.5, jax.nn.relu, None, np.ones(2), np.float32(3)],
        7: {"none": (), "of": [], "these": {}},
        "key": jax.random.key(0),
    }
    tree = {str(name): value for name, value in tree.items()}
    assert kinds(tree) == [
        ("tuple", ("7", "none")), ("list", ("7", "of")), ("dict", ("7", "these")),
        ("none", ("key",)),
        ("array", ("w", 0)), ("scalar", ("w", 1)), ("none", ("w", 2)), ("none", ("w", 3)),
        ("array", ("w", 4)), ("array", ("w", 5)),
    ]  # fmt: skip


def test_a_file_says_the_same_as_the_pytree(tmp_path: Path) -> None:
    tree = {"a": [jnp.ones(2), {"b": (jnp.zeros(3), 2)}], "f": jax.nn.relu}
    for values in (True, False):
        save_skeleton(tmp_path / "s.eqx", tree, values=values)
        found = nodes_of(open_target(tmp_path / "s.eqx"))
        assert [(node.kind, node.keys) for node in found] == kinds(tree)
        paths = [node.leaf.path for node in found if node.leaf is not None]
        assert paths == ["['a'][0]", "['a'][1]['b'][0]", "['a'][1]['b'][1]"]


@jax.tree_util.register_pytree_with_keys_class
class Odd:
    """A node with keys of a class that no file could name."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def tree_flatten_with_keys(self) -> Any:
        return [(("any", "thing"), self.value)], None

    @classmethod
    def tree_unflatten(cls, _: None, children: Any) -> Odd:
        return cls(*children)


@pytest.mark.parametrize("tree", [jnp.ones(3), {"a": Odd(jnp.ones(3))}])
def test_nodes_without_names_are_refused(tree: Any) -> None:
    with pytest.raises(InputError, match="can be named in no tree"):
        kinds(tree)


DAMAGED: dict[str, tuple[Any, str]] = {
    "another kind": ([["what", "a"]], "records other nodes"),
    "one too few": ([["array", "a"]], "records other nodes"),
    "one too many": ([["array", "a"], ["array", "b"], ["array", "c"]], "records other nodes"),
    "no list": ({"a": 1}, "is a damaged skeleton"),
    "no keys": ([["array", "a"], [], ["array", "b"]], "records other nodes"),
    "a key that is none": ([["array", None], ["array", "b"]], "is a damaged skeleton"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_trees_are_refused(case: str, tmp_path: Path) -> None:
    tree, message = DAMAGED[case]
    save_skeleton(tmp_path / "s.eqx", {"a": jnp.ones(1), "b": jnp.ones(1)}, values=False)
    head = json.loads((tmp_path / "s.eqx").read_bytes())
    (tmp_path / "s.eqx").write_bytes(json.dumps(head | {"tree": tree}).encode() + b"\n")
    target = open_target(tmp_path / "s.eqx")
    with pytest.raises(InputError, match=message):
        nodes_of(target)


def test_a_name_given_twice_is_found_beside_a_tree(tmp_path: Path) -> None:
    save_skeleton(tmp_path / "s.eqx", {"a:b": jnp.ones(1)}, values=False)
    assert nodes_of(open_target(tmp_path / "s.eqx"))[0].keys == ("a:b",)
    text = (tmp_path / "s.eqx").read_bytes()
    (tmp_path / "s.eqx").write_bytes(text.replace(b'"version":2', b'"version":2,"version":2'))
    with pytest.raises(InputError, match=r"twice|repeat"):
        open_target(tmp_path / "s.eqx")
