"""Image classification data sets as NumPy arrays: three public ones, or your own images.

`load("digits")` needs no download. "fashion_mnist" and "cifar10" are read from the folder that the
environment variable SEPCONV_DATA names, if it holds them, and are otherwise downloaded by Keras:

    $SEPCONV_DATA/keras_home/datasets/fashion-mnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz
    $SEPCONV_DATA/vision/cifar10_jpeg.npz

`load(folder=...)` takes your own images, as a folder or as a .npz file:

    FOLDER/CLASS/**/*.jpg                       one folder per class
    FOLDER/{train,val,test}/CLASS/**/*.jpg      the same, already split; val and test may be absent
    FILE.npz                                    x_train, y_train, x_test, y_test, x_val, y_val, or
                                                train_images, train_labels, ... as MedMNIST has them

A part that is absent is held out of the training part, in the proportions of the classes.
"""

import contextlib
import gzip
import io
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np

from examples.sources import (
    Dataset,
    Part,
    expect,
    files_below,
    local,
    part_folders,
    require,
    split,
    subfolders,
)

IMAGE = ("height", "width")
LARGEST_DEFAULT_SIZE = 96
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
ARCHIVE_ERRORS = (zipfile.BadZipFile, zlib.error)
ORIENTATION, QUARTER_TURNS = 0x0112, (5, 6, 7, 8)  # of EXIF
GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B")  # as Pillow names them
FASHION = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(",")
CIFAR = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck".split(",")

Source = tuple[dict[str, Part], list[str], str]  # parts, class names, origin and licence


def load(
    name: str = "digits",
    *,
    folder: str | os.PathLike | None = None,
    limit: int | None = None,
    image_size: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads a data set, splits it where needed and shuffles its training part.

    Args:
        name: "digits", "fashion_mnist" or "cifar10". Not used if `folder` is given.
        folder: Your own images: a folder, or a `.npz` file (see the top of this file).
        limit: Use at most this many training images, in the proportions of the classes.
            The validation and the test part stay whole.
        image_size: Height and width to which images are resized. What is not square is
            centre-cropped first, as Keras does by `crop_to_aspect_ratio=True`. Default: as they
            are; but image files of several sizes, or of more than 96 pixels, get the median of
            their shorter sides, rounded to a multiple of 8, 96 at the most.
        seed: Of the split, of the choice for `limit` and of the order: the same seed and the
            same files give the same result on every machine.

    Returns:
        A `Dataset` of images `(n, height, width, channels)` with values from 0 to 255. They are
        uint8, or float32 if a `.npz` file has floats. Images from files have one channel if all are
        grey, otherwise three; transparent parts become white.

    Raises:
        ValueError: If an argument, a folder or a file does not hold what is described here.
        RuntimeError: If a public set is neither in SEPCONV_DATA nor could be downloaded.
    """
    for argument, value in (("limit", limit), ("image_size", image_size)):
        valid = value is None or (isinstance(value, int | np.integer) and value > 0)
        expect(valid, f"`{argument}` must be a positive integer or None", repr(value))
    size = None if image_size is None else (int(image_size), int(image_size))
    if folder is None:
        names = ", ".join(SOURCES)
        fix = "For your own images, use `folder`."
        expect(name in SOURCES, f"`name` must be one of {names}", repr(name), fix)
        parts, classes, note = SOURCES[name]()
    else:
        path = Path(folder).expanduser().resolve()
        is_npz = path.is_file() and path.suffix.lower() == ".npz"
        name = path.stem if is_npz else path.name
        expected = "`folder` must be an existing folder of images or .npz file"
        expect(is_npz or path.is_dir(), expected, repr(str(folder)))
        parts, classes, note = from_npz(path) if is_npz else _from_folder(path)
    is_files = parts["train"][0].ndim == 1
    if is_files:
        parts, default_size, mode = _read_headers(parts)
    parts = split(parts, classes, limit, seed, "images")
    if is_files:
        parts = _decode(parts, classes, size or default_size, mode)
    elif size is not None:
        parts = {part: (_resize(images, size), labels) for part, (images, labels) in parts.items()}
    parts = {part: (images, labels.astype("int64")) for part, (images, labels) in parts.items()}
    return Dataset(name, **parts, classes=tuple(classes), note=note)


def _resize(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if images.shape[1:3] == size:
        return images
    result = np.empty((len(images), *size, images.shape[-1]), images.dtype)
    for i in range(0, len(images), 1000):  # a whole set in float32 may not fit into memory
        batch = keras.ops.image.resize(
            images[i : i + 1000].astype("float32"),
            size,
            antialias=True,
            crop_to_aspect_ratio=True,
            data_format="channels_last",
        )
        batch = np.clip(keras.ops.convert_to_numpy(batch), 0, 255)
        result[i : i + 1000] = np.rint(batch) if images.dtype == "uint8" else batch
    return result


# Public sets


def _digits() -> Source:
    digits = require("sklearn.datasets").load_digits()
    images = np.rint(digits.images * (255 / 16)).astype("uint8")[..., None]
    note = "Handwritten digits (UCI, from scikit-learn); CC BY 4.0"
    return {"train": (images, digits.target)}, list("0123456789"), note


def _fashion_mnist() -> Source:
    place = "keras_home/datasets/fashion-mnist"
    if found := local(place):
        kinds = ("images-idx3", "labels-idx1")
        train, test = (
            [_read_idx(found / f"{prefix}-{kind}-ubyte.gz") for kind in kinds]
            for prefix in ("train", "t10k")
        )
    else:
        train, test = _download("fashion_mnist", place)
    parts = {"train": (train[0][..., None], train[1]), "test": (test[0][..., None], test[1])}
    return parts, FASHION, "Fashion-MNIST, Zalando SE; MIT licence"


def _cifar10() -> Source:
    place = "vision/cifar10_jpeg.npz"
    note = "Krizhevsky 2009; no licence stated, for research"
    if found := local(place):
        note = f"CIFAR-10, JPEG copy (lossy), {note}"
        with open_npz(found) as file:
            train, test = (
                (_read_jpegs(file[f"{part}_jpeg"], file[f"{part}_offsets"]), file[f"{part}_labels"])
                for part in ("train", "test")
            )
    else:
        note = f"CIFAR-10, {note}"
        train, test = (  # (n, 3, 32, 32) where Keras is set to channels-first
            (np.moveaxis(images, 1, -1) if images.shape[1] == 3 else images, labels.reshape(-1))
            for images, labels in _download("cifar10", place)
        )
    return {"train": train, "test": test}, CIFAR, note


SOURCES = {"digits": _digits, "fashion_mnist": _fashion_mnist, "cifar10": _cifar10}


def _download(name: str, place: str) -> tuple[Part, Part]:
    try:
        return getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises a bare Exception if it cannot download
        raise RuntimeError(
            f"{name!r} could not be downloaded: {error}. Run this once where there is a network, "
            f"or set SEPCONV_DATA to a folder that holds {place}. "
            f"Received SEPCONV_DATA={os.environ.get('SEPCONV_DATA')!r}."
        ) from error


def _read_idx(path: Path) -> np.ndarray:
    with _reading(path), gzip.open(path) as file:
        raw = file.read()
        shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
        return np.frombuffer(raw, "uint8", offset=4 + 4 * len(shape)).reshape(shape)


def _read_jpegs(jpegs: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    Image = require("PIL.Image")
    images = np.empty((len(offsets) - 1, 32, 32, 3), "uint8")
    for i in range(len(images)):
        images[i] = Image.open(io.BytesIO(jpegs[offsets[i] : offsets[i + 1]].tobytes()))
    return images


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, LookupError, TypeError, ValueError, *ARCHIVE_ERRORS) as error:
        message = f"{path} is truncated or not what its name says ({error}). Get it again."
        if "Object arrays" in str(error):  # as NumPy calls them
            message = f"{path} must hold arrays of numbers or strings. Received objects. "
            message += "Labels become strings by y.astype(str)."
        raise ValueError(message) from error


@contextlib.contextmanager
def open_npz(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    # NumPy leaves a file open that it opened itself and cannot read.
    with _reading(path), path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        yield file


# Your own images


def from_npz(path: Path, axes: Sequence[str] = IMAGE) -> Source:
    """Reads and checks the arrays; labels become class indices, and values 0 to 255."""
    keys = {}
    with open_npz(path) as file:
        names = sorted(file.files)
        for part in ("train", "val", "test"):
            pairs = (f"x_{part}", f"y_{part}"), (f"{part}_images", f"{part}_labels")
            given = [pair for pair in pairs if not set(pair).isdisjoint(names)]
            if given or part == "train":
                keys[part] = (given or pairs)[0]
        wanted = [key for pair in keys.values() for key in pair]
        arrays = {key: np.asarray(file[key]) for key in wanted if key in names}
    absent = ", ".join(key for key in wanted if key not in arrays)
    expected = f"{path} must hold x_train, y_train (or train_images, train_labels) and, if you have"
    expected += " them, the same of test and val"
    expect(not absent, expected, ", ".join(names) or "nothing", f"Add {absent}.")

    images = {part: arrays[x_key] for part, (x_key, _) in keys.items()}
    labels = {part: arrays[y_key] for part, (_, y_key) in keys.items()}
    for part, (x_key, y_key) in keys.items():
        _check_arrays(x_key, images[part], y_key, labels[part], axes)
        like, received = (f"{x.shape[1:]}, {x.dtype}" for x in (images["train"], images[part]))
        expected = f"`{x_key}` must have the shape and type of the training part, {like}"
        expect(like == received, expected, received)

    # Numbers and strings can only be compared as strings.
    as_text = any(y.dtype.kind in "US" for y in labels.values())
    labels = {part: y.reshape(-1).astype("U" if as_text else y.dtype) for part, y in labels.items()}
    classes = np.unique(labels["train"])
    expected = f"`{keys['train'][1]}` must hold at least two classes"
    expect(len(classes) > 1, expected, classes.tolist())
    for part, y in labels.items():
        unknown = np.setdiff1d(y, classes).tolist()
        expected = f"`{keys[part][1]}` must hold labels of the training part, {classes.tolist()}"
        expect(not unknown, expected, f"also {unknown}")

    dtype = np.dtype("float32" if images["train"].dtype.kind == "f" else "uint8")
    scale = dtype.type(255 if max(x.max() for x in images.values()) <= 1 else 1)
    parts = {}
    for part, x in images.items():
        x = x.astype(dtype, copy=False).reshape(*x.shape[: 1 + len(axes)], -1)
        parts[part] = (x if scale == 1 else x * scale), np.searchsorted(classes, labels[part])
    names = [" ".join(str(name).split()) for name in classes]  # in one line
    return parts, names, f"Own data, {path.name}"


def _check_arrays(
    x_key: str, x: np.ndarray, y_key: str, y: np.ndarray, axes: Sequence[str]
) -> None:
    received = f"shape {x.shape}, dtype {x.dtype}"
    with_channels = len(axes) + 2
    valid = x.ndim in (with_channels - 1, with_channels) and 0 not in x.shape
    names = ", ".join(("n", *axes))
    expected = f"`{x_key}` must be of shape ({names}) or ({names}, channels)"
    expect(valid, f"{expected}, none of them 0", received)
    # Of volumes, these may be few slices with many channels.
    is_image = x.ndim == with_channels and axes == IMAGE
    channels_first = is_image and x.shape[1] in (1, 3) and x.shape[-1] > 4
    fix = f"Use np.moveaxis({x_key}, 1, -1)."
    expect(not channels_first, f"`{x_key}` must have its channels last", received, fix)
    expected = f"`{x_key}` must hold numbers from 0 to 255, or from 0 to 1"
    expect(x.dtype.kind in "buif", expected, received)
    low, high = x.min(), x.max()
    expect(0 <= low and high <= 255, expected, f"{low} to {high}")  # false for NaN, too
    valid = y.shape in ((len(x),), (len(x), 1)) and y.dtype.kind in "buiUS"
    expected = f"`{y_key}` must hold one integer or string for each of the {len(x)} samples"
    fix = f"If the labels are one-hot: np.argmax({y_key}, axis=1). If floats: {y_key}.astype(int)."
    expect(valid, expected, f"shape {y.shape}, dtype {y.dtype}", fix)


def _from_folder(root: Path) -> Source:
    """Lists the image files by part and class; in place of images it gives their paths."""
    roots = part_folders(root)
    files = {
        part: {name: _images(folder) for name, folder in subfolders(place).items()}
        for part, place in roots.items()
    }
    classes = list(files["train"])
    expected = f"`folder` {roots['train']} must hold one folder of images for each class, two at"
    fix = f"Images end in {', '.join(SUFFIXES)}."
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
        paths = [path for name in classes for path in by_class[name]]
        parts[part] = np.array(paths), np.array(labels)
    return parts, classes, f"Own images, {root.name}"


def _images(folder: Path) -> list[str]:
    return sorted(path.as_posix() for path in files_below(folder, SUFFIXES))


def _check_all_classes(labels, classes: list[str], where: str) -> None:
    present = set(labels)
    absent = [name for label, name in enumerate(classes) if label not in present]
    expected = f"{where} must have readable images of every class"
    fix = f"Images end in {', '.join(SUFFIXES)}; add some, or remove the class everywhere."
    expect(not absent, expected, f"none of {absent}", fix)


def _read_headers(parts: dict[str, Part]) -> tuple[dict[str, Part], tuple[int, int], str]:
    """Drops files that are no images; gives the default size and the mode of the rest."""
    Image = require("PIL.Image")
    readable, sizes, grey, skipped = {}, [], True, {}
    for part, (files, labels) in parts.items():
        for file in files:
            try:
                with Image.open(file) as image:
                    is_turned = image.getexif().get(ORIENTATION, 1) in QUARTER_TURNS
                    sizes.append(image.size[::-1] if is_turned else image.size)
                    grey = grey and image.mode in GREY_MODES
            except Exception as error:  # Pillow raises errors of many types
                skipped[file] = error
        readable[part] = _without(skipped, files, files, labels)
    _warn_of(skipped)
    size = (8, 8)
    if len(set(sizes)) == 1 and max(sizes[0]) <= LARGEST_DEFAULT_SIZE:
        size = sizes[0][::-1]  # Pillow has (width, height)
    elif sizes:
        median = np.median([min(size) for size in sizes])
        size = (min(LARGEST_DEFAULT_SIZE, max(8, 8 * round(median / 8))),) * 2
    return readable, size, "L" if grey else "RGB"


def _decode(parts: dict[str, Part], classes: list[str], size: tuple[int, int], mode: str):
    """Reads the images at one size and with one number of channels."""
    Image = require("PIL.Image")
    total = sum(len(files) for files, _ in parts.values())
    progress = keras.utils.Progbar(total, unit_name="image", interval=0.5)
    decoded, skipped = {}, {}
    for part, (files, labels) in parts.items():
        images = np.empty((len(files), *size, 1 if mode == "L" else 3), "uint8")
        for i, file in enumerate(files):
            try:
                with Image.open(file) as image:
                    images[i] = _pixels(image, mode, size).reshape(images.shape[1:])
            except Exception as error:  # as above; a truncated file shows only now
                skipped[file] = error
            progress.add(1)
        decoded[part] = _without(skipped, files, images, labels)
    _warn_of(skipped)
    for part, (_, labels) in decoded.items():
        _check_all_classes(labels, classes, f"The {part} part")
    return decoded


def _without(skipped: dict, files: np.ndarray, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    keep = np.array([file not in skipped for file in files], bool)
    return arrays if keep.all() else tuple(array[keep] for array in arrays)


def _warn_of(skipped: dict) -> None:
    if skipped:
        some = "; ".join(f"{file} ({error})" for file, error in list(skipped.items())[:10])
        more = ", the first ten" * (len(skipped) > 10)
        warnings.warn(f"Skipped {len(skipped)} unreadable images{more}: {some}.", stacklevel=4)


def _pixels(image, mode: str, size: tuple[int, int]) -> np.ndarray:
    Image, ImageOps = require("PIL.Image"), require("PIL.ImageOps")
    image.draft(None, (2 * size[1], 2 * size[0]))  # a large JPEG is decoded at a smaller scale
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits, which convert() would clip at 255
        image = Image.fromarray((np.asarray(image) // 256).astype("uint8"))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.asarray(ImageOps.fit(image.convert(mode), size[::-1], Image.Resampling.BILINEAR))
