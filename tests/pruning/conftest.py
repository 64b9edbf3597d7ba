"""The tests of `pruning` need pytest and hypothesis beside the library's own packages.

What needs more (matplotlib, scikit-learn, the rest of the project) skips and says so.
"""

from hypothesis import settings

# Property tests take as long as a busy machine needs.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
