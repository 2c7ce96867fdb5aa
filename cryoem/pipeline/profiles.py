"""Profiles: how large a run is. The one place that defines them.

To add a setting, add one line to ``Profile``; to change a value, edit ``PROFILES``. A setting names the first
phase that reads it. A phase sees the settings of its own and of earlier phases only, and a finished phase stays
valid while those stay the same: another number of refinement rounds does not train the network again.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import get_type_hints

from cryoem.pipeline.settings import checked, from_text, located, setting
from cryoem.rotations import COVERAGES, point_group


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Everything that sets the size and the kind of a run; the defaults are those of ``quick``.

    Raises
    ------
    ValueError : a setting has the wrong type or is out of its range.
    FileNotFoundError : ``map_name`` is the path of a file that is not there.
    """

    name: str = setting("name of the profile", "quick", phase=0)

    # 0, data preparation
    seed: int = setting("seed of every random number", 0, phase=0, minimum=0)
    map_name: str = setting("phantom, a registry name such as 5j0n, or the path of a map", "phantom", phase=0)
    particles: str | None = setting(
        "STAR, CS, XMD or MRCS file of measured particles, which the map is a model of; None: simulate them",
        None,
        phase=0,
    )
    particles_folder: str | None = setting(
        "folder that the particles' file names stacks from; None: the folders around it", None, phase=0
    )
    n_particles: int | None = setting(
        "so many measured particles at most, chosen at random; None: all", None, phase=0, minimum=16
    )
    optics_group: int | None = setting(
        "number of the measured particles' optics group; None: all, which must be alike",
        None,
        phase=0,
        minimum=0,
    )
    pixel_size_angstrom: float | None = setting(
        "pixels of the measured particles; None: as their file says", None, phase=0, minimum=0.01
    )
    symmetry: str = setting("point group of the particle, such as C1, C4, D2", "C1", phase=0)
    voxel_size_angstrom: float | None = setting(
        "voxels of the map; None: as it comes", None, phase=0, minimum=0.1
    )
    image_size: int | None = setting(
        "side of the images, px; None: what holds the map", None, phase=0, minimum=8
    )
    coverage: str = setting("orientations", "so3", phase=0, choices=COVERAGES)
    n_validation: int = setting("projections to validate on", 256, phase=0, minimum=2)
    n_test: int = setting("projections whose orientations are recovered", 800, phase=0, minimum=16)
    noise_variance: float = setting("variance of the noise; clean images have 1", 1.0, phase=0, minimum=0)
    shift_limit_px: float = setting("largest shift of an image, px", 0.0, phase=0, minimum=0)
    ctf: bool = setting("whether images are seen through a contrast transfer", False, phase=0)

    # 1, distance estimation
    network_image_size: int = setting("largest side that the network sees, px", 58, phase=1, minimum=8)
    architecture: str = setting("the encoder", "polar", phase=1, choices=("polar", "published"))
    feature_distance: str = setting(
        "how features give a distance", "kernel", phase=1, choices=("kernel", "cosine", "euclidean", "mlp")
    )
    channels: int = setting("width of the polar encoder", 128, phase=1, minimum=4)
    training_epochs: int = setting("epochs of training", 10, phase=1, minimum=1)
    steps_per_epoch: int = setting("steps of an epoch", 50, phase=1, minimum=1)
    batch_size: int = setting("images of a training step", 128, phase=1, minimum=2)
    patience_epochs: int | None = setting(
        "epochs without progress before training stops; None: no early stop", 20, phase=1, minimum=1
    )
    training_seconds: float | None = setting("longest training, s; None: no limit", None, phase=1, minimum=1)
    expected_distance_error_rad: float = setting(
        "the validation error must be below this", 0.25, phase=1, minimum=0
    )

    # 2, orientation recovery
    recovery_method: str = setting(
        "how orientations come from distances",
        "spectral+refine",
        phase=2,
        choices=("spectral", "spectral+refine", "sgd"),
    )
    landmarks: int | None = setting(
        "images that distances are measured to; None: all", None, phase=2, minimum=12
    )
    gauge_pairs: int = setting("pairs of images that search the gauge", 600, phase=2, minimum=1)
    expected_pose_error_rad: float = setting(
        "the pose error before refinement must be below this", 0.2, phase=2, minimum=0
    )

    # 3, reconstruction
    reconstruction_method: str = setting(
        "how the map is made", "fourier", phase=3, choices=("fourier", "cgls")
    )
    search_rounds: int = setting("rounds of refinement by search", 2, phase=3, minimum=0)
    gradient_rounds: int = setting("most rounds of refinement by gradient", 4, phase=3, minimum=1)
    refinement_candidates: int = setting("rotations tried for an image in a round", 24, phase=3, minimum=1)
    expected_refined_error_rad: float = setting(
        "the pose error after refinement must be below this", 0.05, phase=3, minimum=0
    )

    def __post_init__(self):
        hints = get_type_hints(Profile)
        for field in dataclasses.fields(self):
            value = checked(
                field.name, getattr(self, field.name), hints[field.name], **field.metadata["rules"]
            )
            object.__setattr__(self, field.name, value)
        point_group(self.symmetry)
        if self.ctf and self.reconstruction_method != "fourier":
            raise ValueError(
                f"reconstruction_method must be fourier where ctf is true, got {self.reconstruction_method!r}"
            )
        if self.shift_limit_px > 0 and self.architecture != "polar":
            raise ValueError(
                f"architecture must be polar, which finds shifts, where shift_limit_px is above 0, "
                f"got {self.architecture!r}"
            )
        if self.particles is None:
            for name in ("particles_folder", "n_particles", "optics_group", "pixel_size_angstrom"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} must be None where particles are simulated, got {getattr(self, name)!r}"
                    )
        elif self.ctf:
            raise ValueError("ctf must be false where particles are measured, their file tells it, got true")
        object.__setattr__(self, "map_name", located(self.map_name))
        for name in ("particles", "particles_folder"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, str(Path(getattr(self, name)).expanduser().absolute()))


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(),
        Profile(
            name="paper",
            map_name="5j0n",
            expected_distance_error_rad=0.1,
            expected_pose_error_rad=0.1,
            expected_refined_error_rad=0.01,
            n_validation=838,
            n_test=1650,
            noise_variance=0.0,
            training_epochs=200,
            steps_per_epoch=100,
            search_rounds=3,
            gradient_rounds=6,
        ),
        Profile(
            name="toy",
            voxel_size_angstrom=10.0,
            n_validation=32,
            n_test=100,
            noise_variance=0.01,
            network_image_size=24,
            channels=32,
            training_epochs=8,
            steps_per_epoch=50,
            batch_size=32,
            gauge_pairs=200,
            search_rounds=1,
            gradient_rounds=2,
            refinement_candidates=8,
            expected_distance_error_rad=0.4,
            expected_pose_error_rad=0.3,
            expected_refined_error_rad=0.1,
        ),
    )
}


def get_profile(name: str, /, **overrides) -> Profile:
    """A profile by name, some of its settings replaced.

    Raises
    ------
    ValueError : no such profile or setting, or a value that the setting cannot have.
    FileNotFoundError : ``map_name`` is the path of a file that is not there.
    """
    if name not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {name!r}")
    for key in overrides:
        _check_known(key)
    return dataclasses.replace(PROFILES[name], **overrides)


def parse_setting(text: str) -> tuple[str, object]:
    """Name and value of ``"name=value"``, the value converted to the setting's type (``none`` where it may be None).

    Raises
    ------
    ValueError : there is no ``=``, no such setting, or the value cannot be converted to its type.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"a setting must be given as name=value, got {text!r}")
    _check_known(name)
    return name, from_text(name, value, get_type_hints(Profile)[name])


def settings_up_to(profile: Profile, phase: int) -> dict[str, object]:
    """The settings of a profile that phases 0 to ``phase`` may read, name -> value."""
    fields = (field for field in dataclasses.fields(profile) if field.metadata["phase"] <= phase)
    return {field.name: getattr(profile, field.name) for field in fields}


def _check_known(name: str) -> None:
    names = [field.name for field in dataclasses.fields(Profile) if field.name != "name"]
    if name not in names:
        raise ValueError(f"a profile has no setting {name!r}, only {', '.join(names)}")
