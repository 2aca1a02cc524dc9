"""A pair that only a reader could line up, and Claude on the loopback who does."""

from tests.helpers.unlike import script, session

__all__ = ["script", "session"]
