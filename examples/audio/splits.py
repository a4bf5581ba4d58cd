"""Your own recordings, and how some are held out: by lists, by speaker, or for each word."""

import collections
import dataclasses
import math
import os
import warnings
from pathlib import Path, PurePath

import numpy as np

from examples.audio.reading import SUFFIXES, Clip, header
from examples.folders import expect_classes, files_by_class, part_folders
from examples.sources import HELD_OUT, expect, printable, read_file

LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}
NOISE_FOLDER = "_background_noise_"
MAX_SAMPLE_RATE = 16_000
HEADERS = 100  # recordings whose sample rates are counted
SPEAKERS = 5  # fewer are not held out
DRAWS = 100  # random choices of speakers: the first one near enough is used, or else the best
NEAR, FAR = 1.25, 2  # ratio of the size of a part to its share, or the inverse, if that is larger
NAMED = 5  # recordings in a message


def load_folder(root: Path, seed: int) -> tuple[list[Clip], int, str]:
    """Returns the recordings in a folder, one sample rate for all, and how they are split."""
    roots = part_folders(root)
    found = {
        part: {word: paths for word, paths in by_word.items() if paths and word != NOISE_FOLDER}
        for part, by_word in files_by_class(roots, SUFFIXES, "recordings").items()
    }
    endings = f"Recordings must end in one of {', '.join(SUFFIXES)}."
    expect_classes(roots, found, "recordings", "words", endings)
    clips = [
        Clip(printable(path.relative_to(root).as_posix()), word, part, path)
        for part, by_word in found.items()
        for word, paths in by_word.items()
        for path in paths
    ]
    absent = [part for part in HELD_OUT if part not in roots]
    part_of, how = hold_out([clip for clip in clips if clip.part == "train"], root, absent, seed)
    clips = [dataclasses.replace(clip, part=part_of.get(clip.name, clip.part)) for clip in clips]
    return clips, _sample_rate(clips), f"Own recordings, {printable(root.name)}; {how}"


def _sample_rate(clips: list[Clip]) -> int:
    """Returns the most common sample rate among recordings from all over the folder."""
    counts: collections.Counter[int] = collections.Counter()
    for clip in clips[:: math.ceil(len(clips) / HEADERS)]:
        try:
            counts[min(MAX_SAMPLE_RATE, header(clip.source)[0])] += 1
        except ValueError:
            continue
    return max(counts, key=lambda rate: (counts[rate], rate), default=MAX_SAMPLE_RATE)


def hold_out(
    clips: list[Clip], root: Path, absent: list[str], seed: int
) -> tuple[dict[str, str], str]:
    """Returns the clips of missing parts, by lists, by speaker or by word, and how, in words."""
    if not absent:
        return {}, "split as given"
    listed = [part for part in LISTS if part in absent and os.path.lexists(root / LISTS[part])]
    part_of = {name: part for part in listed for name in _listed(root / LISTS[part], clips)}
    notes = [f"{part} by {LISTS[part]}" for part in listed]
    if others := [part for part in absent if part not in listed]:
        left = [clip for clip in clips if clip.name not in part_of]
        by_speaker, why_not = _by_speaker(left, others, np.random.default_rng(seed))
        part_of |= by_speaker or _by_word(left, others, np.random.default_rng(seed))
        how = "by speaker" if by_speaker else f"word by word{why_not}"
        notes.append(f"{' and '.join(others)} {how}")
    return part_of, f"held out: {', '.join(notes)}"


def _listed(path: Path, clips: list[Clip]) -> list[str]:
    """Returns the clips that a list names, with any ending. It may name clips of missing words."""
    try:
        lines = read_file(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be text in UTF-8. Received: {error}.") from error
    lines = [line.strip() for line in lines if line.strip()]
    listed = {_stem(line): line for line in lines}
    clip_names = {clip.name: _stem(clip.name) for clip in clips}
    folders = {PurePath(name).parts[0] for name in clip_names}
    strange = sorted(
        listed[name]
        for name in set(listed).difference(clip_names.values())
        if len(PurePath(name).parts) <= 1 or PurePath(name).parts[0] in folders
    )
    named = ", ".join(map(repr, strange[:NAMED]))
    if strange:
        warnings.warn(f"{path} names {len(strange)} that do not exist: {named}.", stacklevel=2)
    found = [clip for clip, name in clip_names.items() if name in listed]
    expected = f"{path} must name recordings, one per line, such as {clips[0].name!r}"
    expect(bool(found), expected, "none that exists")
    return found


def _stem(name: str) -> str:
    return str(PurePath(os.path.splitext(name)[0]))


def _by_speaker(
    clips: list[Clip], absent: list[str], rng: np.random.Generator
) -> tuple[dict[str, str], str]:
    """Returns whole speakers for the missing parts, or none and the reason."""
    words_of: dict[str, set[str]] = {}
    for clip in clips:
        words_of.setdefault(speaker_of(clip), set()).add(clip.word)
    clips_of = collections.Counter(map(speaker_of, clips))
    words = set().union(*words_of.values())
    if len(words_of) < SPEAKERS or "" in words_of:
        return {}, ""
    best: dict[str, str] = {}
    smallest_miss = math.inf
    for draw in range(DRAWS):
        left, part_of, miss = sorted(words_of), {}, 1.0
        for part in absent:
            share = max(HELD_OUT[part] * sum(clips_of[name] for name in left), len(words))
            # A random size: the best choice for one part may leave no good choice for the next.
            aim = share * rng.uniform(0.5, 1.5) if draw else share
            held_out = _first_speakers(rng.permutation(left).tolist(), clips_of, aim)
            size = max(1, sum(clips_of[name] for name in held_out))
            miss = max(miss, size / share, share / size)
            part_of |= dict.fromkeys(held_out, part)
            left = [name for name in left if name not in part_of]
        groups = [left, *([name for name in part_of if part_of[name] == part] for part in absent)]
        if miss < smallest_miss and all(
            words == set().union(*(words_of[name] for name in group)) for group in groups
        ):
            best, smallest_miss = part_of, miss
        if smallest_miss <= NEAR:
            break
    if smallest_miss > FAR:
        why = ", because whole speakers would leave a part far from its share of the clips"
        return {}, why * bool(best)
    return {clip.name: best.get(speaker_of(clip), "train") for clip in clips}, ""


def _first_speakers(
    speakers: list[str], clips_of: collections.Counter[str], aim: float
) -> list[str]:
    """Returns the first speakers, except those whose clips would lead away from the target size."""
    first, size = [], 0
    for speaker in speakers:
        if not first or abs(size + clips_of[speaker] - aim) < abs(size - aim):
            first.append(speaker)
            size += clips_of[speaker]
    return first


def _by_word(clips: list[Clip], absent: list[str], rng: np.random.Generator) -> dict[str, str]:
    """Returns some clips of each word for the missing parts."""
    part_of: dict[str, str] = {}
    for part in absent:
        for word in sorted({clip.word for clip in clips}):
            names = [clip.name for clip in clips if clip.word == word]
            names = sorted(name for name in names if name not in part_of)
            expected = f"Word {word!r} must have a recording for each part"
            expect(len(names) > 1, expected, f"too few to hold one out for {part}")
            count = max(1, round(HELD_OUT[part] * len(names)))
            part_of |= dict.fromkeys(rng.permutation(names)[:count].tolist(), part)
    return part_of


def speaker_of(clip: Clip) -> str:
    """Returns the start of a file name, up to the first `_`, or nothing if there is none."""
    name, separator, _ = PurePath(clip.name).stem.partition("_")
    return name if separator else ""
