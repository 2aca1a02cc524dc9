"""Checkpoint and skeleton files in, `.eqx` and `.safetensors` files out; one module a format."""
