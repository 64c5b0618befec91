"""The datasets, one file each; a class with ``@register_dataset`` is found by being here."""

if __name__ != "mmbench.datasets":
    raise ImportError("import this package as 'mmbench.datasets', not as 'datasets'")
