"""Small sets in the native layouts, with real media files: for tests and speed measurements.

The class can be told from each stream alone: the height of the tone, the place of the square.
"""

from pathlib import Path

from mmbench.testing.files import film, tone

EMOTIONS = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")


def cremad(
    root: Path, actors: int = 6, width: int = 48, height: int = 36, seconds: float = 2.5
) -> list[str]:
    """Write two sentences in six emotions of each actor, and the lists.

    Returns:
        The clips' names.
    """
    for folder in ("AudioWAV", "VideoFlash"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    stems = []
    for actor in range(actors):
        for sentence in ("IEO", "TIE"):
            for number, emotion in enumerate(EMOTIONS):
                stem = f"{1001 + actor}_{sentence}_{emotion}_XX"
                tone(root / "AudioWAV" / f"{stem}.wav", number, seconds, rate=16000)
                film(root / "VideoFlash" / f"{stem}.flv", number, round(30 * seconds), width,
                     height)  # fmt: skip
                stems.append(stem)
    # One clip of each actor for test, so that train and test share the speakers as published.
    test = {f"{1001 + a}_TIE_{EMOTIONS[a % 6]}_XX" for a in range(actors)}
    for name, chosen in (("train", set(stems) - test), ("test", test)):
        lines = "".join(f"{s},{s.split('_')[2]}\r\n" for s in sorted(chosen))
        (root / f"{name}.csv").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    return stems
