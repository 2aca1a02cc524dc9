"""An open pair: edits, undo, journal, opening and saving."""
