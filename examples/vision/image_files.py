"""Your own image files, in one folder for each class: listed, and decoded at one size.

Every format that Pillow decodes by itself is read. Grayscale images of 16 or 32 bits, such as
X-rays or depth maps, often use a small part of the range of their type. They are scaled by the
range of the training part, in all parts and in prediction.
"""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from examples import cache
from examples.arrays import Source
from examples.folders import expect_classes, files_by_class, part_folders
from examples.sources import VANISHED, Part, expect, expect_file, printable, require

LARGEST_DEFAULT_SIZE = 96
FORM = 1  # version of the files in the cache
ORIENTATION, QUARTER_TURNS = 0x0112, (5, 6, 7, 8)  # of EXIF
GRAY_MODES = ("1", "L", "LA", "F", "I", "I;16", "I;16B", "I;16L", "I;16N")  # of Pillow
DEEP = {"I": 65535.0, "F": 255.0}  # first letter of the mode of deep images: their usual white
NOT_DECODED = {"EPS", "MPEG"}  # registered by Pillow, but it needs Ghostscript, or cannot decode
ENDINGS = "Images must end in .jpg, .png, .tif or another ending that Pillow reads"

Ranges = Mapping[str, tuple[float, float]]  # kind of deep image: its black and white


def suffixes() -> tuple[str, ...]:
    """Returns the endings of the files that Pillow decodes without other programs."""
    Image, ImageFile = require("PIL.Image"), require("PIL.ImageFile")
    endings = Image.registered_extensions()  # this also loads all formats

    def is_decoded(kind: str) -> bool:
        opener = Image.OPEN[kind][0] if kind in Image.OPEN else None
        is_stub = isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile)
        return bool(opener) and not is_stub and kind not in NOT_DECODED

    return tuple(sorted(ending for ending, kind in endings.items() if is_decoded(kind)))


def from_folder(root: Path) -> Source:
    """Lists the image files by part and class. The parts hold paths in place of images."""
    roots = part_folders(root)
    files = files_by_class(roots, suffixes(), "images")
    classes = expect_classes(roots, files, "images", "classes", f"{ENDINGS}.")
    parts = {}
    for part, by_class in files.items():
        labels = [label for label, name in enumerate(classes) for _ in by_class.get(name, ())]
        _check_all_classes(labels, classes, f"`folder` {roots[part]}")
        paths = [path.as_posix() for name in classes for path in by_class[name]]
        # Objects: an array of text has the length of the longest path for each.
        parts[part] = np.array(paths, object), np.array(labels)
    return parts, classes, f"Own images, {printable(root.name)}"


def _check_all_classes(labels, classes: list[str], where: str) -> None:
    present = set(labels)
    absent = [name for label, name in enumerate(classes) if label not in present]
    expected = f"{where} must have readable images of every class"
    fix = f"{ENDINGS}. Add some, or remove the class everywhere."
    expect(not absent, expected, f"none of {absent}", fix)


def read_headers(
    parts: dict[str, Part],
) -> tuple[dict[str, Part], tuple[int, int], str, set[str]]:
    """Drops files that cannot be read as images.

    Returns:
        The other files by part, the size and mode to decode them in, and which ones are deep.
    """
    readable, sizes, gray, deep, skipped = {}, [], True, set(), {}
    halved = 0  # images
    for part, (files, labels) in parts.items():
        for file in files:
            try:
                with open_image(file) as image:
                    is_deep = image.mode[0] in DEEP
                    deep |= {file} if is_deep else set()
                    # Before looking for EXIF data, which decodes a PNG and clears `tile`.
                    halved += not is_deep and any(";16" in str(tile) for tile in image.tile)
                    is_turned = image.getexif().get(ORIENTATION, 1) in QUARTER_TURNS
                    sizes.append(image.size[::-1] if is_turned else image.size)
                    gray = gray and image.mode in GRAY_MODES
            except Exception as error:  # Pillow raises errors of many types
                skipped[file] = error
        readable[part] = _without(skipped, files, files, labels)
    _warn_of(skipped)
    if halved:
        print(
            f"{halved:,} image{'s' * (halved > 1)} with several 16-bit channels: Pillow reads the "
            "upper 8 bits. Convert images that use a small part of the range: they would be almost "
            "black."
        )
    size = (8, 8)
    if len(set(sizes)) == 1 and max(sizes[0]) <= LARGEST_DEFAULT_SIZE:
        size = sizes[0][::-1]  # Pillow has (width, height)
    elif sizes:
        median = np.median([min(size) for size in sizes])
        size = (min(LARGEST_DEFAULT_SIZE, max(8, 8 * round(median / 8))),) * 2
    return readable, size, "L" if gray else "RGB", deep


class Images:
    """Images in files, read by index: those of a batch are decoded in parallel.

    Args:
        files: The paths.
        size: Height and width.
        mode: "L" or "RGB".
        ranges: Black and white of deep images.
    """

    def __init__(self, files: np.ndarray, size: tuple[int, int], mode: str, ranges: Ranges) -> None:
        self.files, self.size, self.mode, self.ranges = files, size, mode, ranges
        self.shape = (len(files), *size, 1 if mode == "L" else 3)
        self.dtype = np.dtype("uint8")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        files = self.files[index]
        images = np.empty((len(files), *self.shape[1:]), self.dtype)
        for i, found in enumerate(cache.in_parallel(self.decoded, files)):
            if isinstance(found, Exception):
                raise ValueError(
                    f"{files[i]} {VANISHED} ({found}). Run the same command again: "
                    "it goes on, or starts again without the image."
                )
            images[i] = found
        return images

    def decoded(self, file: str) -> np.ndarray | Exception:
        """Returns the pixels of a file `(height, width, channels)`, or why it cannot be decoded."""
        try:
            with open_image(file) as image:
                found = pixels(image, self.mode, self.size, self.ranges)
        except Exception as error:  # Pillow raises errors of many types
            return error
        return found.reshape(self.shape[1:])

    def key(self) -> str:
        """Returns a hash of all that the images depend on: settings, and the state of the files."""
        root = os.path.commonpath([os.path.dirname(file) for file in self.files])
        states = [(os.path.relpath(file, root), cache.state_of(file)) for file in self.files]
        settings = self.size, self.mode, sorted(self.ranges.items())
        return cache.key_of(FORM, require("PIL").__version__, *settings, states)


def decode(
    parts: dict[str, Part],
    classes: list[str],
    size: tuple[int, int],
    mode: str,
    ranges: Ranges,
    folder: Path | None,
) -> dict[str, Part]:
    """Reads the images at one size and with one number of channels.

    Those that fit into a small share of memory become arrays. Others come from a cache that is
    mapped into memory. Without one, each is decoded now, to find out which ones are damaged, and
    then again whenever it is needed.
    """
    images = Images(np.concatenate([files for files, _ in parts.values()]), size, mode, ranges)
    errors: dict[int, str] = {}
    source, digest = _source_of(images, errors, folder)
    _warn_of({images.files[i]: error for i, error in errors.items()})
    decoded, start = {}, 0
    for part, (files, labels) in parts.items():
        places, start = np.arange(start, start + len(files)), start + len(files)
        kept = ~np.isin(places, list(errors))
        _check_all_classes(labels[kept], classes, f"The {part} part")
        if digest or not kept.all():
            found = cache.ordered(source, places[kept], digest)
        else:  # neighbors in an array are no copy
            found = source[places[0] : start]
        decoded[part] = found, labels[kept]
    return decoded


def _source_of(images: Images, errors: dict[int, str], folder: Path | None) -> tuple[Any, str]:
    """Returns the decoded images as a source, and its hash if it is not in memory.

    Args:
        images: The files.
        errors: Gets the place of each file that cannot be decoded, and why.
        folder: The cache, if there is one.
    """

    def decoded() -> Iterator[np.ndarray]:
        progress = keras.utils.Progbar(len(images), unit_name="image", interval=0.5)
        for i, found in enumerate(cache.in_parallel(images.decoded, images.files)):
            if isinstance(found, Exception):
                errors[i] = str(found)
                found = np.zeros(images.shape[1:], images.dtype)
            progress.add(1)
            yield found

    def make(add: cache.Add) -> None:
        add(cache.SAMPLES, images.shape, images.dtype, decoded())
        places, reasons = np.array(list(errors), int), np.array(list(errors.values()), "U")
        add("places", places.shape, places.dtype, [places])
        add("reasons", reasons.shape, reasons.dtype, [reasons])

    def check(arrays: Mapping[str, np.ndarray]) -> bool:
        found, places = arrays[cache.SAMPLES], arrays["places"]
        right = places.shape == arrays["reasons"].shape and places.dtype.kind == "i"
        return right and found.shape == images.shape and found.dtype == images.dtype

    if folder is not None:
        stored = cache.stored(folder, images.key(), make, check, ("places", "reasons"), "images")
        others = stored.others
        errors.update(zip(others["places"].tolist(), others["reasons"].tolist(), strict=True))
        return stored.samples, stored.digest
    if cache.size_of(images.shape, images.dtype) > cache.IN_MEMORY:
        for _ in decoded():
            continue
        return images, images.key()
    found = np.empty(images.shape, images.dtype)
    for i, image in enumerate(decoded()):
        found[i] = image
    return found, ""


def open_image(file: str | Path):
    """Opens an image without decoding it yet. Pillow refuses images with too many pixels."""
    Image = require("PIL.Image")
    expect_file(Path(file))
    with warnings.catch_warnings():  # about images as large as those of good cameras
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(str(file))


def _without(skipped: dict, files: np.ndarray, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    keep = np.array([file not in skipped for file in files], bool)
    return arrays if keep.all() else tuple(array[keep] for array in arrays)


def _warn_of(skipped: dict) -> None:
    if skipped:
        some = "; ".join(f"{file} ({error})" for file, error in list(skipped.items())[:10])
        more = ", the first ten" * (len(skipped) > 10)
        images = "images" if len(skipped) > 1 else "image"
        message = f"Skipped {len(skipped)} unreadable {images}{more}: {some}."
        warnings.warn(message, stacklevel=4)


def ranges_of(files: Iterable[str]) -> Ranges:
    """Returns black and white of the kinds of deep images that use less than half of their range.

    For other kinds, white stays 65,535, or 255 for floats.
    """
    found: dict[str, tuple[float, float]] = {}
    for file in files:
        try:
            with open_image(file) as image:
                values = _deep_values(image)
                low, high = found.get(image.mode[0], (np.inf, -np.inf))
                found[image.mode[0]] = min(low, values.min()), max(high, values.max())
        except Exception:  # reported when it is decoded
            continue
    return {
        kind: (float(low), float(high))
        for kind, (low, high) in found.items()
        if low < high and not (low >= 0 and DEEP[kind] / 2 <= high - low and high <= DEEP[kind])
    }


def scaling(ranges: Ranges) -> str:
    """Returns how values were scaled, in words."""
    kinds = {"I": "16 or 32 bits", "F": "floats"}
    return " ".join(
        f"Grayscale images of {kinds[kind]}: values from {low:g} to {high:g}, the range of the "
        "training part, became 0 to 255. Scale new images the same way."
        for kind, (low, high) in ranges.items()
    )


def _deep_values(image) -> np.ndarray:
    values = np.asarray(image).astype("float64")
    expect(bool(np.isfinite(values).all()), "an image must have finite values", "inf or nan")
    return values


def pixels(image, mode: str, size: tuple[int, int], ranges: Ranges) -> np.ndarray:
    """Returns the pixels of an image, resized, with values from 0 to 255."""
    Image, ImageOps = require("PIL.Image"), require("PIL.ImageOps")
    image.draft(None, (2 * size[1], 2 * size[0]))  # a large JPEG is decoded at a smaller scale
    ImageOps.exif_transpose(image, in_place=True)  # and otherwise copied
    if (kind := image.mode[0]) in DEEP:  # convert() would clip them at 255
        low, high = ranges.get(kind, (0.0, DEEP[kind]))
        share = (_deep_values(image) - low) / (high - low)
        image = Image.fromarray(np.rint(255 * share.clip(0, 1)).astype("uint8"))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    image = image if image.mode == mode else image.convert(mode)
    return np.asarray(ImageOps.fit(image, size[::-1], Image.Resampling.BILINEAR))
