"""A small intact file of each format that is read, and damage that its reader must detect."""

from __future__ import annotations

import functools
import gzip
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import scipy.io
import skimage.io
from file_changes import Change, at, fields, replaced
from particle_files import PIXEL, cs, mrc, optics_of, some_images, star
from small_maps import random_map

from cryoem import files, particles, volumes

N = 5


@dataclass(frozen=True)
class Format:
    """A file format: how an intact file is made and read, and which kinds of damage must raise an error.

    ``make(path)`` writes the file and any files that it needs to a folder. ``read(path)`` returns a comparable value.
    ``checked`` states which changes must be detected: ``"all"``, ``"length"`` (only truncation) or ``"nothing"`` (text,
    of which a part may also be valid). ``absurd`` maps names to changes of the file and a regular expression that the
    error must match.
    """

    file: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]
    checked: str
    absurd: dict[str, tuple[Change, str]] = field(default_factory=dict)
    reader_path: Callable[[Path], Path] = lambda path: path  # the path to be read, given the file


NAN = np.float32(np.nan).tobytes()


def digest(array) -> bytes:
    return np.ascontiguousarray(array).tobytes()


# --- maps and particles


def read_map(path: Path):
    found = volumes.read_map(path)
    return digest(found.data), found.data.shape, found.voxel_size_angstrom, found.origin


def read_particles(path: Path):
    stack = particles.open_particles(path).to_stack()
    return digest(stack.images), stack.pixel_size_angstrom, digest(stack.shifts_px), str(stack.ctf)


def write_map(path: Path) -> None:
    volumes.write_map(path, random_map())


def write_gzipped_map(path: Path) -> None:
    volumes.write_map(path.with_suffix(""), random_map())
    path.write_bytes(gzip.compress(path.with_suffix("").read_bytes(), mtime=0))


MRC = {
    "nan": (at(1024 + 40, NAN), "finite"),
    "negative size": (fields(ny=-7), "its header is implausible: size .* x -7"),
    "60,000 sections": (fields(nz=60_000), "truncated: its header states"),
    "extended header of 1 GB": (fields(nsymbt=2**30), "truncated: its header states"),
    "complex": (fields(mode=4), "has the unsupported mode 4; supported modes are 0, 1, 2, 6, 12"),
    "mode 77": (fields(mode=77), "has the unsupported mode 77"),
    "other byte order": (fields(machst=(0x11, 0x11, 0, 0)), "machine stamp"),
    "swapped axes": (fields(mapc=3, mapr=3), "axes"),
}
MAP = {
    **MRC,
    "no sections": (fields(nz=0), "not a map: its header states 7 x 6 x 0"),
    "a stack of volumes": (fields(ispg=401), "is a stack of 5 images"),
    "flat cell": (fields(cella=(7, 0, 5)), "cell edges must be positive, got 7.0 x 0.0 x 5.0"),
    "oblique cell": (fields(cellb=(90, 90, 120)), "cell angles must be 90 degrees, got 90.0, 90.0, 120.0"),
    "negative intervals": (fields(mx=-7), "intervals MX, MY and MZ must not be negative"),
    "nan cell": (fields(cella=(np.nan, 1, 1)), "cell edges must be positive"),
    "oblong voxels": (fields(cella=(7, 12, 5)), "voxels must be cubic"),
    "a stack": (fields(mz=1), "is a stack"),
    "huge voxels": (fields(cella=(7e9, 6e9, 5e9)), "at most"),
}
STACK = {
    **MRC,
    "oblong": (fields(nx=4), "images must be square, got 4 x 6 px"),
    "no images": (fields(nz=0), "contains no images \\(header: 0 images of 6 x 6 px\\)"),
    "volumes": (fields(ispg=401, mz=5), "is a stack of volumes"),
    "no pixel": (fields(cella=(0, 0, 0)), "has no single valid pixel size"),
}


def with_stack(write: Callable[[Path], object]) -> Callable[[Path], None]:
    """Make a table that refers to the images of a stack in the same folder."""

    def make(path: Path) -> None:
        mrc(path.with_name("a.mrcs"), some_images())
        write(path)

    return make


def read_projections(path: Path):
    stack = particles.open_particles(path, pixel_size_angstrom=PIXEL).to_stack()
    return digest(stack.images), digest(stack.rotations.as_quat())


def write_projections(path: Path) -> None:
    arrays = {"Projections": some_images(N), "Angles": np.random.default_rng(0).uniform(0, 3, (N, 3))}
    if path.suffix == ".mat":
        scipy.io.savemat(path, arrays)
        path.write_bytes(b"MATLAB 5.0".ljust(116) + path.read_bytes()[116:])  # without a date
        return
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values


def read_training_folder(path: Path):
    opened = particles.open_particles(path.parent, pixel_size_angstrom=PIXEL)
    return digest(opened), digest(opened.rotations.as_quat()), digest(opened.shifts_px)


def write_parameters(path: Path) -> None:
    (path.parent / "one_png").mkdir()
    for number in range(N):
        write_picture(path.parent / "one_png" / f"{number}.png")
    path.write_text("".join(f"{number} {10.5 * number} {number} {-number}\n" for number in range(N)))


def write_star(path: Path) -> None:
    names = [f"{number}@a.mrcs" for number in range(1, N + 1)]
    microscope = {"rlnVoltage": 300.0, "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1}
    columns = {"rlnAnglePsi": 30.25, "rlnOriginXAngst": 4.5, "rlnDefocusU": np.linspace(1e4, 1.5e4, N)}
    star(path, names, optics={**optics_of([1]), **microscope}, rlnOpticsGroup=1, **columns)


def write_xmd(path: Path) -> None:
    columns = {"anglePsi": 30.25, "shiftX": 1.5, "shiftY": np.arange(N) / 4 + 0.25, "samplingRate": PIXEL}
    table = pd.DataFrame({"image": [f"{i}@a.mrcs" for i in range(1, N + 1)], **columns})
    particles.write_xmd(path, table)


def write_cs(path: Path) -> None:
    cs(path, N, alignments3D__pose=np.full((N, 3), 0.25), alignments3D__shift=np.full((N, 2), 1.5))


TEXT = {
    "a value too many": (replaced("5@a.mrcs", "5@a.mrcs 7"), "must have a value for each"),
    "image 9": (replaced("5@a.mrcs", "9@a.mrcs"), "refers to image 9 of"),
    "image 0": (replaced("5@a.mrcs", "0@a.mrcs"), "refers to image 0 of"),
    "no stack": (replaced("5@a.mrcs", "5@b.mrcs"), "refers to the stack b.mrcs, which was not found"),
    "a quote": (replaced("4@a.mrcs", "4@a'.mrcs"), "quote"),
    "nan": (replaced("30.25", "nan"), "finite numbers"),
    "infinity": (replaced("30.25", "inf"), "finite numbers"),
    "a word": (replaced("30.25", "much"), "the column .* must contain finite numbers, got much.* in row 1"),
    "not UTF-8": (lambda content: content.replace(b"30.25", b"\xff\xfe", 1), "UTF-8"),
    "a zero byte": (replaced("30.25", "30\0"), "text file"),
}
STAR = {
    **TEXT,
    "no images": (
        replaced("_rlnImageName", "_rlnImageNam"),
        "has no table with the column _rlnImageName",
    ),
    "a column twice": (replaced("_rlnAnglePsi", "_rlnDefocusU"), "more than one column"),
    "group 7": (lambda content: content.replace(b"\n1\t", b"\n7\t", 1), "optics group|pixel size|group"),
    "voltage -300": (replaced("300.0", "-300.0"), "rlnVoltage must contain values from 1 to 5000, got -300"),
    "no voltage": (replaced("_rlnVoltage", "_rlnVoltag"), "has rlnDefocusU but no rlnVoltage"),
}
XMD = {**TEXT, "no images": (replaced("_image", "_imag"), "has no table with the column _image")}
CS = {
    "another length": (lambda content: content + b"\0", "is damaged: its header states"),
    "10^9 records": (replaced("(5,)", "(999999999,)"), "is not a complete NumPy array"),
    "objects": (replaced("'<u4'", "'|O'"), "must contain numbers or text|NumPy"),
    "no path": (replaced("blob/path", "blob/pat_"), "which locates the images"),
    "infinite pixel": (lambda content: content.replace(np.float32(PIXEL).tobytes(), NAN), "finite numbers"),
}

# --- models


PDB = "".join(
    f"ATOM  {i:5d}  C   ALA A{i:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00           C\n"
    for i, (x, y, z) in enumerate(np.random.default_rng(0).uniform(-9, 9, (9, 3)), start=1)
)
FIRST_X = PDB[30:38]


def write_model(path: Path) -> None:
    import gemmi

    text = PDB + "END\n"
    if ".cif" in path.name:
        structure = gemmi.read_pdb_string(text)
        structure.setup_entities()
        text = structure.make_mmcif_document().as_string()
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())


def read_model(path: Path):
    return digest(volumes.density_from_model(path, voxel_size_angstrom=4.0, resolution_angstrom=8.0).data)


COORDINATES = {
    "far atom": (replaced(FIRST_X, "9999.000"), "at most 5000 angstrom|coordinates"),
    "no atoms": (lambda content: b"HEADER    NOTHING\nEND\n", "mmCIF or PDB|atoms"),
}
MODEL_PDB = {
    **COORDINATES,
    "stars": (replaced(FIRST_X, "********"), "coordinates must be numbers, got .* as x in line 1"),
    "nan": (replaced(FIRST_X, "     nan"), "coordinates"),
    "occupancy": (replaced("  1.00 20", " 99.00 20"), "occupancies must be from 0 to 10"),
}

# --- arrays, JSON, tables, pictures


def write_arrays(path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32)
    arrays = {"images": (images, "density", "some"), "halves": (np.arange(20) % 2, "1")}
    files.save_arrays(path, arrays, parameters={"seed": 0, "phase": "2-orientation-recovery"})


def read_arrays(path: Path):
    found = files.load_arrays(path)
    return files.stored_parameters(path), {name: (a.dtype, a.shape, digest(a)) for name, a in found.items()}


def foreign_hdf5(_: bytes) -> bytes:
    with h5py.File.in_memory() as file:
        file["images"] = np.zeros((3, 8, 8))
        file.flush()
        return file.id.get_file_image()


JSON_TEXT = '{"format": "x", "numbers": [1, 2.5], "nested": {"text": "é"}}'
TABLE = "experiment,noise_variance,quantity,value\nnoise,0.0,error_rad,0.01\nnoise,16.0,error_rad,0.07\n"


def read_table(path: Path):
    from cryoem.experiments.tables import read_table

    return read_table(path.parent, path.stem).to_csv()


def read_picture(path: Path):
    from cryoem.files.pictures import read_grey

    return digest(read_grey(path))


def write_picture(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16), dtype=np.uint8)
    skimage.io.imsave(path, pixels, check_contrast=False)


# --- networks; a file is damaged if its checksum does not match


@functools.cache
def encoder():
    from cryoem.distances.trained import EncoderSettings, TrainedEncoder

    settings = EncoderSettings(image_size=16, channels=8, blocks=1, n_features=12)
    return TrainedEncoder(settings.build(), settings)


def write_encoder(path: Path) -> None:
    from cryoem.distances.trained import save_encoder

    save_encoder(path.with_name("encoder.weights.h5"), encoder())


def read_encoder(path: Path):
    from cryoem.distances.trained import load_encoder

    return str(load_encoder(path).settings)


@functools.cache
def aligner():
    from cryoem.udl.aligner import Aligner
    from cryoem.udl.networks import build_polar_network
    from cryoem.udl.spectra import polar_grid

    grid = replace(polar_grid(16), n_angles=16)
    return Aligner(build_polar_network(grid), grid, np.ones((16, 16)))


def write_aligner(path: Path) -> None:
    from cryoem.udl.aligner import save_aligner

    save_aligner(aligner(), path.parent)


def read_aligner(path: Path):
    from cryoem.udl.aligner import load_aligner

    return str(load_aligner(path).grid)


def of_encoder(file: str) -> Format:
    return Format(
        file, write_encoder, read_encoder, "all", {}, lambda path: path.with_name("encoder.weights.h5")
    )


def of_aligner(file: str) -> Format:
    return Format(file, write_aligner, read_aligner, "all", {}, lambda path: path.parent)


FORMATS = {
    "map": Format("a.mrc", write_map, read_map, "length", MAP),
    "gzipped map": Format("a.mrc.gz", write_gzipped_map, read_map, "length"),
    "stack": Format("a.mrcs", lambda path: mrc(path, some_images()), read_particles, "length", STACK),
    "star": Format("a.star", with_stack(write_star), read_particles, "nothing", STAR),
    "xmd": Format("a.xmd", with_stack(write_xmd), read_particles, "nothing", XMD),
    "projections": Format("a.h5", write_projections, read_projections, "length"),
    "matlab": Format("a.mat", write_projections, read_projections, "length"),
    "training folder": Format("parameters.txt", write_parameters, read_training_folder, "nothing"),
    "cs": Format("a.cs", with_stack(write_cs), read_particles, "length", CS),
    "pdb": Format("a.pdb", write_model, read_model, "nothing", MODEL_PDB),
    "mmcif": Format("a.cif", write_model, read_model, "nothing", {"no atoms": COORDINATES["no atoms"]}),
    "gzipped mmcif": Format("a.cif.gz", write_model, read_model, "length"),
    "arrays": Format("a.h5", write_arrays, read_arrays, "all", {"foreign": (foreign_hdf5, "not written by")}),
    "json": Format("a.json", lambda path: path.write_text(JSON_TEXT), files.read_json, "nothing"),
    "results": Format("a.csv", lambda path: path.write_text(TABLE), read_table, "nothing"),
    "png": Format("a.png", write_picture, read_picture, "nothing"),
    "encoder settings": of_encoder("encoder.json"),
    "encoder weights": of_encoder("encoder.weights.h5"),
    "aligner settings": of_aligner("aligner.json"),
    "aligner weights": of_aligner("aligner.weights.h5"),
    "aligner reference": of_aligner("reference.npy"),
}
