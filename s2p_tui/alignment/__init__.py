"""Values and pure functions: no torch, jax, textual or anthropic, and no input or output."""
