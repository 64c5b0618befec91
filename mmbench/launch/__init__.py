"""Launchers: they know cells, not methods."""
