"""What is installed: exactly the package, with its types, its style sheet, its licence."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from s2p_tui import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy of the checkout, with the tools that are installed, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    leave_out = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=leave_out)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "-w", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", str(source), *options], check=True)
    (built,) = folder.glob("*.whl")
    assert built.name == f"s2p_tui-{__version__}-py3-none-any.whl"
    return zipfile.ZipFile(built)


@pytest.mark.slow("builds a wheel")
def test_it_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    described = f"s2p_tui-{__version__}.dist-info"
    package = {
        str(path.relative_to(ROOT))
        for pattern in ("*.py", "session/shipped/*.recipe.json")
        for path in (ROOT / "s2p_tui").rglob(pattern)
    }
    assert "s2p_tui/session/shipped/bert.recipe.json" in package
    assert "s2p_tui/cli/open_app.py" in package
    assert set(wheel.namelist()) == package | {
        "s2p_tui/py.typed",
        "s2p_tui/app/app.tcss",
        f"{described}/METADATA",
        f"{described}/RECORD",
        f"{described}/WHEEL",
        f"{described}/entry_points.txt",
        f"{described}/licenses/LICENSE",
        f"{described}/top_level.txt",
    }


@pytest.mark.slow("builds the wheel")
def test_it_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    metadata = _metadata(wheel)
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")
    needed = [name for name in metadata.get_all("Requires-Dist", []) if "extra ==" not in name]
    assert sorted(needed) == sorted(PROJECT["dependencies"])


def test_the_changelog_tells_of_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert changelog.count(f"\n## [{__version__}] – ") == 1


def _metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())
