"""The commands that make and compare maps, on files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command_line import invoke

from cryoem import registry, resolution, volumes


@pytest.fixture
def half_maps(tmp_path):
    """Two maps (16, 16, 16) of 8 angstrom: the phantom and noise of their own."""
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
        (["--size", 16, "--voxel-size", 4], {"size": 16, "voxel_size_angstrom": 4.0}),
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
    assert answer.exit_code == 0, answer.stderr
    written, expected = volumes.read_map(out), volumes.phantom(**made)
    np.testing.assert_array_equal(written.data, expected.data)
    assert written.voxel_size_angstrom == pytest.approx(expected.voxel_size_angstrom)
    values = json.loads(answer.stdout)
    assert values["map"] == str(out)
    assert values["shape_zyx"] == list(expected.data.shape)
    assert values["voxel_size_angstrom"] == expected.voxel_size_angstrom


def test_density_cuts_and_resamples_a_map(half_maps, tmp_path):
    out = tmp_path / "map.mrc.gz"
    answer = invoke("density", half_maps[0], "--voxel-size", 16, "--size", 6, "--out", out)
    assert (answer.exit_code, answer.stdout) == (0, f"6 x 6 x 6 voxels of 16 Å: {out}\n")
    expected = volumes.cube(volumes.resample(volumes.read_map(half_maps[0]), 16.0), 6)
    np.testing.assert_array_equal(volumes.read_map(out).data, expected.data)


def test_density_of_an_atomic_model(real_data, tmp_path):
    model, out = real_data / "models" / "1u19.cif.gz", tmp_path / "map.mrc"
    answer = invoke("density", model, "--voxel-size", 8, "--size", 32, "--out", out)
    assert (answer.exit_code, answer.stderr) == (0, "")
    expected = volumes.density_from_model(
        model, voxel_size_angstrom=8.0, resolution_angstrom=16.0, box_size=32
    )
    np.testing.assert_array_equal(volumes.read_map(out).data, expected.data)
    refused = invoke("density", model, "--voxel-size", 8, "--size", 4, "--out", tmp_path / "small.mrc")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("cryoem: box_size must ")
    assert [path.name for path in tmp_path.iterdir()] == ["map.mrc"]


def test_density_refuses_before_it_computes(tmp_path, monkeypatch):
    def loaded(*_, **__):
        raise AssertionError("nothing is to be made that cannot be written")

    monkeypatch.setattr(registry, "load", loaded)
    for arguments, code, message in (
        (["5j0n", "--symmetry", "D2", "--out", tmp_path / "a.mrc"], 2, "is for the phantom, got 5j0n"),
        (["phantom", "--out", tmp_path / "a.txt"], 2, "must end in .mrc or .map or .mrc.gz or .map.gz"),
        (["phantom", "--out", tmp_path / "no" / "a.mrc"], 1, "--out must be in a folder that is there"),
        (["phantom"], 2, "Missing option '--out'"),
    ):
        refused = invoke("density", *arguments)
        assert refused.exit_code == code
        assert message in refused.stderr


# --- fsc


def test_fsc_says_where_two_maps_stop_agreeing(half_maps, tmp_path):
    a, b = (volumes.read_map(path).data for path in half_maps)
    curve = resolution.fourier_shell_correlation(a, b, voxel_size_angstrom=8.0)
    out = tmp_path / "curve.csv"
    answer = invoke("fsc", *half_maps, "--threshold", 0.9, "--out", out)
    at = curve.resolution_angstrom(0.9)
    assert 16 < at < 128  # between Nyquist and the first shell
    assert answer.stdout == f"resolution {at:.2f} Å at FSC 0.9\nCurve: {out}\n"
    rows = np.genfromtxt(out, delimiter=",", names=True)
    assert rows.dtype.names == ("frequency_per_angstrom", "correlation")
    np.testing.assert_allclose(rows["frequency_per_angstrom"], curve.frequency, rtol=1e-8)
    np.testing.assert_allclose(rows["correlation"], curve.correlation, rtol=1e-8)
    values = json.loads(invoke("fsc", *half_maps, "--threshold", 0.9, "--json").stdout)
    assert values["resolution_angstrom"] == at
    assert values["falls_below_threshold"]
    assert values["correlation"] == curve.correlation.tolist()
    assert values["phase_randomised"] is None


def test_a_map_agrees_with_itself_to_the_last_shell(half_maps):
    answer = invoke("fsc", half_maps[0], half_maps[0])
    assert answer.stdout == "resolution 16.00 Å at FSC 0.143 (the last shell: it never falls below)\n"


def test_fsc_under_a_mask_of_its_own_or_a_given_one(half_maps, tmp_path):
    a, b = (volumes.read_map(path).data for path in half_maps)
    weight = resolution.particle_mask(a, b)
    volumes.write_map(tmp_path / "mask.mrc", volumes.DensityMap(weight, 8.0))
    expected = resolution.masked_half_map_fsc(a, b, weight, voxel_size_angstrom=8.0, rng=3)
    out = tmp_path / "curve.csv"
    for options in (["--soft-mask"], ["--mask", tmp_path / "mask.mrc"]):
        values = json.loads(
            invoke("fsc", *half_maps, *options, "--seed", 3, "--json", "--out", out, "--force").stdout
        )
        assert values["correlation"] == expected.correlation.tolist()
        assert values["phase_randomised"] == expected.phase_randomised.tolist()
        rows = np.genfromtxt(out, delimiter=",", names=True)
        np.testing.assert_allclose(rows["phase_randomised"], expected.phase_randomised, rtol=1e-8)
    assert (expected.correlation > resolution.fourier_shell_correlation(a, b).correlation).mean() > 0.5


def test_fsc_draws_a_page_that_needs_no_network(half_maps, tmp_path):
    assert invoke("fsc", *half_maps, "--figure", tmp_path / "fsc.html").exit_code == 0
    page = (tmp_path / "fsc.html").read_text()
    assert "Fourier shell correlation" in page
    assert 'src="http' not in page


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (volumes.DensityMap(np.ones((16, 16, 18)), 8.0), r"other.mrc must have the box of "),
        (volumes.DensityMap(np.ones((16, 16, 16)), 8.1), "other.mrc must have the voxel size of "),
        (volumes.DensityMap(np.zeros((16, 16, 16)), 8.0), "b must not be zero everywhere, got only zeros"),
    ],
    ids=["box", "voxel", "zero"],
)
def test_maps_that_cannot_be_compared(half_maps, tmp_path, other, message):
    volumes.write_map(tmp_path / "other.mrc", other)
    refused = invoke("fsc", half_maps[0], tmp_path / "other.mrc", "--out", tmp_path / "curve.csv")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert message in refused.stderr
    assert not (tmp_path / "curve.csv").exists()


def test_a_box_that_is_no_cube_is_refused_by_its_name(tmp_path):
    volumes.write_map(tmp_path / "a.mrc", volumes.DensityMap(np.ones((16, 16, 18)), 8.0))
    refused = invoke("fsc", tmp_path / "a.mrc", tmp_path / "a.mrc")
    assert refused.exit_code == 1
    assert refused.stderr == (
        f"cryoem: {tmp_path / 'a.mrc'} must have a cubic box, got (16, 16, 18) voxels (z, y, x)\n"
    )


def test_one_mask_at_the_most(half_maps):
    refused = invoke("fsc", *half_maps, "--mask", half_maps[0], "--soft-mask")
    assert refused.exit_code == 2
    assert "give --mask or --soft-mask, not both" in refused.stderr
