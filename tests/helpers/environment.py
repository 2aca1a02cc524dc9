"""The environment that the tests were started in, before `conftest.py` takes things out of it."""

import os

AS_STARTED = dict(os.environ)
