"""Property tests: no time limit per example (CI machines stall), nothing left on disk."""

from hypothesis import settings

settings.register_profile("promptood", deadline=None, database=None)
settings.load_profile("promptood")
