"""Spoken keywords as log-mel spectrograms: three corpora, or your own recordings.

`load("mini")` needs no download. The others are read from the folder that the environment variable
SEPCONV_DATA names:

    $SEPCONV_DATA/audio/free-spoken-digit-dataset-*.tar.gz      or the folder unpacked
    $SEPCONV_DATA/audio/speech_commands*.tar*                   or the folder unpacked

`load(folder=...)` takes your own recordings, of any length, sample rate and format that libsndfile
reads:

    FOLDER/WORD/*.wav                      one folder for each word
    FOLDER/{train,val,test}/WORD/*.wav     the same, split; val and test may be absent

A folder without parts is split by `validation_list.txt` and `testing_list.txt`, if it has them.
Otherwise whole speakers are held out: a file name starts with the speaker, up to the first `_`. If
that leaves a part without some word, or far from its share of the clips, some clips of each word
are held out.
"""

import dataclasses
import glob
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from examples import sources
from examples.audio import micro_features, reading, spectrograms, splits
from examples.audio.features import Settings
from examples.audio.reading import Clip, Source, fit_length
from examples.audio.spectrograms import sound_of
from examples.audio.splits import LISTS, NOISE_FOLDER
from examples.cache import checked_folder
from examples.sources import existing, expect, require, tar_files

UNKNOWN, SILENCE = "unknown", "silence"
DEFAULT = "mini"
TARGETS = ("bed", "cat", "happy")  # of the subset; the full set has Google's ten
TEN = "yes no up down left right on off stop go".split()
CACHE = "spectrograms, for all runs; default: in the cache folder of the user"
LONGEST = 3600  # seconds of a clip


@dataclasses.dataclass(frozen=True)
class Dataset(sources.Dataset):
    """Spectrograms `(n, frames, bands)` and labels `(n,)`, by part, and their sources.

    Spectrograms that are large together are no arrays, but read by index.

    Attributes:
        settings: How the spectrograms were computed.
        clips: The recordings of the test part.
        scale: The divisor that scales floats in recordings to numbers from -1 to 1.
    """

    settings: Settings
    clips: Sequence[Clip]
    scale: int = 1

    def waveforms(self, count: int) -> np.ndarray:
        """Returns the first recordings of the test part, `(count, samples)`."""
        clips = self.clips[:count]
        sounds = [sound_of(clip, self.settings) for clip in clips]
        return np.stack([fit_length(x.divided(self.scale), self.settings.samples) for x in sounds])


def load(
    name: str = DEFAULT,
    *,
    folder: str | os.PathLike | None = None,
    held_out: str | None = None,
    limit: int | None = None,
    seconds: float = 1.0,
    front_end: str = "librosa",
    cache: str | os.PathLike | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads a corpus, splits it if needed, and shuffles its training part.

    Args:
        name: "mini", "fsdd" or "speech_commands". Not used if `folder` is given.
        folder: Your own recordings (see the top of this file).
        held_out: For "fsdd": the speaker of the test part, one of `fsdd_speakers()`. Some takes of
            the others are the validation part. By default, some takes of each speaker are held out.
        limit: The maximum number of training clips, with the words in proportion.
        seconds: Length of a clip. Shorter ones are padded on both sides, longer ones are cropped.
        front_end: What computes spectrograms, "librosa" or "micro": `micro_features`, at 16 kHz.
        cache: Folder for spectrograms. By default one for all runs of this user. Those of more than
            128 MiB are mapped into memory and read by index.
        seed: Seed of the split and of the order.

    Returns:
        A `Dataset`.

    Raises:
        ValueError: If an argument, a folder or a file is not as described here.
        RuntimeError: If a corpus is not in SEPCONV_DATA.
    """
    expect(limit is None or limit > 0, "`limit` must be a positive integer or None", limit)
    expected = f"`seconds` must be 0.1 or more, and at most {LONGEST:,}"
    expect(0.1 <= seconds <= LONGEST, expected, seconds)
    expected = "`held_out` must be left out, except for the recordings of fsdd"
    expect(held_out is None or (folder is None and name == "fsdd"), expected, repr(held_out))
    if folder is None:
        expect(name in SOURCES, f"`name` must be one of {', '.join(SOURCES)}", repr(name))
        made = SOURCES[name](held_out, seed)
    else:
        expected = "`folder` must be an existing folder of recordings"
        path = existing(folder, expected)
        expect(path.is_dir(), expected, repr(str(folder)))
        name, made = sources.printable(path.name), splits.load_folder(path, seed)
    clips, sample_rate, note = made
    words = sorted({clip.word for clip in clips})
    is_micro = front_end == "micro"
    settings = micro_features.settings(seconds) if is_micro else Settings(sample_rate, seconds)
    stored, kept, places, scale = spectrograms.of_clips(clips, settings, checked_folder(cache))
    parts = {}
    rng = np.random.default_rng(seed)
    for part in ("train", "val", "test"):
        index = np.array([i for i, clip in enumerate(kept) if clip.part == part], int)
        labels = np.array([words.index(kept[i].word) for i in index], "int64")
        absent = [word for i, word in enumerate(words) if i not in set(labels.tolist())]
        expected = f"The {part} part must have readable clips of every word"
        expect(not absent, expected, f"none of {absent}", "Add clips, or remove the words.")
        order = rng.permutation(len(index))
        if part == "train" and limit is not None:
            expected = f"`limit` must be at least the number of words, {len(words)}"
            expect(limit >= len(words), expected, limit)
            order = rng.permutation(order[sources.in_proportion(labels[order])[:limit]])
        parts[part] = stored.ordered(places[index[order]]), labels[order]
    return Dataset(
        name,
        **parts,
        classes=tuple(words),
        note=note,
        scaling=f"floats in recordings divided by {scale:,}" * (scale != 1),
        settings=settings,
        clips=[kept[i] for i in index[order]],
        scale=scale,
    )


# Corpora


def _mini(held_out: str | None, seed: int) -> tuple[list[Clip], int, str]:
    folder = Path(__file__).parent / "mini"
    about = json.loads((folder / "clips.json").read_text("utf-8"))
    soundfile = require("soundfile")
    clips = []
    for part, rows in about["clips"].items():
        waveform, rate = soundfile.read(folder / f"{part}.ogg", dtype="float32")
        length = round(about["seconds"] * rate)
        for i, (word, voice) in enumerate(rows):
            file = io.BytesIO()
            piece = waveform[i * length : (i + 1) * length]
            # In other formats, floats come with the time, and so each run would differ.
            soundfile.write(file, piece, rate, format="AU", subtype="FLOAT")
            clips.append(Clip(f"{part} {i} ({voice})", word, part, file.getvalue()))
    return (
        clips,
        about["sample_rate"],
        "Keywords from a speech synthesizer in 44 voices: not real speech",
    )


FSDD_FILE = re.compile(r"recordings/(\d)_([^_/]+)_(\d+)\.wav$")


def _fsdd_files() -> dict[str, tuple[str, str, str, Source]]:
    """Path to digit, speaker, index and content of each recording."""
    found = {
        path: (*FSDD_FILE.search(path).groups(), source)
        for path, source in _files(
            "free-spoken-digit-dataset", "the Free Spoken Digit Dataset", FSDD_FILE.search
        )
    }
    expect(len(found) > 0, "The corpus must hold recordings/DIGIT_SPEAKER_INDEX.wav", "none")
    return found


def fsdd_speakers() -> list[str]:
    """The speakers of the Free Spoken Digit Dataset, each of which can be held out."""
    return _speakers(_fsdd_files())


def _speakers(found: Mapping[str, tuple[str, str, str, Source]]) -> list[str]:
    speakers = sorted({speaker for _, speaker, _, _ in found.values()})
    expected = "The corpus must have two speakers, to hold one of them out"
    expect(len(speakers) > 1, expected, speakers)
    return speakers


def _fsdd(held_out: str | None, seed: int) -> tuple[list[Clip], int, str]:
    found = _fsdd_files()
    if held_out is not None:
        speakers = _speakers(found)
        expected = f"`held_out` must be one of {', '.join(speakers)}"
        expect(held_out in speakers, expected, repr(held_out))
    clips = []
    for path, (digit, speaker, index, source) in sorted(found.items()):
        if held_out is None:
            part = "test" if int(index) < 5 else "val" if int(index) < 10 else "train"
        else:
            part = "test" if speaker == held_out else "val" if int(index) < 5 else "train"
        clips.append(Clip(path, digit, part, source))
    split = f"{held_out} held out for testing" if held_out else "official split"
    return clips, 8_000, f"Free Spoken Digit Dataset, {split}; CC BY-SA 4.0"


def _speech_commands(held_out: str | None, seed: int) -> tuple[list[Clip], int, str]:
    files: dict[str, Source] = {}
    lists: dict[str, set[str]] = {}
    part_of = {name: part for part, name in LISTS.items()}
    endings = (*reading.SUFFIXES, *part_of)
    for path, source in _files(
        "speech_commands", "Google's Speech Commands", lambda path: path.endswith(endings)
    ):
        if part := part_of.get(path.split("/")[-1]):
            lists[part] = set(_text(path, source).split())
        else:
            files["/".join(Path(path).parts[-2:])] = source
    by_word: dict[str, list[str]] = {}
    for path in sorted(files):
        if "/" in path:
            by_word.setdefault(path.split("/")[0], []).append(path)
    noises = by_word.pop(NOISE_FOLDER, [])
    targets = TEN if all(len(by_word.get(word, ())) > 100 for word in TEN) else TARGETS
    expect(
        all(word in by_word for word in targets),
        f"Speech Commands must have a folder for each of {', '.join(targets)}",
        sorted(by_word),
    )
    rng = np.random.default_rng(seed)
    clips: list[Clip] = []
    others: dict[str, list[Clip]] = {part: [] for part in ("train", "val", "test")}
    for word, paths in by_word.items():
        for path in paths:
            part = _part_in(lists, path) if lists else which_part(path)
            clip = Clip(path, word if word in targets else UNKNOWN, part, files[path])
            (clips if word in targets else others[part]).append(clip)
    for part, unknown in others.items():
        per_word = sum(clip.part == part for clip in clips) // len(targets)
        chosen = rng.permutation(len(unknown))[:per_word]
        # There are few recordings of other words. In training they are repeated until they are as
        # frequent as a target. Otherwise the net mistakes them for targets.
        repeats = max(1, per_word // len(chosen)) if part == "train" and len(chosen) else 1
        clips += [unknown[i] for i in chosen] * repeats
        clips += list(_silences(noises, files, part, min(per_word, len(chosen)), rng))
    learned = {clip.word for clip in clips if clip.part == "train"}
    note = f"Google Speech Commands, {', '.join(targets)}, {UNKNOWN} and {SILENCE}; CC BY 4.0"
    return [clip for clip in clips if clip.word in learned], 16_000, note


def _silences(
    noises: Sequence[str], files: dict, part: str, count: int, rng: np.random.Generator
) -> Iterator[Clip]:
    """Yields excerpts of the noise recordings. Each part has its own stretch of each recording."""
    first, last = {"train": (0.01, 0.6), "val": (0.62, 0.78), "test": (0.8, 0.96)}[part]
    lengths = {}
    for path in noises:
        with sources.reading(Path(path)):
            rate, frames = reading.header(files[path])
        lengths[path] = frames / rate
    for i in range(count if noises else 0):
        path = noises[i % len(noises)]
        offset = float(rng.uniform(first, last)) * lengths[path]
        yield Clip(f"{path} at {offset:.2f} s", SILENCE, part, files[path], offset)


def _part_in(lists: dict[str, set], path: str) -> str:
    name = str(Path(path).with_suffix(".wav"))
    return next((part for part, names in lists.items() if name in names), "train")


def which_part(path: str) -> str:
    """Returns the part of a file of Speech Commands, which is a hash of its speaker."""
    speaker = re.sub(r"_nohash_.*$", "", Path(path).name)
    percent = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % (2**27) * 100 / (2**27 - 1)
    return "val" if percent < 10 else "test" if percent < 20 else "train"


SOURCES = {"mini": _mini, "fsdd": _fsdd, "speech_commands": _speech_commands}


def _files(prefix: str, what: str, wanted: Callable[[str], object]) -> Iterator[tuple[str, Source]]:
    """Yields path and content of the wanted files of a corpus, from an archive or a folder."""
    root = os.environ.get("SEPCONV_DATA")
    place = os.path.join(glob.escape(os.path.expanduser(root or "")), "audio", f"{prefix}*")
    places = sorted(glob.glob(place)) if root else []
    if not places:
        place = f"audio/{prefix}*, an archive or an unpacked folder"
        raise sources.not_found(f"{what} was not found. Download it.", place)
    found = Path(places[0])
    if not found.is_dir():
        yield from tar_files(found, wanted)
        return
    for path in sorted(found.rglob("*")):
        name = path.relative_to(found.parent).as_posix()
        if wanted(name) and path.is_file():
            yield name, path


def _text(path: str, source: Source) -> str:
    with sources.reading(Path(path)):
        return (source if isinstance(source, bytes) else sources.read_file(source)).decode()
