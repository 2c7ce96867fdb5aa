"""Checks of arguments: what passes comes back as it was meant, the rest is one sentence with the argument's name."""

import re

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoem.checks import finite_array, many_rotations, positive_number, square_images, whole_number
from cryoem.rotations import random_rotations

TWO = random_rotations(2, rng=0)


def refused(message):
    """A ValueError of one sentence: all of ``message``, in which a star stands for anything, on one line."""
    pattern = ".*".join(re.escape(part) for part in message.split("*"))
    return pytest.raises(ValueError, match=f"^{pattern}$")


def test_arrays_come_back_with_the_type_that_was_asked_for():
    values = np.arange(12.0).reshape(3, 4)
    assert finite_array(values, name="x", ndim=2) is values
    for disguised in (values.tolist(), values.astype(int), np.asfortranarray(values), values[::-1][::-1]):
        found = finite_array(disguised, name="x", ndim=2, dtype=np.float32)
        assert found.dtype == np.float32
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, values)
    np.testing.assert_array_equal(finite_array([True, False], name="x", ndim=1, dtype=float), [1, 0])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones(3), "x must be a non-empty array with 2 axes, got shape (3,)"),
        (np.ones((3, 0)), "x must be a non-empty array with 2 axes, got shape (3, 0)"),
        (1.0, "x must be a non-empty array with 2 axes, got shape ()"),
        ([[1], [1, 2]], "x must be a non-empty array with 2 axes, got *"),
        (np.ones((2, 2), complex), "x must hold real numbers, got complex128"),
        ([["a"]], "x must hold real numbers, got <U1"),
        ([[None]], "x must hold real numbers, got object"),
        ([[1, np.nan], [np.inf, -np.inf]], "x must be finite, got 3 non-finite values of 4"),
        ([[1, 1e300]], "x must be finite, got 1 non-finite values of 2"),  # in single precision
    ],
)
def test_arrays_are_refused(values, message):
    with refused(message):
        finite_array(values, name="x", ndim=2, dtype=np.float32)


def test_images_come_back_in_single_precision():
    images = square_images(np.ones((3, 4, 4), int), at_least=3, smallest_px=4)
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, np.ones((3, 4, 4)))
    assert square_images(np.ones((1, 1, 1))).shape == (1, 1, 1)


@pytest.mark.parametrize(
    ("shape", "least", "message"),
    [
        ((4, 4), {}, "images must be a non-empty array with 3 axes, got shape (4, 4)"),
        ((0, 4, 4), {}, "images must be a non-empty array with 3 axes, got shape (0, 4, 4)"),
        ((2, 4, 5), {}, "images must be (n, y, x) with y == x, got (2, 4, 5)"),
        ((2, 4, 4), {"smallest_px": 5}, "images must be (n, y, x) with y == x >= 5, got (2, 4, 4)"),
        ((2, 4, 4), {"at_least": 3}, "images must be at least 3, got 2"),
        ((2, 4, 4), {"at_least": 3, "name": "views"}, "views must be at least 3, got 2"),
    ],
)
def test_images_are_refused(shape, least, message):
    with refused(message):
        square_images(np.ones(shape), **least)


def test_a_sequence_of_rotations_comes_back_itself():
    assert many_rotations(TWO) is TWO
    assert many_rotations(TWO, count=2) is TWO


@pytest.mark.parametrize(
    ("rotations", "message"),
    [
        (TWO.as_matrix(), "turns must be a scipy Rotation, got ndarray"),
        (list(TWO), "turns must be a scipy Rotation, got list"),
        (TWO[0], "turns must hold at least one rotation in a sequence, got a single or an empty one"),
        (TWO[:0], "turns must hold at least one rotation in a sequence, got a single or an empty one"),
        (Rotation.from_quat(np.ones((2, 3, 4))), "turns must *"),
        (TWO[:1], "turns must be as many as the images, 2, got 1"),
    ],
    ids=["matrices", "list", "single", "empty", "grid", "too few"],
)
def test_rotations_are_refused(rotations, message):
    with refused(message):
        many_rotations(rotations, name="turns", count=2)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int8(2)])
def test_numbers_come_back_as_python_has_them(value):
    assert type(positive_number(value, name="x")) is float
    assert type(whole_number(value, name="x", at_least=2)) is int
    assert positive_number(value, name="x") == whole_number(value, name="x", at_least=2) == 2


def test_a_whole_number_may_be_large():
    assert whole_number(10**20, name="x", at_least=0) == 10**20


@pytest.mark.parametrize("value", [0, -1.5, np.nan, np.inf, None, 1j, "4"])
def test_numbers_that_are_not_positive_are_refused(value):
    with refused(f"x must be a positive number, got {value!r}"):
        positive_number(value, name="x")


@pytest.mark.parametrize("value", [1, -3, 2.5, np.nan, np.inf, None, 3j, "3"])
def test_numbers_that_are_not_whole_are_refused(value):
    with refused(f"x must be a whole number of at least 2, got {value!r}"):
        whole_number(value, name="x", at_least=2)
