"""Profiles: the settings of a run.

Each setting belongs to the first phase that reads it. A phase can read only its own settings and those of earlier
phases, so that a completed phase remains valid when settings of later phases change. For example, changing the number
of refinement rounds does not repeat the training of the network. To add a setting, add one line to the class of its
phase.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import NoneType
from typing import Literal, get_args, get_origin

import pydantic
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from cryoem.images import SHIFT_DEVIATION
from cryoem.rotations import COVERAGES, point_group
from cryoem.validation import suggestion
from cryoem.volumes import loading, registry

MOST_PAIRED = 10_000  # largest number of images for which the distances between all pairs are estimated
ALL_PAIRS = ("sgd", "published")  # methods that can use neither distances to landmarks nor a symmetry
LANDMARKS = 1000  # of larger stacks, for axes of at most order 4


def located(map_name: str) -> str:
    """Convert the path of a map to an absolute path, because notebooks run in other folders; check registry names."""
    if not loading.is_path(map_name):
        try:
            loading.check_name(map_name)
        except ValueError as error:
            raise ValueError(f"map_name {str(error).removeprefix('name ')}") from None
        return map_name
    path = Path(map_name).expanduser().absolute()
    if not path.is_file():
        raise FileNotFoundError(
            f"map_name must be a registry name or the path of a map; {path} does not exist"
            f"{suggestion(path.name, [*registry.ENTRIES, *(each.name for each in path.parent.glob('*.*'))])}"
        )
    loading.check_suffix(path)
    return str(path)


def setting(default, meaning: str, **bounds):
    return Field(default, description=meaning, **bounds)


class DataSettings(BaseModel):
    """Settings of phase 0, data preparation."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: str = setting("quick", "name of the profile")
    seed: int = setting(0, "random seed", ge=0)
    map_name: str | None = setting(
        "phantom",
        "phantom, a registry name such as 5j0n, a PDB or EMDB id, or the path of a map; "
        "None: no map of the measured particles is known",
    )
    particles: str | None = setting(
        None, "particle file (.star, .cs, .xmd or .mrcs); None: simulate particles"
    )
    particles_folder: str | None = setting(
        None, "folder to which stack names are relative; None: search near the particle file"
    )
    n_particles: int | None = setting(
        None, "number of particles to draw at random from the file; None: all", ge=16
    )
    optics_group: int | None = setting(
        None, "optics group to use; None: all groups, which must have the same optics", ge=0
    )
    passthrough: str | None = setting(None, "passthrough file (.cs) of the cryoSPARC job; None: no such file")
    microscope: list[float] | None = setting(
        None,
        "voltage (kV), spherical aberration (mm) and amplitude contrast; None: as in the file",
        min_length=3,
        max_length=3,
    )
    pixel_size_angstrom: float | None = setting(
        None, "pixel size of the particles; None: as in the file", ge=0.01
    )
    leave_out_outliers: bool = setting(
        False, "whether to leave out particles whose images are blank or outliers"
    )
    as_map: bool = setting(False, "whether to read the map file as a map even if it looks like a stack")
    as_stack: bool = setting(
        False, "whether to read a .mrc particle file as a stack even if it looks like a density map"
    )
    symmetry: str = setting("C1", "point group of the particle, such as C1, C4 or D2")
    voxel_size_angstrom: float | None = setting(None, "voxel size of the map; None: unchanged", ge=0.1)
    image_size: int | None = setting(
        None, "width of simulated images, px; None: large enough for the map", ge=8
    )
    coverage: Literal[COVERAGES] = setting("so3", "distribution of the orientations")
    n_validation: int = setting(256, "number of validation images", ge=6)
    n_test: int = setting(800, "number of simulated particles", ge=16)
    noise_variance: float = setting(1.0, "noise variance, relative to noise-free images of variance 1", ge=0)
    shift_limit_px: float | None = setting(
        None,
        "largest shift of a particle along x and y, px; "
        "None: 7 % of the image width for measured particles, 0 for simulated ones",
        ge=0,
    )
    ctf: bool = setting(False, "whether to apply a CTF to simulated images")

    def shift_limit_of(self, image_size: int) -> float:
        """Return the largest shift of the particles along x and y, in pixels, for an image width in pixels."""
        if self.shift_limit_px is not None:
            return self.shift_limit_px
        # shifts are drawn from a triangular distribution
        return 0.0 if self.particles is None else math.sqrt(6) * SHIFT_DEVIATION * image_size


class DistanceSettings(DataSettings):
    """Settings of phase 1, distance estimation."""

    network_image_size: int = setting(58, "largest width of the network's input images, px", ge=8)
    architecture: Literal["polar", "published"] = setting("polar", "encoder architecture")
    feature_distance: Literal["kernel", "cosine", "euclidean", "mlp"] = setting(
        "kernel", "distance between features"
    )
    channels: int = setting(64, "number of channels of the polar encoder", ge=4)
    training_epochs: int = setting(10, "number of training epochs", ge=1)
    steps_per_epoch: int = setting(100, "training steps per epoch", ge=1)
    batch_size: int = setting(32, "images per training step", ge=2)
    patience_epochs: int | None = setting(
        20, "epochs without improvement before training stops; None: no early stop", ge=1
    )
    training_seconds: float | None = setting(None, "time limit for training, s; None: no limit", ge=1)
    landmarks: int | None = setting(
        None,
        "number of landmark images to which distances are estimated; "
        f"None: all images, or at least {LANDMARKS:,} if there are more than {MOST_PAIRED:,}",
        ge=12,
    )

    def landmarks_of(self, images: int) -> int | None:
        """Return the number of landmarks for a number of images; None: the distances between all pairs.

        Around each image of a symmetric particle, enough landmarks must be nearer than half of the smallest rotation
        of its point group, so their number grows with the cube of the highest order of an axis.

        Raises
        ------
        ValueError
            If the setting ``landmarks`` is larger than the number of images.
        """
        if self.landmarks is not None:
            if self.landmarks > images:
                raise ValueError(
                    f"landmarks must be at most {images}, the number of images, got {self.landmarks}"
                )
            return self.landmarks
        if images <= MOST_PAIRED:
            return None
        group = point_group(self.symmetry)
        order = 2 * math.pi / group[1].magnitude() if len(group) > 1 else 1
        return min(images, round(LANDMARKS * max(1, (order / 4) ** 3)))


class OrientationSettings(DistanceSettings):
    """Settings of phase 2, orientation recovery."""

    orientation_method: Literal["distances", "ab_initio"] = setting(
        "distances",
        "whether to recover orientations from learned distances or to find them without a map; "
        "always ab_initio if map_name is None",
    )
    starts: int = setting(4, "number of random starts of the ab initio search", ge=1)
    leave_out_junk: bool = setting(
        False,
        "whether to leave out images that are more likely to be noise than the particle; "
        "only if orientation_method is ab_initio",
    )
    recovery_method: Literal["spectral", "spectral+gauss_newton", "sgd", "published"] = setting(
        "spectral+gauss_newton", "method for recovering orientations from distances"
    )
    gauge_pairs: int = setting(600, "number of image pairs in the gauge search", ge=1)


class Profile(OrientationSettings):
    """All settings of a run. The default values are those of the profile ``quick``.

    Raises
    ------
    ValueError
        If a setting has the wrong type, is out of range, or contradicts another setting.
    FileNotFoundError
        If ``map_name`` is the path of a file that does not exist.
    """

    reconstruction_method: Literal["fourier", "cgls"] = setting(
        "fourier", "method for reconstructing the map"
    )
    search_rounds: int = setting(2, "number of refinement rounds with random search", ge=0)
    gradient_rounds: int = setting(
        4, "maximum number of refinement rounds with Gauss-Newton steps in each half of the images", ge=1
    )
    refinement_candidates: int = setting(24, "candidate rotations per image in each search round", ge=1)
    refine_ctf: bool = setting(False, "whether to also refine the defocus and the contrast of each image")

    @pydantic.field_validator("map_name")
    @classmethod
    def _locate_map(cls, map_name: str | None) -> str | None:
        return None if map_name is None else located(map_name)

    @pydantic.field_validator("particles", "particles_folder", "passthrough")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        return None if path is None else str(Path(path).expanduser().absolute())

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Profile:
        if len(point_group(self.symmetry)) > 1 and self.recovery_method in ALL_PAIRS:
            raise ValueError(
                f"symmetry must be C1 for recovery_method {self.recovery_method}, got {self.symmetry}"
            )
        if self.map_name is None and self.particles is None:
            raise ValueError("map_name must be given for simulated particles, got None")
        if self.map_name is None and self.orientation_method != "ab_initio":
            raise ValueError(
                "orientation_method must be ab_initio without a map of the particle, "
                f"got {self.orientation_method}"
            )
        if self.leave_out_junk and self.orientation_method != "ab_initio":
            raise ValueError(
                f"leave_out_junk requires orientation_method ab_initio, got {self.orientation_method}"
            )
        if self.landmarks is not None and self.recovery_method in ALL_PAIRS:
            raise ValueError(
                f"recovery_method {self.recovery_method} requires the distances between all pairs, "
                f"so landmarks must be None, got {self.landmarks}"
            )
        if self.particles is None:
            self.check_recovery(self.n_test)
        if self.ctf and self.reconstruction_method != "fourier":
            raise ValueError(
                f"reconstruction_method must be fourier if ctf is true, got {self.reconstruction_method}"
            )
        if self.architecture != "polar" and self.shift_limit_of(1) > 0:
            raise ValueError(
                f"shift_limit_px must be 0 for architecture {self.architecture}, "
                f"got {self.shift_limit_px or 'the default of 7 % of the image width'}; "
                "only the polar encoder estimates shifts"
            )
        if self.refine_ctf and self.particles is None and not self.ctf:
            raise ValueError("refine_ctf requires images with a CTF, so ctf must be true, got False")
        if self.particles is not None and self.ctf:
            raise ValueError(
                "ctf must be false for measured particles; their CTF is read from the particle file"
            )
        of_files = ("particles_folder", "n_particles", "optics_group", "pixel_size_angstrom")
        for name in (*of_files, "passthrough", "microscope", "leave_out_outliers", "as_stack"):
            if self.particles is None and getattr(self, name) not in (None, False):
                raise ValueError(f"{name} applies only to measured particles, got {getattr(self, name)!r}")
        if self.as_map and self.map_name is None:
            raise ValueError("as_map applies only to a map of the particle, which is not given, got True")
        return self

    def check_recovery(self, images: int) -> None:
        """Raise a ValueError if the recovery method requires all distances between more images than are estimated."""
        if self.recovery_method in ALL_PAIRS and images > MOST_PAIRED:
            raise ValueError(
                f"recovery_method {self.recovery_method} requires the distances between all pairs, which are estimated "
                f"for at most {MOST_PAIRED:,} images, got {images:,} images; use fewer, or spectral+gauss_newton"
            )


SETTINGS_OF_PHASE = (DataSettings, DistanceSettings, OrientationSettings, Profile)

PROFILES = {
    profile.name: profile
    for profile in (
        Profile(),
        Profile(
            name="paper",
            map_name="5j0n",
            n_validation=838,
            n_test=1650,
            noise_variance=0.0,
            channels=128,
            training_epochs=200,
            batch_size=128,
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
            starts=2,
            gauge_pairs=200,
            search_rounds=1,
            gradient_rounds=2,
            refinement_candidates=8,
        ),
    )
}


def get_profile(name: str, /, **overrides) -> Profile:
    """Return a profile with the given settings replaced.

    With measured ``particles`` and no ``map_name``, the map is None and the orientations are found ab initio.

    Raises
    ------
    ValueError
        If there is no such profile or setting, or a value is invalid.
    FileNotFoundError
        If ``map_name`` is the path of a file that does not exist.
    """
    if name not in PROFILES:
        raise ValueError(
            f"profile must be one of {', '.join(PROFILES)}, got {name!r}{suggestion(name, PROFILES)}"
        )
    for key in overrides:
        _check_known(key)
    without_map = {}
    if overrides.get("particles") is not None and overrides.get("map_name") is None:
        without_map = {"map_name": None, "orientation_method": "ab_initio"}
    try:
        return Profile(**(PROFILES[name].model_dump() | without_map | overrides))
    except ValidationError as error:
        raise ValueError(_sentence(error)) from None


def parse_setting(text: str) -> tuple[str, object]:
    """Parse ``"name=value"`` into the name and the value of a setting.

    The value ``none`` becomes None if the setting allows it.

    Raises
    ------
    ValueError
        If the text contains no ``=``, the setting does not exist, or the value does not have the type of the setting.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"a setting must have the form name=value, got {text!r}")
    _check_known(name)
    annotation = Profile.model_fields[name].annotation
    if value == "none" and NoneType in get_args(annotation):
        return name, None
    try:
        return name, TypeAdapter(annotation).validate_strings(value)
    except ValidationError as error:
        raise ValueError(_sentence(error, name=name)) from None


def settings_of_phase(profile: Profile, number: int) -> DataSettings:
    """Return the settings that phase ``number`` (0 to 3) can read."""
    kind = SETTINGS_OF_PHASE[number]
    return kind.model_construct(**{name: getattr(profile, name) for name in kind.model_fields})


def described_settings() -> dict[str, dict[str, object]]:
    """Return the ``meaning`` of each setting, including its range, and its value in each profile."""
    return {
        name: {
            "meaning": f"{field.description}{_range(field)}",
            **{key: getattr(profile, name) for key, profile in PROFILES.items()},
        }
        for name, field in Profile.model_fields.items()
        if name != "name"
    }


def _range(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return f": {', '.join(get_args(field.annotation))}"
    return "".join(f"; at least {bound.ge}" for bound in field.metadata if hasattr(bound, "ge"))


def _check_known(name: str) -> None:
    if name not in Profile.model_fields or name == "name":
        nearest = suggestion(name, [each for each in Profile.model_fields if each != "name"])
        raise ValueError(f"unknown setting {name!r}{nearest or '; `cryoem settings` lists all settings'}")


def _sentence(error: ValidationError, *, name: str | None = None) -> str:
    """Return the first problem found by pydantic, as a sentence with the setting, the rule and the value."""
    problem = error.errors()[0]
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":  # raised by a validator of this module
        return message
    rule = message.partition(", unable to")[0].replace("Input should be", "must be")
    return f"{name or problem['loc'][0]} {rule}, got {problem['input']!r}"
