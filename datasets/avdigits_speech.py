"""Speak the digits of avdigits with eSpeak NG, in a process of its own.

eSpeak keeps state for the whole process and two calls with the same word differ, so that only one
fresh process that renders everything in a fixed order is repeatable. Six voice variants that
differ from run to run even then (f2 f3 f5 whisper whisperf victor) are left out of ``VOICES``.

``speak`` starts this file as a script: ``python avdigits_speech.py PLAN.json OUT.npz``. It
therefore imports nothing of mmbench.
"""

import ctypes
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 22050
SECONDS = 300  # a build takes about 3 s; a hanging library must not hang the build
VOICES = [
    "m1",
    "m2",
    "m3",
    "m4",
    "m5",
    "m6",
    "m7",
    "m8",
    "f1",
    "f4",
    "klatt",
    "klatt2",
    "klatt3",
    "klatt4",
    "croak",
    "Andy",
    "Annie",
    "Gene",
    "Lee",
    "Mario",
    "Michael",
    "Mike",
    "Reed",
    "Storm",
    "belinda",
    "caleb",
    "david",
    "ed",
    "grandma",
    "grandpa",
    "iven",
    "john",
    "linda",
    "max",
    "paul",
    "quincy",
    "rob",
    "robert",
    "shelby",
    "steph",
    "travis",
    "zac",
]
# Plain en-gb is refused by the library with code 2.
ACCENTS = (
    "en-us",
    "en-gb-scotland",
    "en-029",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-us-nyc",
)
RETRIEVAL, RATE, PITCH, RANGE = 2, 1, 3, 4  # names of speak_lib.h


class SpeechUnavailable(RuntimeError):
    """The synthesiser is not installed or does not work here; the message says why."""


@dataclass(frozen=True)
class Utterance:
    """One word to speak.

    Attributes:
        text: the word.
        voice: one of ``VOICES``.
        accent: one of ``ACCENTS``.
        pitch: 0 to 100.
        rate: words per minute.
        range: pitch range, 0 to 100.
    """

    text: str
    voice: str
    accent: str
    pitch: int
    rate: int
    range: int


def speak(plan: Sequence[Utterance], scratch: Path) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """Render ``plan`` in a fresh process.

    Args:
        plan: what to say, in the order that fixes the result.
        scratch: a folder for the two files that are exchanged.

    Returns:
        All samples end to end (int16 at 22,050 Hz), and the length of each clip.

    Raises:
        SpeechUnavailable: if the process fails; carries its last line of output.
    """
    question, answer = scratch / "plan.json", scratch / "speech.npz"
    question.write_text(json.dumps([asdict(u) for u in plan]), encoding="utf-8")
    command = [sys.executable, "-P", str(Path(__file__).resolve()), str(question), str(answer)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired as err:
        raise SpeechUnavailable(f"no answer within {SECONDS} s") from err
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise SpeechUnavailable(last[0])
    with np.load(answer, allow_pickle=False) as data:
        return data["samples"], data["lengths"]


def synthesise(plan: Sequence[Mapping[str, object]]) -> list[NDArray[np.int16]]:
    """Render each utterance (as a mapping) in this process.

    Raises:
        RuntimeError: if the library does not start, or lacks a voice.
    """
    parts: list[NDArray[np.int16]] = []
    kind = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
    )

    def receive(samples: "ctypes._Pointer[ctypes.c_short]", count: int, _: object) -> int:
        if samples and count > 0:
            parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    library, callback = _library(), kind(receive)  # the local name keeps the callback alive
    library.espeak_SetSynthCallback(callback)
    clips = []
    for row in plan:
        voice = f"{row['accent']}+{row['voice']}"
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise RuntimeError(f"eSpeak NG has no voice {voice}; reinstall espeakng-loader")
        for parameter, key in ((RATE, "rate"), (PITCH, "pitch"), (RANGE, "range")):
            library.espeak_SetParameter(parameter, int(str(row[key])), 0)
        text = str(row["text"]).encode()
        parts.clear()
        library.espeak_Synth(text, len(text) + 1, 0, 0, 0, 1, None, None)
        if not parts:
            raise RuntimeError(f"eSpeak NG said nothing for {row['text']!r} with voice {voice}")
        clips.append(np.concatenate(parts))
    return clips


def _library() -> ctypes.CDLL:
    import espeakng_loader  # only where it is used: the parent process does not need it

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data = espeakng_loader.get_data_path().encode()
    if library.espeak_Initialize(RETRIEVAL, 0, data, 0) != RATE_HZ:
        raise RuntimeError("eSpeak NG did not start at 22,050 Hz; reinstall espeakng-loader")
    return library


def main() -> None:
    """Read the plan, write all clips end to end with their lengths."""
    clips = synthesise(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    lengths = np.array([len(clip) for clip in clips], dtype=np.int64)
    np.savez(sys.argv[2], samples=np.concatenate(clips), lengths=lengths)


if __name__ == "__main__":
    main()
