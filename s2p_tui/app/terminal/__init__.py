"""Workarounds for terminals and for Textual: output, keys, exit, clipboard."""
