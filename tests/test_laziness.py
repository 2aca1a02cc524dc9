"""Help answers without the heavy packages, and the first frame needs Textual alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from s2p_tui.cli.options import app

pytestmark = pytest.mark.slow("starts programs")
HEAVY = ("torch", "jax", "equinox", "anthropic", "numpy", "textual")
AFTER_THE_FIRST_FRAME = ("s2p_tui.alignment.alignment", "s2p_tui.app.screens.main")


def _loaded(code: str, asked: tuple[str, ...] = HEAVY) -> set[str]:
    probe = f"{code}\nimport sys; print(*(m for m in {asked!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()) if done.stdout.strip() else set()


@pytest.mark.parametrize("command", [[], *([name] for name in app if not name.startswith("-"))])
def test_help_loads_nothing_heavy(command: list[str]) -> None:
    arguments = [*command, "--help"]
    assert _loaded(f"from s2p_tui.cli import run; assert run({arguments!r}) == 0") == set()


def test_root_loads_nothing_heavy() -> None:
    assert _loaded("import s2p_tui") == set()


def test_public_names_load_on_first_use() -> None:
    told = "{name for name in dir(s2p_tui) if not name.startswith('_')}"
    assert _loaded(f"import s2p_tui; assert {{*s2p_tui.__all__}} == {told}") == set()
    assert _loaded("from s2p_tui import load_mapping") == {"numpy"}
    assert "jax" in _loaded("from s2p_tui import save_skeleton")
    assert _loaded("from s2p_tui import convert, convert_tree, chunkify_pytree") == {"numpy"}


def test_app_loads_textual_alone() -> None:
    assert _loaded("import s2p_tui.app.start") == {"textual"}
    assert _loaded("import s2p_tui.app.start", AFTER_THE_FIRST_FRAME) == set()
    shown = "import s2p_tui.app.screens.main"
    assert _loaded(shown, AFTER_THE_FIRST_FRAME) == set(AFTER_THE_FIRST_FRAME)


def test_reading_files_loads_neither_torch_nor_jax() -> None:
    assert _loaded("import s2p_tui.session.session") == {"numpy"}


def test_a_pair_with_the_same_names_is_matched_without_heavy_imports() -> None:
    matched = (
        "from s2p_tui.alignment.skeleton import Leaf, Skeleton\n"
        "from s2p_tui.alignment.state_dict import Entry, StateDict\n"
        "from s2p_tui.proposals.matcher import match\n"
        "entries = StateDict((Entry('a.w', (2, 3), 'float32'), Entry('b.w', (2, 3), 'float32')))\n"
        "leaves = Skeleton((Leaf('.b.w', (2, 3), 'float32'), Leaf('.a.w', (2, 3), 'float32')))\n"
        "found = match(entries, leaves)\n"
        "assert [s.source.key for s in found.suggestions] == ['b.w', 'a.w']"
    )
    assert _loaded(matched, ("scipy", "numpy.ma")) == set()


def test_anthropic_waits_until_claude_is_asked() -> None:
    """A question can be written and read without it; only the client loads it."""
    assert _loaded("import s2p_tui.session.ask_claude, s2p_tui.session.session") == {"numpy"}
    client = "from s2p_tui.proposals.claude.client import Client"
    assert _loaded(client) == {"numpy"}
    asked = (
        f"{client}\nfrom s2p_tui.proposals.claude.job import Budget\n"
        "from s2p_tui.proposals.claude.job import Asking\n"
        "from s2p_tui.proposals.claude.account import Secret\n"
        "with Client(Secret('key', 'here'), Budget(), Asking()).connected(): pass"
    )
    assert "anthropic" in _loaded(asked)


def test_orbax_checkpoints_need_tensorstore_when_they_are_written() -> None:
    """And neither Orbax nor JAX at all."""
    modules = "s2p_tui.session.orbax, s2p_tui.conversion.orbax_finish, s2p_tui.cli.orbax"
    asked = ("tensorstore", "orbax", "jax", "torch")
    assert _loaded(f"import {modules}", asked) == set()
    stored = "from s2p_tui.conversion.orbax_store import Store; Store('anything')"
    assert _loaded(stored, asked) == {"tensorstore"}


def test_flax_is_left_to_those_who_use_it() -> None:
    made = (
        "import equinox, jax, s2p_tui\n"
        "from s2p_tui.formats.pytree.factory import model_of\n"
        "model = model_of('equinox.nn:Identity')\n"
        "linear = equinox.nn.Linear(2, 3, key=jax.random.PRNGKey(0))\n"
        "state = {'weight': linear.weight, 'bias': linear.bias}\n"
        "s2p_tui.convert_tree(jax.tree.map(__import__('numpy').asarray, state), linear)"
    )
    assert _loaded(made, ("flax", "orbax")) == set()


def test_the_probe_can_fail() -> None:
    assert "jax" in _loaded("import s2p_tui.formats.pytree.skeleton")
