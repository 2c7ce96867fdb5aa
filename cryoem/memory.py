"""Memory of this machine, compared with what a step needs before it starts."""

from __future__ import annotations

from pathlib import Path

BYTES_PER_VOXEL = 12  # while a map is made: its values, a copy and half of a transform
# limits of containers and batch jobs, in the two versions of control groups
MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
SMALLER_IMAGES = "use smaller images (downsample them first)"


def check_memory(what: str, needed_bytes: float, *, remedy: str = SMALLER_IMAGES) -> None:
    """Raise a MemoryError with a remedy if ``what`` needs more memory than is available on this machine."""
    import psutil

    available = psutil.virtual_memory().available
    for path in map(Path, MEMORY_LIMITS):
        limit = path.read_text().strip() if path.is_file() else "max"
        available = min(available, int(limit) if limit.isdecimal() else available)
    if needed_bytes > available:
        raise MemoryError(
            f"{what} needs about {needed_bytes / 1e9:,.1f} GB, and {available / 1e9:,.1f} GB is available; "
            f"{remedy} or a machine with more memory"
        )


def check_box(n_voxels: float) -> None:
    """Raise a MemoryError if this machine has less memory available than a map with this many voxels needs."""
    check_memory(
        f"a map of {n_voxels:,.0f} voxels",
        BYTES_PER_VOXEL * n_voxels,
        remedy="use a smaller box, larger voxels",
    )
