"""Single-particle cryo-EM from a density map to orientations and back, in notebooks.

Data flows one way: ``volumes`` -> ``projectors`` / ``imaging`` -> ``distances`` / ``siamese`` -> ``recovery`` ->
``gauge`` -> ``reconstruction`` / ``refinement`` -> ``resolution``.  Import the module you need; nothing heavy is
imported here.
"""

__version__ = "0.1.0"
