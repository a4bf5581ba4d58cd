"""Makes the corpus `mini`: eight keywords, spoken by a synthesizer in many voices.

    python -m examples.audio.make_mini

This needs the command `espeak-ng`. Every voice is a variant of the synthesizer with an accent, and
says each word twice, at different speeds and pitches. Whole voices are held out for validation and
test. Each part is one file, `mini/PART.ogg`, with its clips one after the other. `mini/clips.json`
has their length, words and voices.
"""

import io
import json
import subprocess
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "mini"
WORDS = ("yes", "no", "up", "down", "left", "right", "go", "stop")
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-gb-x-gbclan")
VARIANTS = {
    "train": "m1 m2 m3 m5 m6 m7 f1 f2 f4 f5 adam anika antonio belinda benjamin caleb david edward "
    "gustave iven john linda max michel pablo paul quincy robert sandro steph".split(),
    "val": "m4 f3 boris iven3 victor travis".split(),
    "test": "m8 Andrea aunty Denis grandpa Michael rob zac".split(),
}
SAMPLE_RATE = 16_000
SECONDS = 0.8
RENDITIONS = 2
TOP_DB = 35  # sound that is quieter than the peak by more than this is silence
QUALITY = 0.75  # of the compression, from 0, the best, to 1, the smallest


def main() -> None:
    import librosa
    import soundfile

    rng = np.random.default_rng(0)
    FOLDER.mkdir(exist_ok=True)
    clips: dict[str, list] = {}
    for part, variants in VARIANTS.items():
        waveforms, clips[part] = [], []
        for number, variant in enumerate(variants):
            voice = f"{ACCENTS[number % len(ACCENTS)]}+{variant}"
            for word in WORDS:
                for _ in range(RENDITIONS):
                    speed, pitch = int(rng.integers(120, 200)), int(rng.integers(25, 75))
                    spoken = say(word, voice, speed, pitch)
                    spoken, _ = librosa.effects.trim(spoken, top_db=TOP_DB)
                    waveforms.append(librosa.util.fix_length(centered(spoken), size=length()))
                    clips[part].append([word, voice])
        path = FOLDER / f"{part}.ogg"
        with soundfile.SoundFile(
            path, "w", SAMPLE_RATE, 1, "VORBIS", format="OGG", compression_level=QUALITY
        ) as file:
            for waveform in waveforms:  # all at once overflow the stack of libsndfile
                file.write(waveform)
        print(f"{part}: {len(clips[part])} clips of {len(variants)} voices")
    about = {"seconds": SECONDS, "sample_rate": SAMPLE_RATE, "clips": clips}
    (FOLDER / "clips.json").write_text(json.dumps(about) + "\n", "utf-8")


def length() -> int:
    return round(SECONDS * SAMPLE_RATE)


def say(word: str, voice: str, speed: int, pitch: int) -> np.ndarray:
    """Returns a spoken word, with a peak of 0.9."""
    import librosa

    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", word]
    spoken = subprocess.run(command, check=True, capture_output=True).stdout
    waveform, _ = librosa.load(io.BytesIO(spoken), sr=SAMPLE_RATE)
    return 0.9 * waveform / np.abs(waveform).max()


def centered(waveform: np.ndarray) -> np.ndarray:
    waveform = waveform[: length()]
    return np.pad(waveform, ((length() - len(waveform)) // 2, 0))


if __name__ == "__main__":
    main()
