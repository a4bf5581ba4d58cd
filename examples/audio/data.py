"""Spoken keywords as log-mel spectrograms: three corpora, or your own recordings.

`load("mini")` needs no download. The others are read from the folder that the environment variable
SEPCONV_DATA names:

    $SEPCONV_DATA/audio/free-spoken-digit-dataset-*.tar.gz      or the folder unpacked
    $SEPCONV_DATA/audio/speech_commands*.tar*                   or the folder unpacked

`load(folder=...)` takes your own recordings, of any sample rate and length:

    FOLDER/WORD/*.wav|flac|ogg                      one folder for each word
    FOLDER/{train,val,test}/WORD/*.wav|flac|ogg     the same, split; val and test may be absent

A folder without parts is split by `validation_list.txt` and `testing_list.txt`, if they are there,
and else by speaker, which is what a file's name begins with, up to the first `_`; or word by word
where no speakers can be held out so that every part has every word.
"""

import collections
import dataclasses
import hashlib
import io
import json
import math
import os
import re
import sys
import tarfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np

from examples import sources
from examples.audio.features import FLOOR, Settings, log_mel
from examples.sources import HELD_OUT, expect, files_below, part_folders, require, subfolders
from sepconv_layers import comparison

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}
NOISE_FOLDER = "_background_noise_"
UNKNOWN, SILENCE = "unknown", "silence"
TARGETS = ("bed", "cat", "happy")  # of the subset; else Google's ten
TEN = "yes no up down left right on off stop go".split()
MAX_SAMPLE_RATE = 16_000
HEADERS = 100  # recordings that are asked for their sample rate
DRAWS = 100  # of speakers to hold out, before words are held out one by one
FORM = 2  # of the files in the cache: counts up when it changes
NAMED = 5  # recordings of those that something is wrong with


@dataclasses.dataclass(frozen=True)
class Clip:
    """A recording that has not been read yet."""

    name: str
    word: str
    part: str
    read: Callable[[], bytes]
    offset: float = 0.0  # seconds


@dataclasses.dataclass(frozen=True)
class Dataset(sources.Dataset):
    """Spectrograms `(n, frames, bands)` and labels `(n,)`, by part, and what they were made of.

    Attributes:
        settings: How.
        clips: The recordings of the test part.
    """

    settings: Settings
    clips: Sequence[Clip]

    def waveforms(self, count: int) -> np.ndarray:
        """The first recordings of the test part, `(count, samples)`."""
        clips = self.clips[:count]
        return np.stack([_waveform(clip, clip.read(), self.settings) for clip in clips])


def load(
    name: str = "mini",
    *,
    folder: str | os.PathLike | None = None,
    speaker_independent: bool = False,
    limit: int | None = None,
    seconds: float = 1.0,
    cache: str | os.PathLike | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads a corpus, splits it where needed, and shuffles its training part.

    Args:
        name: "mini", "fsdd" or "speech_commands". Not used if `folder` is given.
        folder: Your own recordings (see the top of this file).
        speaker_independent: For "fsdd": hold out whole speakers, not takes of each.
        limit: Use at most this many training clips, in the proportions of the words.
        seconds: Length of a clip: shorter ones are padded on both sides, longer ones cut.
        cache: Folder to keep spectrograms in; by default one for all runs of this user.
        seed: Of splits and of the order.

    Returns:
        A `Dataset`.

    Raises:
        ValueError: If an argument, a folder or a file does not hold what is described here.
        RuntimeError: If a corpus is not in SEPCONV_DATA.
    """
    expect(limit is None or limit > 0, "`limit` must be a positive integer or None", limit)
    expect(seconds >= 0.1, "`seconds` must be 0.1 or more", seconds)
    if folder is None:
        expect(name in SOURCES, f"`name` must be one of {', '.join(SOURCES)}", repr(name))
        made = SOURCES[name](speaker_independent, seed)
    else:
        path = Path(folder).expanduser().resolve()
        expect(path.is_dir(), "`folder` must be an existing folder", repr(str(folder)))
        name, made = path.name, _own(path, seed)
    clips, sample_rate, note = made
    words = sorted({clip.word for clip in clips})
    settings = Settings(sample_rate, seconds)
    spectrograms, kept = _cached(clips, settings, Path(cache) if cache else _cache_folder())
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
        parts[part] = spectrograms[index[order]], labels[order]
    tested = [kept[i] for i in index[order]]
    return Dataset(
        name, **parts, classes=tuple(words), note=note, settings=settings, clips=tested
    )  # fmt: skip


def read(
    source: str | os.PathLike | io.BytesIO,
    sample_rate: int,
    offset: float = 0.0,
    duration: float | None = None,
) -> np.ndarray:
    """A recording, or some seconds of it, as numbers from -1 to 1, one channel, resampled.

    Raises:
        ValueError: If it cannot be decoded, or is empty.
    """
    soundfile, librosa = require("soundfile"), require("librosa")
    try:
        with soundfile.SoundFile(source) as file:
            rate = file.samplerate
            file.seek(round(offset * rate))
            frames = -1 if duration is None else round(duration * rate)
            waveform = file.read(frames, dtype="float32", always_2d=True).mean(axis=1)
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        reason = getattr(error, "error_string", error)  # without the address of a BytesIO
        raise ValueError(f"it cannot be decoded ({reason})") from error
    expect(len(waveform) > 0, "a recording must not be empty", "no samples")
    expect(bool(np.isfinite(waveform).all()), "samples must be finite", "others")
    return librosa.resample(waveform, orig_sr=rate, target_sr=sample_rate)


def fit_length(waveform: np.ndarray, samples: int) -> np.ndarray:
    """Pads on both sides with zeros, or cuts the middle out."""
    missing = samples - len(waveform)
    if missing < 0:
        return waveform[-missing // 2 :][:samples]
    return np.pad(waveform, (missing // 2, missing - missing // 2))


# Spectrograms, computed once


def _cache_folder() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "sepconv_layers" / "audio"


def _cached(
    clips: Sequence[Clip], settings: Settings, folder: Path
) -> tuple[np.ndarray, list[Clip]]:
    """Spectrograms of all clips that can be read, from the cache if it has them.

    A clip may be there several times, and is computed, kept and named once.
    """
    every, clips = clips, list(dict.fromkeys(clips))
    contents = [clip.read() for clip in clips]
    key = hashlib.sha256(repr((FORM, settings, FLOOR)).encode())
    digests: dict[int, bytes] = {}
    for clip, content in zip(clips, contents, strict=True):
        if id(content) not in digests:  # many clips may be of one recording
            digests[id(content)] = hashlib.sha256(content).digest()
        key.update(digests[id(content)] + repr(clip.offset).encode())
    path = folder / f"{key.hexdigest()[:24]}.npz"
    if path.exists():
        with np.load(path) as file:
            spectrograms, is_kept = file["spectrograms"], file["is_kept"]
            skipped = file["skipped"].tolist()
    else:
        spectrograms, is_kept, skipped = _compute(clips, contents, settings)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            arrays = {"spectrograms": spectrograms, "is_kept": is_kept, "skipped": skipped}
            comparison.write(path, lambda beside: np.savez_compressed(beside, **arrays))
        except OSError as error:  # a cache that cannot be written costs time, nothing else
            warnings.warn(f"Spectrograms are not kept for the next run: {error}.", stacklevel=3)
    if skipped:
        more = f"; and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
        named = "; ".join(skipped[:NAMED])
        warnings.warn(f"Skipped {len(skipped)} recordings: {named}{more}.", stacklevel=3)
    kept = [clip for clip, good in zip(clips, is_kept, strict=True) if good]
    place = {clip: i for i, clip in enumerate(kept)}
    kept = [clip for clip in every if clip in place]
    return spectrograms[[place[clip] for clip in kept]], kept


def _waveform(clip: Clip, content: bytes, settings: Settings) -> np.ndarray:
    duration = settings.seconds if clip.offset else None
    waveform = read(io.BytesIO(content), settings.sample_rate, clip.offset, duration)
    return fit_length(waveform, settings.samples)


def _compute(
    clips: Sequence[Clip], contents: Sequence[bytes], settings: Settings
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Spectrograms, which clips they are of, and what is wrong with the others."""
    spectrograms, is_kept, skipped = [], np.zeros(len(clips), bool), []
    progress = keras.utils.Progbar(len(clips), unit_name="clip", verbose=sys.stdout.isatty())
    for i, (clip, content) in enumerate(zip(clips, contents, strict=True)):
        try:
            waveform = _waveform(clip, content, settings)
        except ValueError as error:
            skipped.append(f"{clip.name}: {error}")
            continue
        spectrograms.append(log_mel(waveform, settings))
        is_kept[i] = True
        progress.update(i + 1)
    expect(bool(spectrograms), "There must be recordings that can be decoded", "none")
    return np.stack(spectrograms), is_kept, skipped


# Corpora


def _mini(speaker_independent: bool, seed: int) -> tuple[list[Clip], int, str]:
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
            soundfile.write(file, piece, rate, format="WAV", subtype="FLOAT")
            clips.append(Clip(f"{part} {i} ({voice})", word, part, file.getvalue))
    return (
        clips,
        about["sample_rate"],
        "Keywords of a speech synthesiser in 44 voices: no real speech",
    )


def _fsdd(speaker_independent: bool, seed: int) -> tuple[list[Clip], int, str]:
    files = dict(_files("free-spoken-digit-dataset", "the Free Spoken Digit Dataset"))
    found = {}
    for path, content in files.items():
        if match := re.search(r"recordings/(\d)_([^_/]+)_(\d+)\.wav$", path):
            found[path] = (*match.groups(), content)
    speakers = sorted({speaker for _, speaker, _, _ in found.values()})
    expect(len(found) > 0, "The corpus must hold recordings/DIGIT_SPEAKER_INDEX.wav", "none")
    clips = []
    for path, (digit, speaker, index, content) in sorted(found.items()):
        if speaker_independent:
            part = {speakers[-1]: "test", speakers[-2]: "val"}.get(speaker, "train")
        else:
            part = "test" if int(index) < 5 else "val" if int(index) < 10 else "train"
        clips.append(Clip(path, digit, part, content))
    split = f"{speakers[-1]} held out for testing" if speaker_independent else "official split"
    return clips, 8_000, f"Free Spoken Digit Dataset, {split}; CC BY-SA 4.0"


def _speech_commands(speaker_independent: bool, seed: int) -> tuple[list[Clip], int, str]:
    files = {}
    for path, content in _files("speech_commands", "Google's Speech Commands"):
        files["/".join(Path(path).parts[-2:]) if "/" in path else path] = content
    lists = {
        part: set(content().decode().split())
        for part, name in LISTS.items()
        for path, content in files.items()
        if path.split("/")[-1] == name
    }
    by_word: dict[str, list[str]] = {}
    for path in sorted(files):
        if Path(path).suffix in SUFFIXES and "/" in path:
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
        # Few recordings of other words: in training each is heard as often as one of a target,
        # altered each time, for a net that hears them seldom takes them for targets.
        repeats = max(1, per_word // len(chosen)) if part == "train" and len(chosen) else 1
        clips += [unknown[i] for i in chosen] * repeats
        clips += list(_silences(noises, files, part, min(per_word, len(chosen)), rng))
    learnt = {clip.word for clip in clips if clip.part == "train"}
    note = f"Google Speech Commands, {', '.join(targets)}, {UNKNOWN} and {SILENCE}; CC BY 4.0"
    return [clip for clip in clips if clip.word in learnt], 16_000, note


def _silences(
    noises: Sequence[str], files: dict, part: str, count: int, rng: np.random.Generator
) -> Iterator[Clip]:
    """Pieces of the recordings of noise: of each, the parts have stretches of their own."""
    first, last = {"train": (0.01, 0.6), "val": (0.62, 0.78), "test": (0.8, 0.96)}[part]
    soundfile = require("soundfile")
    contents = {path: files[path]() for path in noises}
    for i in range(count if noises else 0):
        path = noises[i % len(noises)]
        length = soundfile.info(io.BytesIO(contents[path])).duration
        offset = float(rng.uniform(first, last)) * length
        yield Clip(f"{path} at {offset:.2f} s", SILENCE, part, _constant(contents[path]), offset)


def _part_in(lists: dict[str, set], path: str) -> str:
    name = str(Path(path).with_suffix(".wav"))
    return next((part for part, names in lists.items() if name in names), "train")


def which_part(path: str) -> str:
    """The part of a file of Speech Commands, by the hash of its speaker."""
    speaker = re.sub(r"_nohash_.*$", "", Path(path).name)
    percent = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % (2**27) * 100 / (2**27 - 1)
    return "val" if percent < 10 else "test" if percent < 20 else "train"


SOURCES = {"mini": _mini, "fsdd": _fsdd, "speech_commands": _speech_commands}


def _files(prefix: str, what: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Path and content of all files of a corpus, in an archive or in a folder."""
    root = os.environ.get("SEPCONV_DATA")
    places = sorted(Path(root).expanduser().glob(f"audio/{prefix}*")) if root else []
    if not places:
        raise RuntimeError(
            f"{what} was not found. Get it, and set SEPCONV_DATA to a folder that holds "
            f"audio/{prefix}*, an archive or the folder unpacked. Received SEPCONV_DATA={root!r}."
        )
    if places[0].is_dir():
        for path in sorted(places[0].rglob("*")):
            if path.is_file():
                yield path.relative_to(places[0].parent).as_posix(), path.read_bytes
        return
    with tarfile.open(places[0]) as archive:
        for member in archive:
            if member.isfile():
                yield member.name, _constant(archive.extractfile(member).read())


def _constant(content: bytes) -> Callable[[], bytes]:
    return lambda: content


# Your own recordings


def _own(root: Path, seed: int) -> tuple[list[Clip], int, str]:
    roots = part_folders(root)
    found: dict[str, dict[str, list[Path]]] = {}
    for part, place in roots.items():
        words = {word: files_below(path, SUFFIXES) for word, path in subfolders(place).items()}
        found[part] = {word: paths for word, paths in words.items() if paths}
        found[part].pop(NOISE_FOLDER, None)
    words = list(found["train"])
    fix = f"Recordings end in {', '.join(SUFFIXES)}."
    if len(words) == 1:
        fix = f"If {words[0]!r} holds the folders of the words, give that folder."
    expected = (
        f"`folder` {roots['train']} must hold a folder of recordings for each word, two at least"
    )
    expect(len(words) > 1, expected, f"the words {words}", fix)
    for part, by_word in found.items():
        unknown = sorted(set(by_word) - set(words))
        expected = f"`folder` {roots[part]} must have the words of the training part, {words}"
        expect(not unknown, expected, f"also {unknown}", "Rename or remove the folders.")
    clips = [
        Clip(path.relative_to(root).as_posix(), word, part, path.read_bytes)
        for part, by_word in found.items()
        for word, paths in by_word.items()
        for path in paths
    ]
    absent = [part for part in HELD_OUT if part not in roots]
    part_of, how = _hold_out([clip for clip in clips if clip.part == "train"], root, absent, seed)
    clips = [dataclasses.replace(clip, part=part_of.get(clip.name, clip.part)) for clip in clips]
    return clips, _sample_rate(clips, root), f"Own recordings, {root.name}; {how}"


def _sample_rate(clips: list[Clip], root: Path) -> int:
    """The commonest one, of some recordings from all over the folder."""
    soundfile = require("soundfile")
    counts: collections.Counter[int] = collections.Counter()
    for clip in clips[:: math.ceil(len(clips) / HEADERS)]:
        try:
            counts[min(MAX_SAMPLE_RATE, soundfile.info(root / clip.name).samplerate)] += 1
        except soundfile.LibsndfileError:
            continue
    return max(counts, key=lambda rate: (counts[rate], rate), default=MAX_SAMPLE_RATE)


def _hold_out(
    clips: list[Clip], root: Path, absent: list[str], seed: int
) -> tuple[dict[str, str], str]:
    """Which clips go to the absent parts: by lists, else whole speakers, else word by word."""
    if not absent:
        return {}, "split as given"
    listed = [part for part in LISTS if part in absent and (root / LISTS[part]).exists()]
    part_of = {name: part for part in listed for name in _listed(root / LISTS[part], clips)}
    notes = [f"{part} by {LISTS[part]}" for part in listed]
    if others := [part for part in absent if part not in listed]:
        left = [clip for clip in clips if clip.name not in part_of]
        by_speaker = _by_speaker(left, others, np.random.default_rng(seed))
        part_of |= by_speaker or _by_word(left, others, np.random.default_rng(seed))
        notes.append(f"{' and '.join(others)} {'by speaker' if by_speaker else 'word by word'}")
    return part_of, f"held out: {', '.join(notes)}"


def _listed(path: Path, clips: list[Clip]) -> list[str]:
    """The clips that a list names, with any suffix. It may name others of words that are absent."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be text in UTF-8. Received: {error}.") from error
    lines = [line.strip() for line in lines if line.strip()]
    listed = {str(Path(line).with_suffix("")): line for line in lines}
    clip_names = {clip.name: str(Path(clip.name).with_suffix("")) for clip in clips}
    folders = {Path(name).parts[0] for name in clip_names}
    strange = sorted(
        listed[name]
        for name in set(listed).difference(clip_names.values())
        if len(Path(name).parts) == 1 or Path(name).parts[0] in folders
    )
    named = ", ".join(map(repr, strange[:NAMED]))
    if strange:
        warnings.warn(f"{path} names {len(strange)} that are not there: {named}.", stacklevel=2)
    found = [clip for clip, name in clip_names.items() if name in listed]
    expected = f"{path} must name recordings, one to a line, such as {clips[0].name!r}"
    expect(bool(found), expected, "none that is there")
    return found


def _by_speaker(clips: list[Clip], absent: list[str], rng: np.random.Generator) -> dict[str, str]:
    """Whole speakers for the absent parts; none if no draw leaves every word in every part."""
    words_of: dict[str, set[str]] = {}
    for clip in clips:
        words_of.setdefault(_speaker(clip), set()).add(clip.word)
    words = set().union(*words_of.values())
    for _ in range(DRAWS if len(words_of) > 4 and all(words_of) else 0):
        left, part_of = sorted(words_of), {}
        for part in absent:
            count = max(1, round(HELD_OUT[part] * len(left)))
            part_of |= dict.fromkeys(rng.permutation(left)[:count].tolist(), part)
            left = [speaker for speaker in left if speaker not in part_of]
        groups = [left, *([name for name in part_of if part_of[name] == part] for part in absent)]
        if all(words == set().union(*(words_of[name] for name in group)) for group in groups):
            return {clip.name: part_of.get(_speaker(clip), "train") for clip in clips}
    return {}


def _by_word(clips: list[Clip], absent: list[str], rng: np.random.Generator) -> dict[str, str]:
    """Some clips of each word for the absent parts."""
    part_of: dict[str, str] = {}
    for part in absent:
        for word in sorted({clip.word for clip in clips}):
            names = [clip.name for clip in clips if clip.word == word]
            names = sorted(name for name in names if name not in part_of)
            expected = f"Word {word!r} must have a recording for each part"
            expect(len(names) > 1, expected, f"too few to hold out for {part}")
            count = max(1, round(HELD_OUT[part] * len(names)))
            part_of |= dict.fromkeys(rng.permutation(names)[:count].tolist(), part)
    return part_of


def _speaker(clip: Clip) -> str:
    name, separator, _ = Path(clip.name).stem.partition("_")
    return name if separator else ""
