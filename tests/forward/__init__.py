"""Faults put into right alignments, and what the forward makes of them."""
