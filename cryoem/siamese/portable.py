"""An encoder that can go to another process."""

from __future__ import annotations

from functools import cached_property

import keras

from cryoem.siamese.prediction import EncoderSettings


class PortableEncoder:
    """A trained encoder and its settings; its weights alone are pickled, and the network is built where it is used.

    ``settings``: as of ``load_encoder``; ``model``: the Keras model.
    """

    def __init__(self, encoder: keras.Model, settings: EncoderSettings):
        self.settings, self.model = settings, encoder

    @cached_property
    def model(self) -> keras.Model:
        """Built on the first use in another process, and kept."""
        model = self.settings.build()
        model.set_weights(self._weights)
        return model

    def __getstate__(self) -> dict:
        return {"settings": self.settings, "_weights": self.model.get_weights()}
