"""Measure the speed and accuracy of in-plane alignment, and compare them with Fourier-Mellin registration.

    python benchmarks/alignment_speed.py

The images are synthetic particles, 128 px wide, with white noise of ten times their variance. Each method estimates the
angle of each image:

- the joint network, trained beforehand on other images;
- an iterated template, which needs no training;
- scikit-image's phase correlation of log-polar spectra, with the clean class average as the reference;
- ASPIRE's Reddy-Chatterji registration with the clean class average, if ASPIRE is installed (extra ``baselines``).

Times include the computation of the spectra. The methods run in turn, and times are medians. Errors are mean errors in
degrees modulo 180, up to one constant.

Reference: Reddy and Chatterji, IEEE Trans. Image Process. 5 (1996) 1266.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import peers
from watch import in_turns, peak_alone, print_comparison

from cryoem.udl import (
    Aligner,
    build_polar_network,
    fourier_mellin_angles,
    iterated_template,
    joint_error_deg,
    phantom_class_average,
    polar_grid,
    polar_spectra,
    synthetic_set,
    train,
)

NETWORK, TEMPLATE, SCIKIT_IMAGE = (
    "cryoem, network",
    "cryoem, iterated template",
    "scikit-image, Fourier-Mellin",
)
REDDY_CHATTERJI = "ASPIRE, Reddy-Chatterji"
TARGETS = {NETWORK: ">= 2,000 images/s"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--trained-on", type=int, default=3000)
    parser.add_argument("--noise", default="noise", choices=("noise", "ssnr"))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    average = phantom_class_average()
    known = synthetic_set(average, arguments.trained_on, noise=arguments.noise, rng=1)
    unseen = synthetic_set(average, arguments.images, noise=arguments.noise, rng=2)
    images, size = unseen.images, unseen.images.shape[1]
    aligner = train(known.images, method="judl").aligner
    clean = average.image.astype(np.float32)
    contenders = {
        NETWORK: lambda: aligner.angles(images),
        TEMPLATE: lambda: iterated_template(polar_spectra(images, polar_grid(size)))[0],
        SCIKIT_IMAGE: lambda: fourier_mellin_angles(np.broadcast_to(clean, images.shape), images),
    }
    aspire = peers.aspire("classification.reddy_chatterji")
    if aspire is not None:
        contenders[REDDY_CHATTERJI] = lambda: reddy_chatterji_angles(aspire, clean, images)
    watched = in_turns(contenders, repeats=arguments.repeats)
    watched[NETWORK].peak_bytes = peak_alone(first_angles, len(images), size)
    print_comparison(
        "alignment-speed",
        f"In-plane alignment of {arguments.images:,} images of {size} px with white noise"
        + (" and coloured noise" if arguments.noise == "ssnr" else ""),
        watched,
        accuracy={
            name: f"{joint_error_deg(one.result, unseen.angles_rad):.2f}°" for name, one in watched.items()
        },
        targets=TARGETS,
        work=arguments.images,
        unit="images/s",
        absent=() if aspire is not None else (REDDY_CHATTERJI,),
    )


def first_angles(n: int, size: int):
    """Return a function that estimates the angles of n noise images, after a warm-up on two images."""
    grid = polar_grid(size)
    aligner = Aligner(build_polar_network(grid), grid)
    images = np.random.default_rng(0).standard_normal((n, size, size), dtype=np.float32)
    aligner.angles(images[:2])
    return partial(aligner.angles, images)


def reddy_chatterji_angles(aspire, reference: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return the angle of each image relative to the reference: (n,) radians, modulo half a turn."""
    stack = np.concatenate([reference[None], images])
    angles, *_ = aspire.classification.reddy_chatterji.reddy_chatterji_register(
        stack, np.zeros(len(stack), bool), do_cross_corr_translations=False
    )
    return np.mod(angles[1:], np.pi)


if __name__ == "__main__":
    main()
