"""Defocus and scale of each image, refined together with the poses."""

from dataclasses import replace

import numpy as np
import pytest
from command_line import answer, invoke
from scipy.spatial.transform import Rotation

from cryoem.contrast import ContrastTransfer, Optics
from cryoem.images import add_noise, apply_ctf
from cryoem.particles import ParticleStack, open_particles, write_particles, write_poses
from cryoem.projection.fourier import transform
from cryoem.projection.projectors import project
from cryoem.reconstruction.maps import reconstruct
from cryoem.reconstruction.optics_fits import OpticsEvidence, defocus_changes, fitted_optics, optics_evidence
from cryoem.reconstruction.pose_steps import full_images, working_images
from cryoem.reconstruction.refinement import refine
from cryoem.reconstruction.resolution import fourier_shell_correlation
from cryoem.reconstruction.rounds import RefinementSchedule, RoundSettings, first_state, next_round
from cryoem.rotations import Poses, random_rotations

N, PIXEL_ANGSTROM = 300, 3.0
WRONG_ANGSTROM = 500.0  # standard deviation of the errors of the stated defocus
CTF = ContrastTransfer(b_factor_angstrom2=0.0, inverted=True)
ONLY_GRADIENT = RefinementSchedule(search_rounds=0, gradient_rounds=2)


@pytest.fixture(scope="module")
def imaged(particle):
    """Noisy images with a CTF, their true optics, the stated optics, and their orientations."""
    rng = np.random.default_rng(0)
    rotations = random_rotations(N, rng=1)
    defocus = np.stack([rng.uniform(8_000, 15_000, N), np.zeros(N), rng.uniform(0, 3, N)], axis=1)
    defocus[:, 1] = defocus[:, 0] - 300  # astigmatism
    true = Optics(PIXEL_ANGSTROM, CTF, defocus, scale=rng.uniform(0.7, 1.3, N))
    clean = project(particle, rotations, backend="fourier")
    images = apply_ctf(clean, replace(true, scale=None)) * true.scale[:, None, None].astype(np.float32)
    noisy = add_noise(images, 0.5 * images.var(), rng=2)
    errors = rng.normal(0, WRONG_ANGSTROM, N)
    stated = Optics(PIXEL_ANGSTROM, CTF, defocus + np.outer(errors, [1, 1, 0]))
    return noisy, true, stated, rotations


@pytest.fixture(scope="module")
def fitted(imaged):
    images, _, stated, rotations = imaged
    return refine(images, rotations, optics=stated, refine_ctf=True, schedule=ONLY_GRADIENT, rng=0)


def evidence_of(
    images: np.ndarray, stated: Optics, rotations: Rotation, particle: np.ndarray
) -> OpticsEvidence:
    """Compare images with the true map at their true orientations."""
    full, poses = full_images(images, stated), Poses(rotations, np.zeros((N, 2)))
    work = working_images(full, poses, 16).within(15)
    changes = defocus_changes(stated, 15 / (32 * PIXEL_ANGSTROM))
    return optics_evidence(transform(particle / full.unit), work, poses, stated, changes)


def defocus_error(found: Optics, true: Optics) -> float:
    difference = found.isotropic().defocus_angstrom - true.isotropic().defocus_angstrom
    return float(np.sqrt(np.mean(difference**2)))


def test_wrong_defoci_and_unknown_scales_are_found_and_the_map_becomes_better(imaged, fitted, particle):
    images, true, stated, rotations = imaged
    assert defocus_error(fitted.optics, true) < 0.5 * defocus_error(stated, true)
    assert np.corrcoef(fitted.optics.scale, true.scale)[0, 1] > 0.8
    assert np.average(fitted.optics.scale, weights=fitted.optics.scale) == pytest.approx(1, abs=1e-3)
    # astigmatism stays
    kept = fitted.optics.defocus_angstrom - stated.defocus_angstrom
    np.testing.assert_allclose(kept[:, 0], kept[:, 1], atol=1e-6)
    assert not kept[:, 2].any()
    # the map is that of the fitted optics
    again = reconstruct(images, fitted.poses, optics=fitted.optics).data
    np.testing.assert_allclose(fitted.map.data, again, atol=1e-3 * again.max())
    kept = refine(images, rotations, optics=stated, schedule=ONLY_GRADIENT, rng=0)
    assert (defocus_error(kept.optics, stated), kept.optics.scale) == (0, None)
    before, after = (
        fourier_shell_correlation(particle, found.map.data).correlation for found in (kept, fitted)
    )
    assert after[6:].mean() > before[6:].mean() + 0.01


def test_right_values_stay(imaged):
    images, true, _, rotations = imaged
    found = refine(images, rotations, optics=true, refine_ctf=True, schedule=ONLY_GRADIENT, rng=0)
    assert defocus_error(found.optics, true) < 0.2 * WRONG_ANGSTROM


@pytest.mark.parametrize("noise", [[0.5], [8.0], [0.5, 8.0]])
def test_estimates_are_posterior_means(imaged, particle, noise):
    """The regression of the true values on the estimates has slope 1, however noisy the images are, or some of them."""
    _, true, stated, rotations = imaged
    clean = apply_ctf(project(particle, rotations, backend="fourier"), replace(true, scale=None))
    scaled = clean * true.scale[:, None, None].astype(np.float32)
    levels = np.resize(noise, N)
    white = np.random.default_rng(5).standard_normal(scaled.shape, np.float32)
    spread = np.sqrt(levels * scaled.var()).astype(np.float32)
    images = scaled + spread[:, None, None] * white
    found = fitted_optics(stated, evidence_of(images, stated, rotations, particle))
    for level in noise:
        own = levels == level
        for estimate, value in (
            (
                (found.defocus_angstrom - stated.defocus_angstrom)[own, 0],
                (true.defocus_angstrom - stated.defocus_angstrom)[own, 0],
            ),
            (found.scale[own] - 1, true.scale[own] / np.average(true.scale, weights=true.scale) - 1),
        ):
            assert np.sum(estimate * value) / np.sum(estimate**2) == pytest.approx(1, abs=0.15)


def test_images_without_a_signal_keep_the_stated_values(imaged, particle):
    _, _, stated, rotations = imaged
    noise = np.random.default_rng(3).standard_normal((N, 32, 32)).astype(np.float32)
    found = fitted_optics(stated, evidence_of(noise, stated, rotations, particle))
    np.testing.assert_array_equal(found.scale, 1)
    assert defocus_error(found, stated) < 0.5 * WRONG_ANGSTROM


def test_junk_does_not_change_the_scale_of_the_particle(imaged):
    images, _, stated, rotations = imaged
    junk = np.arange(N) % 4 == 0
    white = np.random.default_rng(4).standard_normal(images.shape, np.float32) * images.std()
    mixed = np.where(junk[:, None, None], white, images)
    found = refine(mixed, rotations, optics=stated, refine_ctf=True, schedule=ONLY_GRADIENT, rng=0)
    assert found.optics.scale[~junk].mean() == pytest.approx(1, abs=0.1)
    assert found.optics.scale[junk].mean() < 0.3


def test_a_coarse_last_round_keeps_the_fitted_defocus(imaged):
    """If only coarse details are compared in a round, only the scale is fitted again."""
    images, _, stated, rotations = imaged
    settings = RoundSettings(PIXEL_ANGSTROM, np.eye(3)[None], ONLY_GRADIENT, False, True)
    full = full_images(images, stated)
    state = first_state(settings, Poses(rotations, np.zeros((N, 2))), stated, 16)
    fine = next_round(settings, full, state, np.random.default_rng(0))
    coarse = next_round(settings, full, replace(fine, finest_shell=5), np.random.default_rng(0))
    assert defocus_error(fine.optics, stated) > 0
    np.testing.assert_allclose(coarse.optics.defocus_angstrom, fine.optics.defocus_angstrom, rtol=1e-9)
    assert not np.allclose(coarse.optics.scale, fine.optics.scale)


def test_half_sets_do_not_share_what_they_fit(imaged):
    """Scrambled images in one half do not affect the half-map of the other."""
    images, _, stated, rotations = imaged
    subset = np.arange(N) % 2
    mixed = np.where(subset[:, None, None], np.random.default_rng(0).permuted(images, axis=1), images)
    options = {"optics": stated, "subset": subset, "refine_ctf": True, "schedule": ONLY_GRADIENT, "rng": 0}
    whole, other = (refine(each, rotations, **options).half_maps[0].data for each in (images, mixed))
    assert np.corrcoef(whole.ravel(), other.ravel())[0, 1] > 0.99


def test_a_map_without_ctf_has_nothing_to_refine(imaged):
    images, _, _, rotations = imaged
    with pytest.raises(ValueError, match="refine_ctf requires images with a known CTF, but optics has none"):
        refine(images, rotations, pixel_size_angstrom=PIXEL_ANGSTROM, refine_ctf=True)


def test_a_refinement_without_gradient_rounds_cannot_refine_the_ctf(imaged):
    images, _, stated, rotations = imaged
    with pytest.raises(ValueError, match="at least one gradient round, got gradient_rounds 0"):
        refine(images, rotations, optics=stated, refine_ctf=True, schedule=RefinementSchedule(1, 0))


@pytest.mark.parametrize("suffix", [".star", ".cs"])
@pytest.mark.parametrize("source", [".star", ".cs"])
def test_fitted_values_are_written(tmp_path, imaged, fitted, source, suffix):
    images, _, stated, rotations = imaged
    poses = Poses(rotations, np.zeros((N, 2)))
    write_particles(tmp_path / f"in{source}", ParticleStack(images, stated, poses))
    given = open_particles(tmp_path / f"in{source}")
    write_poses(tmp_path / f"out{suffix}", given, fitted.poses, optics=fitted.optics)
    found = open_particles(tmp_path / f"out{suffix}").optics
    np.testing.assert_allclose(found.defocus_angstrom, fitted.optics.defocus_angstrom, rtol=1e-6)
    np.testing.assert_allclose(found.scale, fitted.optics.scale, rtol=1e-6)
    assert found.ctf.voltage_kv == stated.ctf.voltage_kv
    # the astigmatism of the file stays
    write_poses(tmp_path / f"b{suffix}", given, fitted.poses, optics=fitted.optics.isotropic())
    again = open_particles(tmp_path / f"b{suffix}").optics
    np.testing.assert_allclose(again.defocus_angstrom, found.defocus_angstrom, rtol=1e-6)
    with pytest.raises(ValueError, match=f"one entry for each of the {N} images, got 10"):
        write_poses(tmp_path / f"c{suffix}", given, fitted.poses, optics=fitted.optics[:10])
    bare = open_particles(given.paths[-1], pixel_size_angstrom=PIXEL_ANGSTROM)
    with pytest.raises(ValueError, match="optics must not be given, because"):
        write_poses(tmp_path / f"c{suffix}", bare, fitted.poses, optics=fitted.optics)
    assert not (tmp_path / f"c{suffix}").exists()


def test_the_command_refines_the_ctf(tmp_path, imaged):
    images, true, stated, rotations = imaged
    poses = Poses(rotations, np.zeros((N, 2)))
    write_particles(tmp_path / "in.star", ParticleStack(images, stated, poses))
    rounds = ["--search-rounds", 0, "--gradient-rounds", 2]
    outputs = ["--out", tmp_path / "a.mrc", "--poses", tmp_path / "a.star"]
    values = answer("refine", tmp_path / "in.star", *outputs, *rounds, "--refine-ctf")
    found = open_particles(tmp_path / "a.star").optics
    assert defocus_error(found, true) < 0.5 * defocus_error(stated, true)
    assert values["defocus_changed_angstrom"] == pytest.approx(defocus_error(found, stated), rel=1e-3)
    assert values["contrast_spread"] == pytest.approx(found.scale.std(), rel=1e-3)
    refused = invoke(
        "refine", tmp_path / "in.star", *outputs, "--gradient-rounds", 0, "--refine-ctf", "--force"
    )
    assert refused.exit_code == 2
    assert "requires --gradient-rounds of at least 1, got 0" in refused.stderr


def test_particles_without_ctf_are_refused_before_the_work(tmp_path, imaged, monkeypatch):
    monkeypatch.setenv("CRYOEM_HOME", str(tmp_path))
    poses = Poses(imaged[3], np.zeros((N, 2)))
    table = tmp_path / "a.star"
    write_particles(table, ParticleStack(imaged[0], Optics(PIXEL_ANGSTROM), poses))
    outputs = ["--out", tmp_path / "b.mrc", "--poses", tmp_path / "b.star"]
    refused = invoke("refine", table, *outputs, "--refine-ctf")
    sentence = f"cryoem: {table} has no CTF parameters; leave out --refine-ctf\n"
    assert (refused.exit_code, refused.stderr.splitlines()[-1:]) == (1, [sentence.strip()])
    refused = invoke("run", "--particles", table, "--set", "refine_ctf=true")
    assert refused.exit_code != 0
    assert f"refine_ctf requires CTF parameters, but {table} has none" in refused.stderr
    assert not (tmp_path / "runs").exists()
