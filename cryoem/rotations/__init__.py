"""Orientations: sampling, conversions, point groups and the geodesic distance.

An orientation is a SciPy ``Rotation`` R from particle to microscope coordinates, ``x_microscope = R @ x_particle``.
Quaternions are ordered (x, y, z, w). Angles are in radians unless the name ends in ``_deg``. Only this folder converts
between representations of orientations.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "conversions": [
            "from_cryosparc_pose",
            "from_relion_euler_deg",
            "mirror",
            "to_relion_euler_deg",
            "viewing_directions",
        ],
        "point_groups": [
            "copies_of",
            "geodesic_distance",
            "normaliser",
            "origin_displacements",
            "point_group",
        ],
        "poses": ["Poses", "as_poses"],
        "sampling": [
            "COVERAGES",
            "EulerRanges",
            "check_coverage",
            "even_orientations",
            "random_rotations",
            "random_small_rotations",
        ],
    },
)
