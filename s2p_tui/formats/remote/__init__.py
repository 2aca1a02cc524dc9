"""Checkpoints on other machines, read by byte ranges: web servers, buckets, the Hub."""
