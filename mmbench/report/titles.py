"""What kinds of tables and figures a study has, and what a reader is told they are."""

from pathlib import Path

KINDS = {
    "": "Scores",
    "imbalance": "Imbalance reached",
    "statistics": "Statistics over the datasets",
    "wins": "Wins, ties and losses",
    "published": "Published beside measured",
}
FIGURES = {
    "forest": "differences to the reference with intervals",
    "heat": "rows by dataset",
    "ranks": "mean ranks and critical difference",
    "sweep": "score against the option",
    "knob": "gain against the knob of the dataset",
    "strength": "each modality over training",
    "cost": "score against the time of a whole run",
}
PAGE = "Made by mmbench report --html from records alone"


def stem(study: str, kind: str) -> str:
    """Return what the files of one kind of a study's tables are called, without suffix."""
    return "-".join(filter(None, [study, kind]))


def figure_kind(file: Path, study: str) -> str | None:
    """Return which figure of ``study`` a file holds, None if it is another study's."""
    rest = file.stem.removeprefix(f"{study}-").split("-")[0]
    return rest if file.stem.startswith(f"{study}-") and rest in FIGURES else None
