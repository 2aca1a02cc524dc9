"""Commands run while what the process does is watched: `python -m tests.helpers.watched FILE`.

FILE holds, as JSON, lists of arguments. Prints, as JSON, the exit statuses, every network address
asked for, every device of an accelerator opened, and what of the environment was changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

_NETWORK = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto",
            "socket.bind"}  # fmt: skip
_DEVICE = re.compile(r"/dev/(nvidia|kfd|dri/|accel|vfio)|libcuda\.so|libamdhip|libtpu")
CANARY = "sk-ant-canary-6f1d0a"


def watched(folder: Path, commands: list[list[str]]) -> tuple[dict[str, Any], str]:
    """What the commands did in a process of their own, and all they printed."""
    asked = folder / "commands.json"
    asked.write_text(json.dumps(commands))
    env = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    env |= {"ANTHROPIC_API_KEY": CANARY, "XDG_STATE_HOME": str(folder / "state")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.watched", str(asked)],
        capture_output=True, text=True, env=env, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout), done.stdout + done.stderr


class Watch:
    """What this process did since; kept up by the interpreter's own audit events."""

    def __init__(self) -> None:
        self.network: list[str] = []
        self.devices: set[str] = set()
        self._environment = dict(os.environ)
        sys.addaudithook(self._saw)

    def _saw(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _NETWORK:
            self.network.append(f"{event} {arguments[1:]!r}")
        elif event == "open" and _DEVICE.search(str(arguments[0])):
            self.devices.add(str(arguments[0]))

    def found(self) -> dict[str, Any]:
        """Everything seen."""
        maps = Path("/proc/self/maps").read_text()
        self.devices.update(line.split()[-1] for line in maps.splitlines() if _DEVICE.search(line))
        for descriptor in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                if _DEVICE.search(target := os.readlink(descriptor)):
                    self.devices.add(target)
        both = os.environ.items() ^ self._environment.items()
        return {
            "network": self.network,
            "devices": sorted(self.devices),
            "environment": sorted({name for name, _ in both}),
            "platforms": os.environ.get("JAX_PLATFORMS"),
            "backends": _backends(),
        }


def _backends() -> list[str]:
    jax = sys.modules.get("jax")
    return [] if jax is None else sorted({device.platform for device in jax.devices()})


def main() -> None:
    """Run what the file names."""
    watch = Watch()
    from s2p_tui.cli import run

    statuses: list[Any] = []
    for arguments in json.loads(Path(sys.argv[1]).read_text()):
        with contextlib.redirect_stdout(sys.stderr):
            if arguments[0] == "raw":
                with contextlib.suppress(OSError):
                    exec(arguments[1], {})
                statuses.append("raw")
            else:
                statuses.append(run(arguments))
    print(json.dumps({"statuses": statuses, **watch.found()}))


if __name__ == "__main__":
    main()
