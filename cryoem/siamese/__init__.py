"""Distances learned from images: encoder, all-pairs losses, training data, training, prediction."""

from cryoem.siamese.encoders import build_encoder
from cryoem.siamese.losses import distances_from_features
from cryoem.siamese.prediction import (
    EncoderSettings,
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
    "ProjectionStream",
    "build_encoder",
    "distances_from_features",
    "encode",
    "load_encoder",
    "predict_distances",
    "predict_shifts",
    "save_encoder",
    "train",
]
