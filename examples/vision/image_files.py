"""Your own image files, in one folder for each class: listed, and decoded at one size.

Every format that Pillow decodes by itself is read. Grayscale images of 16 or 32 bits, such as
X-rays or depth maps, often use a small part of the range of their type. They are scaled by the
range of the training part, in all parts and in prediction.
"""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import keras
import numpy as np

from examples.arrays import Source
from examples.folders import expect_classes, files_by_class, part_folders
from examples.sources import Part, expect, expect_file, printable, require

LARGEST_DEFAULT_SIZE = 96
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
        parts[part] = np.array(paths), np.array(labels)
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
            except Exception as error:  # as above; truncation is noticed only here
                skipped[file] = error
            progress.add(1)
        decoded[part] = _without(skipped, files, images, labels)
    _warn_of(skipped)
    for part, (_, labels) in decoded.items():
        _check_all_classes(labels, classes, f"The {part} part")
    return decoded


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
    image = ImageOps.exif_transpose(image)
    if (kind := image.mode[0]) in DEEP:  # convert() would clip them at 255
        low, high = ranges.get(kind, (0.0, DEEP[kind]))
        share = (_deep_values(image) - low) / (high - low)
        image = Image.fromarray(np.rint(255 * share.clip(0, 1)).astype("uint8"))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.asarray(ImageOps.fit(image.convert(mode), size[::-1], Image.Resampling.BILINEAR))
