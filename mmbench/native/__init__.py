"""Datasets read from the files they were published as."""
