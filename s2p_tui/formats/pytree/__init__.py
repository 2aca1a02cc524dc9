"""Pytrees and skeletons as JAX sees them; the only part of `formats` that imports JAX."""
