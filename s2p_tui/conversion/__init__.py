"""A plan carried out: bytes on disk, chunk by chunk, verified before they get their name."""
