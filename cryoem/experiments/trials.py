"""Steps shared by the experiment notebooks: load a map, train an encoder and measure its distances."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.distances.prediction import DistanceEstimate, estimate_distances
from cryoem.distances.trained import EncoderSettings, TrainedEncoder
from cryoem.distances.training import ProjectionStream, train
from cryoem.experiments.tables import measurement
from cryoem.orientations.evaluation import align_frame, align_to
from cryoem.orientations.expectation_maximisation import ab_initio
from cryoem.orientations.gauge import fix_gauge
from cryoem.orientations.recovery import Recovery
from cryoem.particles.conditions import ImagingConditions
from cryoem.particles.simulation import simulate_lazily
from cryoem.particles.stack import ParticleStack
from cryoem.projection.projectors import project
from cryoem.reconstruction.maps import reconstruct
from cryoem.reconstruction.refinement import refine
from cryoem.reconstruction.resolution import fourier_shell_correlation
from cryoem.rotations import geodesic_distance, random_small_rotations
from cryoem.training.backend import keras
from cryoem.training.compilation import TrainingSchedule
from cryoem.volumes import loading, registry
from cryoem.volumes.density import DensityMap, centre, crop_or_pad, cube, low_pass, resample, soft_mask
from cryoem.volumes.phantoms import DIAMETER_OVER_BOX, phantom

MASK_FILTER_ANGSTROM = 15.0
BOX_5A1A = (110, 155, 199)
PIXEL_SIZE_5A1A_ANGSTROM = 275 / 116
STAND_IN = "beta-galactosidase"  # an experimental map of the protein of the model 5a1a
OUTLINE = 0.1  # density at the outline of a particle, relative to the maximum
QUANTILES = 51
DISTANCE_BINS = 24
NEIGHBOURS = 10
VALIDATION_IMAGES = 128
RECORDED_STEPS = 100
OPPOSITE_VIEWS = ("so3", "euler")  # coverages that contain the opposite of each viewing direction
NEAR_RAD = 0.3
MEAN_OF_RADIUS = 0.75  # mean norm of a uniform point in the unit ball


@dataclass(frozen=True)
class Trial:
    """A trained encoder, and the training history returned by ``distances.train``.

    If ``both_views`` is true, features are averaged over each image and its mirror image, as in ``estimate_distances``.
    """

    encoder: TrainedEncoder
    history: dict[str, list[float]]
    both_views: bool

    @property
    def training_seconds(self) -> float:
        """Wall-clock training time in seconds."""
        return self.history["seconds"][-1]

    def estimate(self, images: np.ndarray) -> DistanceEstimate:
        """Estimate the distances between n images of any size and, if the encoder supports it, their shifts."""
        return estimate_distances(images, self.encoder, both_views=self.both_views)


def obtainable(map_name: str) -> str:
    """Return ``map_name``, or ``"beta-galactosidase"`` with a warning if the model 5a1a cannot be downloaded."""
    if map_name.lower() == "5a1a":
        try:
            registry.fetch(map_name)
        except ConnectionError as error:
            warnings.warn(f"{error}; using the experimental map beta-galactosidase instead", stacklevel=2)
            return STAND_IN
    return map_name


def load_particle(
    map_name: str, *, masked: bool = False, voxel_size_angstrom: float | None = None
) -> DensityMap:
    """Load a map by registry name or path, at another voxel size if given, in angstrom.

    If ``masked`` is true, everything outside the particle is removed, such as the noise in an experimental map.

    For ``"5a1a"``, the density of the atomic model is computed in a box of 110 x 155 x 199 angstrom with 1-angstrom
    voxels, and resampled to the pixel size of the paper's images, which were reduced from 275 to 116 px
    (arXiv:2104.06237, section on data).
    """
    if map_name.lower() == "5a1a":
        density = crop_or_pad(loading.load(map_name, voxel_size_angstrom=1.0), BOX_5A1A)
        return resample(density, voxel_size_angstrom or PIXEL_SIZE_5A1A_ANGSTROM)
    density = loading.load(map_name, voxel_size_angstrom=voxel_size_angstrom)
    if not masked:
        return density
    mask = soft_mask(low_pass(density, MASK_FILTER_ANGSTROM), extend_px=2, edge_px=4)
    return DensityMap(density.data * mask, density.voxel_size_angstrom)


def fitted_particle(name: str, image_size: int) -> DensityMap:
    """Load a particle so that its diameter is about two thirds of the image size, in a cube of that many voxels.

    ``name`` is a registry name, a path, or ``"phantom <seed>"``. Particles of all sizes then look equally large, and
    atomic models have a resolution of two voxels. Everything outside the particle is removed.
    """
    if name.startswith("phantom "):
        return phantom(size=image_size, rng=int(name.removeprefix("phantom ")))
    coarse = load_particle(name, masked=True)
    inside = np.argwhere(coarse.data > OUTLINE * coarse.data.max())
    radius = np.linalg.norm(inside - inside.mean(axis=0), axis=1).max()
    voxel_size = 2 * radius * coarse.voxel_size_angstrom / (DIAMETER_OVER_BOX * image_size)
    density = load_particle(name, masked=True, voxel_size_angstrom=voxel_size)
    roomy = cube(density, 2 * max(image_size, *density.data.shape))  # nothing is lost when it is centred
    return cube(centre(roomy), image_size)


class AlternatingStream(keras.utils.PyDataset):
    """Batches of several streams in turn, so that all images in a batch show the same particle.

    The streams must have the same number of batches, batch size and kind of labels.
    """

    def __init__(self, streams: Sequence[ProjectionStream]):
        super().__init__()
        self._streams, self.epoch = streams, 0
        self.batch_size, self.with_shifts = streams[0].batch_size, streams[0].with_shifts
        self.fingerprint = {"streams": [stream.fingerprint for stream in streams]}

    def __len__(self) -> int:
        return len(self._streams[0])

    def __getitem__(self, index: int) -> tuple:
        stream = self._streams[(self.epoch * len(self) + index) % len(self._streams)]
        stream.epoch = self.epoch
        return stream[index]


def learn_distances(
    density: DensityMap | Sequence[DensityMap],
    imaging: ImagingConditions,
    settings: EncoderSettings,
    *,
    epochs: int | TrainingSchedule,
    steps_per_epoch: int,
    batch_size: int,
    n_validation: int = VALIDATION_IMAGES,
    seed: int = 0,
    distinct: int | None = None,
    **training,
) -> Trial:
    """Train an encoder on projections of a map, or of several maps in turn, validated on the first.

    The seed determines the initial weights and the training data, so that different feature distances are trained on
    the same images in the same order. ``imaging`` sets the size of the simulated images, and ``settings`` the size of
    the network input. ``epochs`` is the number of epochs, or a schedule with a time limit. ``distinct`` is the number
    of different training images; by default, images never repeat. ``training`` contains further options of
    ``distances.train``, such as ``checkpoints``.
    """
    keras.utils.set_random_seed(seed)
    encoder = TrainedEncoder(settings.build(), settings)
    maps = [density] if isinstance(density, DensityMap) else density
    streams = [
        ProjectionStream(
            one,
            imaging,
            network_image_size=settings.image_size,
            batch_size=batch_size,
            steps=steps_per_epoch,
            distinct=distinct,
            with_shifts=settings.with_shifts,
            seed=seed,
        )
        for one in maps
    ]
    stream = streams[0] if len(streams) == 1 else AlternatingStream(streams)
    unseen = simulate_lazily(maps[0], n_validation, imaging, rng=[seed, 1])
    schedule = epochs if isinstance(epochs, TrainingSchedule) else TrainingSchedule(epochs)
    history = train(encoder, stream, validation=unseen, schedule=schedule, **training)
    # a mirror image shows the particle from the opposite direction, which some coverages do not contain
    return Trial(encoder, history, both_views=imaging.coverage in OPPOSITE_VIEWS)


def measure_distances(
    predicted: np.ndarray,
    recovery: Recovery,
    rotations: Rotation,
    *,
    symmetry: str = "C1",
    **conditions,
) -> list[dict]:
    """Measure the errors of (n, n) predicted distances in radians, and of the orientations recovered from them.

    The first rows contain the quantities ``distance_error_rad`` and ``distance_error_rad2`` (L_DE, the mean absolute
    error and the mean squared error over all pairs), ``chance_rad`` (the mean absolute error of the best constant
    prediction), ``recovery_error_rad`` (E_OR, the mean orientation error), ``recovery_error_median_rad`` (the median
    orientation error) and ``recovery_loss_rad2`` (L_OR). For each bin of the true distance, further rows contain the
    quantities ``distance_bias_rad``, ``distance_spread_rad`` (standard deviation) and ``pairs`` (number of pairs), with
    the condition ``true_distance_rad``. All rows include the given ``conditions``.
    """
    i, j = np.triu_indices(len(rotations), k=1)
    true = geodesic_distance(rotations, rotations, symmetry=symmetry)[i, j]
    error = predicted[i, j] - true
    aligned = align_to(rotations, recovery.rotations, symmetry=symmetry)
    numbers = {
        "distance_error_rad": np.abs(error).mean(),
        "distance_error_rad2": np.square(error).mean(),
        "chance_rad": np.abs(true - np.median(true)).mean(),
        "recovery_error_rad": aligned.mean_error,
        "recovery_error_median_rad": aligned.median_error,
        "recovery_loss_rad2": recovery.losses[-1],
    }
    rows = [measurement(quantity, value, **conditions) for quantity, value in numbers.items()]
    edges = np.linspace(0, np.pi, DISTANCE_BINS + 1)
    which = np.minimum(np.digitize(true, edges) - 1, DISTANCE_BINS - 1)
    for b in np.unique(which):
        binned = {**conditions, "true_distance_rad": round(float((edges[b] + edges[b + 1]) / 2), 4)}
        rows.append(measurement("distance_bias_rad", error[which == b].mean(), **binned))
        rows.append(measurement("distance_spread_rad", error[which == b].std(), **binned))
        rows.append(measurement("pairs", np.count_nonzero(which == b), **binned))
    return rows


def measure_neighbours(
    predicted: np.ndarray, rotations: Rotation, *, count: int = NEIGHBOURS, **conditions
) -> list[dict]:
    """Measure how near the nearest neighbours of each image are that (n, n) predicted distances find.

    The rows contain the mean true distances ``neighbour_distance_rad`` to the ``count`` neighbours (fewer than n) with
    the smallest predicted distance, and ``nearest_distance_rad`` to those with the smallest true distance.
    """
    true = geodesic_distance(rotations, rotations)
    rows = []
    for quantity, ranked in (("neighbour_distance_rad", predicted), ("nearest_distance_rad", true)):
        others = ranked + np.diag(np.full(len(ranked), np.inf))
        nearest = np.argpartition(others, count, axis=1)[:, :count]
        rows.append(measurement(quantity, np.take_along_axis(true, nearest, axis=1).mean(), **conditions))
    return rows


def measure_recovery(recovery: Recovery, rotations: Rotation, *, symmetry: str = "C1") -> list[dict]:
    """Measure how the recovery converged and how the orientation errors are distributed.

    The rows contain the quantities ``recovery_loss_of_step_rad2``, for at most ``RECORDED_STEPS`` of the recorded steps
    (condition ``step``), and ``orientation_error_rad``, the quantiles of the orientation error (condition
    ``fraction``).
    """
    steps = np.unique(np.geomspace(1, len(recovery.losses), RECORDED_STEPS).round().astype(int))
    rows = [
        measurement("recovery_loss_of_step_rad2", recovery.losses[step - 1], step=int(step)) for step in steps
    ]
    errors = align_to(rotations, recovery.rotations, symmetry=symmetry).errors
    fractions = np.linspace(0, 1, QUANTILES)
    return rows + [
        measurement("orientation_error_rad", value, fraction=round(float(fraction), 4))
        for fraction, value in zip(fractions, np.quantile(errors, fractions), strict=True)
    ]


def measure_method(
    search: Callable[[ParticleStack], Rotation],
    stack: ParticleStack,
    *,
    refined: bool,
    seed: int,
    symmetry: str = "C1",
    **conditions,
) -> list[dict]:
    """Measure the errors of the orientations that a search finds, up to the symmetry of the particle, and its time.

    The rows contain the quantities ``pose_error_rad``, ``pose_error_median_rad``, ``near_fraction`` (the fraction of
    images within ``NEAR_RAD`` of their true orientation), ``seconds`` and ``cpu_seconds`` (processor time of all
    cores), with the condition ``refined``, 0 or 1. If ``refined`` is true, the orientations are also refined; the times
    then include both steps. A step that fails with a ``LinAlgError`` has only the row ``failed``.
    """
    rows, rotations, seconds, cpu_seconds = [], None, 0.0, 0.0
    for done in range(1 + refined):
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            rotations = refine(stack, rotations, rng=seed).rotations if done else search(stack)
        except np.linalg.LinAlgError:
            return [*rows, measurement("failed", 1, refined=done, **conditions)]
        seconds += time.perf_counter() - wall
        cpu_seconds += time.process_time() - cpu
        errors = _pose_errors(stack.rotations, rotations, symmetry)
        numbers = {
            "pose_error_rad": errors.mean(),
            "pose_error_median_rad": np.median(errors),
            "near_fraction": np.mean(errors < NEAR_RAD),
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
        }
        rows += [
            measurement(quantity, value, refined=done, **conditions) for quantity, value in numbers.items()
        ]
    return rows


def _pose_errors(true: Rotation, found: Rotation, symmetry: str) -> np.ndarray:
    """Return the errors (n,) in radians up to the symmetry, in the frame of the point group or in any other frame."""
    frames = (found, align_frame(true, found).rotations) if symmetry != "C1" else (found,)
    return min((align_frame(true, frame, symmetry=symmetry).errors for frame in frames), key=np.mean)


def warm_up(stack: ParticleStack) -> None:
    """Compile the functions of the ab initio search, the gauge and refinement, on the first images of a stack."""
    few = stack[:40]
    ab_initio(few, starts=1)
    fix_gauge(few.images, few.rotations)
    refine(few, few.rotations)


def measure_maps(
    density: DensityMap, image_size: int, orientations: Mapping[str, Rotation], *, symmetry: str = "C1"
) -> tuple[dict[str, DensityMap], list[dict]]:
    """Reconstruct a map with each set of orientations from noise-free projections, and compare it with the true map.

    Parameters
    ----------
    density : DensityMap
        The true map.
    image_size : int
        Side length of the projections in pixels.
    orientations : mapping of str to Rotation
        Sets of orientations for the same projections, by name. The map is projected at the orientations ``"true"``.

    Returns
    -------
    maps : dict of str to DensityMap
    rows : list of dict
        For each set, rows with the quantity ``fsc`` against the true map (conditions ``orientations`` and
        ``frequency_per_angstrom``) and ``resolution_angstrom``, where the FSC falls below 0.5.
    """
    truth = cube(density, image_size)
    images = project(density.data, orientations["true"], image_size=image_size)
    maps, rows = {}, []
    for kind, rotations in orientations.items():
        frame = align_frame(orientations["true"], rotations, symmetry=symmetry)
        maps[kind] = reconstruct(
            images, frame.rotations, pixel_size_angstrom=truth.voxel_size_angstrom, symmetry=symmetry
        )
        curve = fourier_shell_correlation(
            maps[kind].data, truth.data, voxel_size_angstrom=truth.voxel_size_angstrom
        )
        rows += [
            measurement("fsc", value, orientations=kind, frequency_per_angstrom=round(float(frequency), 6))
            for frequency, value in zip(curve.frequency, curve.correlation, strict=True)
        ]
        rows.append(measurement("resolution_angstrom", curve.resolution_angstrom(0.5), orientations=kind))
    return maps, rows


def perturbed(rotations: Rotation, mean_angle_rad: float, *, rng) -> Rotation:
    """Rotate each orientation by a random rotation vector, uniform in a ball, with the given mean angle."""
    small = random_small_rotations((len(rotations),), radius=mean_angle_rad / MEAN_OF_RADIUS, rng=rng)
    return Rotation.from_rotvec(small) * rotations
