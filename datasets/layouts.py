"""Small sets in the native layouts, with real media files: for tests and speed measurements.

The class can be told from each stream alone: the height of the tone, the place of the square.
"""

from fractions import Fraction
from pathlib import Path

from mmbench.testing.files import film, picture, tone

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


def ksounds(root: Path) -> list[str]:
    """Write three clips of each of 31 classes, one for test; ids begin with ``-`` and ``--`` too.

    Returns:
        The names in the lists: train, then test.
    """
    names: dict[str, list[str]] = {"train": [], "test": []}
    for part in names:
        (root / part).mkdir(parents=True, exist_ok=True)
    for label in range(31):
        for number in range(3):
            part = "test" if number == 0 else "train"
            key = f"{'-' * (label % 3)}v{label:02d}x{number:02d}".ljust(11, "0")[:11]
            start = 2 + number
            full = f"{key}_{start:06d}_{start + 10:06d}"
            film(root / part / f"{full}.mp4", label % 9, 100, 48, 36, rate=Fraction(25))
            listed = f"{key}_{start}" if part == "test" else full
            names[part].append(f"{listed},10,{label}")
    for part, lines in names.items():
        (root / f"my_{part}.txt").write_text("".join(f"{x}\r\n" for x in lines), newline="")
    return [line.split(",")[0] for part in names.values() for line in part]


def iemocap(root: Path) -> list[str]:
    """Write a conversation of twelve utterances in each of five sessions; text is invented.

    Returns:
        The utterances with one of the four emotions.
    """
    kept = []
    emotions = ("ang", "hap", "neu", "sad", "exc", "fru")
    classes = {"ang": 0, "hap": 1, "exc": 1, "neu": 2, "sad": 3}
    for session in range(1, 6):
        base, dialog = root / f"Session{session}", f"Ses{session:02d}F_impro01"
        folders = ("dialog/EmoEvaluation", "dialog/transcriptions", "dialog/avi/DivX",
                   f"sentences/wav/{dialog}")  # fmt: skip
        for folder in folders:
            (base / folder).mkdir(parents=True, exist_ok=True)
        heads, said = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""], []
        for k in range(12):
            emotion = emotions[k % 6]
            name = f"{dialog}_{'FM'[k % 2]}{k:03d}"
            begin, end = 0.5 * k + 0.25, 0.5 * k + 0.75
            heads += [f"[{begin:.4f} - {end:.4f}]\t{name}\t{emotion}\t[2.5000, 2.5000, 2.5000]",
                      "C-E2:\tNeutral;\t()", ""]  # fmt: skip
            said.append(f"{name} [{begin:08.4f}-{end:08.4f}]: I feel {emotion}, really.")
            number = classes.get(emotion, 5)
            tone(base / f"sentences/wav/{dialog}" / f"{name}.wav", number, 0.5, rate=16000)
            if emotion in classes:
                kept.append(name)
        said.append(f"{dialog}_MXX0 a line without a time")
        (base / "dialog/EmoEvaluation" / f"{dialog}.txt").write_text("\n".join(heads))
        (base / "dialog/EmoEvaluation" / f"._{dialog}.txt").write_bytes(b"\x00\x05\x16\x07")
        (base / "dialog/transcriptions" / f"{dialog}.txt").write_text("\n".join(said))
        film(base / "dialog/avi/DivX" / f"{dialog}.avi", session, 210, 60, 40, rate=Fraction(30))
    return kept


def nvgesture(root: Path) -> list[str]:
    """Write a clip of 24 pictures of each of 25 gestures by three subjects; the third is for test.

    Returns:
        The lines of both lists.
    """
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for gesture in range(1, 26):
        for subject in range(1, 4):
            place = f"Video_data/class_{gesture:02d}/subject{subject}_r0"
            (root / place).mkdir(parents=True, exist_ok=True)
            for stem in ("sk_color", "sk_depth"):
                film(root / place / f"{stem}.avi", gesture % 9, 24, 40, 32, sound=False,
                     rate=Fraction(30))  # fmt: skip
            span = "4:32"  # past the end
            part = "test" if subject == 3 else "train"
            lines[part].append(
                f"path:./{place} depth:sk_depth:{span} color:sk_color:{span} "
                f"duo_left:duo_left:{span} label:{gesture}"
            )
    for part, listed in lines.items():
        file = root / f"nvgesture_{part}_correct_cvpr2016_v2.lst"
        file.write_text("".join(f"{line} \n" for line in listed))
    return [*lines["train"], *lines["test"]]


def sarcasm(root: Path, samples: int = 30) -> dict[str, list[str]]:
    """Write tweets and pictures: grey and CMYK ones, quotes, tweets to be dropped.

    Returns:
        Per list the ids that stay.
    """
    for folder in ("text", "dataset_image"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    stay: dict[str, list[str]] = {}
    for part, name in enumerate(("train", "valid2", "test2")):
        lines, kept = [], []
        for k in range(samples):
            key, label = f"{900000000000000000 + 1000 * part + k}", k % 2
            text = f"""<user> it's "{("fine", "so very fine")[label]}" emoji_92 #{k}"""
            labels = [label] if name == "train" else [1 - label if k == 0 else label, label]
            lines.append(repr([key, text, *labels]))
            kept.append(key)
            picture(root / "dataset_image" / f"{key}.jpg", label, ("RGB", "L", "CMYK")[k % 3])
        lines.append(repr([f"{part}1", "such sarcasm", *[1] * len(labels)]))
        lines.append(repr([f"{part}2", "look <url>", *[0] * len(labels)]))
        (root / "text" / f"{name}.txt").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
        stay[name] = kept
    return stay
