"""A trained encoder: the network and the settings that rebuild it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property

import keras

from cryoem.distances.encoders import build_encoder
from cryoem.distances.losses import KINDS


@dataclass(frozen=True)
class EncoderSettings:
    """Arguments of ``build_encoder``, and the feature distance to train with.

    Parameters
    ----------
    image_size, architecture, n_features, channels, blocks, symmetry, with_shifts
        As in ``build_encoder``.
    feature_distance : {"kernel", "cosine", "euclidean", "mlp"}
        Relation of features and distances, see ``losses``.

    Raises
    ------
    ValueError
        If the feature distance is unknown.
    """

    image_size: int
    architecture: str = "polar"
    n_features: int | None = None
    channels: int = 128
    blocks: int = 4
    feature_distance: str = "kernel"
    symmetry: str = "C1"
    with_shifts: bool = False

    def __post_init__(self):
        if self.feature_distance not in KINDS:
            raise ValueError(
                f"feature_distance must be one of {', '.join(KINDS)}, got {self.feature_distance!r}"
            )

    def build(self) -> keras.Model:
        """Build a new encoder with random weights; raises as ``build_encoder``."""
        arguments = asdict(self)
        return build_encoder(pair_head=arguments.pop("feature_distance") == "mlp", **arguments)


class TrainedEncoder:
    """An encoder with its settings.

    It can be pickled: the weights are sent, and the network is rebuilt on first use in the other process.

    Parameters
    ----------
    model : keras.Model
        Encoder from ``settings.build()``; ``train`` trains it in place.
    settings : EncoderSettings
    """

    def __init__(self, model: keras.Model, settings: EncoderSettings):
        self.settings, self.model = settings, model

    @cached_property
    def model(self) -> keras.Model:
        """The network, rebuilt after unpickling."""
        model = self.settings.build()
        model.set_weights(self._weights)
        return model

    def __getstate__(self) -> dict:
        return {"settings": self.settings, "_weights": self.model.get_weights()}
