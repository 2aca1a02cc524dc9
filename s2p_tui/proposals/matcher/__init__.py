"""The offline matcher: structure first, then names, then order; explained, and honest in doubt."""

from s2p_tui.proposals.matcher.match import match
from s2p_tui.proposals.matcher.words import forget_names

__all__ = ["forget_names", "match"]
