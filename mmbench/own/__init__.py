"""Anyone's own data: from a table of files and labels to a dataset like any other."""
