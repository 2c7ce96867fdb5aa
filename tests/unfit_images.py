"""What the tests of steps on images and their orientations share: images that are refused, and how."""

import numpy as np
import pytest


def unfit_images(n: int, *, fewest: int, smallest: int) -> list:
    """Changes to n images of 32 pixels a side, each with the words that refuse it, as parameters of a test.

    The step takes at least ``fewest`` images of at least ``smallest`` pixels a side, and none that are constant.
    """
    few, small, pixels = fewest - 1, smallest - 1, n * 32**2
    square = rf"\(n, y, x\) with y == x >= {smallest}, got"
    cases = {
        "one image": (lambda images: images[0], r"a non-empty array with 3 axes, got shape \(32, 32\)"),
        "not square": (lambda images: images[:, 1:], rf"{square} \({n}, 31, 32\)"),
        "too small": (lambda images: images[:, :small, :small], rf"{square} \({n}, {small}, {small}\)"),
        "too few": (lambda images: images[:few], f"at least {fewest}, got {few}"),
        "nan": (lambda images: images * np.nan, f"finite, got {pixels} non-finite values of {pixels}"),
        "constant": (lambda images: images * 0 + 0.1, f"not be constant, got {n} constant ones( of {n})?$"),
    }
    unmatched = (lambda images: images[:-1], f"^rotations must be as many as the images, {n - 1}, got {n}")
    return [
        *(
            pytest.param(change, f"^images must (be )?{words}", id=name)
            for name, (change, words) in cases.items()
        ),
        pytest.param(*unmatched, id="too few for the rotations"),
    ]
