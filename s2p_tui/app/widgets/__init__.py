"""Widgets of the main screen and of the list screens."""
