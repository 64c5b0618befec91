"""Words that follow from numbers."""


def counted(number: int, noun: str) -> str:
    """Return ``1 cell`` or ``2 cells``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
