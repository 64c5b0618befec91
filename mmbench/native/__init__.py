"""Data sets read from the files they were published as."""
