"""Profiles: how large a run is. The one place that defines them.

To add a setting, add one line to ``Profile``; to change a value, edit ``PROFILES``. A setting names the first
phase that reads it. A phase sees the settings of its own and of earlier phases only, and a finished phase stays
valid while those stay the same: another number of refinement rounds does not train the network again.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import get_type_hints

from cryoem.pipeline.settings import checked, from_text, located, setting


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
    voxel_size_angstrom: float | None = setting(
        "voxels of the map; None: as it comes", None, phase=0, minimum=0.1
    )
    image_size: int | None = setting(
        "side of the images, px; None: the map's longest", None, phase=0, minimum=8
    )
    n_train: int = setting("projections to train on", 500, phase=0, minimum=1)
    n_validation: int = setting("projections to validate on", 200, phase=0, minimum=1)
    n_test: int = setting("projections whose orientations are recovered", 500, phase=0, minimum=8)
    noise_variance: float = setting("variance of the noise; clean images have 1", 0.0, phase=0, minimum=0)
    shift_limit_px: float = setting("largest shift of an image, px", 0.0, phase=0, minimum=0)

    # 1, distance estimation
    network_image_size: int = setting("side the network sees, px", 58, phase=1, minimum=8)
    architecture: str = setting("the encoder", "polar", phase=1, choices=("polar", "published"))
    training_steps: int = setting("most steps of training", 650, phase=1, minimum=1)
    training_seconds: float | None = setting("longest training, s; None: no limit", 120.0, phase=1, minimum=1)
    batch_size: int = setting("images of a training step", 128, phase=1, minimum=2)

    # 2, orientation recovery
    recovery_method: str = setting(
        "how orientations come from distances",
        "spectral+refine",
        phase=2,
        choices=("spectral", "spectral+refine", "sgd"),
    )
    landmarks: int | None = setting(
        "images that distances are measured to; None: all", None, phase=2, minimum=8
    )
    gauge_pairs: int = setting("pairs of images that fix the gauge", 600, phase=2, minimum=1)

    # 3, reconstruction
    reconstruction_method: str = setting(
        "how the map is made", "fourier", phase=3, choices=("fourier", "cgls")
    )
    refinement_rounds: int = setting("rounds of projection matching", 8, phase=3, minimum=0)
    refinement_candidates: int = setting("rotations tried for an image in a round", 24, phase=3, minimum=1)

    def __post_init__(self):
        hints = get_type_hints(Profile)
        for field in dataclasses.fields(self):
            value = checked(
                field.name, getattr(self, field.name), hints[field.name], **field.metadata["rules"]
            )
            object.__setattr__(self, field.name, value)
        object.__setattr__(self, "map_name", located(self.map_name))


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(),
        Profile(
            name="paper",
            image_size=116,
            n_train=2512,
            n_validation=838,
            n_test=1650,
            training_steps=20_000,
            training_seconds=None,
        ),
        Profile(
            name="toy",
            image_size=24,
            n_train=16,
            n_validation=16,
            n_test=16,
            network_image_size=24,
            training_steps=3,
            batch_size=8,
            training_seconds=None,
            gauge_pairs=20,
            refinement_rounds=1,
            refinement_candidates=4,
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
