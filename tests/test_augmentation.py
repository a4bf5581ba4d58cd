"""Augmentations of the examples: what moves, what comes in, and what is mixed with what."""

from unittest import mock

import keras
import numpy as np
import pytest

from examples.augmentation import MixUp, RandomMirror, RandomShift, RandomTurn


def test_shifted_volumes_are_moved_as_a_whole_and_zeros_follow():
    shift = RandomShift(2, axes=(1, 2, 3), seed=0)
    point = np.zeros((200, 5, 6, 7, 2), "uint8")
    point[:, 2, 2, 2], point[:, 4, 5, 6, 0] = (1, 2), 3
    moved = keras.ops.convert_to_numpy(shift(point, training=True))
    places = np.argwhere(moved[..., 1] == 2)
    assert places[:, 0].tolist() == list(range(200))  # each is there, once
    assert set(places[:, 1:].ravel()) == {0, 1, 2, 3, 4}
    corner = places[:, 1:] + (2, 3, 4)  # where the other point is now, if it is inside
    inside = (corner < (5, 6, 7)).all(-1)
    expected = np.zeros_like(moved)
    expected[places[:, 0], *places[:, 1:].T] = 1, 2
    expected[places[inside, 0], *corner[inside].T, 0] = 3
    np.testing.assert_array_equal(moved, expected)
    np.testing.assert_array_equal(shift(point), point)


def test_the_border_comes_in_where_zeros_do_not():
    ramp = np.broadcast_to(np.arange(1, 8, dtype="float32")[:, None], (100, 7, 3))
    moved = keras.ops.convert_to_numpy(RandomShift(3, (1,), "nearest", seed=0)(ramp, training=True))
    by = moved[:, 3, 0] - 4
    assert set(by) == {-3, -2, -1, 0, 1, 2, 3}
    expected = np.clip(ramp + by[:, None, None], 1, 7)
    np.testing.assert_array_equal(moved, expected)


def test_an_unknown_border_is_refused():
    with pytest.raises(ValueError, match="`fill` must be 'zeros' or 'nearest'.*'wrap'"):
        RandomShift(1, (1,), "wrap")


def test_mirrored_samples_are_about_half_of_all():
    images = np.arange(6, dtype="float32").reshape(1, 2, 3, 1).repeat(200, 0)
    found = keras.ops.convert_to_numpy(RandomMirror((2,), seed=0)(images, training=True))
    mirrored = (found == images[:, :, ::-1]).all((1, 2, 3))
    assert 60 < mirrored.sum() < 140
    np.testing.assert_array_equal(found[~mirrored], images[~mirrored])


@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
def test_a_turn_by_a_right_angle_is_the_one_of_numpy(quarter):
    volumes = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 5, 2), "uint8")
    angles = np.full((4, 1, 1), quarter * np.pi / 2, "float32")
    with mock.patch.object(keras.random, "uniform", return_value=keras.ops.array(angles)):
        turned = keras.ops.convert_to_numpy(RandomTurn((1, 2))(volumes, training=True))
    assert turned.dtype == volumes.dtype
    np.testing.assert_array_equal(turned, np.rot90(volumes, -quarter, (1, 2)))


def test_turns_differ_keep_what_is_in_the_middle_and_lose_corners():
    images = np.ones((64, 9, 9, 1), "float32") * np.arange(1, 65)[:, None, None, None]
    turned = keras.ops.convert_to_numpy(RandomTurn((1, 2), 45, seed=0)(images, training=True))
    np.testing.assert_array_equal(turned[:, 2:7, 2:7], images[:, 2:7, 2:7])
    assert set((turned == 0).any((1, 2, 3))) == {False, True}
    for image, value in zip(turned, range(1, 65), strict=True):
        assert set(image.ravel()) <= {0, value}
    assert len({image.astype(bool).tobytes() for image in turned}) > 3


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_labels_are_mixed_like_the_inputs(rank):
    labels = np.eye(50, dtype="float32")
    inputs = np.arange(50, dtype="float32").reshape(50, *(1,) * (rank + 1))
    inputs = np.broadcast_to(inputs, (50, *(3,) * rank, 2))
    mixed = MixUp(0.5, seed=0)({"images": inputs, "labels": labels}, training=True)
    found = {name: keras.ops.convert_to_numpy(value) for name, value in mixed.items()}
    np.testing.assert_allclose(found["labels"].sum(-1), 1, rtol=1e-5)
    assert ((found["labels"] > 0).sum(-1) <= 2).all()
    means = found["labels"] @ np.arange(50)
    np.testing.assert_allclose(found["images"].mean(tuple(range(1, rank + 2))), means, rtol=1e-4)
    assert (np.abs(means - np.arange(50)) > 0.1).mean() > 0.3
    same = MixUp()({"images": inputs, "labels": labels})
    np.testing.assert_array_equal(same["images"], inputs)
