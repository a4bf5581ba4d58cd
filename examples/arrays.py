"""Your own images or volumes as arrays in a `.npz` file: checked, and scaled to 0 to 255."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from examples.sources import Part, expect, npz_names, read_npz

IMAGE = ("height", "width")
MOST_CHANNELS = 4  # of images, or of a single slice
OVERSHOOT = 1.5  # the largest value that resampling makes of floats from 0 to 1

Source = tuple[dict[str, Part], list[str], str]  # parts, class names, origin and license


def from_npz(path: Path, axes: Sequence[str] = IMAGE) -> tuple[Source, str]:
    """Reads and checks the arrays. Labels become class indices, and values are scaled to 0 to 255.

    Args:
        path: The file.
        axes: The names of the spatial axes.

    Returns:
        Parts, classes and origin, and how values were scaled, in words.

    Raises:
        ValueError: If the arrays are not images or volumes and their labels.
    """
    keys = {}
    names = npz_names(path)
    for part in ("train", "val", "test"):
        pairs = (f"x_{part}", f"y_{part}"), (f"{part}_images", f"{part}_labels")
        given = [pair for pair in pairs if not set(pair).isdisjoint(names)]
        if given or part == "train":
            keys[part] = (given or pairs)[0]
    wanted = [key for pair in keys.values() for key in pair]
    absent = ", ".join(key for key in wanted if key not in names)
    expected = f"{path} must hold x_train, y_train (or train_images, train_labels) and, if you have"
    expected += " them, the same for test and val"
    expect(not absent, expected, ", ".join(names) or "nothing", f"Add {absent}.")
    arrays = read_npz(path, wanted)

    images = {part: arrays[x_key] for part, (x_key, _) in keys.items()}
    labels = {part: arrays[y_key] for part, (_, y_key) in keys.items()}
    for part, (x_key, y_key) in keys.items():
        _check_arrays(x_key, images[part], y_key, labels[part], axes)
        like, received = (f"{x.shape[1:]}, {x.dtype}" for x in (images["train"], images[part]))
        expected = f"`{x_key}` must have the shape and type of the training part, {like}"
        expect(like == received, expected, received)
    unit = _is_unit({keys[part][0]: x for part, x in images.items()})

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
    parts = {}
    for part, x in images.items():
        x = x.astype(dtype, copy=False).reshape(*x.shape[: 1 + len(axes)], -1)
        parts[part] = (x * dtype.type(255) if unit else x), np.searchsorted(classes, labels[part])
    names = [" ".join(str(name).split()) for name in classes]  # without line breaks
    scaling = "Values from 0 to 1 were multiplied by 255. Scale new samples the same way."
    return (parts, names, f"Own data, {path.name}"), scaling * unit


def _check_arrays(
    x_key: str, x: np.ndarray, y_key: str, y: np.ndarray, axes: Sequence[str]
) -> None:
    received = f"shape {x.shape}, dtype {x.dtype}"
    with_channels = len(axes) + 2
    valid = x.ndim in (with_channels - 1, with_channels) and 0 not in x.shape
    names = ", ".join(("n", *axes))
    expected = f"`{x_key}` must be of shape ({names}) or ({names}, channels)"
    expect(valid, f"{expected}, none of them 0", received)
    # A volume may have three slices and many channels, but not a single slice.
    first = (1, 3) if axes == IMAGE else (1,)
    channels_first = x.ndim == with_channels and x.shape[1] in first and x.shape[-1] > MOST_CHANNELS
    fix = f"Use np.moveaxis({x_key}, 1, -1)."
    expect(not channels_first, f"`{x_key}` must have its channels last", received, fix)
    if x.ndim == with_channels and x.shape[1] <= MOST_CHANNELS < x.shape[-1]:
        read_as = f"{axes[0]} {x.shape[1]} and {x.shape[-1]} channels"
        print(f"`{x_key}` is read as having {read_as}. If its channels come first: {fix}")
    expected = f"`{x_key}` must hold numbers from 0 to 255, or from 0 to 1"
    expect(x.dtype.kind in "buif", expected, received)
    low, high = x.min(), x.max()
    fix = "Scale all parts by the range of the training part."
    expect(0 <= low and high <= 255, expected, f"{low} to {high}", fix)  # NaN fails, too
    valid = y.shape in ((len(x),), (len(x), 1)) and y.dtype.kind in "buiUS"
    expected = f"`{y_key}` must hold one integer or string for each of the {len(x)} samples"
    fix = f"If the labels are one-hot: np.argmax({y_key}, axis=1). If floats: {y_key}.astype(int)."
    expect(valid, expected, f"shape {y.shape}, dtype {y.dtype}", fix)


def _is_unit(images: dict[str, np.ndarray]) -> bool:
    """Returns whether values are from 0 to 1. All parts must agree."""
    highest = {key: x.max() for key, x in images.items()}
    most = OVERSHOOT if any(x.dtype.kind == "f" for x in images.values()) else 1
    # A part that is all zeros fits either scale.
    units = {key: high <= most for key, high in highest.items() if high > 0}
    received = ", ".join(f"`{key}` up to {high:g}" for key, high in highest.items())
    fix = "Divide or multiply some of the parts by 255."
    same = len(set(units.values())) < 2
    expect(same, "All parts must hold numbers from 0 to 255, or all from 0 to 1", received, fix)
    return bool(units) and all(units.values())
