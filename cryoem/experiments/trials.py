"""Steps shared by the experiment notebooks: load a map, train an encoder and measure its distances."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.distances.prediction import estimate_distances
from cryoem.distances.trained import EncoderSettings, TrainedEncoder
from cryoem.distances.training import ProjectionStream, train
from cryoem.experiments.tables import measurement
from cryoem.orientations.evaluation import align_to
from cryoem.orientations.recovery import recover_orientations
from cryoem.particles.simulation import ImagingConditions, simulate
from cryoem.rotations import geodesic_distance, random_small_rotations
from cryoem.training.compilation import TrainingSchedule
from cryoem.volumes import registry
from cryoem.volumes.density import DensityMap, low_pass, soft_mask

MASK_FILTER_ANGSTROM = 15.0
OPPOSITE_VIEWS = ("so3", "euler")  # coverages that contain the opposite of each viewing direction
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

    def distances(self, images: np.ndarray) -> np.ndarray:
        """Estimate the (n, n) distances in radians between n images of any size."""
        return estimate_distances(images, self.encoder, both_views=self.both_views).distances


def load_particle(map_name: str, *, masked: bool = False) -> DensityMap:
    """Load a map by registry name or path, and remove the noise around the particle if ``masked`` is true."""
    density = registry.load(map_name)
    if not masked:
        return density
    mask = soft_mask(low_pass(density, MASK_FILTER_ANGSTROM), extend_px=2, edge_px=4)
    return DensityMap(density.data * mask, density.voxel_size_angstrom)


def learn_distances(
    density: DensityMap,
    imaging: ImagingConditions,
    settings: EncoderSettings,
    *,
    epochs: int | TrainingSchedule,
    steps_per_epoch: int,
    batch_size: int,
    n_validation: int = 128,
    seed: int = 0,
    distinct: int | None = None,
) -> Trial:
    """Train an encoder on projections of a map.

    The seed determines the initial weights and the training data, so that different feature distances are trained on
    the same images in the same order. ``imaging`` sets the size of the simulated images, and ``settings`` the size of
    the network input. ``epochs`` is the number of epochs, or a schedule with a time limit. ``distinct`` is the number
    of different training images; by default, images never repeat.
    """
    keras.utils.set_random_seed(seed)
    encoder = TrainedEncoder(settings.build(), settings)
    stream = ProjectionStream(
        density,
        imaging,
        network_image_size=settings.image_size,
        batch_size=batch_size,
        steps=steps_per_epoch,
        distinct=distinct,
        seed=seed,
    )
    unseen = simulate(
        density,
        n_validation,
        image_size=imaging.image_size,
        coverage=imaging.coverage,
        noise_variance=imaging.noise_variance,
        shift_limit_px=imaging.shift_limit_px,
        rng=[seed, 1],
    )
    schedule = epochs if isinstance(epochs, TrainingSchedule) else TrainingSchedule(epochs)
    history = train(encoder, stream, validation=unseen, schedule=schedule)
    # a mirror image shows the particle from the opposite direction, which some coverages do not contain
    return Trial(encoder, history, both_views=imaging.coverage in OPPOSITE_VIEWS)


def measure_distances(
    predicted: np.ndarray,
    rotations: Rotation,
    *,
    symmetry: str = "C1",
    seed: int = 0,
    bins: int = 24,
    recovery_method: str = "spectral+gauss_newton",
    steps: int = 30_000,
    **conditions,
) -> list[dict]:
    """Measure the errors of (n, n) predicted distances in radians, and of the orientations recovered from them.

    The first rows have the quantities ``distance_error_rad`` and ``distance_error_rad2`` (L_DE, the mean absolute and
    the mean squared error over all pairs), ``chance_rad`` (the mean absolute error of the best constant prediction),
    ``recovery_error_rad`` and ``recovery_error_median_rad`` (the mean orientation error E_OR, and the median), and
    ``recovery_loss_rad2`` (L_OR). Orientations are recovered with the given ``recovery_method`` and ``steps``. For each
    bin of the true distance, further rows have the quantities ``distance_bias_rad``, ``distance_spread_rad`` (standard
    deviation) and ``pairs`` (their number), with the condition ``true_distance_rad``. All rows include the given
    ``conditions``.
    """
    i, j = np.triu_indices(len(rotations), k=1)
    true = geodesic_distance(rotations, rotations, symmetry=symmetry)[i, j]
    error = predicted[i, j] - true
    recovery = recover_orientations(
        predicted, method=recovery_method, symmetry=symmetry, steps=steps, rng=seed
    )
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
    edges = np.linspace(0, np.pi, bins + 1)
    which = np.minimum(np.digitize(true, edges) - 1, bins - 1)
    for b in np.unique(which):
        binned = {**conditions, "true_distance_rad": round(float((edges[b] + edges[b + 1]) / 2), 4)}
        rows.append(measurement("distance_bias_rad", error[which == b].mean(), **binned))
        rows.append(measurement("distance_spread_rad", error[which == b].std(), **binned))
        rows.append(measurement("pairs", np.count_nonzero(which == b), **binned))
    return rows


def displaced(rotations: Rotation, mean_angle_rad: float, *, rng) -> Rotation:
    """Rotate each orientation by a random rotation vector, uniform in a ball, with the given mean angle."""
    small = random_small_rotations((len(rotations),), radius=mean_angle_rad / MEAN_OF_RADIUS, rng=rng)
    return Rotation.from_rotvec(small) * rotations
