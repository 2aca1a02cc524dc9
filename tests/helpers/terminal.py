"""A real terminal to type into and to read: tmux."""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

# Only what never ends waits for so long, on a machine however busy.
_PATIENCE = 300.0
_BETWEEN_LOOKS = 0.05
# GNU readline, where a test runner has loaded it, exports a size that is not this window's.
CLEAN = "env -u LINES -u COLUMNS TERM=tmux-256color"
PYTHON = shlex.quote(sys.executable)


@dataclass
class Terminal:
    """A tmux server of its own with one window."""

    socket: str

    def _tmux(self, *arguments: str) -> str:
        command = ["tmux", "-L", self.socket, "-f", "/dev/null", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def start(self, command: str, folder: Path, width: int = 120, height: int = 40) -> None:
        size = ["-x", str(width), "-y", str(height)]
        self._tmux("new-session", "-d", "-c", str(folder), *size, command)

    def keys(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def screen(self) -> str:
        return self._tmux("capture-pane", "-p")

    def wait_for(self, text: str) -> str:
        """The screen once it shows the text."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            screen = self.screen()
            if text in screen:
                return screen
            threading.Event().wait(_BETWEEN_LOOKS)
        pytest.fail(f"{text!r} did not appear; the screen shows:\n{self.screen()}")

    def stop(self) -> None:
        subprocess.run(["tmux", "-L", self.socket, "kill-server"], capture_output=True)
