"""The suite itself, in environments with other packages' plugins and under other parents."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow("starts pytest anew")
ROOT = Path(__file__).parents[1]
SMALL = "tests/formats/test_headers.py"
PLUGIN = """
import warnings
import pytest

class LoudWarning(pytest.PytestWarning): pass

warnings.warn(LoudWarning("imported"))

def pytest_configure(config):
    warnings.warn(LoudWarning("configured"))
    config.issue_config_time_warning(LoudWarning("automatically disabled"), stacklevel=2)

def pytest_sessionstart(session):
    warnings.warn(LoudWarning("started"))
"""
FAILING = """
def pytest_runtest_setup(item):
    raise RuntimeError("another package's plugin")
"""


def suite(
    *arguments: str, env: Mapping[str, str] | None = None, before: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run pytest as the README does, in a process that knows nothing of this one's."""
    mine = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [*before, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT, env={**mine, **(env or {})}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A folder for `PYTHONPATH` in which a distribution is installed that has a pytest plugin."""
    folder = tmp_path / "installed"
    (folder / "loud-1.dist-info").mkdir(parents=True)
    (folder / "loud-1.dist-info" / "METADATA").write_text("Name: loud\nVersion: 1\n")
    (folder / "loud-1.dist-info" / "entry_points.txt").write_text("[pytest11]\nloud = loud\n")
    (folder / "loud.py").write_text(PLUGIN)
    return folder


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_plugin_that_is_installed_changes_nothing(plugin: Path, workers: str) -> None:
    (plugin / "loud.py").write_text(PLUGIN + FAILING)
    done = suite("-n", workers, SMALL, env={"PYTHONPATH": str(plugin)})
    assert done.returncode == 0, done.stdout
    assert "Loud" not in done.stdout + done.stderr


def test_the_plugin_would_be_loaded_otherwise(plugin: Path) -> None:
    (plugin / "loud.py").write_text(PLUGIN + FAILING)
    (plugin / "test_nothing.py").write_text("def test_nothing(): pass\n")
    done = suite("-c", os.devnull, "--rootdir", str(plugin), str(plugin / "test_nothing.py"),
                 env={"PYTHONPATH": str(plugin)})  # fmt: skip
    assert "another package's plugin" in done.stdout


def test_a_plugin_that_is_asked_for_may_warn_at_start_up(plugin: Path) -> None:
    done = suite(SMALL, env={"PYTHONPATH": str(plugin), "PYTEST_PLUGINS": "loud"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "automatically disabled" in done.stdout


def test_a_test_may_not_warn(tmp_path: Path) -> None:
    warning = tmp_path / "test_warning.py"
    warning.write_text("import warnings\ndef test_warning():\n    warnings.warn('by our code')\n")
    done = suite("-p", "tests.conftest", "-c", str(ROOT / "pyproject.toml"), str(warning))
    assert done.returncode == 1, done.stdout
    assert "UserWarning: by our code" in done.stdout


def test_a_parent_may_ignore_signals() -> None:
    done = suite("tests/session/test_signals.py::test_handlers_are_put_back",
                 before=("sh", "-c", 'trap "" INT HUP TERM; exec "$@"', "sh"))  # fmt: skip
    assert done.returncode == 0, done.stdout
