"""Compare the training rate (pairs/s) of pair-wise Siamese training and of training on all pairs in a batch.

    python benchmarks/training.py
    python benchmarks/training.py --encoders polar --batches 128 2048

Both methods train the same encoder. Each timed call is a complete training step (forward pass, backward pass and Adam)
on prepared data. In pair-wise training, as in the first paper, both images of each pair pass through the encoder. In
training on all pairs, each image in a batch passes through the encoder once, and the loss covers all B (B - 1) / 2
pairs of B images. The methods run in turn, and times are medians. The benchmark checks that both losses agree on the
same pairs; the table shows their relative difference. Peak memory is measured for the first step in a separate process.

Source for pair-wise training: arXiv 2104.06237, section 4.2.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
from table import print_columns
from watch import in_turns, peak_alone, ratio_text, time_text

from cryoem import volumes
from cryoem.distances import ProjectionStream, build_encoder
from cryoem.distances.losses import pair_loss
from cryoem.particles.conditions import ImagingConditions
from cryoem.training.backend import keras, ops

TARGET = ">= 500 x for the largest batch"
CHECKED = 12  # number of images for which the two losses are compared
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Setting:
    """An encoder, its image size, and the batch sizes for both methods."""

    architecture: str
    image_size: int
    feature_distance: str
    pairs: int
    batches: tuple[int, ...]


SETTINGS = {
    "polar": Setting("polar", 58, "kernel", 256, (128, 256, 512, 1024)),
    "published": Setting("published", 116, "cosine", 64, (128, 512)),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--map", default="5j0n")
    parser.add_argument("--encoders", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--batches", type=int, nargs="+", help="numbers of images in an all-pairs batch")
    parser.add_argument("--pairs", type=int, help="number of pairs in a pair-wise batch")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    density = volumes.load(arguments.map)
    for name in arguments.encoders:
        setting = SETTINGS[name]
        batches = tuple(arguments.batches or setting.batches)
        pairs = arguments.pairs or setting.pairs
        compare(density, setting, batches, pairs, arguments.repeats)


def compare(density, setting: Setting, batches: tuple[int, ...], pairs: int, repeats: int) -> None:
    """Compare the two methods for one encoder."""
    keras.utils.set_random_seed(0)
    encoder = build_encoder(setting.image_size, architecture=setting.architecture)
    all_pairs, pair_wise = trainers_of(encoder, setting.feature_distance)
    images, quaternions = ProjectionStream(
        density,
        ImagingConditions(116),
        network_image_size=setting.image_size,
        batch_size=max(*batches, 2 * pairs),
        steps=1,
        seed=0,
    )[0]
    agreement = disagreement(all_pairs, pair_wise, images[:CHECKED], quaternions[:CHECKED])
    if not agreement < TOLERANCE:
        raise SystemExit(f"the two losses differ by {agreement:.1e} (relative) on the same pairs")
    first, second = images[:pairs], images[pairs : 2 * pairs]
    distances = pair_distances(quaternions[:pairs], quaternions[pairs : 2 * pairs])
    calls = {0: partial(pair_wise.train_on_batch, [first, second], distances)}
    for batch in batches:
        calls[batch] = partial(all_pairs.train_on_batch, images[:batch], quaternions[:batch])
    watched = in_turns(calls, repeats=repeats)
    for batch, one in watched.items():
        one.peak_bytes = peak_alone(first_step, setting, batch, pairs)
    slow = pairs / watched[0].median_s
    rows = []
    for batch, one in watched.items():
        n_pairs = batch * (batch - 1) // 2 if batch else pairs
        rate = n_pairs / one.median_s
        rows.append(
            (
                "all pairs in a batch" if batch else "pair-wise",
                f"{batch or 2 * pairs:,}",
                f"{n_pairs:,}",
                time_text(one.median_s),
                f"{rate:,.0f}",
                ratio_text(rate / slow) if batch else "",
                f"{agreement:.0e} relative" if batch else "",
                one.peak,
                TARGET if batch == max(batches) else "-",
            )
        )
    print_columns(
        f"training-{setting.architecture}",
        f"Training the {setting.architecture} encoder, {setting.image_size} px",
        (
            "method",
            "images",
            "pairs",
            "step",
            "pairs/s",
            "speed-up over pair-wise",
            "loss difference",
            "peak memory",
            "target",
        ),
        rows,
    )


def first_step(setting: Setting, batch: int, pairs: int):
    """Prepare a first training step on noise images. A batch size of 0 selects pair-wise training."""
    encoder = build_encoder(setting.image_size, architecture=setting.architecture)
    all_pairs, pair_wise = trainers_of(encoder, setting.feature_distance)
    images = np.random.default_rng(0).standard_normal(
        (batch or pairs, setting.image_size, setting.image_size), dtype=np.float32
    )
    labels = np.ones((len(images), 4 if batch else 1), np.float32)
    model, given = (all_pairs, images) if batch else (pair_wise, [images, images])
    model.train_on_batch(*((images[:2], labels[:2]) if batch else ([images[:2]] * 2, labels[:2])))
    return partial(model.train_on_batch, given, labels)


def trainers_of(encoder: keras.Model, feature_distance: str) -> tuple[keras.Model, keras.Model]:
    """Return two compiled models that share one encoder, for training on all pairs in a batch and on single pairs."""
    shape = encoder.input_shape[1:]
    first, second = keras.Input(shape), keras.Input(shape)
    features = [encoder(image) for image in (first, second)]
    pair_wise = keras.Model([first, second], keras.layers.Dot(axes=1, normalize=True)(features))
    all_pairs = keras.Model(encoder.input, encoder.output)
    all_pairs.compile(keras.optimizers.Adam(1e-3), loss=pair_loss(feature_distance))
    pair_wise.compile(keras.optimizers.Adam(1e-3), loss=PAIR_LOSSES[feature_distance])
    return all_pairs, pair_wise


def kernel_pair_loss(distances, similarity):
    """Return the squared error of the kernel for each pair, from (p, 1) distances (rad) and inner products."""
    return ops.square(similarity - (1 + 2 * ops.cos(distances)) / 3)


def cosine_pair_loss(distances, similarity):
    """Return the squared error of the cosine distance for each pair (rad^2); the paper trains on the absolute error."""
    return ops.square(distances - 2 * ops.arccos(ops.clip(similarity, -1 + 1e-6, 1 - 1e-6)))


PAIR_LOSSES = {"kernel": kernel_pair_loss, "cosine": cosine_pair_loss}


def pair_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the distances between p pairs of quaternions, given as (p, 4) arrays: (p, 1) float32 radians."""
    overlaps = np.abs(np.sum(first.astype(float) * second, axis=1))
    return (2 * np.arccos(np.minimum(overlaps, 1))).astype(np.float32)[:, None]


def disagreement(all_pairs, pair_wise, images: np.ndarray, quaternions: np.ndarray) -> float:
    """Return the relative difference between the two losses over all pairs of the given images."""
    first, second = np.array(list(combinations(range(len(images)), 2))).T
    together = all_pairs.test_on_batch(images, quaternions)
    distances = pair_distances(quaternions[first], quaternions[second])
    apart = pair_wise.test_on_batch([images[first], images[second]], distances)
    return abs(float(together) - float(apart)) / float(together)


if __name__ == "__main__":
    main()
