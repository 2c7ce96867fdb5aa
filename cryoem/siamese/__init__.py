"""Distances learned from images: encoder, all-pairs losses, training data, training, prediction."""

from cryoem.siamese.encoders import build_encoder
from cryoem.siamese.losses import distances_from_features
from cryoem.siamese.portable import PortableEncoder
from cryoem.siamese.prediction import (
    EncoderSettings,
    distances_between,
    distances_of_all,
    encode,
    load_encoder,
    predict_distances,
    predict_shifts,
    save_encoder,
)
from cryoem.siamese.stream import ProjectionStream
from cryoem.siamese.training import train

__all__ = [
    "EncoderSettings",
    "PortableEncoder",
    "ProjectionStream",
    "build_encoder",
    "distances_between",
    "distances_from_features",
    "distances_of_all",
    "encode",
    "load_encoder",
    "predict_distances",
    "predict_shifts",
    "save_encoder",
    "train",
]
