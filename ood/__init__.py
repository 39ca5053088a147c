"""Out-of-distribution scores, metrics, results, plots, region maps, and detectors.

>>> from ood import Detector
"""

__all__ = ["Detector"]


def __getattr__(name: str):
    # Scores and metrics are imported without CLIP.
    if name == "Detector":
        from ood.detector import Detector

        return Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
