"""The methods, one file each; a class with ``@register_method`` is found by being here."""

if __name__ != "mmbench.methods":
    raise ImportError("import this package as 'mmbench.methods', not as 'methods'")
