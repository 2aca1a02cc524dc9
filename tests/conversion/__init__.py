"""Part of the tests of s2p_tui."""
