"""Your own recordings, and which of them are held out: by lists, by speaker, or word by word."""

import collections
import dataclasses
import math
import os
import warnings
from pathlib import Path, PurePath

import numpy as np

from examples.audio.reading import SUFFIXES, Clip, head
from examples.sources import HELD_OUT, expect, files_by_class, part_folders, printable, read_file

LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}
NOISE_FOLDER = "_background_noise_"
MAX_SAMPLE_RATE = 16_000
HEADERS = 100  # recordings that are asked for their sample rate
SPEAKERS = 5  # at least, to hold some out
DRAWS = 100  # of speakers to hold out: the first is taken that is near enough, or the best
NEAR, FAR = 1.25, 2  # times the clips that a part should have, or one part in so many of them
NAMED = 5  # recordings of those that something is wrong with


def own(root: Path, seed: int) -> tuple[list[Clip], int, str]:
    """The recordings in a folder, the sample rate for all, and how they are split."""
    roots = part_folders(root)
    found = {
        part: {word: paths for word, paths in by_word.items() if paths and word != NOISE_FOLDER}
        for part, by_word in files_by_class(roots, SUFFIXES, "recordings").items()
    }
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
    """The commonest one, of some recordings from all over the folder."""
    counts: collections.Counter[int] = collections.Counter()
    for clip in clips[:: math.ceil(len(clips) / HEADERS)]:
        try:
            counts[min(MAX_SAMPLE_RATE, head(clip.source)[0])] += 1
        except ValueError:
            continue
    return max(counts, key=lambda rate: (counts[rate], rate), default=MAX_SAMPLE_RATE)


def hold_out(
    clips: list[Clip], root: Path, absent: list[str], seed: int
) -> tuple[dict[str, str], str]:
    """Which clips go to the absent parts: by lists, else whole speakers, else word by word."""
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
    """The clips that a list names, with any suffix. It may name others of words that are absent."""
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
        warnings.warn(f"{path} names {len(strange)} that are not there: {named}.", stacklevel=2)
    found = [clip for clip, name in clip_names.items() if name in listed]
    expected = f"{path} must name recordings, one to a line, such as {clips[0].name!r}"
    expect(bool(found), expected, "none that is there")
    return found


def _stem(name: str) -> str:
    return str(PurePath(os.path.splitext(name)[0]))


def _by_speaker(
    clips: list[Clip], absent: list[str], rng: np.random.Generator
) -> tuple[dict[str, str], str]:
    """Whole speakers for the absent parts; or none, and why."""
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
            # Not always the share: what suits one part may leave none that suit the next.
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
        why = ", for whole speakers would leave a part far from its share of the clips"
        return {}, why * bool(best)
    return {clip.name: best.get(speaker_of(clip), "train") for clip in clips}, ""


def _first_speakers(
    speakers: list[str], clips_of: collections.Counter[str], aim: float
) -> list[str]:
    """The first ones, without those whose clips would lead away from what is aimed at."""
    first, size = [], 0
    for speaker in speakers:
        if not first or abs(size + clips_of[speaker] - aim) < abs(size - aim):
            first.append(speaker)
            size += clips_of[speaker]
    return first


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


def speaker_of(clip: Clip) -> str:
    """The beginning of a file's name, up to the first `_`; nothing if there is none."""
    name, separator, _ = PurePath(clip.name).stem.partition("_")
    return name if separator else ""
