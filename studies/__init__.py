"""Named comparisons, one TOML file each: their rows, and what differences are taken to."""

if __name__ != "mmbench.studies":
    raise ImportError("import this package as 'mmbench.studies', not as 'studies'")
