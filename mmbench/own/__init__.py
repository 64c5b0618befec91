"""Anyone's own data: from a table of files and labels to a data set like any other."""
