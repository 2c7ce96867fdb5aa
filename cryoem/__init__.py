"""Single-particle cryo-EM from a density map to orientations and back, in notebooks.

The pipeline is ``volumes`` and ``particles`` -> ``projection`` -> ``distances`` -> ``orientations`` ->
``reconstruction``. ``udl`` aligns images in-plane, ``runs`` and ``experiments`` execute the notebooks, and ``plots``
draws the figures. Import the folder or module that you need; this package imports nothing heavy.
"""

__version__ = "0.1.0"
