"""What holds for every test."""

from __future__ import annotations

import gc
import itertools
import os
import re
import shutil
import signal
import site
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from s2p_tui.session.signals import STOPPING
from tests.helpers.environment import AS_STARTED
from tests.helpers.terminal import Terminal

# What a machine sets for programs that the tests run or import must not change what they do: where
# the tests' servers are reached, whose keys are sent, how many hosts there are. Gone before any of
# these programs is imported.
_OTHERS = re.compile(
    r"(ANTHROPIC|AWS|CLOUDSDK|GCE|GOOGLE|HF|HUGGING_?FACE|OMPI|S2P|SLURM|TRANSFORMERS)_|NETRC$"
    r"|(.+_)?PROXY$",
    re.IGNORECASE,
)
for _name in filter(_OTHERS.match, AS_STARTED):
    del os.environ[_name]

# Two workers share two cores, and networks run once or twice: threads of one library and code that
# XLA makes faster cost more than they save, a third of the processor's time of tests of networks.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# No test is about time: a busy machine must not fail one.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Make warnings errors from here on: those at start-up are other packages' plugins'."""
    session.config.addinivalue_line("filterwarnings", "error")
    # What the other worker is writing at this moment is compiled here as well.
    session.config.addinivalue_line(
        "filterwarnings", "ignore:Error (reading|writing) persistent compilation cache entry"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have every slow test say why it is, and the longest of them begin first."""
    # Those beside this file, which start many programs: no worker waits for them in the end.
    items.sort(key=lambda item: item.path.parent != Path(__file__).parent)
    for item in items:
        for mark in item.iter_markers("slow"):
            if not (len(mark.args) == 1 and isinstance(mark.args[0], str) and mark.args[0]):
                raise pytest.UsageError(f"{item.nodeid}: slow needs a reason")


def pytest_collection_finish() -> None:
    """Have the collector leave alone what was imported, most of all there is: it stays anyway."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def compiled_once(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what XLA compiles for the tests that come later, in any worker: a network is run by
    several.
    """
    if "jax" not in sys.modules:
        return
    import jax

    own = tmp_path_factory.getbasetemp()
    folder = own.parent if hasattr(request.config, "workerinput") else own
    # Otherwise only what took a second to compile is kept.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))


@pytest.fixture(scope="session", autouse=True)
def default_signals() -> Iterator[None]:
    """Signals as a terminal's programs have them, whatever the parent ignores (`nohup`, a shell's
    background job).

    This process still does nothing at such a signal, but by a handler: those it starts inherit no
    handler, where they would inherit that the signal is ignored.
    """
    ignored = [number for number in STOPPING if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, lambda *_: None)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="session")
def state_homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Names of state directories, in one folder: pytest goes through all that lie beside a new one
    to number it, which took a tenth of short tests.
    """
    folder = tmp_path_factory.mktemp("states")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def state_home(state_homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory of the test's own; the user's stays as it is."""
    home = next(state_homes)
    home.mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(home))
    # Where a test gives its programs another home, they still find what `--user` installed.
    monkeypatch.setenv("PYTHONUSERBASE", site.getuserbase())
    return home


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    assert shutil.which("tmux"), "this test needs tmux: apt-get install tmux"
    terminal = Terminal(f"s2p-{os.getpid()}-{tmp_path.name}")
    yield terminal
    terminal.stop()


@pytest.fixture
def environment() -> dict[str, str]:
    """As in a shell in which this package was installed: its scripts and its Python come first.

    Scripts of `pip install --user` lie in a folder of the user's.
    """
    schemes = [sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user")]
    scripts = [sysconfig.get_path("scripts", scheme) for scheme in schemes]
    first = [*scripts, os.path.dirname(sys.executable)]
    return {**os.environ, "PATH": os.pathsep.join([*first, os.environ["PATH"]])}
