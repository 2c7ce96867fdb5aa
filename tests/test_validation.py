"""Argument validation: valid arguments are returned, others raise one sentence that names the argument."""

import re

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoem.rotations import random_rotations
from cryoem.validation import (
    finite_array,
    many_rotations,
    not_negative,
    one_each,
    positive_number,
    shifts_of,
    square_images,
    unread_images,
    whole_number,
)

TWO = random_rotations(2, rng=0)


def refused(message):
    """Expect a one-line ValueError that matches ``message``, in which a star stands for any text."""
    pattern = ".*".join(re.escape(part) for part in message.split("*"))
    return pytest.raises(ValueError, match=f"^{pattern}$")


def test_valid_arguments_are_returned_in_their_type():
    values = np.arange(12.0).reshape(3, 4)
    assert finite_array(values, name="x", ndim=2) is values
    for disguised in (values.tolist(), values.astype(int), np.asfortranarray(values), values[::-1][::-1]):
        found = finite_array(disguised, name="x", ndim=2, dtype=np.float32)
        assert found.dtype == np.float32
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, values)
    np.testing.assert_array_equal(finite_array([True, False], name="x", ndim=1, dtype=float), [1, 0])
    images = square_images(np.ones((3, 4, 4), int), at_least=3, smallest_px=4)
    assert images.dtype == np.float32
    assert many_rotations(TWO, count=2) is TWO
    for two in (2, 2.0, np.float32(2), np.int8(2)):
        assert type(positive_number(two, name="x")) is type(not_negative(two, name="x")) is float
        assert type(whole_number(two, name="x", at_least=2)) is int
    assert whole_number(10**20, name="x", at_least=0) == 10**20


def test_the_shape_of_images_is_checked_without_reading_them():
    class Unreadable:
        shape = (3, 4, 4)

        def __array__(self, dtype=None, copy=None):
            raise AssertionError

    images = Unreadable()
    assert unread_images(images, at_least=3) is images
    with refused("at least 4 images are required, got 3"):
        unread_images(images, at_least=4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((3, 0)), "x must be a non-empty 2-D array, got shape (3, 0)"),
        (1.0, "x must be a non-empty 2-D array, got shape ()"),
        ([[1], [1, 2]], "x must be a non-empty 2-D array, got *"),
        (np.ones((2, 2), complex), "x must contain real numbers, got dtype complex128"),
        ([[None]], "x must contain real numbers, got dtype object"),
        ([[1, np.nan], [np.inf, -np.inf]], "x must be finite, got NaN or infinity in 3 of 4 values"),
        ([[1, 1e300]], "x must be finite, got NaN or infinity in 1 of 2 values"),  # in single precision
    ],
)
def test_arrays_are_refused(values, message):
    with refused(message):
        finite_array(values, name="x", ndim=2, dtype=np.float32)


@pytest.mark.parametrize("check", [square_images, unread_images])
@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((4, 4), {}, "images must be a non-empty 3-D array, got shape (4, 4)"),
        ((0, 4, 4), {}, "images must be a non-empty 3-D array, got shape (0, 4, 4)"),
        ((2, 4, 5), {}, "images must be (n, y, x) with y == x, got (2, 4, 5)"),
        ((2, 4, 4), {"smallest_px": 5}, "images must be (n, y, x) with y == x >= 5, got (2, 4, 4)"),
        ((2, 4, 4), {"at_least": 3, "name": "views"}, "at least 3 views are required, got 2"),
    ],
)
def test_images_are_refused(check, shape, options, message):
    with refused(message):
        check(np.ones(shape), **options)


@pytest.mark.parametrize(
    ("rotations", "message"),
    [
        (TWO.as_matrix(), "turns must be a scipy Rotation, got ndarray"),
        (list(TWO), "turns must be a scipy Rotation, got list"),
        (TWO[0], "turns must be a non-empty sequence of rotations, got a single rotation"),
        (TWO[:0], "turns must be a non-empty sequence of rotations, got an empty sequence"),
        (Rotation.from_quat(np.ones((2, 3, 4))), "turns must *"),
        (TWO[:1], "turns must have one entry for each of the 2 images, got 1"),
    ],
    ids=["matrices", "list", "single", "empty", "grid", "too few"],
)
def test_rotations_are_refused(rotations, message):
    with refused(message):
        many_rotations(rotations, name="turns", count=2)


@pytest.mark.parametrize("value", [-1.5, np.nan, np.inf, None, 1j, "4"])
def test_numbers_are_refused(value):
    with refused(f"x must be a positive number, got {value!r}"):
        positive_number(value, name="x")
    with refused(f"x must be a finite, non-negative number, got {value!r}"):
        not_negative(value, name="x")
    for number in (value, 1, 2.5):
        with refused(f"x must be an integer >= 2, got {number!r}"):
            whole_number(number, name="x", at_least=2)


def test_numbers_and_shifts_must_be_one_for_each_image():
    with refused("shifts_px must be (2, 2), got (2, 3)"):
        shifts_of(np.zeros((2, 3)), count=2)
    with refused("x must have one entry for each of the 3 images, got 2"):
        one_each([1, 2], count=3, name="x")
