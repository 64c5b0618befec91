"""Where one modality of one sample is to be found."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """A file, a folder of pictures, or a text.

    Attributes:
        file: path of the file or folder; empty for a text.
        text: the text itself.
        begin: first frame, or second, that belongs to the sample.
        end: the one after the last; 0: up to the end.
    """

    file: str = ""
    text: str = ""
    begin: float = 0.0
    end: float = 0.0

    def missing(self) -> bool:
        """Say whether there is no such file, or no text."""
        return not (Path(self.file).exists() if self.file else self.text.strip())

    def facts(self, root: Path) -> list[object]:
        """Return what changes when the source does: place, size, time of change, text and span."""
        if not self.file:
            return [self.text]
        path = Path(self.file)
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        place = path.relative_to(root).as_posix() if path.is_relative_to(root) else self.file
        return [place, [_stamp(p) for p in inside], self.begin, self.end]


def _stamp(path: Path) -> list[object]:
    facts = path.stat()
    return [path.name, facts.st_size, facts.st_mtime_ns]
