"""Your own images as files, in a folder for each class: listed, and decoded at one size.

All is read that Pillow decodes by itself. Gray images of 16 or 32 bits, such as X-rays or depth,
often use little of what such numbers can be: their values are scaled by the range of those in the
training part, which then holds for all others.
"""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import keras
import numpy as np

from examples.arrays import Source
from examples.sources import (
    Part,
    expect,
    expect_file,
    files_by_class,
    part_folders,
    printable,
    require,
)

LARGEST_DEFAULT_SIZE = 96
ORIENTATION, QUARTER_TURNS = 0x0112, (5, 6, 7, 8)  # of EXIF
GRAY_MODES = ("1", "L", "LA", "F", "I", "I;16", "I;16B", "I;16L", "I;16N")  # as Pillow names them
DEEP = {"I": 65535.0, "F": 255.0}  # what begins the modes of deep images: their white, as a rule
NOT_DECODED = {"EPS", "MPEG"}  # by Pillow: by Ghostscript, or not at all
NAMED = "They end in .jpg, .png, .tif or another of what Pillow reads"

Ranges = Mapping[str, tuple[float, float]]  # of deep images of a kind: their black and white


def suffixes() -> tuple[str, ...]:
    """How the names of files end that Pillow decodes, without the help of other programs."""
    Image, ImageFile = require("PIL.Image"), require("PIL.ImageFile")
    endings = Image.registered_extensions()  # which also looks for all formats

    def is_decoded(kind: str) -> bool:
        opener = Image.OPEN[kind][0] if kind in Image.OPEN else None
        is_stub = isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile)
        return bool(opener) and not is_stub and kind not in NOT_DECODED

    return tuple(sorted(ending for ending, kind in endings.items() if is_decoded(kind)))


def from_folder(root: Path) -> Source:
    """Lists the image files by part and class; in place of images it gives their paths."""
    roots = part_folders(root)
    files = files_by_class(roots, suffixes(), "images")
    classes = list(files["train"])
    expected = f"`folder` {roots['train']} must hold one folder of images for each class, two at"
    fix = f"{NAMED}."
    if len(classes) == 1:
        fix = f"If {classes[0]!r} holds the class folders, give {roots['train'] / classes[0]}."
    expect(len(classes) > 1, f"{expected} least", f"the folders {classes}", fix)
    parts = {}
    for part, by_class in files.items():
        unknown = sorted(set(by_class) - set(classes))
        expected = f"`folder` {roots[part]} must have the classes of the training part, {classes}"
        expect(not unknown, expected, f"also {unknown}", "Rename or remove the folders.")
        labels = [label for label, name in enumerate(classes) for _ in by_class.get(name, ())]
        _check_all_classes(labels, classes, f"`folder` {roots[part]}")
        paths = [path.as_posix() for name in classes for path in by_class[name]]
        parts[part] = np.array(paths), np.array(labels)
    return parts, classes, f"Own images, {printable(root.name)}"


def _check_all_classes(labels, classes: list[str], where: str) -> None:
    present = set(labels)
    absent = [name for label, name in enumerate(classes) if label not in present]
    expected = f"{where} must have readable images of every class"
    fix = f"{NAMED}; add some, or remove the class everywhere."
    expect(not absent, expected, f"none of {absent}", fix)


def read_headers(
    parts: dict[str, Part],
) -> tuple[dict[str, Part], tuple[int, int], str, set[str]]:
    """Drops files that are no images; gives size, mode and deep ones of the rest."""
    readable, sizes, gray, deep, skipped = {}, [], True, set(), {}
    halved = 0  # images
    for part, (files, labels) in parts.items():
        for file in files:
            try:
                with open_image(file) as image:
                    is_deep = image.mode[0] in DEEP
                    deep |= {file} if is_deep else set()
                    # Before EXIF is looked for, which decodes a PNG and forgets how.
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
            f"{halved:,} image{'s' * (halved > 1)} of several channels with 16 bits: Pillow reads "
            "the upper 8. Convert those that use little of their range, or they become all dark."
        )
    size = (8, 8)
    if len(set(sizes)) == 1 and max(sizes[0]) <= LARGEST_DEFAULT_SIZE:
        size = sizes[0][::-1]  # Pillow has (width, height)
    elif sizes:
        median = np.median([min(size) for size in sizes])
        size = (min(LARGEST_DEFAULT_SIZE, max(8, 8 * round(median / 8))),) * 2
    return readable, size, "L" if gray else "RGB", deep


def decode(
    parts: dict[str, Part], classes: list[str], size: tuple[int, int], mode: str, ranges: Ranges
) -> dict[str, Part]:
    """Reads the images at one size and with one number of channels."""
    total = sum(len(files) for files, _ in parts.values())
    progress = keras.utils.Progbar(total, unit_name="image", interval=0.5)
    decoded, skipped = {}, {}
    for part, (files, labels) in parts.items():
        images = np.empty((len(files), *size, 1 if mode == "L" else 3), "uint8")
        for i, file in enumerate(files):
            try:
                with open_image(file) as image:
                    images[i] = pixels(image, mode, size, ranges).reshape(images.shape[1:])
            except Exception as error:  # as above; a truncated file shows only now
                skipped[file] = error
            progress.add(1)
        decoded[part] = _without(skipped, files, images, labels)
    _warn_of(skipped)
    for part, (_, labels) in decoded.items():
        _check_all_classes(labels, classes, f"The {part} part")
    return decoded


def open_image(file: str | Path):
    """An image whose pixels are not decoded yet. Pillow refuses those of too many."""
    Image = require("PIL.Image")
    expect_file(Path(file))
    with warnings.catch_warnings():  # of large ones, such as come from good cameras
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(file)


def _without(skipped: dict, files: np.ndarray, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    keep = np.array([file not in skipped for file in files], bool)
    return arrays if keep.all() else tuple(array[keep] for array in arrays)


def _warn_of(skipped: dict) -> None:
    if skipped:
        some = "; ".join(f"{file} ({error})" for file, error in list(skipped.items())[:10])
        more = ", the first ten" * (len(skipped) > 10)
        message = f"Skipped {len(skipped)} unreadable images{more}: {some}."
        warnings.warn(message, stacklevel=4)


def ranges_of(files: Iterable[str]) -> Ranges:
    """Black and white of deep images, by kind, where they use less than half of what they could.

    What others were given keeps its meaning: white is 65,535, or 255 where values are floats.
    """
    found: dict[str, tuple[float, float]] = {}
    for file in files:
        try:
            with open_image(file) as image:
                values = _deep_values(image)
                low, high = found.get(image.mode[0], (np.inf, -np.inf))
                found[image.mode[0]] = min(low, values.min()), max(high, values.max())
        except Exception:  # whoever decodes it says so
            continue
    return {
        kind: (float(low), float(high))
        for kind, (low, high) in found.items()
        if low < high and not (low >= 0 and DEEP[kind] / 2 <= high - low and high <= DEEP[kind])
    }


def scaling(ranges: Ranges) -> str:
    """What was done to values, in words."""
    kinds = {"I": "16 or 32 bits", "F": "floats"}
    return " ".join(
        f"Gray images of {kinds[kind]}: values from {low:g} to {high:g}, which are those of the "
        "training part, became 0 to 255: so must be what the nets are given."
        for kind, (low, high) in ranges.items()
    )


def _deep_values(image) -> np.ndarray:
    values = np.asarray(image).astype("float64")
    expect(bool(np.isfinite(values).all()), "an image must have finite values", "others")
    return values


def pixels(image, mode: str, size: tuple[int, int], ranges: Ranges) -> np.ndarray:
    """An image at a size, in values from 0 to 255."""
    Image, ImageOps = require("PIL.Image"), require("PIL.ImageOps")
    image.draft(None, (2 * size[1], 2 * size[0]))  # a large JPEG is decoded at a smaller scale
    image = ImageOps.exif_transpose(image)
    if (kind := image.mode[0]) in DEEP:  # which convert() would clip at 255
        low, high = ranges.get(kind, (0.0, DEEP[kind]))
        share = (_deep_values(image) - low) / (high - low)
        image = Image.fromarray(np.rint(255 * share.clip(0, 1)).astype("uint8"))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.asarray(ImageOps.fit(image.convert(mode), size[::-1], Image.Resampling.BILINEAR))
