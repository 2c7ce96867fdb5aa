"""The registry without a network: local files first, verified checksums, one sentence for every failure."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pooch
import pytest
import requests
from particle_files import correlation

from cryoem import particles, volumes
from cryoem.volumes import registry
from cryoem.volumes.loading import DEFAULT_VOXEL_SIZE_ANGSTROM, PHANTOM_BOX_ANGSTROM


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty data folder, no local data, and a network that must not be used."""
    monkeypatch.delenv("CRYOEM_DATA", raising=False)
    monkeypatch.setenv("CRYOEM_HOME", str(tmp_path / "home"))

    def no_network(*_, **__):
        raise requests.ConnectionError("HTTPSConnectionPool: Max retries exceeded")

    monkeypatch.setattr(pooch, "retrieve", no_network)
    return tmp_path / "home"


MODEL = gzip.compress(b"data_1U19\n#\n", mtime=0)
MAP = gzip.compress(bytes(208) + b"MAP " + bytes(2000), mtime=0)


@pytest.fixture
def downloads(home, monkeypatch):
    """A network that serves a model, a map and the word "served"; returns the list of requested addresses."""
    asked = []

    def retrieve(url, *, known_hash, fname, path, progressbar):
        asked.append((url, known_hash))
        assert progressbar
        (path / fname).write_bytes({"1u19.cif.gz": MODEL, "emd_1234.map.gz": MAP}.get(fname, b"served"))

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    return asked


def listed(monkeypatch, content):
    """Make the entry "5j0n" expect ``content``."""
    entry = volumes.ENTRIES["5j0n"]
    expected = hashlib.sha256(content).hexdigest()
    changed = volumes.Entry(
        entry.name, entry.file_name, entry.url, expected, entry.licence, entry.description
    )
    monkeypatch.setitem(volumes.ENTRIES, "5j0n", changed)
    return expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../5j0n", "name must be a registry name, not a path, got"),
        ("", "name must be one of 5j0n, beta-galactosidase, a PDB id"),
        ("５j0n", "name must be one of 5j0n, beta-galactosidase, a PDB id"),
        ("5jon", r"or PDB-5jon for the PDB entry, got '5jon'; did you mean '5j0n'\?$"),
        ("betagalactosidase", r"got 'betagalactosidase'; did you mean 'beta-galactosidase'\?$"),
        ("EMDB1234", r"got 'EMDB1234'; did you mean 'EMD-1234'\?$"),
        ("phantm", r"got 'phantm'; did you mean 'phantom'\?$"),
    ],
)
def test_names_that_are_none_are_refused(home, name, message):
    with pytest.raises(ValueError, match=message):
        volumes.fetch(name)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc, where nobody can create files")
def test_a_data_folder_that_cannot_be_written_is_found_before_the_download(monkeypatch):
    monkeypatch.setenv("CRYOEM_HOME", "/proc/data")
    monkeypatch.delenv("CRYOEM_DATA", raising=False)
    monkeypatch.setattr(registry, "_download", lambda *_: pytest.fail("a file was downloaded"))
    with pytest.raises(OSError, match=r"^cannot write /proc/data/5j0n\.mrc: "):
        volumes.fetch("5j0n")


@pytest.mark.parametrize("folder", ["", "maps"])
def test_local_file_comes_first(home, tmp_path, monkeypatch, folder):
    listed(monkeypatch, b"local")
    path = tmp_path / "local" / folder / "5j0n.mrc"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"local")
    monkeypatch.setenv("CRYOEM_DATA", str(tmp_path / "local"))
    assert volumes.fetch("5j0n").samefile(path)
    path.write_bytes(b"wrong")
    with pytest.raises(
        ValueError, match=r"5j0n\.mrc is damaged or was changed: its SHA-256 must be \w+, got \w+"
    ):
        volumes.fetch("5J0N")


@pytest.mark.parametrize("suffix", [".cif.gz", ".cif", ".pdb.gz", ".pdb"])
def test_the_local_model_of_a_pdb_entry_may_have_any_format(home, downloads, tmp_path, monkeypatch, suffix):
    path = tmp_path / "local" / "models" / f"1ihm{suffix}"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"model")
    monkeypatch.setenv("CRYOEM_DATA", str(tmp_path / "local"))
    assert volumes.fetch("1IHM").samefile(path)
    assert volumes.fetch("PDB-1ihm").samefile(path)
    assert not downloads


def test_download_happens_once_with_the_known_hash(home, downloads, monkeypatch):
    expected = listed(monkeypatch, b"served")
    path = volumes.fetch("5j0n")
    assert path == home / "5j0n.mrc"
    assert volumes.fetch("5j0n") == path
    path.write_bytes(b"changed")
    with pytest.raises(ValueError, match=r"5j0n\.mrc is damaged or was changed"):
        volumes.fetch("5j0n")
    assert downloads == [(volumes.ENTRIES["5j0n"].url, expected)]


@pytest.mark.parametrize(
    ("name", "file", "url", "content"),
    [
        ("1u19", "1u19.cif.gz", "https://files.rcsb.org/download/1U19.cif.gz", MODEL),
        ("PDB-1u19", "1u19.cif.gz", "https://files.rcsb.org/download/1U19.cif.gz", MODEL),
        (
            "EMD-1234",
            "emd_1234.map.gz",
            "https://ftp.ebi.ac.uk/pub/databases/emdb/structures/EMD-1234/map/emd_1234.map.gz",
            MAP,
        ),
    ],
)
def test_first_use_of_an_unlisted_entry_records_its_digest(home, downloads, name, file, url, content):
    path, record = volumes.fetch(name), home / f"{file}.sha256"
    assert record.read_text() == f"{hashlib.sha256(content).hexdigest()}  {file}\n"
    assert volumes.fetch(name.lower()) == path
    path.write_bytes(b"changed")
    with pytest.raises(ValueError, match=rf"{file} is damaged or was changed"):
        volumes.fetch(name)
    assert downloads == [(url, None)]
    for damaged in (b"", b"abc  1u19.cif.gz\n", b"\xff" * 80, b"0" * 90):
        record.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{file}\.sha256 must begin with a SHA-256, got"):
            volumes.fetch(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>404</html>", r"1u19\.cif\.gz is not a complete gzip file"),
        (b"", r"1u19\.cif\.gz must contain 'data_1U19' at its beginning, got ''"),
        (MODEL[:-1], r"1u19\.cif\.gz is not a complete gzip file from https://\S+: Compressed file ended"),
        (
            gzip.compress(b"data_1ABC\n", mtime=0),
            r"1u19\.cif\.gz must contain 'data_1U19' at its beginning, got 'data_1ABC'",
        ),
    ],
)
def test_what_is_downloaded_is_verified_before_it_is_taken(home, monkeypatch, content, message):
    def retrieve(url, *, fname, path, **_):
        (path / fname).write_bytes(content)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(ValueError, match=message) as raised:
        volumes.fetch("1u19")
    assert "\n" not in str(raised.value)
    assert not list(home.iterdir())


NOT_FOUND = requests.Response()
NOT_FOUND.status_code = 404


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device"), "from https://.*: No space left on device$"),
        (requests.HTTPError("404 Client Error", response=NOT_FOUND), ": the server answered 404$"),
        (requests.ConnectionError("Max retries exceeded"), ": no connection to the server$"),
        (
            ValueError("hash does not match:\n  expected a"),
            "failed verification: hash does not match: expected a$",
        ),
    ],
)
def test_a_failed_download_is_one_sentence(home, monkeypatch, error, message):
    def retrieve(*_, **__):
        raise error

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises((ConnectionError, ValueError), match=message):
        volumes.fetch("1u19")
    assert not list(home.iterdir())


def test_load_reads_maps_resamples_and_filters(tmp_path):
    stored = volumes.phantom(size=32)
    volumes.write_map(tmp_path / "map.mrc", stored)
    np.testing.assert_array_equal(volumes.load(tmp_path / "map.mrc").data, stored.data)
    coarse = volumes.load(str(tmp_path / "map.mrc"), voxel_size_angstrom=8.0)
    assert (coarse.data.shape, coarse.voxel_size_angstrom) == ((16, 16, 16), 8.0)
    smooth = volumes.load(tmp_path / "map.mrc", resolution_angstrom=30.0)
    assert smooth.data.std() < 0.9 * stored.data.std()


def test_load_makes_density_of_models_and_phantoms(tmp_path):
    atom = "ATOM      1  CA  ALA A   1       0.000   0.000   0.000  1.00 20.00           C\nEND\n"
    (tmp_path / "atom.pdb").write_text(atom)
    assert volumes.load(tmp_path / "atom.pdb").voxel_size_angstrom == DEFAULT_VOXEL_SIZE_ANGSTROM
    assert volumes.load(tmp_path / "atom.pdb", voxel_size_angstrom=2.0).voxel_size_angstrom == 2.0
    np.testing.assert_array_equal(volumes.load("phantom").data, volumes.phantom().data)
    np.testing.assert_array_equal(volumes.load("phantom-D2").data, volumes.phantom(symmetry="D2").data)


def test_load_makes_a_box_of_a_given_size(tmp_path, real_data):
    volumes.write_map(tmp_path / "a.mrc", volumes.phantom(size=20, voxel_size_angstrom=6.0))
    cut = volumes.load(tmp_path / "a.mrc", size=17)
    np.testing.assert_array_equal(cut.data, volumes.cube(volumes.read_map(tmp_path / "a.mrc"), 17).data)
    wide = volumes.load("phantom-C2", size=16)
    assert (wide.data.shape, wide.voxel_size_angstrom) == ((16, 16, 16), PHANTOM_BOX_ANGSTROM / 16)
    narrow = volumes.load("phantom", size=16, voxel_size_angstrom=5.0)
    assert (narrow.data.shape, narrow.voxel_size_angstrom) == ((16, 16, 16), 5.0)
    model = real_data / "models" / "1u19.cif.gz"
    assert volumes.load(model, voxel_size_angstrom=8.0, size=31).data.shape == (31, 31, 31)
    with pytest.raises(ValueError, match=r"^box_size must be at least .*, got 4$"):
        volumes.load(model, voxel_size_angstrom=8.0, size=4)
    with pytest.raises(ValueError, match=r"^size must be an integer >= 1, got 0$"):
        volumes.load("phantom", size=0)


@pytest.mark.parametrize("level", [0.3, -128.0, 0.02])
def test_the_level_of_the_solvent_is_subtracted_with_a_warning(tmp_path, level):
    """IMOD's signed bytes put the solvent at -128; a level of 0.3 shows the turning box in projections."""
    particle = volumes.phantom(size=24)
    peak = particle.data.max()
    noise = np.random.default_rng(0).normal(0, 0.02 * peak, particle.data.shape)
    stored = volumes.DensityMap(particle.data + noise + level * peak, particle.voxel_size_angstrom)
    volumes.write_map(tmp_path / "map.mrc", stored)
    with pytest.warns(
        UserWarning, match=r"map\.mrc has the density \S+ at the edge of its box, .*; subtracting"
    ):
        found = volumes.load(tmp_path / "map.mrc", size=40)
    inside = volumes.crop_or_pad(found, 24).data
    np.testing.assert_allclose(inside, particle.data + noise, atol=2e-3 * peak)
    assert not found.data[0].any()
    with pytest.warns(UserWarning, match=r"density_map has the density \S+ at the edge of its box"):
        boxed = particles.simulate(stored, 4, rng=0)
    expected = particles.simulate(volumes.DensityMap(particle.data + noise, 1.0), 4, rng=0).images
    mended = particles.simulate(volumes.subtract_solvent(stored), 4, rng=0).images
    assert correlation(mended, expected) > 0.999
    assert correlation(boxed.images, expected) < 0.999
    np.testing.assert_array_equal(volumes.read_map(tmp_path / "map.mrc").data, stored.data)


def test_noise_is_not_taken_for_a_level_of_the_solvent(tmp_path):
    for seed in range(5):
        particle = volumes.phantom(size=16)
        noise = np.random.default_rng(seed).normal(0, particle.data.max(), particle.data.shape)
        written = volumes.DensityMap(particle.data + noise, particle.voxel_size_angstrom)
        volumes.write_map(tmp_path / "map.mrc", written)
        np.testing.assert_array_equal(volumes.load(tmp_path / "map.mrc").data, written.data)


def test_inverted_contrast_is_a_warning(tmp_path):
    particle = volumes.phantom(size=16)
    particle = volumes.DensityMap(0.1 * particle.data.max() * np.eye(16)[None] - particle.data, 8.0)
    volumes.write_map(tmp_path / "dark.mrc", particle)
    with pytest.warns(UserWarning, match=r"dark\.mrc is darker than its solvent .*multiply such a map by -1"):
        volumes.load(tmp_path / "dark.mrc")


def test_load_refuses_other_files(tmp_path):
    (tmp_path / "table.csv").touch()
    with pytest.raises(
        ValueError, match=r"table\.csv is not a map or an atomic model: its name must end in one of \.mrc"
    ):
        volumes.load(tmp_path / "table.csv")
    with pytest.raises(FileNotFoundError, match=r"no map file at .*absent\.mrc"):
        volumes.load("absent.mrc")


def test_load_by_name_finds_the_real_map(real_data, monkeypatch):
    monkeypatch.setenv("CRYOEM_DATA", str(real_data))
    assert volumes.load("5j0n").data.shape == (69, 57, 75)
    assert volumes.load("1u19", voxel_size_angstrom=5.0).voxel_size_angstrom == 5.0
