"""Single-particle cryo-EM in notebooks: from a density map to orientations and back.

The pipeline is ``volumes`` and ``particles`` -> ``projection`` -> ``distances`` -> ``orientations`` ->
``reconstruction``. ``udl`` aligns images in-plane, ``runs`` and ``experiments`` execute the notebooks, and ``plots``
draws the figures. Import the subpackage or module you need; ``import cryoem`` itself loads nothing heavy.
"""

__version__ = "0.1.0"
