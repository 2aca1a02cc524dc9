"""Ways to change a file: bytes, lengths, JSON values, journal lines."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

from tests.fuzz.seeds import Seed

_TOKENS = (
    b"\x00", b"\xff", b".", b"(", b"9", b"-", b'"', b"\n", b"R", b"\x85", b"}", b"]", b"\x80\x05",
    b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff" * 8, b"\x00" * 8, b"PK\x03\x04", b"\x93NUMPY",
    b"cos\nsystem\n", b"\x8c\x02os\x8c\x06system\x93", b"q\x00h\x00\x86", b"\x1b[2J", b"../",
    b"999999999999999999", b"-1", b"\xed\xa0\x80",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 63, 2**31, 2**32 - 1, 2**62 - 1, 2**62, 2**63, 2**64, 10**30,
    -(2**63), 0.5, 1e308, float("nan"), float("inf"), "", "x", "a.weight", "b.bias", "../../x",
    "/etc/passwd", "a/b", "\n", "\r", "\x00", "\x1b]0;t\x07", "\x1b[31m", "[bold]m[/bold]", "[/]",
    "\u202e", "\ud800", "é" * 50, "²", "9" * 5000, "a." * 3000,
    "x" * 5000, "float32", "float8_e4m3fn", "F8_E8M0", "BOOL",
    "int4", "array", "scalar", "transpose", [], [0], [1], [3, 4], [2**62 - 1], [0, 2**62 - 1],
    [2**31, 2**31], [1] * 70, [-3, -4], [3.0], ["3"], [[]], {}, {"op": "permute"}, {"a": {}},
    {"op": "take"}, [{}], [None],
)  # fmt: skip
_CHANGES = (1, 1, 1, 1, 1, 2, 2, 3, 5)


def mutated(seed: Seed, chance: random.Random, others: list[Seed]) -> bytes:
    """A changed file made of a sound one.

    Args:
        seed: The sound one.
        chance: What to draw from.
        others: Files that pieces are taken from.
    """
    content = seed.content
    for _ in range(chance.choice(_CHANGES)):
        if seed.name == "journal" and chance.random() < 0.8:
            content = _journal(content, chance)
        elif seed.text is not None and chance.random() < 0.7:
            start, stop = seed.text
            left = len(seed.content) - stop
            content = _json(content, start, len(content) - left, chance)
        else:
            content = chance.choice(_BYTEWISE)(content, chance, others)
    return seed.wrap(content)


def _replace(content: bytes, chance: random.Random, _: list[Seed]) -> bytes:
    at, token = chance.randrange(len(content) + 1), _token(chance)
    return content[:at] + token + content[at + len(token) :]


def _insert(content: bytes, chance: random.Random, _: list[Seed]) -> bytes:
    at = chance.randrange(len(content) + 1)
    return content[:at] + _token(chance) + content[at:]


def _flip(content: bytes, chance: random.Random, _: list[Seed]) -> bytes:
    if not content:
        return content
    at = chance.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]


def _number(content: bytes, chance: random.Random, _: list[Seed]) -> bytes:
    """Another whole number, in one of the widths that headers have them in."""
    layout = chance.choice(["<B", "<H", "<I", "<Q"])
    size = struct.calcsize(layout)
    top = 1 << 8 * size
    value = chance.choice([0, 1, top - 1, top // 2, top // 2 - 1, chance.randrange(top)])
    at = chance.randrange(len(content) + 1)
    return content[:at] + struct.pack(layout, value) + content[at + size :]


def _cut(content: bytes, chance: random.Random, _: list[Seed]) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def _remove(content: bytes, chance: random.Random, _: list[Seed]) -> bytes:
    start = chance.randrange(len(content) + 1)
    return content[:start] + content[start + chance.choice([1, 2, 8, 64]) :]


def _repeat(content: bytes, chance: random.Random, _: list[Seed]) -> bytes:
    start = chance.randrange(len(content) + 1)
    piece = content[start : start + chance.choice([1, 8, 64, 512])]
    return content[:start] + piece * chance.choice([2, 3, 100]) + content[start + len(piece) :]


def _splice(content: bytes, chance: random.Random, others: list[Seed]) -> bytes:
    other = chance.choice(others).content
    start, at = chance.randrange(len(other)), chance.randrange(len(content) + 1)
    piece = other[start : start + chance.choice([4, 32, 256, len(other)])]
    return content[:at] + piece + content[at + len(piece) * chance.randrange(2) :]


_BYTEWISE: tuple[Callable[[bytes, random.Random, list[Seed]], bytes], ...] = (
    _replace, _replace, _insert, _flip, _flip, _number, _number, _cut, _remove, _repeat, _splice,
)  # fmt: skip


def _token(chance: random.Random) -> bytes:
    return chance.choice([*_TOKENS, chance.randbytes(chance.randint(1, 8))])


def _json(content: bytes, start: int, stop: int, chance: random.Random) -> bytes:
    """The file with another value somewhere in its JSON, or a name twice, or far too deep."""
    try:
        tree = json.loads(content[start:stop])
        # Some Pythons read JSON deeper than functions may call themselves.
        where = _places(tree) if isinstance(tree, dict | list) else []
    except (ValueError, RecursionError):
        return content
    if not where:
        return content
    node, name = chance.choice(where)
    how = chance.randrange(12)
    if how == 0 and isinstance(node, dict):
        del node[name]
    elif how == 1 and isinstance(node, dict):
        node[str(chance.choice(_VALUES))] = node.pop(name)
    elif how == 2:
        other, other_name = chance.choice(where)
        node[name] = json.loads(json.dumps(other[other_name]))
    elif how >= 9 and isinstance(node, dict):
        node[f"{name}{chance.choice(_VALUES)}"] = node.pop(name)
    elif how == 8:
        other_name = chance.choice(list(node) if isinstance(node, dict) else range(len(node)))
        node[name], node[other_name] = node[other_name], node[name]
    elif how == 3 and isinstance(node, list):
        node.insert(name, json.loads(json.dumps(node[name])))
    else:
        node[name] = chance.choice(_VALUES)
    text = json.dumps(tree).encode()
    if how == 4:
        text = text.replace(b"{", b'{"a":1,"a":2,', 1)
    if how == 5:
        at, deep = text.find(b"[") + 1, chance.choice([50, 3000, 100_000])
        text = text[:at] + b"[" * deep + b"]" * deep + b"," + text[at:]
    return content[:start] + text + content[stop:]


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Every place in nested JSON, as container and name or index."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    found: list[tuple[Any, Any]] = []
    for name, child in items:
        found.append((node, name))
        if isinstance(child, dict | list):
            found += _places(child)
    return found


def _journal(content: bytes, chance: random.Random) -> bytes:
    """The journal with a line changed, its checksums made right again."""
    lines = [line.partition(b" ")[2] for line in content.splitlines()]
    number = chance.randrange(len(lines)) if lines else 0
    if lines and chance.random() < 0.2:
        lines.insert(number, chance.choice(lines))
    elif lines:
        lines[number] = _json(lines[number], 0, len(lines[number]), chance)
    chain, framed = 0, b""
    for line in lines:
        chain = zlib.crc32(line, chain)
        framed += b"%08x %s\n" % (chain, line)
    return framed
