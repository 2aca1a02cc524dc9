"""Equinox models that the tests convert checkpoints into."""
