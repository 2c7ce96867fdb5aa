"""The registry without a network: local files first, digests always held, one sentence for every failure."""

import gzip
import hashlib

import numpy as np
import pooch
import pytest
import requests

from cryoem import registry, volumes


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty data folder, no local data, and a network that nobody may use."""
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
    """A network that serves a model, a map and the word "served"; the list of the addresses asked for."""
    asked = []

    def retrieve(url, *, known_hash, fname, path, progressbar):
        asked.append((url, known_hash))
        assert progressbar
        (path / fname).write_bytes({"1u19.cif.gz": MODEL, "emd_1234.map.gz": MAP}.get(fname, b"served"))

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    return asked


def listed(monkeypatch, content):
    """Make the entry "5j0n" expect ``content``."""
    entry = registry.ENTRIES["5j0n"]
    expected = hashlib.sha256(content).hexdigest()
    changed = registry.Entry(
        entry.name, entry.file_name, entry.url, expected, entry.licence, entry.description
    )
    monkeypatch.setitem(registry.ENTRIES, "5j0n", changed)
    return expected


@pytest.mark.parametrize(
    ("name", "file_name", "url"),
    [
        ("1U19", "1u19.cif.gz", "https://files.rcsb.org/download/1U19.cif.gz"),
        ("pdb-5j0n", "5j0n.cif.gz", "https://files.rcsb.org/download/5J0N.cif.gz"),
        (
            "EMD-1234",
            "emd_1234.map.gz",
            "https://ftp.ebi.ac.uk/pub/databases/emdb/structures/EMD-1234/map/emd_1234.map.gz",
        ),
    ],
)
def test_identifiers_have_addresses(name, file_name, url):
    entry = registry.find_entry(name)
    assert (entry.file_name, entry.url, entry.sha256) == (file_name, url, None)


def test_listed_entries_are_complete_and_found_in_any_case():
    for name, entry in registry.ENTRIES.items():
        assert registry.find_entry(name.upper()) is entry
        assert len(bytes.fromhex(entry.sha256)) == 32
        assert entry.url.startswith("https://")
        assert entry.licence
        assert entry.description


@pytest.mark.parametrize("name", ["../5j0n", "a/b", "a\\b", "/etc/passwd", ".."])
def test_paths_are_not_names(home, name):
    with pytest.raises(ValueError, match="name must be a registry name, not a path, got"):
        registry.fetch(name)


@pytest.mark.parametrize("name", ["", "ribo", "EMD-12", "12345", "５j0n"])
def test_unknown_names_are_refused_with_the_known_ones(home, name):
    with pytest.raises(ValueError, match="name must be one of 5j0n, beta-galactosidase, a PDB id"):
        registry.fetch(name)


@pytest.mark.parametrize("folder", ["", "maps", "models"])
def test_local_file_comes_first(home, tmp_path, monkeypatch, folder):
    listed(monkeypatch, b"local")
    path = tmp_path / "local" / folder / "5j0n.mrc"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"local")
    monkeypatch.setenv("CRYOEM_DATA", str(tmp_path / "local"))
    assert registry.fetch("5j0n").samefile(path)


def test_local_file_with_the_wrong_digest_is_an_error(home, tmp_path, monkeypatch):
    expected = listed(monkeypatch, b"right")
    (tmp_path / "5j0n.mrc").write_bytes(b"wrong")
    monkeypatch.setenv("CRYOEM_DATA", str(tmp_path))
    found = hashlib.sha256(b"wrong").hexdigest()
    with pytest.raises(ValueError, match=rf"5j0n\.mrc must have the sha256 {expected}, got {found}"):
        registry.fetch("5j0n")


def test_download_happens_once_with_the_known_hash(home, downloads, monkeypatch):
    expected = listed(monkeypatch, b"served")
    path = registry.fetch("5j0n")
    assert path == home / "5j0n.mrc"
    assert registry.fetch("5j0n") == path
    assert downloads == [(registry.ENTRIES["5j0n"].url, expected)]


def test_changed_download_is_an_error_not_a_retry(home, downloads, monkeypatch):
    listed(monkeypatch, b"served")
    registry.fetch("5j0n").write_bytes(b"changed")
    with pytest.raises(ValueError, match=r"5j0n\.mrc must have the sha256"):
        registry.fetch("5j0n")
    assert len(downloads) == 1


@pytest.mark.parametrize(
    ("name", "file", "content"), [("1u19", "1u19.cif.gz", MODEL), ("EMD-1234", "emd_1234.map.gz", MAP)]
)
def test_first_use_of_an_unlisted_entry_records_its_digest(home, downloads, name, file, content):
    path = registry.fetch(name)
    assert (home / f"{file}.sha256").read_text() == f"{hashlib.sha256(content).hexdigest()}  {file}\n"
    assert registry.fetch(name.upper()) == path
    path.write_bytes(b"changed")
    with pytest.raises(ValueError, match=rf"{file} must have the sha256"):
        registry.fetch(name)
    assert len(downloads) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>404</html>", r"1u19\.cif\.gz must be a whole gzip file"),
        (b"", r"1u19\.cif\.gz must begin with 'data_1U19', got ''"),
        (MODEL[:-1], r"1u19\.cif\.gz must be a whole gzip file, of https://\S+: Compressed file ended"),
        (
            MODEL[:-6] + b"x" + MODEL[-5:],
            r"1u19\.cif\.gz must be a whole gzip file, of https://\S+: CRC check failed",
        ),
        (
            gzip.compress(b"data_1ABC\n", mtime=0),
            r"1u19\.cif\.gz must begin with 'data_1U19', got 'DATA_1ABC'",
        ),
    ],
)
def test_what_is_downloaded_is_verified_before_it_is_taken(home, monkeypatch, content, message):
    def retrieve(url, *, fname, path, **_):
        (path / fname).write_bytes(content)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(ValueError, match=message) as raised:
        registry.fetch("1u19")
    assert "\n" not in str(raised.value)
    assert not list(home.iterdir())


def test_a_map_that_is_none_is_not_taken(home, downloads, monkeypatch):
    monkeypatch.setattr("test_registry.MAP", gzip.compress(b"data_1234\n" * 200))
    with pytest.raises(
        ValueError, match=r"emd_1234\.map\.gz must have, as a map has, in its header 'MAP', got"
    ):
        registry.fetch("EMD-1234")


@pytest.mark.parametrize(
    "text", [b"", b"\n", b"abc  1u19.cif.gz\n", b"\xff" * 80, b"0" * 63 + b"\n", b"0" * 90]
)
def test_a_damaged_record_of_a_digest_is_an_error(home, downloads, text):
    registry.fetch("1u19")
    (home / "1u19.cif.gz.sha256").write_bytes(text)
    with pytest.raises(ValueError, match=r"1u19\.cif\.gz\.sha256 must begin with a sha256, got"):
        registry.fetch("1u19")


def test_no_network_is_one_sentence(home):
    with pytest.raises(
        ConnectionError, match=r"could not download 'EMD-1234' from https://\S+: no connection to the server"
    ) as raised:
        registry.fetch("EMD-1234")
    assert "\n" not in str(raised.value)
    assert not list(home.iterdir())


@pytest.mark.parametrize(
    ("error", "reason"),
    [(OSError(28, "No space left on device"), "No space left on device"), (None, "the server answered 404")],
)
def test_failed_download_says_why(home, monkeypatch, error, reason):
    response = requests.Response()
    response.status_code = 404

    def retrieve(*_, **__):
        raise error or requests.HTTPError("404 Client Error: Not Found", response=response)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(ConnectionError, match=rf"could not download '1u19' from https://\S+: {reason}"):
        registry.fetch("1u19")


def test_download_with_the_wrong_hash_is_one_sentence(home, monkeypatch):
    def retrieve(url, **_):
        raise ValueError("hash does not match:\n  expected a but got b")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(
        ValueError, match=r"the download of '5j0n' from .* was refused: .* expected a but got b"
    ) as raised:
        registry.fetch("5j0n")
    assert "\n" not in str(raised.value)


def test_data_folder_is_that_of_the_project(tmp_path, monkeypatch):
    monkeypatch.delenv("CRYOEM_HOME", raising=False)
    (tmp_path / "project" / "notebooks").mkdir(parents=True)
    (tmp_path / "project" / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path / "project" / "notebooks")
    assert registry.data_folder() == tmp_path / "project" / "data"
    monkeypatch.setenv("CRYOEM_HOME", str(tmp_path / "elsewhere"))
    assert registry.data_folder() == tmp_path / "elsewhere"


def test_load_reads_maps_resamples_and_filters(tmp_path):
    stored = volumes.phantom(size=32)
    volumes.write_map(tmp_path / "map.mrc", stored)
    np.testing.assert_array_equal(registry.load(tmp_path / "map.mrc").data, stored.data)
    coarse = registry.load(str(tmp_path / "map.mrc"), voxel_size_angstrom=8.0)
    assert (coarse.data.shape, coarse.voxel_size_angstrom) == ((16, 16, 16), 8.0)
    smooth = registry.load(tmp_path / "map.mrc", resolution_angstrom=30.0)
    assert smooth.data.std() < 0.9 * stored.data.std()


def test_load_makes_density_of_models_and_phantoms(tmp_path):
    atom = "ATOM      1  CA  ALA A   1       0.000   0.000   0.000  1.00 20.00           C\nEND\n"
    (tmp_path / "atom.pdb").write_text(atom)
    assert registry.load(tmp_path / "atom.pdb").voxel_size_angstrom == registry.DEFAULT_VOXEL_SIZE_ANGSTROM
    assert registry.load(tmp_path / "atom.pdb", voxel_size_angstrom=2.0).voxel_size_angstrom == 2.0
    np.testing.assert_array_equal(registry.load("phantom").data, volumes.phantom().data)
    np.testing.assert_array_equal(registry.load("phantom-D2").data, volumes.phantom(symmetry="D2").data)


def test_load_makes_a_box_of_a_given_size(tmp_path, real_data):
    volumes.write_map(tmp_path / "a.mrc", volumes.phantom(size=20, voxel_size_angstrom=6.0))
    cut = registry.load(tmp_path / "a.mrc", size=17)
    np.testing.assert_array_equal(cut.data, volumes.cube(volumes.read_map(tmp_path / "a.mrc"), 17).data)
    wide = registry.load("phantom-C2", size=16)
    assert (wide.data.shape, wide.voxel_size_angstrom) == ((16, 16, 16), registry.PHANTOM_BOX_ANGSTROM / 16)
    narrow = registry.load("phantom", size=16, voxel_size_angstrom=5.0)
    assert (narrow.data.shape, narrow.voxel_size_angstrom) == ((16, 16, 16), 5.0)
    model = real_data / "models" / "1u19.cif.gz"
    assert registry.load(model, voxel_size_angstrom=8.0, size=31).data.shape == (31, 31, 31)
    with pytest.raises(ValueError, match=r"^box_size must be at least .*, got 4$"):
        registry.load(model, voxel_size_angstrom=8.0, size=4)
    with pytest.raises(ValueError, match=r"^size must be a whole number of at least 1, got 0$"):
        registry.load("phantom", size=0)


def test_load_refuses_other_files(tmp_path):
    (tmp_path / "table.csv").touch()
    with pytest.raises(
        ValueError, match=r"table\.csv must be a map or an atomic model .* got the suffix '\.csv'"
    ):
        registry.load(tmp_path / "table.csv")
    with pytest.raises(FileNotFoundError, match=r"no map file at .*absent\.mrc"):
        registry.load("absent.mrc")


def test_load_by_name_finds_the_real_map(real_data, monkeypatch):
    monkeypatch.setenv("CRYOEM_DATA", str(real_data))
    assert registry.load("5j0n").data.shape == (69, 57, 75)
    assert registry.load("1u19", voxel_size_angstrom=5.0).voxel_size_angstrom == 5.0


@pytest.mark.parametrize("voxel", [0.0, float("nan"), -4.0])
def test_a_voxel_has_a_size(voxel):
    with pytest.raises(ValueError, match=rf"^voxel_size_angstrom must be a positive number, got {voxel}$"):
        registry.load("phantom", voxel_size_angstrom=voxel)
