"""Commands of the main screen: a session and a cursor in, edits out."""
