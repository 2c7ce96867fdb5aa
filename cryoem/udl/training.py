"""Training of an aligner on unlabelled particle images, with pseudo-labels in place of the unknown angles.

Pairwise (``"udl"``): each image is paired with many partners. The network is trained so that the difference between the
angles of two images equals the angle measured by circular correlation of their spectra. These pseudo-labels are
coarse, and some are wrong. Their errors depend on the partner as much as on the image, so the network learns what they
have in common. In arXiv 2205.11829, training enforces that rotating an image changes its angle by exactly that
rotation; here the polar network satisfies this by construction. An image paired with itself has angle 0, so no bias
needs to be calibrated.

Joint (``"judl"``): images are aligned to their own average, including shifts and the 180-degree ambiguity. The
pseudo-labels are the angles at which the average best explains each image. The average replaces the autoencoder of the
published method, which reconstructs aligned images.

Both methods start from a classically aligned template of spectra (see ``classical``). ``TrainingResult.untrained``
measures this start, so that the effect of training is visible. For ``"udl"`` the effect is small, because the errors of
the partners already average out in the template. With random initial weights (``warm_start=False``), the same pairs
suffice to train the network, but it is less accurate.

``"published-udl"`` and ``"published-judl"`` train the network of the paper with its own losses; see
``published_training``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from cryoem.training.backend import keras, ops
from cryoem.training.compilation import TrainingSchedule
from cryoem.training.fitting import digest
from cryoem.udl.aligner import Aligner
from cryoem.udl.classical import (
    PARTNERS,
    aligned_template,
    angles_of_pairs,
    mean_spectrum,
    pair_angles,
    random_pairs,
    synchronise,
)
from cryoem.udl.networks import build_polar_network, compile_and_fit, direction_loss, relative_direction
from cryoem.udl.published_training import METHODS as PUBLISHED_METHODS
from cryoem.udl.published_training import PublishedAligner, PublishedOptions, train_published
from cryoem.udl.registration import average_aligned, class_average, filter_reference, register
from cryoem.udl.rotation import joint_error_deg, pair_error_deg, unit_vectors
from cryoem.udl.spectra import SMALLEST_PX, polar_grid, polar_spectra
from cryoem.validation import one_each, square_images, whole_number

METHODS = ("udl", "judl")
FEWEST_IMAGES = 4
DEFAULT_SCHEDULE = TrainingSchedule(epochs=5, learning_rate=1e-3)


@dataclass(frozen=True)
class AlignerOptions:
    """Options for training an aligner.

    Parameters
    ----------
    symmetry : str
        Cyclic in-plane symmetry of the class: ``"C1"``, ``"C2"``, ... Default: ``"C1"``.
    batch_size : int
        Number of images or pairs per training step. Default: 128.
    validation_fraction : float
        Fraction of the images that are reserved for validation, at most 0.5. These images are taken from the end of the
        stack. Default: 0.1.
    warm_start : bool
        Whether to start from the classically aligned template instead of a random one. Default: True.
    initial_aligner : Aligner, optional
        Trained aligner whose weights are used as the initial weights. It must have the same grid and a Keras network.
        If ``warm_start`` is True, its template is replaced, so it may have been trained on a different particle.
        Default: random weights.

    Raises
    ------
    ValueError
        If ``batch_size`` or ``validation_fraction`` is out of range, or if ``initial_aligner`` has no Keras network.
    """

    symmetry: str = "C1"
    batch_size: int = 128
    validation_fraction: float = 0.1
    warm_start: bool = True
    initial_aligner: Aligner | None = None

    def __post_init__(self):
        whole_number(self.batch_size, name="batch_size", at_least=2)
        if not 0 < self.validation_fraction <= 0.5:
            raise ValueError(
                f"validation_fraction must be above 0 and at most 0.5, got {self.validation_fraction}"
            )
        if self.initial_aligner is not None and not hasattr(self.initial_aligner.network, "get_weights"):
            raise ValueError(
                "initial_aligner must have a Keras network, got "
                f"{type(self.initial_aligner.network).__name__}; exported aligners cannot be trained further"
            )


@dataclass(frozen=True)
class TrainingResult:
    """Result of ``train``.

    Parameters
    ----------
    aligner : Aligner or PublishedAligner
        Trained aligner.
    history : dict of str to list of float
        Values of each recorded quantity, one per epoch; see ``train``.
    untrained : dict of str to float
        ``val_loss`` and, if the true angles are known, ``val_error_deg`` before the first epoch.
    """

    aligner: Aligner | PublishedAligner
    history: dict[str, list[float]]
    untrained: dict[str, float]


def train(
    stack: np.ndarray,
    *,
    method: str = "judl",
    options: AlignerOptions | PublishedOptions | None = None,
    schedule: TrainingSchedule | None = None,
    true_angles_rad: np.ndarray | None = None,
    checkpoints: str | os.PathLike | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 0,
    rng: np.random.Generator | int | None = 0,
) -> TrainingResult:
    """Train an aligner on the images to be aligned, or on a subset of them.

    Parameters
    ----------
    stack : (n, y, x) array
        At least four images of one class, as an array or a particle stack.
    method : str
        Training method: ``"udl"`` (pairwise) or ``"judl"`` (joint); or, with the network of the paper,
        ``"published-udl"`` or ``"published-judl"``. At full size, training the published network requires a GPU or
        several hours. Default: ``"judl"``.
    options : AlignerOptions or PublishedOptions, optional
        Further options: ``PublishedOptions`` for the published methods, ``AlignerOptions`` for the others. Default: the
        default values of these options.
    schedule : TrainingSchedule, optional
        Learning rate and stopping criteria. Default: 5 epochs with a peak learning rate of 1e-3; for the published
        methods, 100 epochs with a learning rate of 3e-4 (UDL) or 1e-4 (JUDL).
    true_angles_rad : (n,) array, optional
        True angles of the images. They are used only to record the error, not for training.
    checkpoints, callbacks, verbose
        See ``training.fit``.
    rng : numpy.random.Generator or int
        Random number generator or seed for the initial weights, the pairs and the order of batches. Default: 0.

    Returns
    -------
    TrainingResult
        The aligner, the history of ``training.fit``, and the values before training.

    Raises
    ------
    ValueError
        If there are fewer than four images; if the images do not have shape (n, y, y), are constant, or contain NaN or
        infinity; if the method or symmetry is unknown; if the options do not belong to the method; if a batch cannot be
        divided equally among replicas; or if the checkpoints belong to a different training run.

    Notes
    -----
    The loss is the mean of abs(sin(pi d / period)), where d is the deviation from the pseudo-label. If the true angles
    are known, ``val_error_deg`` is the mean error of the angles between consecutive validation images (``"udl"``), or
    of the angles of the validation images, ignoring a common offset (``"judl"``).

    The losses of the published methods are in degrees. For these methods, ``val_error_deg`` is the mean error of the
    angles of pairs after the aligner's bias, ``bias_deg``, is subtracted. ``val_error_true_bias_deg`` is the error with
    the best possible bias, which can be determined only from the true angles.
    """
    images = square_images(stack, at_least=FEWEST_IMAGES, smallest_px=SMALLEST_PX)
    if method not in METHODS + PUBLISHED_METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS + PUBLISHED_METHODS)}, got {method!r}")
    kind = PublishedOptions if method in PUBLISHED_METHODS else AlignerOptions
    options = kind() if options is None else options
    if not isinstance(options, kind):
        raise ValueError(
            f"method {method!r} requires options of type {kind.__name__}, got {type(options).__name__}"
        )
    if true_angles_rad is not None:
        true_angles_rad = one_each(true_angles_rad, count=len(images), name="true_angles_rad")
    if method in PUBLISHED_METHODS:
        published = train_published(
            images,
            method=method,
            options=options,
            schedule=schedule,
            true_angles_rad=true_angles_rad,
            checkpoints=checkpoints,
            callbacks=callbacks,
            verbose=verbose,
            rng=rng,
        )
        return TrainingResult(*published)
    schedule = schedule or DEFAULT_SCHEDULE
    grid = polar_grid(images.shape[1], symmetry=options.symmetry)
    initial = options.initial_aligner
    if initial is not None and initial.grid != grid:
        raise ValueError(
            f"initial_aligner must be trained for {grid.image_size} px images with symmetry {options.symmetry}, "
            f"got {initial.grid}"
        )
    fingerprint = {
        "images": digest(images),
        "method": method,
        **asdict(replace(options, initial_aligner=None)),
        "initial_aligner": None if initial is None else [digest(w) for w in initial.network.get_weights()],
        "true_angles_rad": true_angles_rad is not None,
        "rng": None if rng is None else digest(np.random.default_rng(rng)),
    }
    rng = np.random.default_rng(rng)
    spectra = polar_spectra(images, grid)
    held_out = max(2, round(options.validation_fraction * len(images)))
    parts = np.arange(len(images) - held_out), np.arange(len(images) - held_out, len(images))

    model = network = build_polar_network(grid, seed=int(rng.integers(2**31)))
    if initial is not None:
        network.set_weights(initial.network.get_weights())
    if method == "udl":
        template, labels = _pairwise_labels(spectra, parts, grid, rng)
        reference = None
        pair = [keras.Input((grid.n_angles, grid.n_radii), name=name) for name in ("first", "second")]
        model = keras.Model(pair, relative_direction(*(network(spectrum) for spectrum in pair)))
    else:
        template, labels, reference = _joint_labels(images, spectra, parts, grid)
    if options.warm_start:
        network.get_layer("template").warm_start(template)
    aligner = Aligner(network, grid, reference, method)
    stream, validation = (
        LabelledSpectra(
            spectra, *of_part, grid, options.batch_size, epoch_size=len(rows), seed=int(rng.integers(2**31))
        )
        for rows, of_part in zip(parts, labels, strict=True)
    )

    def true_error() -> dict[str, float]:
        if true_angles_rad is None:
            return {}
        error_deg = pair_error_deg if method == "udl" else joint_error_deg
        angles = aligner.angles_of_spectra(spectra[parts[1]])
        return {"val_error_deg": error_deg(angles, true_angles_rad[parts[1]], period_rad=grid.period_rad)}

    untrained = {"val_loss": _mean_loss(model, validation), **true_error()}
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: logs.update(true_error()))
    history = compile_and_fit(
        model,
        stream,
        validation,
        loss=direction_loss,
        schedule=schedule,
        checkpoints=checkpoints,
        fingerprint=fingerprint,
        callbacks=[watch, *callbacks],
        verbose=verbose,
    )
    return TrainingResult(aligner, history, untrained)


def _pairwise_labels(spectra, parts, grid, rng):
    """Return a template from synchronised pairs, and (pairs, angles) for training and for validation."""
    labels = []
    for rows in parts:
        pairs = rows[random_pairs(len(rows), PARTNERS, rng=rng)]
        labels.append((pairs, angles_of_pairs(spectra, pairs, grid)))
    together = synchronise(*labels[0], period_rad=grid.period_rad)
    return mean_spectrum(spectra[parts[0]], together, period_rad=grid.period_rad), labels


def _joint_labels(images, spectra, parts, grid):
    """Return a template, (rows, angles) for training and for validation from the class average, and this average."""
    training, held_out = (
        slice(rows[0], rows[-1] + 1) for rows in parts
    )  # slices are views; indices would copy
    angles, template = aligned_template(spectra[training], grid)
    average, power = class_average(images[training], angles)
    filtered = filter_reference(average, power)
    start = pair_angles(template[None], spectra[held_out], period_rad=grid.period_rad)
    found = [register(images[training], filtered, angles), register(images[held_out], filtered, start)]
    labels = [registration.angles_rad for registration in found]
    average = average_aligned(images[training], labels[0], found[0].shifts_px)
    template = mean_spectrum(spectra[training], labels[0], period_rad=grid.period_rad)
    return template, list(zip(parts, labels, strict=True)), average


class LabelledSpectra(keras.utils.PyDataset):
    """Shuffled batches of spectra or pairs of spectra, with the unit vectors of their angles.

    An epoch has ``epoch_size`` labels, and each epoch continues after those of the previous one.
    """

    def __init__(self, spectra, rows, angles_rad, grid, batch_size, *, epoch_size, seed):
        super().__init__()
        self.epoch = 0
        self._spectra, self._rows, self._seed, self._epoch_size = spectra, rows, seed, epoch_size
        self._targets = unit_vectors(angles_rad, periods=grid.periods).astype(np.float32)
        self._batch_size = min(batch_size, epoch_size)

    def __len__(self):
        return self._epoch_size // self._batch_size

    def __getitem__(self, index):
        order = np.random.default_rng((self._seed, self.epoch)).permutation(self._epoch_size)
        chosen = order[index * self._batch_size : (index + 1) * self._batch_size]
        chosen = (chosen + self.epoch * self._epoch_size) % len(self._rows)
        rows = self._rows[chosen]
        inputs = self._spectra[rows] if rows.ndim == 1 else tuple(self._spectra[r] for r in rows.T)
        return inputs, self._targets[chosen]


def _mean_loss(model: keras.Model, validation: keras.utils.PyDataset) -> float:
    """Return the mean loss over all batches of a stream."""
    batches = [validation[index] for index in range(len(validation))]
    # each replica returns the outputs of the whole batch, and these are concatenated
    losses = [
        direction_loss(targets, model.predict_on_batch(inputs)[: len(targets)]) for inputs, targets in batches
    ]
    return float(np.mean([ops.convert_to_numpy(loss) for loss in losses]))
