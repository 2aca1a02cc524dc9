"""Checkpoints on other machines, all of which are this one."""
