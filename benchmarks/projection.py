"""Compare projection and back-projection with an exact non-uniform FFT (accuracy), and with finufft and ASPIRE (cost).

    python benchmarks/projection.py

ASPIRE is included if it is installed (extra ``baselines``). All methods run in turn, in one process, on the same map,
images and orientations; times are medians. ASPIRE's images and maps are multiplied by the image size to convert them to
our units. Errors are relative L2 errors against the exact transform, with and without the Nyquist frequency, which
ASPIRE omits by default. The Nyquist frequency is removed from the images before back-projection. The finufft plans
transform half of each slice, with two different tolerances; ASPIRE transforms whole slices to single precision.
"""

from __future__ import annotations

import argparse
from functools import partial

import finufft
import numpy as np
import peers
import scipy.fft
from table import print_table
from watch import OURS, in_turns, print_comparison

from cryoem import volumes
from cryoem.images import (
    half_planes_from_images,
    hermitian_weights,
    images_from_half_planes,
    plane_frequencies,
)
from cryoem.projection import backproject, project
from cryoem.rotations import random_rotations

FINUFFT = "finufft, tolerance {:.0e}, half slices"
FEW = 20  # number of images for which the exact transform is computed
BATCH = 64
TOLERANCES = (1e-2, 1e-3)  # one with about our accuracy, and the next smaller one


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--map", default="5j0n")
    parser.add_argument("--image-size", type=int, default=116)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    size = arguments.image_size
    density = volumes.load(arguments.map)
    cubic = volumes.cube(density, size).data
    rotations = random_rotations(arguments.images, rng=0)
    aspire = peers.aspire("volume", "image")
    compare_projection(arguments, density.data, cubic, rotations, aspire)
    images = without_nyquist(project(cubic, rotations, image_size=size))
    compare_backprojection(arguments, images, rotations, aspire)


def compare_projection(arguments, volume, cubic, rotations, aspire) -> None:
    """Measure the accuracy and the cost of projection."""
    size = arguments.image_size
    contenders = {
        OURS: lambda r: project(volume, r, image_size=size),
        **{
            FINUFFT.format(eps): lambda r, eps=eps: project_with_finufft(volume, r, size, eps)
            for eps in TOLERANCES
        },
    }
    if aspire is not None:
        model = aspire.volume.Volume(cubic)
        contenders[peers.ASPIRE] = lambda r: size * model.project(peers.matrices_for_aspire(r)).asnumpy()
    few = rotations[:FEW]
    exact = images_from_half_planes(exact_half_planes(volume, few, size), size)
    ours = project(volume, few, image_size=size)
    rng = np.random.default_rng(1)
    test_images = rng.normal(size=ours.shape).astype(np.float32)
    test_volume = rng.normal(size=volume.shape).astype(np.float32)
    forward = np.vdot(project(test_volume, few, image_size=size).astype(float), test_images)
    backward = np.vdot(test_volume.astype(float), backproject(test_images, few, volume_shape=volume.shape))
    print_table(
        "projection-accuracy",
        f"Accuracy of projections of {arguments.map}, {size} px",
        [
            ("relative L2 error, images", "<= 2e-3", f"{relative(ours, exact):.1e}"),
            (
                "relative L2 error, transforms",
                "<= 2e-3",
                f"{relative(half_planes_from_images(ours), half_planes_from_images(exact)):.1e}",
            ),
            ("adjointness error, relative", "<= 1e-5", f"{abs(forward - backward) / abs(forward):.1e}"),
        ],
    )
    accuracy = {name: errors_of(run(few), exact) for name, run in contenders.items()}
    compare(
        "projection",
        f"Projection of {arguments.map}, {size} px",
        contenders,
        rotations,
        accuracy,
        arguments.repeats,
        target=">= 5 x at no larger error",
    )


def compare_backprojection(arguments, images, rotations, aspire) -> None:
    """Measure the accuracy and the cost of back-projection."""
    size = arguments.image_size
    shape = (size, size, size)
    contenders = {
        OURS: lambda r: backproject(images[: len(r)], r, volume_shape=shape),
        **{
            FINUFFT.format(eps): lambda r, eps=eps: backproject_with_finufft(images[: len(r)], r, eps)
            for eps in TOLERANCES
        },
    }
    if aspire is not None:
        contenders[peers.ASPIRE] = lambda r: (
            size * aspire.image.Image(images[: len(r)]).backproject(peers.matrices_for_aspire(r)).asnumpy()[0]
        )
    few = rotations[:FEW]
    exact = exact_backprojection(images[:FEW], few)
    accuracy = {name: f"error {relative(run(few), exact):.1e}" for name, run in contenders.items()}
    compare(
        "back-projection",
        f"Back-projection of images of {arguments.map}, {size} px",
        contenders,
        rotations,
        accuracy,
        arguments.repeats,
    )


def compare(
    name: str,
    title: str,
    contenders,
    rotations,
    accuracy: dict[str, str],
    repeats: int,
    *,
    target: str = "-",
) -> None:
    """Measure all contenders and print a table of them. ``target`` is the target for the comparison with ASPIRE."""
    watched = in_turns({name: partial(run, rotations) for name, run in contenders.items()}, repeats=repeats)
    print_comparison(
        name,
        title,
        watched,
        accuracy=accuracy,
        targets={peers.ASPIRE: target},
        work=len(rotations),
        unit="images/s",
        absent=() if peers.ASPIRE in contenders else (peers.ASPIRE,),
    )


def errors_of(found: np.ndarray, exact: np.ndarray) -> str:
    """Return the relative errors of (n, y, x) images with and without the Nyquist frequency, as text."""
    inner = (without_nyquist(images) for images in (found, exact))
    return f"error {relative(found, exact):.1e}, below Nyquist {relative(*inner):.1e}"


def relative(found: np.ndarray, exact: np.ndarray) -> float:
    """Return the relative L2 error."""
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def without_nyquist(images: np.ndarray) -> np.ndarray:
    """Remove the Nyquist frequency along both axes from (n, y, x) images. Images of odd size are unchanged."""
    size = images.shape[1]
    spectra = scipy.fft.fft2(images)
    if size % 2 == 0:
        spectra[:, size // 2] = spectra[:, :, size // 2] = 0
    return scipy.fft.ifft2(spectra).real.astype(np.float32)


def slice_points(rotations, size: int, dtype=np.float64) -> tuple[np.ndarray, ...]:
    """Return the angular frequencies (z, y, x) of all half-plane elements in all slices."""
    frequencies = 2 * np.pi * plane_frequencies(size).astype(float)
    points = np.einsum("mj,njk->nmk", frequencies, rotations.as_matrix()[:, :2]).reshape(-1, 3)
    return tuple(np.ascontiguousarray(points[:, axis], dtype) for axis in (2, 1, 0))


def exact_half_planes(volume, rotations, size: int) -> np.ndarray:
    """Evaluate the transform of a volume on half-planes with a double-precision non-uniform FFT, accurate to 1e-9."""
    points = slice_points(rotations, size)
    return finufft.nufft3d2(*points, volume.astype(complex), eps=1e-9, isign=-1).reshape(len(rotations), -1)


def exact_backprojection(images, rotations) -> np.ndarray:
    """Apply the adjoint of the exact projection: (size, size, size)."""
    values = weighted_half_planes(images).astype(complex)
    points = slice_points(rotations, images.shape[1])
    return finufft.nufft3d1(*points, values, n_modes=(images.shape[1],) * 3, eps=1e-9, isign=1).real


def weighted_half_planes(images) -> np.ndarray:
    """Return Hermitian-weighted half-plane transforms of images, divided by the number of pixels: (n * m,)."""
    size = images.shape[1]
    return (half_planes_from_images(images) * (hermitian_weights(size).ravel() / size**2)).ravel()


def project_with_finufft(volume, rotations, size: int, eps: float) -> np.ndarray:
    """Project a volume with a single-precision finufft plan over half of each slice."""
    plan = finufft.Plan(2, volume.shape, eps=eps, isign=-1, dtype="complex64")
    images = np.empty((len(rotations), size, size), np.float32)
    single = volume.astype(np.complex64)
    for start in range(0, len(rotations), BATCH):
        batch = rotations[start : start + BATCH]
        plan.setpts(*slice_points(batch, size, np.float32))
        images[start : start + BATCH] = images_from_half_planes(
            plan.execute(single).reshape(len(batch), -1), size
        )
    return images


def backproject_with_finufft(images, rotations, eps: float) -> np.ndarray:
    """Back-project images with a single-precision finufft plan, batch by batch."""
    size = images.shape[1]
    plan = finufft.Plan(1, (size,) * 3, eps=eps, isign=1, dtype="complex64")
    volume = np.zeros((size,) * 3, np.float32)
    for start in range(0, len(rotations), BATCH):
        batch = slice(start, start + BATCH)
        plan.setpts(*slice_points(rotations[batch], size, np.float32))
        volume += plan.execute(weighted_half_planes(images[batch]).astype(np.complex64)).real
    return volume


if __name__ == "__main__":
    main()
