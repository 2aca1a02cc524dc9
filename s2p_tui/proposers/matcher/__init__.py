"""The offline matcher: structure first, then names, then order; explained, and honest in doubt."""

from s2p_tui.proposers.matcher.matcher import match
from s2p_tui.proposers.matcher.words import forget_names

__all__ = ["forget_names", "match"]
