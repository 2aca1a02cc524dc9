"""Where screens change their layout: classes by a window's columns and lines."""

from __future__ import annotations

BY_COLUMNS = [(0, "-narrow"), (60, "-wide")]
BY_LINES = [(0, "-short"), (16, "-tall")]
