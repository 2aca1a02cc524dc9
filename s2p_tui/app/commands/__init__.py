"""Commands of the main screen: from a session and a cursor to an edit."""
