"""Files changed at random, given to the program by the thousand: `python -m tests.fuzz`."""
