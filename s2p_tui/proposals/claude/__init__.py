"""Asking Claude which entries feed which leaves. Imports the SDK only when it is asked."""
