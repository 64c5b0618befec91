"""For tests, ours and those of plug-ins: small files in the layouts that are read."""
