"""Proposals of alignments: the offline matcher, Claude, and siblings of a block."""
