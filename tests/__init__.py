"""Tests of s2p_tui."""
