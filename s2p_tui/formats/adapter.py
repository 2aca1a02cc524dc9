"""LoRA adapters of PEFT, merged into a checkpoint's entries as they are read: W + scale · B A.

The merged checkpoint is like any other; nothing of it is in memory but factors. Numbers are added
up in float32, rank by rank, and rounded to the entry's dtype, as PEFT's `merge_and_unload` does.
The order of additions is the same whichever part of an entry is read, on any machine, so that parts
agree bit for bit.
"""

from __future__ import annotations

import math
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from msgspec import structs

from s2p_tui.alignment.dtypes import numpy_dtype
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Shape, show
from s2p_tui.alignment.untrusted import object_of, parse_json, why_malformed
from s2p_tui.errors import InputError, some
from s2p_tui.formats.base import ByteRange, Checkpoint, Extent, Locator, Region, Tensors
from s2p_tui.formats.registry import open_checkpoint
from s2p_tui.formats.remote.address import located
from s2p_tui.formats.remote.file import RemoteFolder
from s2p_tui.formats.sniff import read_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CONFIG = "adapter_config.json"
_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_LARGEST_CONFIG = 1 << 24
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(.+)\.lora_(embedding_)?([AB])(?:\.([^.]+))??(?:\.(weight|bias))?")
_FROM_PEFT = "Merge it with PEFT (merge_and_unload), save the model, and convert that."
_SHOWN = 6

# Settings that say where the adapter was trained and how, but nothing of what it adds.
_ABOUT_TRAINING = frozenset(
    (
        "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "eva_config",
        "exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform",
        "loftq_config", "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core",
        "modules_to_save", "peft_version", "qalora_group_size", "revision", "runtime_config",
        "target_modules", "task_type",
    )
)  # fmt: skip
_UNDERSTOOD = frozenset(
    (
        "alpha_pattern", "fan_in_fan_out", "init_lora_weights", "lora_alpha", "lora_bias",
        "peft_type", "r", "rank_pattern", "use_rslora",
    )
)  # fmt: skip
# The others begin with other base weights than the checkpoint's, which PEFT computes on loading.
_PLAIN_STARTS = (None, True, False, "gaussian", "eva")
_PATTERNS = ("alpha_pattern", "rank_pattern")
_COSTLY = re.compile(r"[(){}]|\\[1-9]")
_MOST_REPEATS, _LONGEST_NAME = 2, 500
"""Repeats in a pattern of the file, each of which multiplies the time by the length of a name."""
_FLOATS = ("float32", "bfloat16", "float16")
_HELD = 32 << 20
"""Bytes of factors in memory; a factor beyond that is read in parts."""
_AT_ONCE = 1 << 16
"""Elements added up at a time: two arrays of them fit in a core's own cache."""


class _Factor(NamedTuple):
    """One of a product's two, rank first.

    Attributes:
        key: Its entry in the adapter.
        axis: Which of its axes is the rank.
    """

    key: str
    axis: int


@dataclass(frozen=True, slots=True)
class _Change:
    """The difference between an entry and the merged one.

    Attributes:
        scale: Times the product.
        rows: The factor along the entry's first axis.
        rest: The factor along the others; None where `rows` alone is added, to a bias.
        is_rounded: Round the product to the entry's dtype before it is added, as PEFT does for
            embeddings alone.
    """

    scale: float
    rows: _Factor
    rest: _Factor | None
    is_rounded: bool = False


def with_adapter(checkpoint: Checkpoint, where: str | Path) -> Checkpoint:
    """Return a checkpoint with an adapter merged into it. Reads no tensor data.

    Args:
        checkpoint: What the adapter was trained on.
        where: The adapter's file, with its configuration beside it, or the folder of both; or the
            address of the file.

    Raises:
        InputError: It cannot be read, was trained on another model, or does more than add products
            of two matrices to weights; all that is in the way is named.
    """
    file = _file_of(where)
    config = _config_of(file)
    adapter = open_checkpoint(file, ".")
    return _Merge(checkpoint, adapter, str(file), config).merged()


def _file_of(where: str | Path) -> Locator:
    place = located(where)
    if isinstance(place, RemoteFolder):
        raise InputError(f"{place} is a folder.", f"Give the address of {_FILES[0]} in it.")
    if isinstance(place, Path) and not place.exists():
        raise InputError(f"{place} does not exist.", "Check the path for typing errors.")
    if not isinstance(place, Path) or not place.is_dir():
        return place
    found = next((place / name for name in _FILES if (place / name).is_file()), None)
    if found is None:
        raise InputError(
            f"{place} holds no adapter: neither {_FILES[0]} nor {_FILES[1]} is in it.",
            "Give the folder that PEFT's save_pretrained wrote.",
        )
    return found


def _config_of(beside: Locator) -> dict[str, Any]:
    path = beside.parent / _CONFIG
    try:
        config = object_of(parse_json(read_whole(path, _LARGEST_CONFIG)))
        for name in _PATTERNS:
            config[name] = object_of(config.get(name) or {})
    except FileNotFoundError:
        raise InputError(
            f"{beside} has no {_CONFIG} beside it, which says the scale of an adapter.",
            "Give an adapter as PEFT saves it, with its configuration in the same folder.",
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.", _FROM_PEFT) from None
    except (ValueError, RecursionError) as error:
        why = why_malformed(error)
        raise InputError(f"{path} is no adapter's configuration: {why}.", _FROM_PEFT) from None
    kind = config.get("peft_type")
    if kind != "LORA":
        raise InputError(f"{path} is of an adapter of type {kind!r}, not LORA.", _FROM_PEFT)
    odd = [
        f"{name} is {value!r:.60}"
        for name, value in config.items()
        if name not in _ABOUT_TRAINING and name not in _UNDERSTOOD
        if value not in (None, False, [], {}, "")
    ]
    start = config.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        odd.append(f"init_lora_weights is {start!r:.60}, which changes the base weights too")
    saved: Any = config.get("modules_to_save") or []
    config["modules_to_save"] = [saved] if isinstance(saved, str) else saved
    if not isinstance(saved, str | list):
        odd.append(f"modules_to_save is {saved!r:.60}")
    if odd:
        raise InputError(f"{path} asks for more than is understood: {some(odd, '; ')}.", _FROM_PEFT)
    return config


class _Merge:
    """One adapter on one checkpoint; collects all that is in the way."""

    def __init__(
        self, base: Checkpoint, adapter: Checkpoint, label: str, config: Mapping[str, Any]
    ) -> None:
        self._base, self._adapter, self._label, self._config = base, adapter, label, config
        self._problems: list[str] = []
        self._patterns = {name: self._compiled(name) for name in _PATTERNS}
        self._is_mixed = False
        self._square: list[str] = []
        self._ranks = set[int]()
        self._scales = set[float]()

    def merged(self) -> Checkpoint:
        """Return the checkpoint."""
        factors, others = self._sorted()
        modules = [module for module, _ in factors]
        prefix = self._prefix([f"{module}.weight" for module in modules] or list(others))
        changes: dict[str, _Change] = {}
        for (module, is_embedding), parts in factors.items():
            for key, change in self._changes(module, prefix, parts, is_embedding):
                changes[key] = change
        if self._is_mixed and self._square:
            self._problems.append(
                f"its weights lie both ways, and which way is that of {some(self._square)}, which "
                "are square, is not known"
            )
        replaced = self._replaced(others, prefix)
        self._spread(changes, replaced)
        if not changes and not replaced and not self._problems:
            self._problems.append("it holds no factors of LoRA")
        if self._problems:
            raise InputError(
                f"{self._label} cannot be merged into {self._base.label}: "
                f"{some(self._problems, '; ', _SHOWN)}.",
                f"Give the adapter of this checkpoint. {_FROM_PEFT}",
            )
        touched = changes.keys() | replaced.keys()
        entries = tuple(
            entry
            if entry.storage is None or entry.key not in touched
            else structs.replace(
                entry,
                storage=None if self._is_copied(entry.key) else ("adapted", entry.storage),
            )
            for entry in self._base.state_dict
        )
        notes = [f"merged with the adapter {self._label}: {self._words(len(changes))}"]
        if replaced:
            notes.append(f"taken from the adapter as they are there: {some(list(replaced))}")
        return replace(
            self._base,
            files=(*self._base.files, *self._adapter.files),
            size=self._base.size + self._adapter.size,
            state_dict=StateDict(entries),
            tensors=_Merged(self._base, self._adapter, changes, replaced),
            notes=(*self._base.notes, *notes),
        )

    def _words(self, count: int) -> str:
        ranks = ", ".join(map(str, sorted(self._ranks)))
        scales = ", ".join(f"{scale:g}" for scale in sorted(self._scales))
        entries = "1 entry" if count == 1 else f"{count:,} entries"
        return f"{entries}, rank {ranks}, scale {scales}"

    def _sorted(self) -> tuple[dict[tuple[str, bool], dict[str, str]], dict[str, str]]:
        """Return the factors' keys by module, and the keys of whole tensors by their names."""
        factors: dict[tuple[str, bool], dict[str, str]] = defaultdict(dict)
        others: dict[str, str] = {}
        adapters = set[str]()
        for entry in self._adapter.state_dict:
            name = entry.key.removeprefix(_PREFIX)
            found = _FACTOR.fullmatch(name)
            if found is None:
                if "lora_" in name:
                    self._problems.append(f"{entry.key} is more than a factor of LoRA")
                plain = re.sub(r"\.(base_layer|modules_to_save\.[^.]+)\.", ".", name)
                others[plain] = entry.key
                continue
            module, embedding, side, adapter, last = found.groups()
            adapters.add(adapter or "")
            part = f"{side}.bias" if last == "bias" else side
            if factors[module, bool(embedding)].setdefault(part, entry.key) != entry.key:
                self._problems.append(f"{module} has two factors {side}")
        if len(adapters) > 1:
            self._problems.append(f"it holds several adapters: {some(sorted(adapters))}")
        return factors, others

    def _prefix(self, names: Sequence[str]) -> str:
        """Return what the checkpoint's names have in front of the adapter's; a `-` takes it away.

        PEFT wraps the model that was trained, of which a checkpoint may hold a part or more.
        """
        held = self._base.state_dict
        if not names or any(name in held for name in names):
            return ""
        fitting: set[str] = set()
        for entry in held:
            if entry.key.endswith(f".{names[0]}"):
                fitting.add(entry.key.removesuffix(names[0]))
            elif names[0].endswith(f".{entry.key}"):
                fitting.add("-" + names[0].removesuffix(entry.key))
        fitting = {one for one in fitting if all(_with(one, name) in held for name in names)}
        return fitting.pop() if len(fitting) == 1 else ""

    def _changes(
        self, module: str, prefix: str, parts: Mapping[str, str], is_embedding: bool
    ) -> Iterable[tuple[str, _Change]]:
        key = _with(prefix, f"{module}.weight")
        if not {"A", "B"} <= parts.keys():
            self._problems.append(f"{module} lacks factor {'B' if 'A' in parts else 'A'}")
            return
        if key not in self._base.state_dict:
            self._problems.append(f"{key} is not in the checkpoint")
            return
        if "A.bias" in parts:
            self._problems.append(f"{parts['A.bias']} is not understood")
            return
        if len(module) > _LONGEST_NAME:
            self._problems.append(f"{module:.40}… is too long a name")
            return
        base, entries = self._base.state_dict[key], self._adapter.state_dict
        first, second = entries[parts["A"]], entries[parts["B"]]
        scale = self._scale(module, first.shape[0] if first.shape else 0)
        if scale is None:
            return
        is_turned = is_embedding or self._is_turned(key, base.shape, first.shape, second.shape)
        if not _fits(base.shape, first.shape, second.shape, is_turned):
            self._problems.append(
                f"{key} {show(base.shape)} is not what factors {show(first.shape)} and "
                f"{show(second.shape)} make"
            )
            return
        odd = [one for one in (base, first, second) if not self._is_usable(one, one is base)]
        if odd:
            self._problems.append(f"{odd[0].key} is {odd[0].dtype}, to which nothing is added")
            return
        a, b = _Factor(parts["A"], 0), _Factor(parts["B"], 1)
        rows, rest = (a, b) if is_turned else (b, a)
        yield key, _Change(scale, rows, rest, is_embedding)
        if "B.bias" in parts:
            bias = _with(prefix, f"{module}.bias")
            shape = entries[parts["B.bias"]].shape
            if bias not in self._base.state_dict or self._base.state_dict[bias].shape != shape:
                self._problems.append(f"{bias} {show(shape)} is not in the checkpoint")
            else:
                yield bias, _Change(scale, _Factor(parts["B.bias"], 0), None)

    def _is_turned(self, key: str, base: Shape, first: Shape, second: Shape) -> bool:
        """Return True for a weight stored as (in, out): by its shape, else as configured."""
        configured = self._config.get("fan_in_fan_out") is True and len(base) == 2
        ways = [way for way in (False, True) if _fits(base, first, second, way)]
        if len(ways) == 2:
            self._square.append(key)
        elif ways and len(base) == 2 and ways[0] != configured:
            self._is_mixed = True
        return ways[0] if len(ways) == 1 else configured

    @staticmethod
    def _is_usable(entry: Entry, is_base: bool) -> bool:
        return entry.dtype in _FLOATS or (is_base and entry.dtype == "float64")

    def _scale(self, module: str, rank: int) -> float | None:
        """Return what a module's product is multiplied with; None if it is not known."""
        found: list[float] = []
        for name, pattern in zip(("lora_alpha", "r"), _PATTERNS, strict=True):
            value = self._config.get(name)
            for one, special in self._patterns[pattern]:
                if one.fullmatch(module):
                    value = special
                    break
            if isinstance(value, bool) or not isinstance(value, int | float):
                self._problems.append(f"{name} of {module} is {value!r:.60}")
                return None
            found.append(value)
        alpha, expected = found
        if rank != expected or rank < 1:
            self._problems.append(f"{module} is of rank {rank}, the configuration says {expected}")
            return None
        scale = alpha / (math.sqrt(rank) if self._config.get("use_rslora") is True else rank)
        if not math.isfinite(scale):
            self._problems.append(f"lora_alpha of {module} is {alpha}")
            return None
        self._ranks.add(rank)
        self._scales.add(scale)
        return scale

    def _compiled(self, name: str) -> list[tuple[re.Pattern[str], Any]]:
        """Return the patterns of module names in the configuration, as PEFT matches them."""
        found: list[tuple[re.Pattern[str], Any]] = []
        for pattern, value in self._config[name].items():
            costs = sum(map(pattern.count, "*+?"))
            try:
                if _COSTLY.search(pattern) or costs > _MOST_REPEATS:
                    raise re.error("it is too much of a pattern")
                found.append((re.compile(rf"(.*\.)?({pattern})"), value))
            except re.error as error:
                self._problems.append(f"{name} has {pattern!r:.60}: {error}")
        return found

    def _replaced(self, others: Mapping[str, str], prefix: str) -> dict[str, str]:
        """Return the entries of which the adapter holds other numbers, as trained in full."""
        found: dict[str, str] = {}
        for name, theirs in others.items():
            key = _with(prefix, name)
            entry = self._adapter.state_dict[theirs]
            if key not in self._base.state_dict:
                self._problems.append(f"{theirs} is not in the checkpoint")
            elif self._base.state_dict[key].shape != entry.shape:
                shape = self._base.state_dict[key].shape
                self._problems.append(f"{theirs}: expected {show(shape)}, got {show(entry.shape)}")
            elif not (
                self._is_usable(entry, True) and self._is_usable(self._base.state_dict[key], True)
            ):
                self._problems.append(f"{theirs} is {entry.dtype}, which is not understood")
            else:
                found[key] = theirs
        return found

    def _spread(self, changes: dict[str, _Change], replaced: dict[str, str]) -> None:
        """Have tied entries changed together: PyTorch adds to the one tensor they are.

        What PEFT trained in a copy of a module is tied no longer.
        """
        groups: dict[Any, list[str]] = defaultdict(list)
        for entry in self._base.state_dict:
            if entry.storage is not None and not self._is_copied(entry.key):
                groups[entry.storage].append(entry.key)
        for keys in groups.values():
            changed = [key for key in keys if key in changes or key in replaced]
            if len(changed) > 1:
                self._problems.append(f"{some(changed)} are one tensor, and are changed twice")
            for key in keys if len(changed) == 1 else ():
                (own,) = changed
                if own in changes:
                    changes[key] = changes[own]
                if own in replaced:
                    replaced[key] = replaced[own]

    def _is_copied(self, key: str) -> bool:
        """Return True for an entry of a module that was trained in full, in a copy of it."""
        return any(f".{name}." in f".{key}" for name in self._config["modules_to_save"])


def _fits(base: Shape, first: Shape, second: Shape, is_turned: bool) -> bool:
    """Return True if factors A and B make a weight of a shape."""
    if len(base) < 2 or (is_turned and len(base) != 2):
        return False
    out, inner = (base[1:], base[:1]) if is_turned else (base[:1], base[1:])
    ones = (1,) * (len(second) - 2)
    return first == first[:1] + inner and second == out + first[:1] + ones


def _with(prefix: str, name: str) -> str:
    """Return a name of the adapter's as the checkpoint has it."""
    if prefix.startswith("-"):
        return name.removeprefix(prefix[1:])
    return prefix + name


class _Merged(Tensors):
    """The numbers of merged entries, computed as they are read; of others, the checkpoint's."""

    def __init__(
        self,
        base: Checkpoint,
        adapter: Checkpoint,
        changes: Mapping[str, _Change],
        replaced: Mapping[str, str],
    ) -> None:
        self._base, self._adapter = base.tensors, adapter.tensors
        self._files = frozenset(base.files)
        self._dtypes = {entry.key: entry.dtype for entry in base.state_dict}
        self._factors = {entry.key: entry for entry in adapter.state_dict}
        self._changes, self._replaced = changes, replaced
        self._held: dict[_Factor, NDArray[np.float32]] = {}
        self._lock = threading.Lock()

    def _is_plain(self, name: str) -> bool:
        return name not in self._changes and name not in self._replaced

    def read(self, name: str, region: Region) -> NDArray[np.generic]:
        if self._is_plain(name):
            return self._base.read(name, region)
        dtype = numpy_dtype(self._dtypes[name])
        theirs = self._replaced.get(name)
        if theirs is not None:
            there = self._adapter.read(theirs, region)
        else:
            there = self._base.read(name, region)
        change = self._changes.get(name)
        if change is None or not there.size:
            return there.astype(dtype, copy=False)
        found = self._sum(there, change, region)
        with np.errstate(over="ignore"):
            merged = found.astype(dtype)
        if np.isinf(merged).any() and not np.isinf(there).any():
            raise InputError(
                f"{name}: with the adapter its numbers are too large for {self._dtypes[name]}.",
                "Save the checkpoint in bfloat16 or float32.",
            )
        return merged

    def _sum(
        self, there: NDArray[np.generic], change: _Change, region: Region
    ) -> NDArray[np.floating[Any]]:
        sizes = there.shape
        wide = np.float64 if there.dtype == np.float64 else np.float32
        flat = there.reshape(sizes[0], -1)
        found = np.empty(flat.shape, wide)
        rows = self._part(change.rows, region[:1])
        scale = np.float32(change.scale)
        if change.rest is None:
            found[...] = flat.astype(wide) + (rows * scale).reshape(flat.shape)
            return found.reshape(sizes)
        rest = self._part(change.rest, region[1:])
        step = max(1, _AT_ONCE // max(1, flat.shape[1]))
        for start in range(0, len(flat), step):
            stop = min(start + step, len(flat))
            total = np.multiply.outer(rows[0, start:stop], rest[0])
            product = np.empty_like(total)
            for one, other in zip(rows[1:, start:stop], rest[1:], strict=True):
                np.multiply.outer(one, other, out=product)
                total += product
            total *= scale
            if change.is_rounded:
                total = total.astype(there.dtype).astype(wide)
            np.add(flat[start:stop].astype(wide), total, out=found[start:stop])
        return found.reshape(sizes)

    def _part(self, factor: _Factor, region: Region) -> NDArray[np.float32]:
        """Return a part of a factor as a matrix with the rank first."""
        entry = self._factors[factor.key]
        if entry.nbytes <= _HELD // 4:
            whole = self._whole(factor, entry)
            part = whole[(slice(None), *(slice(*bounds) for bounds in region))]
        else:
            part = self._read(factor, entry, region)
        return part.reshape(len(part), -1)

    def _whole(self, factor: _Factor, entry: Entry) -> NDArray[np.float32]:
        with self._lock:
            held = self._held.pop(factor, None)
            if held is None:
                shape = entry.shape if factor.axis == 0 else entry.shape[:1]
                inner = shape[1:] if factor.axis == 0 and len(shape) > 1 else shape[:1]
                held = self._read(factor, entry, tuple((0, size) for size in inner))
                while self._held and sum(a.nbytes for a in self._held.values()) > _HELD:
                    del self._held[next(iter(self._held))]
            self._held[factor] = held
            return held

    def _read(self, factor: _Factor, entry: Entry, region: Region) -> NDArray[np.float32]:
        if len(entry.shape) == 1:
            found = self._adapter.read(entry.key, region)[None]
        elif factor.axis == 0:
            found = self._adapter.read(entry.key, ((0, entry.shape[0]), *region))
        else:
            ones = ((0, 1),) * (len(entry.shape) - 2)
            found = self._adapter.read(entry.key, (*region, (0, entry.shape[1]), *ones))
            found = found.reshape(found.shape[:2]).T
        return np.ascontiguousarray(found, dtype=np.float32)

    @property
    def in_memory(self) -> bool:
        return False

    def extent(self, name: str) -> Extent | None:
        return self._base.extent(name) if self._is_plain(name) else None

    def byte_ranges(self, name: str, start: int, stop: int) -> Sequence[ByteRange] | None:
        return self._base.byte_ranges(name, start, stop) if self._is_plain(name) else None

    def _holding(self, extent: Extent) -> Tensors:
        return self._base if extent.file in self._files else self._adapter

    def descriptor(self, extent: Extent) -> int | None:
        return self._holding(extent).descriptor(extent)

    def fill(self, extent: Extent, buffer: memoryview, position: int) -> None:
        self._holding(extent).fill(extent, buffer, position)

    @property
    def is_remote(self) -> bool:
        return self._base.is_remote

    def ranges_in(self, name: str, region: Region) -> Iterable[ByteRange]:
        return () if name in self._replaced else self._base.ranges_in(name, region)

    def held(self, ranges: Callable[[], Iterable[ByteRange]]) -> AbstractContextManager[None]:
        return self._base.held(ranges)

    def check_unchanged(self) -> None:
        self._base.check_unchanged()
        self._adapter.check_unchanged()

    def close(self) -> None:
        self._base.close()
        self._adapter.close()
