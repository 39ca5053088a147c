"""Calibrated ID/OOD verdicts on any image."""

from detector.detector import Detector

__all__ = ["Detector"]
