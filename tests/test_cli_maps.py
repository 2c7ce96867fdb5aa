"""Commands that make and compare maps."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from command_line import invoke

from cryoem import contrast, particles, reconstruction, rotations, volumes
from cryoem.particles import outliers
from cryoem.volumes import loading


@pytest.fixture
def half_maps(tmp_path):
    """Paths of two (16, 16, 16) maps with 8 angstrom voxels: the phantom with different noise."""
    particle = volumes.phantom(size=16, voxel_size_angstrom=8.0)
    paths = []
    for seed in (1, 2):
        noise = np.random.default_rng(seed).normal(0, 0.05, particle.data.shape)
        paths.append(tmp_path / f"half-{seed}.mrc")
        volumes.write_map(paths[-1], volumes.DensityMap(particle.data + noise, 8.0))
    return paths


# --- density


@pytest.mark.parametrize(
    ("options", "made"),
    [
        (["--size", 16], {"size": 16, "voxel_size_angstrom": 16.0}),
        (["--voxel-size", 8], {"size": 32, "voxel_size_angstrom": 8.0}),
        (
            ["--size", 16, "--resolution", 40, "--symmetry", "D2"],
            {"size": 16, "voxel_size_angstrom": 16.0, "resolution_angstrom": 40.0, "symmetry": "D2"},
        ),
    ],
)
def test_density_makes_a_phantom(tmp_path, options, made):
    out = tmp_path / "map.mrc"
    answer = invoke("density", "phantom", "--out", out, *options, "--json")
    assert (answer.exit_code, answer.stderr) == (0, "")
    written, expected = volumes.read_map(out), volumes.phantom(**made)
    np.testing.assert_array_equal(written.data, expected.data)
    assert written.voxel_size_angstrom == pytest.approx(expected.voxel_size_angstrom)
    assert json.loads(answer.stdout)["shape_zyx"] == list(expected.data.shape)


def test_density_crops_and_resamples_a_map(half_maps, tmp_path):
    out = tmp_path / "map.mrc.gz"
    answer = invoke("density", half_maps[0], "--voxel-size", 16, "--size", 6, "--out", out)
    assert answer.exit_code == 0, answer.stderr
    assert answer.stdout.startswith(
        f"6 x 6 x 6 voxels of 16 Å: {out}\nview it: chimerax {tmp_path / 'map.cxc'}\n"
    )
    assert 'open "map.mrc.gz"' in (tmp_path / "map.cxc").read_text()
    expected = volumes.crop_or_pad(volumes.resample(volumes.read_map(half_maps[0]), 16.0), 6)
    np.testing.assert_array_equal(volumes.read_map(out).data, expected.data)


def test_density_reads_a_file_marked_as_a_stack_as_a_map_on_request(tmp_path):
    particle = volumes.phantom(size=16)
    volumes.write_map(tmp_path / "map.mrc", particle)
    (tmp_path / "map.mrc").rename(tmp_path / "map.mrcs")
    arguments = ["density", tmp_path / "map.mrcs", "--out", tmp_path / "out.mrc"]
    refused = invoke(*arguments)
    assert refused.exit_code == 1
    assert "is a stack of 16 images of 16 x 16 pixels, not a density map; if it is a map" in refused.stderr
    assert invoke(*arguments, "--as-map").exit_code == 0
    np.testing.assert_array_equal(volumes.read_map(tmp_path / "out.mrc").data, particle.data)


def test_density_checks_its_options_before_it_computes(tmp_path, monkeypatch):
    def loaded(*_, **__):
        raise AssertionError("nothing must be computed that cannot be written")

    monkeypatch.setattr(loading, "load", loaded)
    for arguments, code, message in (
        (
            ["5j0n", "--symmetry", "D2", "--out", tmp_path / "a.mrc"],
            2,
            "applies only to the phantom, got 5j0n",
        ),
        (["phantom", "--out", tmp_path / "a.txt"], 2, "must end in .mrc or .map or .ccp4 or .mrc.gz or"),
        (["phantom", "--out", tmp_path / "no" / "a.mrc"], 1, "the folder of --out"),
        (["phantom"], 2, "Missing option '--out'"),
    ):
        refused = invoke("density", *arguments)
        assert refused.exit_code == code
        assert message in refused.stderr


@pytest.mark.parametrize("variable", ["CRYOEM_HOME", "CRYOEM_DATA"])
def test_density_never_replaces_the_registry_file_that_it_reads(tmp_path, monkeypatch, variable):
    own = tmp_path / "emd_1234.map.gz"
    volumes.write_map(own, volumes.phantom(size=16))
    before = own.read_bytes()
    monkeypatch.delenv("CRYOEM_DATA", raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    (tmp_path / "link.mrc").symlink_to(own)
    for out in (own, tmp_path / "link.mrc"):
        refused = invoke("density", "EMD-1234", "--out", out, "--force")
        assert refused.exit_code == 1
        assert refused.stderr.startswith(f"cryoem: {out} is an input of this command")
    assert own.read_bytes() == before
    answer = invoke("density", "EMD-1234", "--size", 8, "--out", tmp_path / "other.mrc")
    assert answer.exit_code == 0, answer.stderr


@pytest.mark.parametrize(
    "arguments",
    [["phantom"], ["phantom", "--voxel-size", 0.5], ["half-1.mrc"], ["half-1.mrc", "--voxel-size", 0.1]],
)
def test_a_box_that_does_not_fit_is_refused_before_any_work(half_maps, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    size = [] if "--voxel-size" in arguments else ["--size", 512]
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=123_000_000))
    refused = invoke("density", *arguments, *size, "--out", "map.mrc")
    needed = "25.2" if 0.1 in arguments else "1.6"  # 12 bytes for each of 1280^3 or 512^3 voxels
    assert refused.exit_code == 1
    assert (
        f"voxels needs about {needed} GB, and 0.1 GB is available; use a smaller box, larger"
        in refused.stderr
    )
    assert not (tmp_path / "map.mrc").exists()


# --- reconstruct


@pytest.mark.parametrize(
    ("options", "needed"), [([], "0.3"), (["--half-maps"], "0.3"), (["--method", "cgls"], "0.3")]
)
def test_a_map_that_does_not_fit_is_refused_before_any_work(tmp_path, monkeypatch, options, needed):
    poses = rotations.random_rotations(4, rng=0)
    stack = particles.ParticleStack(
        np.ones((4, 16, 16), np.float32), contrast.Optics(4.0), rotations.Poses(poses)
    )
    particles.write_particles(tmp_path / "a.star", stack)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=123_000_000))
    monkeypatch.setattr(outliers, "usable_images", lambda *_, **__: pytest.fail("no image must be read"))
    refused = invoke("reconstruct", tmp_path / "a.star", "--out", tmp_path / "map.mrc", *options)
    assert refused.exit_code == 1
    assert (
        f"reconstructing a map 16 px wide needs about {needed} GB, and 0.1 GB is available" in refused.stderr
    )
    assert not (tmp_path / "map.mrc").exists()


# --- fsc


def test_fsc_finds_the_resolution_of_two_maps(half_maps, tmp_path):
    a, b = (volumes.read_map(path).data for path in half_maps)
    curve = reconstruction.fourier_shell_correlation(a, b, voxel_size_angstrom=8.0)
    out, figure = tmp_path / "curve.csv", tmp_path / "fsc.html"
    answer = invoke("fsc", *half_maps, "--threshold", 0.9, "--out", out, "--figure", figure)
    resolution = curve.resolution_angstrom(0.9)
    assert 16 < resolution < 128  # between Nyquist and the first shell
    text = f"resolution {resolution:.2f} Å at FSC 0.9\nCurve: {out}\nFigure: {figure}\n"
    assert answer.stdout == text
    rows = np.genfromtxt(out, delimiter=",", names=True)
    assert rows.dtype.names == ("frequency_per_angstrom", "correlation")
    np.testing.assert_allclose(rows["frequency_per_angstrom"], curve.frequency, rtol=1e-8)
    np.testing.assert_allclose(rows["correlation"], curve.correlation, rtol=1e-8)
    page = figure.read_text()
    assert "Fourier shell correlation" in page
    assert 'src="http' not in page  # works without a network connection
    values = json.loads(invoke("fsc", *half_maps, "--threshold", 0.9, "--json").stdout)
    assert values["resolution_angstrom"] == resolution
    assert values["falls_below_threshold"]
    assert values["correlation"] == curve.correlation.tolist()


@pytest.mark.filterwarnings("always::UserWarning")
def test_a_map_agrees_with_itself_to_nyquist(half_maps):
    volumes.write_map(half_maps[1], volumes.read_map(half_maps[0]))
    answer = invoke("fsc", *half_maps)
    assert answer.stderr == (
        f"cryoem: warning: {half_maps[0]} and {half_maps[1]} contain identical maps, so their FSC is 1 at "
        "all frequencies and does not measure the resolution; compare two different maps\n"
    )
    assert (
        answer.stdout
        == "resolution 16.00 Å at FSC 0.143 (Nyquist: the curve never falls below the threshold)\n"
    )


def test_fsc_under_a_mask(half_maps, tmp_path):
    a, b = (volumes.read_map(path).data for path in half_maps)
    weight = reconstruction.particle_mask(a, b)
    volumes.write_map(tmp_path / "mask.mrc", volumes.DensityMap(weight, 8.0))
    expected = reconstruction.masked_half_map_fsc(a, b, weight, voxel_size_angstrom=8.0, rng=3)
    out = tmp_path / "curve.csv"
    for options in (["--soft-mask"], ["--mask", tmp_path / "mask.mrc"]):
        values = json.loads(
            invoke("fsc", *half_maps, *options, "--seed", 3, "--json", "--out", out, "--force").stdout
        )
        assert values["correlation"] == expected.correlation.tolist()
        assert values["phase_randomised"] == expected.phase_randomised.tolist()
        rows = np.genfromtxt(out, delimiter=",", names=True)
        np.testing.assert_allclose(rows["phase_randomised"], expected.phase_randomised, rtol=1e-8)
    family = reconstruction.fsc_family(a, b, voxel_size_angstrom=8.0, mask=weight, rng=3)
    for name in ("unmasked", "loose", "tight"):
        curve = getattr(family, name)
        assert values[f"{name}_resolution_angstrom"] == curve.resolution_angstrom(0.143)
        np.testing.assert_allclose(rows[name], curve.correlation, rtol=1e-8)
    refused = invoke("fsc", *half_maps, "--mask", half_maps[0], "--soft-mask")
    assert refused.exit_code == 2
    assert "use either --mask or --soft-mask, not both" in refused.stderr


def test_fsc_writes_a_report_and_a_sharpened_map(half_maps, tmp_path):
    page, sharpened = tmp_path / "resolution.html", tmp_path / "sharp.mrc"
    answer = invoke("fsc", *half_maps, "--report", page, "--sharpened", sharpened, "--json")
    assert (answer.exit_code, answer.stderr) == (0, "")
    values, (a, b) = json.loads(answer.stdout), (volumes.read_map(path) for path in half_maps)
    curve = reconstruction.fsc_family(a.data, b.data, voxel_size_angstrom=8.0, rng=0).corrected
    mean = volumes.DensityMap((a.data + b.data) / 2, 8.0)
    b_factor = reconstruction.guinier(mean, fsc=curve).b_factor_angstrom2
    assert values["b_factor_angstrom2"] == pytest.approx(b_factor)
    expected = reconstruction.sharpen(mean, b_factor_angstrom2=b_factor, fsc=curve)
    written = volumes.read_map(sharpened).data
    np.testing.assert_allclose(written, expected.data, atol=1e-5 * np.abs(expected.data).max())
    low, high = values["conical_resolution_range_angstrom"]
    assert 16 <= low <= high
    text = page.read_text()
    assert text.count('class="figure-json"') == 4
    assert f"B factor {b_factor:.0f} Å²" in text
    assert 'src="http' not in text


def test_fsc_reports_half_maps_that_do_not_agree(tmp_path, rng):
    paths = [tmp_path / "a.mrc", tmp_path / "b.mrc"]
    for path in paths:
        volumes.write_map(path, volumes.DensityMap(rng.normal(size=(24, 24, 24)).astype(np.float32), 4.0))
    page = tmp_path / "resolution.html"
    answer = invoke("fsc", *paths, "--report", page, "--json")
    assert answer.exit_code == 0, answer.stderr
    assert json.loads(answer.stdout)["b_factor_angstrom2"] is None
    text = page.read_text()
    assert text.count('class="figure-json"') == 3
    assert "No B factor" in text
    refused = invoke("fsc", *paths, "--soft-mask", "--sharpened", tmp_path / "c.mrc")
    assert refused.exit_code == 1
    assert "the map cannot be sharpened: a B factor requires at least 3 shells" in refused.stderr


@pytest.mark.parametrize("threshold", [1.5, 1, 0, -1])
def test_impossible_thresholds_are_refused_before_the_maps_are_read(threshold):
    refused = invoke("fsc", "none.mrc", "none.mrc", "--threshold", threshold)
    sentence = f"cryoem: --threshold must be between 0 and 1, got {threshold}\n"
    assert (refused.exit_code, refused.stderr) == (1, sentence)


def test_empty_masks_and_maps_are_named(half_maps, tmp_path):
    corner = np.zeros((16, 16, 16))
    corner[0, 0, 0] = 1
    for name, data in (("zero", 0 * corner), ("corner", corner), ("rest", 1 - corner)):
        volumes.write_map(tmp_path / f"{name}.mrc", volumes.DensityMap(data, 8.0))
    for maps, mask, sentence in (
        (half_maps, "zero", f"the mask {tmp_path}/zero.mrc is empty: all of its voxels are 0"),
        ([half_maps[0], tmp_path / "rest.mrc"], "corner", f"{tmp_path}/rest.mrc is empty under the mask"),
    ):
        refused = invoke("fsc", *maps, "--mask", tmp_path / f"{mask}.mrc")
        assert (refused.exit_code, refused.stderr.startswith(f"cryoem: {sentence}")) == (1, True)


@pytest.mark.parametrize("scale", [1e25, 1e-25])
def test_fsc_does_not_depend_on_the_units(half_maps, tmp_path, scale):
    page, sharpened = tmp_path / "resolution.html", tmp_path / "sharp.mrc"
    options = ["--soft-mask", "--report", page, "--sharpened", sharpened, "--json", "--force"]
    expected = json.loads(invoke("fsc", *half_maps, *options).stdout)
    for path in half_maps:
        volumes.write_map(path, volumes.DensityMap(volumes.read_map(path).data * np.float32(scale), 8.0))
    ended = invoke("fsc", *half_maps, *options)
    assert (ended.exit_code, ended.stderr) == (0, "")
    values = json.loads(ended.stdout)
    np.testing.assert_allclose(values["correlation"], expected["correlation"], atol=1e-4)
    for name in (
        "b_factor_angstrom2",
        "local_resolution_percentiles_angstrom",
        "conical_resolution_range_angstrom",
    ):
        np.testing.assert_allclose(values[name], expected[name], rtol=1e-3)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            volumes.DensityMap(np.ones((16, 16, 18)), 8.0),
            "other.mrc must have the same box, got (16, 16, 16) and",
        ),
        (
            volumes.DensityMap(np.ones((16, 16, 16)), 8.1),
            "other.mrc must have the same voxel size, got 8 and 8.1",
        ),
        (volumes.DensityMap(np.zeros((16, 16, 16)), 8.0), "other.mrc is empty: all of its voxels are 0"),
    ],
    ids=["box", "voxel", "zero"],
)
def test_maps_that_cannot_be_compared_are_refused(half_maps, tmp_path, other, message):
    volumes.write_map(tmp_path / "other.mrc", other)
    refused = invoke("fsc", half_maps[0], tmp_path / "other.mrc", "--out", tmp_path / "curve.csv")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert message in refused.stderr
    assert not (tmp_path / "curve.csv").exists()
    if len(set(other.data.shape)) > 1:
        itself = invoke("fsc", tmp_path / "other.mrc", tmp_path / "other.mrc")
        assert "other.mrc is not a map in a cubic box: its box has (16, 16, 18) voxels" in itself.stderr
