"""Simulated particles: units, noise, shifts, CTF, given poses and optics, images simulated on demand."""

import pickle

import numpy as np
import pytest

from cryoem.contrast import ContrastTransfer, Optics
from cryoem.images import apply_ctf, shift
from cryoem.particles.conditions import ImagingConditions, Realism
from cryoem.particles.simulation import REFERENCE_PROJECTIONS, clean_deviation, simulate, simulate_lazily
from cryoem.particles.stack import shell_power
from cryoem.projection.projectors import project
from cryoem.rotations import COVERAGES, Poses, random_rotations, viewing_directions
from cryoem.volumes.density import DensityMap
from cryoem.volumes.phantoms import phantom

FLOAT32 = 1e-5  # several transforms of numbers of order 1 in single precision
SIGMAS = 5  # for a statistical estimate: one false alarm in a million
CTF = ContrastTransfer()


@pytest.fixture(scope="module")
def density() -> DensityMap:
    return phantom(size=24)


@pytest.mark.parametrize(
    ("ctf", "realism"),
    [(None, None), (CTF, None), (CTF, Realism(junk=0.5))],
    ids=["no ctf", "ctf", "realistic"],
)
def test_lazy_images_are_those_of_simulate_for_any_index(density, ctf, realism):
    conditions = ImagingConditions(20, 1.0, 2.0, "half", ctf)
    expected = simulate(density, 30, **vars(conditions), realism=realism, symmetry="C2", rng=3)
    lazy = simulate_lazily(density, 30, conditions, realism=realism, symmetry="C2", rng=3)
    assert (lazy.shape, len(lazy), lazy.image_size, lazy.pixel_size_angstrom) == ((30, 20, 20), 30, 20, 4.0)
    assert lazy.ctf is ctf
    assert lazy.symmetry == expected.symmetry == "C2"
    np.testing.assert_array_equal(np.asarray(lazy), expected.images)
    other = simulate(density, 30, **vars(conditions), rng=4)
    for name in ("images", "shifts_px") if ctf is None else ("images", "shifts_px", "defocus_angstrom"):
        assert not np.array_equal(getattr(other, name), getattr(expected, name))
    for index in (slice(7, 19, 3), slice(29, None), [4, 0, 29], np.arange(30) % 5 == 2):
        some = pickle.loads(pickle.dumps(lazy[index]))  # also in another process
        assert some.shape[0] == len(np.arange(30)[index])
        np.testing.assert_array_equal(np.asarray(some), expected.images[index])
        np.testing.assert_array_equal(some.rotations.as_quat(), expected.rotations[index].as_quat())
        np.testing.assert_array_equal(some.shifts_px, expected.shifts_px[index])
        if ctf is not None:
            np.testing.assert_array_equal(some.defocus_angstrom, expected.defocus_angstrom[index])
        if realism is not None:
            np.testing.assert_array_equal(some.junk, expected[index].junk)


@pytest.mark.parametrize(("coverage", "ctf"), [*((c, None) for c in COVERAGES), ("so3", CTF)])
def test_clean_images_are_scaled_projections_of_variance_one(density, coverage, ctf):
    stack = simulate(density, 1000, coverage=coverage, ctf=ctf, rng=3)
    images = stack.images
    # the unit comes from a few projections, and the power of an image depends on its viewing direction
    spread = np.square(images - images.mean()).mean(axis=(1, 2)).std()
    standard_error = spread * np.sqrt(1 / REFERENCE_PROJECTIONS + 1 / len(images))
    assert images.var() == pytest.approx(1, abs=SIGMAS * standard_error)
    assert standard_error < 0.03
    assert images.dtype == np.float32
    assert not stack.shifts_px.any()
    if ctf is None:
        clean = project(density.data, stack.rotations)
        deviation = clean_deviation(density, ImagingConditions(coverage=coverage))
        np.testing.assert_allclose(images, clean / deviation, atol=FLOAT32 * images.max())
        assert stack.ctf is stack.defocus_angstrom is None
    x, y, z = viewing_directions(stack.rotations).T
    assert (z >= 0).all() == (coverage in ("half", "quarter"))
    assert (y >= -1e-12).all() == (coverage == "quarter")  # rounding error of the sine of pi
    assert (x < 0).any()


@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_the_scale_of_the_map_does_not_matter(density, scale):
    images = simulate(density, 4, rng=0).images
    scaled = DensityMap(scale * density.data, density.voxel_size_angstrom)
    np.testing.assert_allclose(simulate(scaled, 4, rng=0).images, images, atol=FLOAT32 * images.max())


def test_poses_and_optics_may_be_given(density, rng):
    poses = Poses(random_rotations(5, rng=1), rng.uniform(-2, 2, (5, 2)))
    optics = Optics(density.voxel_size_angstrom, CTF, np.linspace(5e3, 2e4, 5))
    stack = simulate(density, poses, image_size=25, ctf=optics, rng=0)
    assert stack.poses is poses
    np.testing.assert_array_equal(stack.defocus_angstrom, optics.defocus_angstrom)
    unit = clean_deviation(density, ImagingConditions(25), optics=optics)
    clean = project(density.data, poses.rotations, image_size=25) / unit
    expected = shift(apply_ctf(clean, optics), poses.shifts_px)
    np.testing.assert_allclose(stack.images, expected, atol=FLOAT32 * np.abs(expected).max())
    centred = simulate(density, poses.rotations, rng=0)
    assert not centred.shifts_px.any()
    plain = simulate(density, poses.rotations, ctf=Optics(density.voxel_size_angstrom), rng=0)
    np.testing.assert_array_equal(plain.images, centred.images)


def test_noise_is_white_and_added_last(density):
    options = {"shift_limit_px": 3.0, "ctf": CTF, "rng": 5}
    clean, noisy = (simulate(density, 400, noise_variance=v, **options) for v in (0.0, 4.0))
    noise = noisy.images - clean.images
    assert noise.var() == pytest.approx(4.0, rel=SIGMAS * np.sqrt(2 / noise.size))
    assert abs(noise.mean()) < SIGMAS * np.sqrt(4.0 / noise.size)
    for neighbour in (np.roll(noise, 1, axis=axis) for axis in range(3)):
        assert abs((noise * neighbour).mean()) < SIGMAS * 4.0 / np.sqrt(noise.size)
    assert abs((noise * clean.images).mean()) < SIGMAS * np.sqrt(4.0 / noise.size)
    low, high = CTF.defocus_range_angstrom
    assert low <= noisy.defocus_angstrom.min() < low + 0.05 * (high - low)
    assert high - 0.05 * (high - low) < noisy.defocus_angstrom.max() <= high


def test_structural_noise_has_the_spectrum_of_the_projections_and_goes_through_the_ctf(density):
    poses = Poses(random_rotations(1500, rng=1))
    ctf = ContrastTransfer(defocus_range_angstrom=(20_000.0, 20_000.0), b_factor_angstrom2=0.0)
    optics = Optics(density.voxel_size_angstrom, ctf, np.full(1500, 20_000.0))
    realism = Realism(structural_noise=2.0, astigmatism_angstrom=0.0, amplitude_spread=0.0)
    clean, noisy = (simulate(density, poses, ctf=optics, realism=r, rng=5).images for r in (None, realism))
    _, signal = shell_power(clean)
    _, noise = shell_power(noisy - clean)
    resolved = signal > 0.02 * signal.max()  # elsewhere, the CTF varies too much within a shell
    assert resolved.sum() > 4
    np.testing.assert_allclose(noise[resolved] / signal[resolved], 2.0, rtol=0.25)


def test_amplitudes_and_astigmatism_vary_as_stated(density):
    realism = Realism(structural_noise=0.0, astigmatism_angstrom=800.0, amplitude_spread=0.3)
    stack = simulate(density, 2000, ctf=CTF, realism=realism, rng=2)
    expected = simulate(density, stack.poses, ctf=stack.optics, rng=2).images
    amplitudes = (stack.images * expected).sum(axis=(1, 2)) / np.square(expected).sum(axis=(1, 2))
    np.testing.assert_allclose(stack.images, amplitudes[:, None, None] * expected, atol=1e-3)
    u, v, azimuth = stack.defocus_angstrom.T
    for values, low, high in (
        (amplitudes / amplitudes.mean(), 0.7, 1.3),
        (u - v, 0, 800),
        (azimuth, 0, np.pi),
    ):
        assert low - 1e-9 <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high + 0.01 * (high - low)
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.03 * (high - low))


def test_junk_does_not_show_the_particle(density):
    realism = Realism(structural_noise=0.0, amplitude_spread=0.0, junk=0.3)
    stack = simulate(density, 200, realism=realism, rng=0)
    assert stack.junk.sum() == 60
    expected = simulate(density, stack.poses, rng=0).images
    np.testing.assert_allclose(stack.images[~stack.junk], expected[~stack.junk], atol=1e-4)
    junk = stack[stack.junk].images
    blank = ~junk.any(axis=(1, 2))
    assert 15 < blank.sum() < 45
    centre = np.hypot(*(np.indices((24, 24)) - 12)) < 4
    mass = np.abs(junk[~blank])
    assert mass[:, centre].mean() < 0.5 * mass.mean()
    with pytest.raises(ValueError, match=r"^junk must be between 0 and 1, got 30$"):
        Realism(junk=30)


def test_shifts_are_triangular(density):
    shifts = simulate(density, 4000, image_size=8, shift_limit_px=2.0, rng=0).shifts_px
    assert shifts.shape == (4000, 2)
    assert 1.9 < np.abs(shifts).max() <= 2.0
    deviation = 2 / np.sqrt(6)
    np.testing.assert_allclose(shifts.mean(axis=0), 0, atol=SIGMAS * deviation / np.sqrt(4000))
    np.testing.assert_allclose(shifts.std(axis=0), deviation, rtol=SIGMAS / np.sqrt(4000))
    assert abs(np.corrcoef(shifts.T)[0, 1]) < SIGMAS / np.sqrt(4000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_variance": -0.5}, "noise_variance must be a finite, non-negative number, got -0.5"),
        ({"n": 0}, "n must be an integer >= 1, got 0"),
        ({"coverage": "sphere"}, "coverage must be one of so3, euler, half, .*, got 'sphere'"),
        (
            {"shift_limit_px": 12.5},
            r"shift_limit_px must be at most half the image size of 24 px, got 12.5",
        ),
        ({"image_size": 1}, "image_size must be an integer >= 2.*, got 1"),
        ({"symmetry": "Q2"}, "symmetry must be Cn, Dn, T, O or I, got 'Q2'"),
        (
            {"density_map": DensityMap(np.zeros((8, 8, 8)), 1.0)},
            "density_map must not be constant; its projections .*",
        ),
        ({"ctf": Optics(1.0)}, r"pixel_size_angstrom must be 1\.0, as in optics, got 4\.0"),
    ],
)
def test_a_wrong_simulation_is_one_sentence(density, options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        simulate(**({"density_map": density, "n": 2, "rng": 0} | options))
