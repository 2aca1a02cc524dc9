"""Measurements against the budgets; none is a test. Run with `python -m tests.benchmarks`."""
