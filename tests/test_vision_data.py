"""The image data of `examples/vision`: public sets, folders of image files, .npz files."""

import gzip
import os
import shutil
import sys
import zipfile

import keras
import numpy as np
import pytest
from PIL import Image

from examples.folders import files_below
from examples.vision import data

PARTS = ("train", "val", "test")


def sizes(dataset):
    return [len(getattr(dataset, part)[1]) for part in PARTS]


def write_image(path, color=(10, 20, 30), size=(16, 16), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path, **options)
    return path


def write_classes(root, count=10, classes=("cat", "dog"), first=0):
    """Writes `count` images per class, each of its own gray value, with gaps between classes."""
    for label, name in enumerate(classes):
        for i in range(count):
            write_image(root / name / f"{i}.png", first + label * 100 + i, mode="L")
    return root


def values(part):
    """The gray values and labels of a part of `write_classes`."""
    images, labels = part
    return [(int(image[0, 0, 0]), int(label)) for image, label in zip(images, labels, strict=True)]


def write_npz(path, **changes):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (60, 6, 5), "uint8"),
        "y_train": np.repeat([0, 1, 2], 20),
        "x_test": rng.integers(0, 256, (12, 6, 5), "uint8"),
        "y_test": np.repeat([0, 1, 2], 4),
    }
    arrays |= changes
    np.savez(path, **{key: array for key, array in arrays.items() if array is not None})
    return path


# The public sets


def test_digits_are_split_once_and_in_proportion():
    from sklearn.datasets import load_digits

    dataset = data.load("digits")
    assert sizes(dataset) == [1259, 179, 359]
    assert dataset.classes == tuple("0123456789") and "CC BY 4.0" in dataset.note
    rows = []
    for part in PARTS:
        images, labels = getattr(dataset, part)
        assert images.dtype == "uint8" and images.shape[1:] == (8, 8, 1) and images.max() == 255
        assert np.issubdtype(labels.dtype, np.integer)
        share = np.bincount(labels) / len(labels)
        assert np.abs(share - 0.1).max() < 0.015
        rows += [
            (*image.ravel().tolist(), int(label))
            for image, label in zip(images, labels, strict=True)
        ]
    # Every image of the source is in exactly one part, with its label.
    digits = load_digits()
    original = np.rint(digits.images.reshape(len(digits.images), -1) * 255 / 16).astype(int)
    expected = [(*x, y) for x, y in zip(original.tolist(), digits.target.tolist(), strict=True)]
    assert len(set(rows)) == len(rows) and set(rows) == set(expected)


def test_the_seed_decides_the_split():
    first, again, other = (data.load("digits", seed=seed) for seed in (0, 0, 1))
    for part in PARTS:
        for a, b in zip(getattr(first, part), getattr(again, part), strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first.test[0], other.test[0])


def test_training_labels_are_shuffled():
    labels = data.load("digits").train[1]
    assert (np.diff(labels) != 0).mean() > 0.8


def test_limit_is_stratified_nested_and_leaves_val_and_test():
    whole, small, smaller = (data.load("digits", limit=limit) for limit in (None, 100, 15))
    assert sizes(small) == [100, *sizes(whole)[1:]] and len(smaller.train[1]) == 15
    assert np.bincount(small.train[1]).tolist() == pytest.approx([10] * 10, abs=1)
    assert set(smaller.train[1]) == set(range(10))
    images = [{image.tobytes() for image in d.train[0]} for d in (smaller, small, whole)]
    assert images[0] < images[1] < images[2]
    for part in ("val", "test"):
        np.testing.assert_array_equal(getattr(small, part)[0], getattr(whole, part)[0])
    assert sizes(data.load("digits", limit=10**6)) == sizes(whole)


def test_image_size_resizes_a_public_set():
    plain, large = data.load("digits", limit=20), data.load("digits", limit=20, image_size=24)
    assert large.train[0].shape == (20, 24, 24, 1) and large.train[0].dtype == "uint8"
    assert large.test[0].mean() == pytest.approx(plain.test[0].mean(), rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "mnist"}, "`name` must be one of digits, fashion_mnist, cifar10.*'mnist'.*`fold"),
        ({"limit": 0}, "`limit` must be a positive integer.*Received 0"),
        ({"limit": 2.5}, "`limit` must be a positive integer.*Received 2.5"),
        ({"limit": 9}, "`limit` must be at least the number of classes, 10. Received 9"),
        ({"image_size": -1}, "`image_size` must be a positive integer.*Received -1"),
        ({"folder": "no/such/folder"}, "`folder` must be an existing folder.*no/such/folder"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.load(**arguments)


needs_data = pytest.mark.skipif(
    not os.environ.get("SEPCONV_DATA"), reason="SEPCONV_DATA names no folder of data sets"
)


@needs_data
@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [("fashion_mnist", (28, 28, 1), 60_000), ("cifar10", (32, 32, 3), 50_000)],
)
def test_local_public_sets(name, shape, count):
    dataset = data.load(name)
    assert sizes(dataset) == [count * 9 // 10, count // 10, 10_000]
    for part in PARTS:
        images, labels = getattr(dataset, part)
        assert images.shape[1:] == shape and images.dtype == "uint8" and labels.dtype == "int64"
        assert np.bincount(labels).tolist() == [len(labels) // 10] * 10
    assert (np.diff(dataset.train[1]) != 0).mean() > 0.85
    assert len(dataset.classes) == 10
    assert ("JPEG copy (lossy)" in dataset.note) == (name == "cifar10")


@needs_data
def test_a_truncated_public_file_is_named(tmp_path, monkeypatch):
    place = "keras_home/datasets/fashion-mnist"
    shutil.copytree(os.path.join(os.environ["SEPCONV_DATA"], place), tmp_path / place)
    path = tmp_path / place / "t10k-images-idx3-ubyte.gz"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1000])
    monkeypatch.setenv("SEPCONV_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="t10k-images-idx3-ubyte.gz is truncated or not what"):
        data.load("fashion_mnist")


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + array.tobytes())


def test_local_idx_files_are_read_without_a_download(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    folder = tmp_path / "keras_home/datasets/fashion-mnist"
    folder.mkdir(parents=True)
    images = {part: rng.integers(0, 256, (100, 28, 28), "uint8") for part in ("train", "t10k")}
    labels = np.repeat(np.arange(10), 10).astype("uint8")
    for part, array in images.items():
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(array))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    monkeypatch.setenv("SEPCONV_DATA", str(tmp_path))
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", None)
    dataset = data.load("fashion_mnist")
    assert sizes(dataset) == [90, 10, 100] and dataset.classes[1] == "Trouser"
    np.testing.assert_array_equal(dataset.test[0][..., 0], images["t10k"])
    np.testing.assert_array_equal(dataset.test[1], labels)


@pytest.mark.parametrize("channels_first", [False, True])
def test_download_by_keras(monkeypatch, channels_first):
    images = np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3), "uint8")
    labels = np.arange(100).reshape(-1, 1) % 10
    given = np.moveaxis(images, -1, 1) if channels_first else images
    monkeypatch.delenv("SEPCONV_DATA", raising=False)
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: ((given, labels),) * 2)
    dataset = data.load("cifar10")
    assert sizes(dataset) == [90, 10, 100] and "JPEG" not in dataset.note
    np.testing.assert_array_equal(dataset.test[0], images)
    assert dataset.test[1].shape == (100,)


def test_offline_error_says_what_to_do(monkeypatch, tmp_path):
    def no_network():
        raise Exception("URL fetch failure on https://example.org")

    monkeypatch.setenv("SEPCONV_DATA", str(tmp_path))
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", no_network)
    with pytest.raises(RuntimeError, match="'cifar10' could not.*URL fetch.*network.*SEPCONV_DATA"):
        data.load("cifar10")


# Folders of image files


def test_folder_of_classes(tmp_path):
    write_classes(tmp_path / "pets", 20)
    dataset = data.load(folder=tmp_path / "pets")
    assert dataset.name == "pets" and dataset.classes == ("cat", "dog")
    assert sizes(dataset) == [28, 4, 8] and dataset.train[0].shape == (28, 16, 16, 1)
    seen = [pair for part in PARTS for pair in values(getattr(dataset, part))]
    assert sorted(seen) == sorted((label * 100 + i, label) for label in (0, 1) for i in range(20))
    for part in PARTS:
        assert np.ptp(np.bincount(getattr(dataset, part)[1])) == 0
    assert dataset.train[1].tolist() != sorted(dataset.train[1])


def test_folder_split_does_not_depend_on_place_or_file_order(tmp_path):
    write_classes(tmp_path / "a", 15)
    for path in sorted((tmp_path / "a").rglob("*.png"), reverse=True):
        target = tmp_path / "deeper" / "b" / path.relative_to(tmp_path / "a")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    first, second = data.load(folder=tmp_path / "a"), data.load(folder=tmp_path / "deeper" / "b")
    other = data.load(folder=tmp_path / "a", seed=1)
    for part in PARTS:
        assert values(getattr(first, part)) == values(getattr(second, part))
    assert values(first.test) != values(other.test)


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_folder_of_parts(tmp_path, val):
    for first, part in enumerate(("train", val, "test")):
        write_classes(tmp_path / part, 5 + first, first=10 * first)
    dataset = data.load(folder=str(tmp_path))
    assert sizes(dataset) == [10, 12, 14]
    assert {value // 10 % 10 for value, _ in values(dataset.val)} == {1}
    assert {value // 10 % 10 for value, _ in values(dataset.test)} == {2}


@pytest.mark.parametrize(
    ("given", "expected"),
    [(("train",), [14, 2, 4]), (("train", "test"), [18, 2, 20]), (("train", "val"), [16, 20, 4])],
)
def test_absent_parts_are_held_out_of_train(tmp_path, given, expected):
    for part in given:
        write_classes(tmp_path / part, 10, first=50 * (part != "train"))
    dataset = data.load(folder=tmp_path)
    assert sizes(dataset) == expected
    seen = [pair for part in PARTS for pair in values(getattr(dataset, part))]
    assert len(set(seen)) == len(seen) == 20 * len(given)


def test_a_class_may_bear_the_name_of_a_part(tmp_path):
    write_classes(tmp_path, 10, classes=("bus", "train"))
    assert data.load(folder=tmp_path).classes == ("bus", "train")


def test_other_folders_beside_the_parts_are_ignored_with_a_warning(tmp_path):
    for part in ("train", "test", "models"):
        write_classes(tmp_path / part)
    with pytest.warns(UserWarning, match="Ignored.*'models'"):
        assert sizes(data.load(folder=tmp_path)) == [18, 2, 20]


def test_what_is_no_image_is_ignored_and_nested_folders_are_read(tmp_path):
    write_classes(tmp_path, 10)
    for name in ("2019/a.PNG", "2019/summer/b.JPeG", "c.bmp", "d.gif", "e.webp"):
        write_image(tmp_path / "cat" / name)
    for name in (".hidden.png", "._c.bmp", ".thumbnails/t.png"):
        write_image(tmp_path / "cat" / name)
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    write_image(tmp_path / "loose.png")
    write_classes(tmp_path, 3, classes=(".git", "__MACOSX"))
    dataset = data.load(folder=tmp_path)
    assert dataset.classes == ("cat", "dog") and sum(sizes(dataset)) == 25
    assert dataset.train[0].shape[1:] == (16, 16, 3)


def test_unreadable_images_are_named_and_skipped(tmp_path, capsys):
    write_classes(tmp_path, 20)
    (tmp_path / "cat" / "broken.png").write_bytes(b"not a PNG")
    whole = write_image(tmp_path / "dog" / "truncated.jpg", mode="L", color=9, size=(64, 64))
    whole.write_bytes(whole.read_bytes()[:-40])
    (tmp_path / "dog" / "empty.gif").touch()
    with pytest.warns(UserWarning) as caught:
        dataset = data.load(folder=tmp_path, image_size=16)
    headers, decoding = (str(warning.message) for warning in caught)
    assert "Skipped 2 unreadable" in headers and "Skipped 1 unreadable" in decoding
    assert "broken.png" in headers and "empty.gif" in headers and "truncated.jpg" in decoding
    assert {warning.filename for warning in caught} == {__file__}
    seen = [value for part in PARTS for value, _ in values(getattr(dataset, part))]
    assert sorted(seen) == [*range(20), *range(100, 120)]
    assert "41/41" in capsys.readouterr().out  # the progress bar


def test_a_class_left_without_readable_images(tmp_path):
    for part in ("train", "test"):
        write_classes(tmp_path / part, 12)
    for path in (tmp_path / "test" / "dog").iterdir():
        path.write_bytes(b"broken")
    with (
        pytest.warns(UserWarning, match="Skipped 12 unreadable images, the first ten"),
        pytest.raises(ValueError, match="The test part must have readable images.*none of .'dog'"),
    ):
        data.load(folder=tmp_path)


def load_one(tmp_path, image, suffix=".png", **options):
    """The pixels of an image that is saved and loaded as the test part of a set of gray images."""
    write_classes(tmp_path / "train", 3)
    for name in ("cat", "dog"):
        (tmp_path / "test" / name).mkdir(parents=True)
        image.save(tmp_path / "test" / name / f"x{suffix}", **options)
    return data.load(folder=tmp_path, image_size=16).test[0][0]


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("L", 100, [100]),
        ("1", 1, [255]),
        ("I;16", 40_000, [156]),
        ("RGB", (10, 20, 30), [10, 20, 30]),
        ("RGBA", (10, 20, 30, 255), [10, 20, 30]),
        ("RGBA", (10, 20, 30, 0), [255, 255, 255]),
        ("LA", (100, 255), [100]),
        ("LA", (100, 0), [255]),
    ],
)
def test_pixel_formats(tmp_path, mode, color, expected):
    pixels = load_one(tmp_path, Image.new(mode, (16, 16), color))
    assert pixels.shape == (16, 16, len(expected))
    assert (pixels == expected).all()


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_palettes(tmp_path, suffix):
    palette = Image.new("RGB", (16, 16), (10, 200, 30)).quantize(4)
    assert (load_one(tmp_path, palette, suffix) == (10, 200, 30)).all()


def test_cmyk(tmp_path):
    cmyk = Image.new("RGB", (16, 16), (10, 200, 30)).convert("CMYK")
    pixels = load_one(tmp_path, cmyk, ".jpg", quality=95).astype(int)
    assert np.abs(pixels - (10, 200, 30)).max() < 8


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("L", (16, 16))
    image.paste(255, (0, 0, 16, 8))  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    pixels = load_one(tmp_path, image, exif=exif)
    assert (pixels[:, 8:] == 255).all() and (pixels[:, :8] == 0).all()


def test_turned_images_give_the_default_size_as_they_are_seen(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("L", (20, 28)).save(tmp_path / name / f"{i}.jpg", exif=exif)
    assert data.load(folder=tmp_path).train[0].shape[1:3] == (20, 28)


def test_linked_folders_are_read_once(tmp_path):
    write_classes(tmp_path / "images", 4)
    write_image(tmp_path / "elsewhere" / "linked.png")
    for name, target in (("linked", tmp_path / "elsewhere"), ("around", tmp_path / "images/cat")):
        (tmp_path / "images" / "cat" / name).symlink_to(target, target_is_directory=True)
    assert sum(sizes(data.load(folder=tmp_path / "images"))) == 9


def test_of_two_links_to_a_folder_the_first_by_name_counts(tmp_path, monkeypatch):
    write_image(tmp_path / "elsewhere" / "linked.png")
    (tmp_path / "cat").mkdir()
    for name in ("a", "b"):
        (tmp_path / "cat" / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    walk = os.walk

    def backwards(*arguments, **options):
        for place, folders, files in walk(*arguments, **options):
            folders.sort(reverse=True)
            yield place, folders, files

    monkeypatch.setattr(os, "walk", backwards)
    found = files_below(tmp_path / "cat", (".png",))
    assert found == [tmp_path / "cat" / "a" / "linked.png"]


def test_only_the_first_frame_of_a_gif_counts(tmp_path):
    frames = [Image.new("L", (16, 16), value) for value in (50, 200)]
    write_classes(tmp_path, 3)
    for name in ("cat", "dog"):
        for i in range(3):
            path = tmp_path / name / f"{i}.png"
            frames[0].save(path.with_suffix(".gif"), save_all=True, append_images=frames[1:])
            path.unlink()
    dataset = data.load(folder=tmp_path)
    assert {int(value) for part in PARTS for value in np.unique(getattr(dataset, part)[0])} == {50}


def test_unequal_sizes_are_cropped_at_the_center_to_the_median(tmp_path):
    write_classes(tmp_path, 4)
    for name in ("cat", "dog"):
        for i in range(4):
            image = Image.new("L", (100, 42))
            image.paste(200, (29, 0, 71, 42))  # the center square
            image.save(tmp_path / name / f"{i}.png")
        write_image(tmp_path / name / "small.png", 200, size=(10, 30), mode="L")
    dataset = data.load(folder=tmp_path)
    assert dataset.train[0].shape[1:] == (40, 40, 1)
    assert dataset.train[0].min() > 190  # the filter looks a little beyond the edge


@pytest.mark.parametrize(
    ("size", "expected"), [((28, 20), (20, 28)), ((500, 200), (96, 96)), ((3, 3), (3, 3))]
)
def test_equal_sizes_stay_if_small(tmp_path, size, expected):
    for name in ("cat", "dog"):
        for i in range(3):
            write_image(tmp_path / name / f"{i}.png", size=size)
    assert data.load(folder=tmp_path).train[0].shape[1:3] == expected


def test_large_jpegs_are_reduced_well(tmp_path):
    ramp = np.tile(np.linspace(0, 255, 640, dtype="uint8"), (480, 1))
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.fromarray(ramp).save(tmp_path / name / f"{i}.jpg", quality=95)
    image = data.load(folder=tmp_path, image_size=16).train[0][0, ..., 0].astype(int)
    expected = ramp[0, 80:560].reshape(16, 30).mean(1)  # the center crop, averaged
    assert np.abs(image - expected).max() < 4


def test_limit_decodes_no_more_files_than_needed(tmp_path, capsys):
    write_classes(tmp_path, 20)
    dataset = data.load(folder=tmp_path, limit=6)
    assert sizes(dataset) == [6, 4, 8] and np.bincount(dataset.train[1]).tolist() == [3, 3]
    assert "18/18" in capsys.readouterr().out


def no_classes(root):
    write_image(root / "loose.png")


def one_class(root):
    write_classes(root / "pets")


def one_class_in_train(root):
    write_classes(root / "train" / "pets")


def empty_class(root):
    write_classes(root)
    (root / "eel").mkdir()


def too_few(root):
    write_classes(root)
    write_classes(root, 2, classes=("eel",))


def unknown_class(root):
    write_classes(root / "train")
    write_classes(root / "test", classes=("cat", "dog", "eel"))


def missing_class(root):
    write_classes(root / "train")
    write_classes(root / "val", classes=("cat",))


def no_train(root):
    write_classes(root / "val")
    write_classes(root / "test")


def two_val(root):
    for part in ("train", "val", "valid"):
        write_classes(root / part)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (no_classes, r"one folder of images for each class.*Received the classes \[\].*\.jpg"),
        (one_class, r"at least two. Received the classes \['pets'\].*use .*pets"),
        (one_class_in_train, r"`folder` .*train must hold .*use .*train.pets"),
        (empty_class, r"readable images of every class. Received none of \['eel'\].*remove"),
        (too_few, r"Class 'eel' must have at least 3 .*test and val.*Received 2. Add images"),
        (unknown_class, r"test must have the classes.*\['cat', 'dog'\]. Received also \['eel'\]"),
        (missing_class, r"val must have readable images of every class. Received none of \['dog'"),
        (no_train, r"one folder for each part, including train. Received \['test', 'val'\]"),
        (two_val, r"one folder for each part.*Received \['train', 'val', 'valid'\]"),
    ],
)
def test_bad_folders(tmp_path, write, message):
    write(tmp_path)
    with pytest.raises(ValueError, match=message):
        data.load(folder=tmp_path)


# .npz files


def test_npz(tmp_path):
    path = write_npz(tmp_path / "mine.npz")
    dataset = data.load(folder=path)
    assert dataset.name == "mine" and dataset.classes == ("0", "1", "2")
    assert sizes(dataset) == [54, 6, 12] and dataset.train[0].shape[1:] == (6, 5, 1)
    with np.load(path) as file:
        np.testing.assert_array_equal(dataset.test[0][..., 0], file["x_test"])
        np.testing.assert_array_equal(dataset.test[1], file["y_test"])
    assert dataset.train[1].tolist() != sorted(dataset.train[1])
    assert data.load(folder=path, image_size=8).train[0].shape == (54, 8, 8, 1)


def test_npz_holds_out_an_absent_test_part(tmp_path):
    path = write_npz(tmp_path / "a.npz", x_test=None, y_test=None)
    assert sizes(data.load(folder=path)) == [42, 6, 12]


def test_npz_in_medmnist_form(tmp_path):
    images = np.zeros((30, 8, 8, 3), "uint8") + np.arange(30, dtype="uint8")[:, None, None, None]
    labels = (np.arange(30, dtype="uint8") % 3)[:, None]
    names = {"train": slice(0, 18), "val": slice(18, 24), "test": slice(24, 30)}
    arrays = {f"{part}_images": images[rows] for part, rows in names.items()}
    arrays |= {f"{part}_labels": labels[rows] for part, rows in names.items()}
    np.savez(tmp_path / "medical.npz", **arrays)
    dataset = data.load(folder=tmp_path / "medical.npz")
    assert sizes(dataset) == [18, 6, 6]
    for part in PARTS:
        x, y = getattr(dataset, part)
        assert (x[:, 0, 0, 0] % 3 == y).all() and y.shape == (len(x),)
    np.testing.assert_array_equal(dataset.val[0], images[18:24])


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (np.array([7, -1, 30]), ("-1", "7", "30")),
        (np.array(["cat", "ant", "bee"]), ("ant", "bee", "cat")),
        (np.array([b"cat", b"ant", b"bee"]), ("ant", "bee", "cat")),
    ],
)
def test_npz_labels_of_any_kind(tmp_path, labels, classes):
    train, test = np.repeat(labels, 20), np.repeat(labels, 4)[:, None]
    dataset = data.load(folder=write_npz(tmp_path / "a.npz", y_train=train, y_test=test))
    assert dataset.classes == classes
    names = [dataset.classes[i] for i in dataset.test[1]]
    assert names == [x.decode() if isinstance(x, bytes) else str(x) for x in test[:, 0].tolist()]


@pytest.mark.parametrize(
    ("convert", "dtype"),
    [
        (lambda x: x.astype("int64"), "uint8"),
        (lambda x: x.astype("float64"), "float32"),
        (lambda x: (x / 255).astype("float32"), "float32"),
        (lambda x: (x / 255).astype("float16"), "float32"),
    ],
)
def test_npz_pixels_are_0_to_255(tmp_path, convert, dtype):
    plain = data.load(folder=write_npz(tmp_path / "a.npz"))
    with np.load(tmp_path / "a.npz") as file:
        images = {key: convert(file[key]) for key in ("x_train", "x_test")}
    dataset = data.load(folder=write_npz(tmp_path / "b.npz", **images))
    for part in PARTS:
        assert getattr(dataset, part)[0].dtype == dtype
        np.testing.assert_allclose(getattr(dataset, part)[0], getattr(plain, part)[0], atol=0.1)


def test_npz_of_booleans(tmp_path):
    images = np.random.default_rng(0).random((60, 6, 5)) > 0.5
    dataset = data.load(folder=write_npz(tmp_path / "a.npz", x_train=images, x_test=images[:12]))
    assert set(np.unique(dataset.test[0])) == {0, 255}


def uint8(*shape):
    return np.zeros(shape, "uint8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"y_train": None},
            "must hold x_train, y_train.*Received x_test, x_train, y_test. Add y_t",
        ),
        ({"x_train": None, "y_train": None}, "Received x_test, y_test. Add x_train, y_train"),
        ({"x_test": None}, "Add x_test"),
        ({"y_train": np.zeros(59, int)}, r"`y_train` must hold one integer.*60 samples.*\(59,\)"),
        ({"y_train": np.eye(60, 3)}, r"`y_train` must hold one integer.*np.argmax\(y_train"),
        ({"y_test": np.zeros(12)}, r"`y_test` must.*float64.*y_test.astype\(int\)"),
        (
            {"y_test": np.full(12, 5)},
            r"`y_test` must hold labels.*\[0, 1, 2\]. Received also \[5\]",
        ),
        ({"y_train": np.ones(60, int)}, r"`y_train` must hold at least two classes.*\[1\]"),
        ({"x_train": uint8(60, 30)}, r"`x_train` must be of shape.*\(60, 30\)"),
        ({"x_train": uint8(60, 6, 6, 6, 1)}, r"`x_train` must be of shape.*\(60, 6, 6, 6, 1\)"),
        ({"x_test": uint8(0, 6, 5)}, r"`x_test` must be of shape.*none of them 0.*\(0, 6, 5\)"),
        ({"x_train": uint8(60, 3, 32, 32)}, r"`x_train` must have its channels last.*moveaxis"),
        ({"x_test": uint8(12, 5, 6)}, r"`x_test`.*type of the training part, \(6, 5\).*\(5, 6\)"),
        ({"x_test": np.zeros((12, 6, 5))}, "`x_test`.*training part.*uint8.*Received.*float64"),
        ({"x_train": np.full((60, 6, 5), -1.0)}, "`x_train` must hold numbers from 0.*-1.0 to"),
        ({"x_train": np.full((60, 6, 5), np.nan)}, "`x_train` must hold numbers from 0.*nan"),
        ({"x_train": np.full((60, 6, 5), 256)}, "`x_train` must hold numbers from 0.*256 to 256"),
        ({"x_train": np.full((60, 6, 5), "a")}, "`x_train` must hold numbers from 0.*<U1"),
        ({"x_train": np.full((60, 6, 5), None)}, r"a.npz must hold arrays.*objects.*astype\(str\)"),
        ({"x_test": None, "y_test": None, "y_train": np.arange(60)}, "Class '0' must have.*3 "),
    ],
)
def test_bad_npz(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        data.load(folder=write_npz(tmp_path / "a.npz", **changes))


@pytest.mark.parametrize("kind", ["truncated", "text", "empty", "npy", "zip"])
def test_foreign_npz(tmp_path, kind):
    path = write_npz(tmp_path / "a.npz")
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-300])
    elif kind == "text":
        path.write_text("x_train,y_train\n")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("x_train", "text")
            file.writestr("y_train", "text")
    with pytest.raises(ValueError, match="a.npz is truncated or not|`x_train` must be of shape"):
        data.load(folder=path)


def test_a_missing_library_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'sepconv-layers\[examples\]'"):
        data.load("digits")
