"""Named comparisons, one TOML file each: which cells they need and how their tables are laid out."""

if __name__ != "mmbench.studies":
    raise ImportError("import this package as 'mmbench.studies', not as 'studies'")
