"""Checksums of the files that a run starts from, each read once while it stays as it is."""

from __future__ import annotations

import functools
import os
import warnings
from pathlib import Path

from cryoem import plain_files
from cryoem.particles import open_particles
from cryoem.pipeline.profiles import Profile
from cryoem.pipeline.settings import is_path


def input_checksums(profile: Profile) -> dict[str, object]:
    """``map_sha256`` of a map file, ``particles_sha256`` of a particle file and its stacks by their paths from its
    folder; what is not a file of the user's is left out.

    Raises
    ------
    OSError, ValueError : a file cannot be read, as ``open_particles`` says.
    """
    checksums: dict[str, object] = {}
    if is_path(profile.map_name):
        checksums["map_sha256"] = sha256_of(profile.map_name)
    if profile.particles is not None:
        folder = Path(profile.particles).parent
        checksums["particles_sha256"] = {
            os.path.relpath(path, folder): sha256_of(path) for path in particle_paths(profile)
        }
    return checksums


def particle_paths(profile: Profile) -> tuple[Path, ...]:
    """The file of measured particles and the stacks that it names."""
    if not Path(profile.particles).is_file():
        raise FileNotFoundError(f"no particle file at {profile.particles}")
    options = (
        profile.particles,
        profile.pixel_size_angstrom,
        profile.particles_folder,
        profile.optics_group,
    )
    return _paths(*options, *_state(profile.particles))


def sha256_of(path: str | os.PathLike) -> str:
    """The sha256 of a file's content, in hexadecimal.

    A file that was read before is not read again while its size and time of change are the same.

    Raises
    ------
    OSError : the file cannot be read.
    """
    return _digest(os.fspath(path), *_state(path))


def _state(path: str | os.PathLike) -> tuple[int, ...]:
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns


@functools.lru_cache(maxsize=1024)
def _digest(path: str, *_state: int) -> str:
    return plain_files.sha256_of(path)


@functools.lru_cache(maxsize=8)
def _paths(
    path: str, pixel_size_angstrom: float | None, folder: str | None, group: int | None, *_state: int
) -> tuple[Path, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the phase that reads the particles gives them
        return open_particles(
            path, pixel_size_angstrom=pixel_size_angstrom, datadir=folder, optics_group=group
        ).paths
