"""Synthesise the spoken digits of avdigits with eSpeak NG, in a process of its own.

eSpeak keeps process-wide state, so one fresh process renders everything in a fixed order: that
makes the samples repeatable. Six voice variants that differ from run to run are left out.
Usage: python avdigits_speech.py PLAN.json OUT.npz
"""

import ctypes
import json
import sys
from pathlib import Path

import numpy as np

RATE_HZ = 22050
VOICES = (
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
)
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


def synthesise(plan: list[dict[str, object]]) -> list[np.ndarray]:
    """Render each row (text, voice, pitch, rate, range) to int16 samples at 22,050 Hz."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data = espeakng_loader.get_data_path().encode()
    if library.espeak_Initialize(RETRIEVAL, 0, data, 0) != RATE_HZ:
        raise RuntimeError("eSpeak NG did not start at 22,050 Hz; reinstall espeakng-loader")
    parts: list[np.ndarray] = []
    kind = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
    )

    def receive(samples: "ctypes._Pointer[ctypes.c_short]", count: int, _: object) -> int:
        if samples and count > 0:
            parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    callback = kind(receive)
    library.espeak_SetSynthCallback(callback)
    clips = []
    for row in plan:
        if library.espeak_SetVoiceByName(str(row["voice"]).encode()) != 0:
            raise RuntimeError(f"eSpeak NG has no voice {row['voice']}; reinstall espeakng-loader")
        for parameter, key in ((RATE, "rate"), (PITCH, "pitch"), (RANGE, "range")):
            library.espeak_SetParameter(parameter, int(str(row[key])), 0)
        text = str(row["text"]).encode()
        parts.clear()
        library.espeak_Synth(text, len(text) + 1, 0, 0, 0, 1, None, None)
        clips.append(np.concatenate(parts))
    return clips


def main() -> None:
    """Read the plan, write all clips end to end with their lengths."""
    clips = synthesise(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    lengths = np.array([len(clip) for clip in clips])
    np.savez(sys.argv[2], samples=np.concatenate(clips), lengths=lengths)


if __name__ == "__main__":
    main()
