"""Density maps: read and write them, make them from atomic models or from nothing, box, filter and mask them.

A map is an array (z, y, x) whose origin is voxel ``n // 2`` of each axis, for even and odd sizes alike.
"""

from cryoem.volumes.boxes import centre, crop_or_pad, cube, enclosing_image_size, resample
from cryoem.volumes.filters import low_pass, soft_mask, soft_sphere
from cryoem.volumes.maps import DensityMap, read_map, write_map
from cryoem.volumes.models import density_from_model
from cryoem.volumes.phantom import phantom

__all__ = [
    "DensityMap",
    "centre",
    "crop_or_pad",
    "cube",
    "density_from_model",
    "enclosing_image_size",
    "low_pass",
    "phantom",
    "read_map",
    "resample",
    "soft_mask",
    "soft_sphere",
    "write_map",
]
