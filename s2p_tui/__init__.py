"""Bring PyTorch checkpoints into Equinox models."""
