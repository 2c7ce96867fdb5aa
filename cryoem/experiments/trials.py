"""What the experiments' notebooks share: a particle, an encoder trained on it, and how well it tells distances."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
from scipy.spatial.transform import Rotation

from cryoem import imaging, registry, siamese, volumes
from cryoem.evaluation import recovery_error
from cryoem.experiments.rows import measurement
from cryoem.recovery import recover_orientations
from cryoem.rotations import geodesic_distance, random_small_rotations

MASK_FILTER_ANGSTROM = 15.0
SEES_BOTH_SIDES = ("so3", "euler")  # coverages in which the opposite of each viewing direction occurs, too
MEAN_OF_RADIUS = 0.75  # of the norm of a point that is uniform in a ball


@dataclass(frozen=True)
class Trial:
    """An encoder and what it was trained for; ``history`` as ``siamese.train`` returns it; ``both_views`` as in
    ``siamese.encode``.
    """

    encoder: keras.Model
    settings: siamese.EncoderSettings
    history: dict[str, list[float]]
    both_views: bool

    @property
    def training_seconds(self) -> float:
        return self.history["seconds"][-1]


def load_particle(map_name: str, *, masked: bool = False) -> volumes.DensityMap:
    """A map of the registry or a file; ``masked``: without the noise around an experimental map's particle."""
    density = registry.load(map_name)
    if not masked:
        return density
    coarse = volumes.low_pass(density, MASK_FILTER_ANGSTROM)
    mask = volumes.soft_mask(coarse, extend_px=2, edge_px=4)
    return volumes.DensityMap(density.data * mask, density.voxel_size_angstrom)


def learn_distances(
    density: volumes.DensityMap,
    *,
    image_size: int,
    settings: siamese.EncoderSettings,
    epochs: int,
    steps_per_epoch: int,
    batch_size: int,
    n_validation: int = 128,
    seed: int = 0,
    distinct: int | None = None,
    **simulation,
) -> Trial:
    """Train an encoder on projections of a map.

    Parameters
    ----------
    image_size : side of the full images, px; ``settings.image_size`` is that of the network's.
    simulation : ``noise_variance``, ``shift_limit_px``, ``coverage``, as in ``imaging.simulate``.
    distinct : size of a finite training set; fresh images for ever by default.

    Weights and data come from the seed: two kinds of feature distance see the same images in the same order.
    """
    keras.utils.set_random_seed(seed)
    encoder = settings.build()
    stream = siamese.ProjectionStream(
        density,
        image_size=image_size,
        network_image_size=settings.image_size,
        batch_size=batch_size,
        steps=steps_per_epoch,
        distinct=distinct,
        seed=seed,
        **simulation,
    )
    unseen = imaging.simulate(density, n_validation, image_size=image_size, rng=[seed, 1], **simulation)
    history = siamese.train(
        encoder,
        stream,
        epochs=epochs,
        validation=(imaging.downsample(unseen.images, settings.image_size), unseen.rotations.as_quat()),
        feature_distance=settings.feature_distance,
        symmetry=settings.symmetry,
    )
    # the mirror image is the view from the opposite direction, which only some trainings have shown
    return Trial(encoder, settings, history, both_views=simulation.get("coverage", "so3") in SEES_BOTH_SIDES)


def tell_distances(trial: Trial, images: np.ndarray) -> np.ndarray:
    """Distances between images of any size, as a trained encoder has them: (n, n) radians."""
    return siamese.predict_distances(
        trial.encoder,
        imaging.downsample(images, trial.settings.image_size),
        feature_distance=trial.settings.feature_distance,
        symmetry=trial.settings.symmetry,
        both_views=trial.both_views,
    )


def measure_distances(
    predicted: np.ndarray,
    rotations: Rotation,
    *,
    symmetry: str = "C1",
    seed: int = 0,
    bins: int = 24,
    **conditions,
) -> list[dict]:
    """Rows that say how good predicted distances are, and the orientations that they give.

    ``distance_error_rad`` mean absolute error over all pairs; ``chance_rad`` that of one constant, the best there is;
    ``recovery_error_rad`` E_OR; ``recovery_loss_rad2`` L_OR; ``distance_bias_rad``, ``distance_spread_rad`` (standard
    deviation) and ``pairs`` in bins of the true distance, whose middle is the condition ``true_distance_rad``.
    """
    i, j = np.triu_indices(len(rotations), k=1)
    true = geodesic_distance(rotations, rotations, symmetry=symmetry)[i, j]
    error = predicted[i, j] - true
    recovery = recover_orientations(predicted, symmetry=symmetry, rng=seed)
    numbers = {
        "distance_error_rad": np.abs(error).mean(),
        "chance_rad": np.abs(true - np.median(true)).mean(),
        "recovery_error_rad": recovery_error(rotations, recovery.rotations, symmetry=symmetry),
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
    """Orientations, each turned by a random rotation of some mean angle, uniform in a ball."""
    small = random_small_rotations((len(rotations),), radius=mean_angle_rad / MEAN_OF_RADIUS, rng=rng)
    return Rotation.from_rotvec(small) * rotations
