"""Images and arrays as others store them: other endings, more bits, other scales, other axes."""

import dataclasses
import os
import struct
import zlib

import keras
import numpy as np
import pytest
from PIL import Image

from examples import nets
from examples.command_line import default_output
from examples.vision import data, image_files, predict
from tests.test_vision_data import PARTS, sizes, write_classes, write_image, write_npz

# Endings


@pytest.mark.parametrize("ending", [".jfif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif"])
def test_what_pillow_reads_is_read(tmp_path, ending):
    if ending not in image_files.suffixes():
        pytest.skip("this Pillow does not read it")
    write_classes(tmp_path, 3)
    for path in sorted(tmp_path.rglob("*.png")):
        mode = "RGB" if ending in (".jp2", ".avif", ".ppm") else "L"
        Image.open(path).convert(mode).save(path.with_suffix(ending))
        path.rename(path.with_suffix(".PNG"))
    dataset = data.load(folder=tmp_path)
    assert sum(sizes(dataset)) == 12
    assert np.abs(np.sort(dataset.train[0].mean((1, 2, 3))) % 100).max() < 4


def test_other_programs_are_not_run_for_images():
    endings = set(image_files.suffixes())
    assert {".jpg", ".png", ".gif", ".bmp", ".webp"} <= endings  # as always
    assert not endings & {".eps", ".ps", ".wmf", ".emf", ".h5", ".hdf", ".mpg", ".pdf", ".grib"}


def write_deep(root, values, suffix=".png"):
    """Writes gray images of these values, of one class each."""
    for label, some in enumerate(values):
        (root / f"class{label}").mkdir(parents=True)
        for i, value in enumerate(some):
            image = Image.fromarray(np.full((16, 16), value))
            image.save(root / f"class{label}" / f"{i}{suffix}")
    return root


@pytest.mark.parametrize(
    ("dtype", "suffix", "low", "high", "black", "white"),
    [
        ("uint16", ".png", 300, 420, 300, 420),
        ("uint16", ".tif", 0, 4_095, 0, 4_095),  # X-rays of twelve bits
        ("uint16", ".png", 0, 65_535, 0, 65_535),
        ("uint16", ".png", 5_000, 60_000, 0, 65_535),  # what uses most of it stays as it is
        ("int32", ".tif", -1_000, 3_000, -1_000, 3_000),  # as in tomography
        ("int32", ".tif", 0, 255, 0, 255),
        ("int32", ".tif", 0, 2**20, 0, 2**20),
        ("float32", ".tif", 0.5, 4.5, 0.5, 4.5),  # meters
        ("float32", ".tif", 0, 1, 0, 1),
        ("float32", ".tif", 10, 250, 0, 255),
        ("uint16", ".png", 300, 300, 0, 65_535),  # constant
    ],
)
def test_deep_images_are_scaled_by_what_the_training_part_uses(
    tmp_path, dtype, suffix, low, high, black, white
):
    some = np.linspace(low, high, 9).astype(dtype)
    beyond = np.array([low - (high - low), high + (high - low) / 2], "float64")
    if dtype == "uint16":
        beyond = beyond.clip(0, 65_535)
    write_deep(tmp_path / "train", [some, some[::-1]], suffix)
    write_deep(tmp_path / "test", [beyond.astype(dtype)] * 2, suffix)
    dataset = data.load(folder=tmp_path)

    def scaled(values):
        share = (values.astype(dtype).astype("float64") - black) / (white - black)
        return np.rint(255 * share.clip(0, 1))

    for part, given in (("train", some), ("val", some), ("test", beyond)):
        images = getattr(dataset, part)[0]
        assert images.dtype == "uint8" and images.shape[1:] == (16, 16, 1)
        assert set(np.unique(images)) <= set(scaled(given))
    own = {"u": "I", "i": "I", "f": "F"}[np.dtype(dtype).kind]
    is_own = (black, white) not in ((0, 65_535), (0, 255)) or (own, white) == ("I", 255)
    assert dataset.ranges == ({own: (black, white)} if is_own else {})
    assert (f"values from {black:g} to {white:g}" in dataset.scaling) == is_own


def test_shallow_images_beside_deep_ones_stay_as_they_are(tmp_path):
    write_deep(tmp_path, [np.arange(300, 421, 12).astype("uint16")] * 2)
    for label in (0, 1):
        for i in range(9):
            write_image(tmp_path / f"class{label}" / f"x{i}.jpg", 77, mode="L")
    dataset = data.load(folder=tmp_path)
    found = set(np.concatenate([np.unique(getattr(dataset, part)[0]) for part in PARTS]))
    assert 77 in found and {0, 255} <= found


def test_deep_images_that_are_not_finite_are_skipped(tmp_path):
    write_deep(tmp_path, [np.linspace(1, 2, 9).astype("float32")] * 2, ".tif")
    for name, value in (("a", np.nan), ("b", np.inf)):
        image = Image.fromarray(np.full((16, 16), value, "float32"))
        image.save(tmp_path / "class0" / f"{name}.tif")
    with pytest.warns(UserWarning, match="Skipped [12] unreadable image.*must have finite values"):
        dataset = data.load(folder=tmp_path)
    assert dataset.ranges == {"F": (1, 2)} and sum(sizes(dataset)) == 18


def test_images_of_too_many_pixels_are_skipped_and_large_ones_read(tmp_path, monkeypatch):
    write_classes(tmp_path, 4)
    write_image(tmp_path / "cat" / "bomb.png", 7, size=(40, 40), mode="L")
    write_image(tmp_path / "cat" / "large.png", 8, size=(20, 20), mode="L")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with pytest.warns(UserWarning, match="Skipped 1 unreadable.*bomb.png.*1600 pixels") as caught:
        dataset = data.load(folder=tmp_path)
    assert len(caught) == 1 and sum(sizes(dataset)) == 9


def write_png(path, color_type, values):
    """A PNG with 16 bits in each channel, which Pillow writes of gray images alone."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind, content):
        sum_ = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + sum_

    head = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    chunks = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


@pytest.mark.parametrize(("color_type", "channels"), [(2, 3), (4, 2), (6, 4), (0, 1)])
def test_what_is_lost_of_several_deep_channels_is_said(tmp_path, capsys, color_type, channels):
    write_classes(tmp_path)
    values = np.full((16, 16, channels), 65_535)
    values[0, 0, 0] = 400
    write_png(tmp_path / "cat" / "deep.png", color_type, values)
    dataset = data.load(folder=tmp_path)
    assert sum(sizes(dataset)) == 21 and max(getattr(dataset, part)[0].max() for part in PARTS)
    said = "1 image with several 16-bit channels: Pillow reads the upper 8 bits." in (
        capsys.readouterr().out
    )
    assert said == (channels > 1)


# Predictions


def a_run(tmp_path, folder, size=16, channels=1, **changes):
    """A net that gives the mean of an image, and what a run writes beside it."""
    dataset = data.load(folder=folder)
    images = keras.Input((size, size, channels))
    means = keras.layers.GlobalAveragePooling2D()(images)
    logits = keras.layers.Dense(2, kernel_initializer="ones")(means)
    model = keras.Model(images, logits)
    model.save(tmp_path / "separable.keras")
    predict.save_about(dataclasses.replace(dataset, **changes), tmp_path)
    return dataset


@pytest.mark.parametrize(
    ("dtype", "suffix", "values"),
    [
        ("uint16", ".png", (300, 320, 340, 360, 380, 400, 420)),
        ("float32", ".tif", (-1.5, -1, 0, 1, 2, 3, 4)),
        ("int32", ".tif", (-1_000, 0, 40, 500, 900, 1_000, 3_000)),
        ("uint8", ".png", (0, 9, 30, 99, 180, 200, 255)),
    ],
)
def test_predictions_scale_images_as_the_training_did(tmp_path, dtype, suffix, values):
    write_deep(tmp_path / "own", [np.array(values * 2, dtype)] * 2, suffix)
    dataset = a_run(tmp_path, tmp_path / "own")
    model, about = predict.load(tmp_path / "separable.keras")
    found = {
        int(predict.image_of(path, model, about["ranges"]).max())
        for path in (tmp_path / "own").rglob(f"*{suffix}")
    }
    trained = np.concatenate([getattr(dataset, part)[0][:, 0, 0, 0] for part in PARTS])
    assert found == set(trained.tolist())


def test_predict_says_what_is_wrong(tmp_path, capsys):
    write_classes(tmp_path / "own")
    image = str(tmp_path / "own" / "cat" / "0.png")
    (tmp_path / "no.png").write_bytes(b"no image")
    a_run(tmp_path, tmp_path / "own")
    model = str(tmp_path / "separable.keras")
    predict.main([model, image, "--top", "1"])
    assert "cat/0.png: dog 0.500\n" in capsys.readouterr().out  # both are as likely

    def said(*arguments):
        with pytest.raises(SystemExit, match="2"):
            predict.main(list(arguments))
        return capsys.readouterr().err

    assert "no.png is truncated or not what its name says" in said(model, str(tmp_path / "no.png"))
    assert "absent.png cannot be read: No such file" in said(model, str(tmp_path / "absent.png"))
    assert "a folder" in said(model, str(tmp_path))
    assert "results.json" in said(str(tmp_path), image)
    a_run(tmp_path, tmp_path / "own", classes=("a", "b", "c"))
    assert "must be a model of the run that wrote" in said(model, image)
    a_run(tmp_path, tmp_path / "own", channels=5)
    assert "must take gray or colored images. Received 5 channels" in said(model, image)
    (tmp_path / predict.ABOUT).write_text('{"classes": ' + "[" * 100_000)
    assert "images.json is truncated or not what its name says" in said(model, image)
    (tmp_path / predict.ABOUT).unlink()
    assert "images.json cannot be read: No such file" in said(model, image)


# What is printed before a training, and where its results go


class Stop(Exception):
    """In the place of a training."""


@pytest.mark.parametrize("name", ["plain", "a[1]", "b\\c", "[x]"])
@pytest.mark.parametrize("kind", ["folder", "images", "volumes", "texts"])
def test_sizes_of_all_parts_are_printed_and_default_outputs_can_be_loaded(
    tmp_path, capsys, monkeypatch, name, kind
):
    if os.name == "nt" and "\\" in name:
        pytest.skip("a separator there")
    place = tmp_path / name
    if kind == "folder":
        write_classes(place)
    elif kind == "texts":
        place = place.with_suffix(".tsv")
        lines = (f"{label}\t{label} is text {i}\n" for i in range(10) for label in ("ham", "spam"))
        place.write_text("".join(lines))
    else:
        shape = (20, 6, 5, 4)[: 4 if kind == "volumes" else 3]
        place = tmp_path / f"{name}.npz"
        np.savez(place, x_train=np.zeros(shape, "uint8"), y_train=np.arange(20) % 2)
    outputs = []

    def stop(*arguments, output, **options):
        outputs.append(output)
        raise Stop

    example = {"texts": "text.train", "volumes": "volumes.train"}.get(kind, "vision.train")
    module = pytest.importorskip(f"examples.{example}")
    monkeypatch.setattr(nets, "compare", stop)
    with pytest.raises(Stop):
        module.main(["--data", str(place)])
    samples = "images" if kind == "folder" else kind
    assert f"14 training, 2 validation and 4 test {samples}" in capsys.readouterr().out
    example = {"texts": "text", "volumes": "volumes"}.get(kind, "vision")
    assert outputs[0].parent == default_output(example, "x").parent
    assert not set(outputs[0].name) & set("[]\\")


# Scales of arrays


@pytest.mark.parametrize("other", ["x_train", "x_val", "x_test"])
@pytest.mark.parametrize("dtype", ["float16", "float64", "uint8"])
def test_npz_of_two_scales_is_refused(tmp_path, other, dtype):
    rng = np.random.default_rng(0)
    small = (rng.random((60, 6, 5)) * (2 if dtype == "uint8" else 1)).astype(dtype)
    large = (rng.random((60, 6, 5)) * 255).astype(dtype)
    y = np.arange(60) % 3
    for given, else_ in ((small, large), (large, small)):
        arrays = {"x_train": else_, "x_val": else_, "x_test": else_, other: given}
        labels = {"y_train": y, "y_val": y, "y_test": y}
        path = write_npz(tmp_path / "a.npz", **arrays, **labels)
        with pytest.raises(ValueError, match="All parts must hold numbers from 0 to 255.*`x_test`"):
            data.load(folder=path)


def test_npz_of_one_scale_says_so_and_a_black_part_is_of_any(tmp_path):
    images = np.random.default_rng(0).random((60, 6, 5)) * 1.02  # as resampled ones are
    path = write_npz(tmp_path / "a.npz", x_train=images, x_test=np.zeros((12, 6, 5)))
    dataset = data.load(folder=path)
    assert dataset.train[0].max() > 250 and "were multiplied by 255" in dataset.scaling
    black = np.zeros((12, 6, 5), "uint8")
    path = write_npz(tmp_path / "b.npz", x_test=black)
    assert data.load(folder=path).scaling == ""
    path = write_npz(
        tmp_path / "c.npz",
        x_train=np.zeros((60, 6, 5), "uint8"),
        x_test=np.zeros((12, 6, 5), "uint8"),
    )
    assert data.load(folder=path).scaling == ""
