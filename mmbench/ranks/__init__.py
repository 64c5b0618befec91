"""Several processes that train one cell: what is split between them, and how they agree."""
