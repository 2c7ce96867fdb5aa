"""Helpers for testing particle files: stacks and tables as other programs write them, and expected errors."""

import hashlib

import mrcfile
import numpy as np
import pandas as pd
import starfile
from scipy.ndimage import affine_transform

from cryoem.contrast import ContrastTransfer, Optics
from cryoem.particles.stack import ParticleStack
from cryoem.rotations import Poses, random_rotations

PIXEL = 1.5
FLOAT32 = 1e-6  # relative
CTF = ContrastTransfer(200.0, 2.0, 0.1, 25.0, phase_shift_rad=0.5, inverted=True)
MICROSCOPE = {"rlnVoltage": 300.0, "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1}
DEFOCI = {"rlnDefocusU": [1e4, 2e4], "rlnDefocusV": [9e3, 2e4], "rlnDefocusAngle": 0.0}
CS_CTF = {
    "ctf__accel_kv": np.full(5, 300.0),
    "ctf__cs_mm": np.full(5, 2.7),
    "ctf__amp_contrast": np.full(5, 0.1),
}
CS_CTF |= {"ctf__df1_A": np.linspace(1e4, 2e4, 5), "ctf__df2_A": np.linspace(1e4, 2e4, 5)}


def some_images(n=5, size=6, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(3, 2, (n, size, size)).astype(np.float32)


def some_poses(n=5, seed=1) -> Poses:
    return Poses(random_rotations(n, rng=seed), np.random.default_rng(seed).uniform(-3, 3, (n, 2)))


def a_stack(n=5, size=6, *, ctf=CTF) -> ParticleStack:
    rng = np.random.default_rng(3)
    defocus = np.column_stack([rng.uniform(1e4, 2e4, (n, 2)), rng.uniform(-np.pi, np.pi, n)])
    return ParticleStack(some_images(n, size), Optics(PIXEL, ctf, defocus), some_poses(n))


def mrc(path, images, *, pixel=PIXEL, **fields):
    """Write a stack with mrcfile, then set the given header fields."""
    with mrcfile.new(path, overwrite=True) as stack:
        stack.set_data(images)
        stack.set_image_stack()
        stack.voxel_size = pixel
        for name, value in fields.items():
            stack.header[name] = value
    return path


def star(path, names, *, optics=None, block="particles", **columns):
    table = pd.DataFrame({"rlnImageName": names, **columns})
    blocks = {} if optics is None else {"optics": pd.DataFrame(optics)}
    starfile.write({**blocks, block: table}, path)
    return path


def digests(folder) -> dict:
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def one_sentence(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert not text.endswith(".")
    return text


def optics_of(groups, pixel=PIXEL) -> dict:
    pixels = np.broadcast_to(pixel, len(groups))
    return {"rlnOpticsGroup": groups, "rlnOpticsGroupName": "x", "rlnImagePixelSize": pixels}


def names_of(n) -> list[str]:
    return [f"{number:06d}@a.mrcs" for number in range(1, n + 1)]


def cs(path, n=5, **fields):
    """Write a cryoSPARC file for n particles of ``a.mrcs``; ``__`` stands for ``/`` in the names of the fields."""
    fields = {
        "blob__path": np.full(n, b"a.mrcs"),
        "blob__idx": np.arange(n, dtype=np.uint32),
        "blob__psize_A": np.full(n, PIXEL, np.float32),
        **fields,
    }
    columns = {name.replace("__", "/"): np.asarray(values) for name, values in fields.items()}
    dtype = [(name, values.dtype, values.shape[1:]) for name, values in columns.items()]
    records = np.zeros(n, dtype)
    for name, values in columns.items():
        records[name] = values
    with open(path, "wb") as stream:
        np.save(stream, records)
    return path


def turned_opposite(rotations) -> np.ndarray:
    """Return the (n, 3) rotation vectors of the inverse orientations, from explicit quaternions."""
    x, y, z, w = np.moveaxis(rotations.as_quat(canonical=True), -1, 0)
    length = np.linalg.norm([x, y, z], axis=0)
    return (-np.stack([x, y, z]) / length * 2 * np.arctan2(length, w)).T


def correlation(a, b) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def moved(image, matrix, offset) -> np.ndarray:
    """Move the content at q, in (x, y) from pixel n // 2, to matrix @ q + offset."""
    inverse = np.linalg.inv(matrix)
    centre = np.array(image.shape) // 2
    swap = inverse[::-1, ::-1]  # (y, x), the order of array axes
    start = centre - swap @ (centre + np.asarray(offset)[::-1])
    return affine_transform(image.astype(float), swap, offset=start, order=3)
