"""What XLA compiles for one test, kept for the tests after it, those of the other worker too."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import jax
from jax._src.lru_cache import _CACHE_SUFFIX, LRUCache
from jax.experimental.compilation_cache import compilation_cache


def keep_compiled(folder: Path) -> None:
    """Keep what this process compiles in a folder, and take from there what is in it.

    Half of what the tests compile is compiled again by another: a network is run by several.
    """
    LRUCache.put = _put_whole
    # Otherwise only what took a second to compile is kept.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    compilation_cache.reset_cache()


def _put_whole(self: LRUCache, key: str, value: bytes) -> None:
    """Add an entry that other processes see whole or not at all, which JAX does not care for."""
    path = Path(self.path) / f"{key}{_CACHE_SUFFIX}"
    part = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    part.write_bytes(value)
    part.replace(path)
