"""Keras with the settings that this package relies on, whatever ``~/.keras/keras.json`` contains.

All modules import Keras from here. The weights and the losses are float32, images have their channels last, and the
backend is TensorFlow unless ``KERAS_BACKEND`` selects another one. A dtype policy that the user sets in Python is kept.
"""

import importlib.util
import os

from cryoem.devices import quiet_import

if importlib.util.find_spec("tensorflow"):
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
with quiet_import():
    import keras
    from keras import layers, ops

keras.config.set_floatx("float32")
keras.config.set_epsilon(1e-7)
keras.config.set_image_data_format("channels_last")

__all__ = ["keras", "layers", "ops"]
