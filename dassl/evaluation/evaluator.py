"""Classification accuracy over a whole set."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from yacs.config import CfgNode

from dassl import distributed
from dassl.utils import InputError, save_tensors

from .build import EVALUATOR_REGISTRY

logger = logging.getLogger(__name__)


class EvaluatorBase:
    """`reset`, then `process` batch by batch, then `evaluate`."""

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg

    def reset(self) -> None:
        raise NotImplementedError

    def process(self, mo: torch.Tensor, gt: torch.Tensor) -> None:
        raise NotImplementedError

    def evaluate(self) -> OrderedDict[str, float]:
        raise NotImplementedError


@EVALUATOR_REGISTRY.register()
class Classification(EvaluatorBase):
    """Accuracy, error rate and macro F1 in percent; accuracy comes first in the results."""

    def __init__(
        self, cfg: CfgNode, lab2cname: dict[int, str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(cfg)
        self._lab2cname = lab2cname
        if cfg.TEST.PER_CLASS_RESULT and lab2cname is None:
            raise InputError("TEST.PER_CLASS_RESULT needs the class names (lab2cname).")
        self.reset()

    def reset(self) -> None:
        self._y_true: list[int] = []
        self._y_pred: list[int] = []

    def process(self, mo: torch.Tensor, gt: torch.Tensor) -> None:
        """Add model output `mo` [B, C] and labels `gt` [B]."""
        self._y_true += gt.tolist()
        self._y_pred += mo.argmax(dim=1).tolist()

    def gather(self) -> None:
        """Bring together what all ranks have processed, on each of them."""
        parts = distributed.from_all((self._y_true, self._y_pred))
        self._y_true = [label for true, _ in parts for label in true]
        self._y_pred = [label for _, pred in parts for label in pred]

    def evaluate(self) -> OrderedDict[str, float]:
        """Log and return the results; InputError if no image was processed."""
        if not self._y_true:
            raise InputError("No image was evaluated: the set is empty or none could be read.")
        true, pred = np.array(self._y_true), np.array(self._y_pred)
        accuracy = 100.0 * float((true == pred).mean())
        results = OrderedDict(
            accuracy=accuracy, error_rate=100.0 - accuracy, macro_f1=_macro_f1(true, pred)
        )
        logger.info(
            "=> result\n* total: %s\n* correct: %s\n* accuracy: %.1f%%\n* error: %.1f%%\n"
            "* macro_f1: %.1f%%",
            f"{len(true):,}",
            f"{int((true == pred).sum()):,}",
            *results.values(),
        )
        if self.cfg.TEST.PER_CLASS_RESULT:
            results["perclass_accuracy"] = self._per_class(true, pred)
        if self.cfg.TEST.COMPUTE_CMAT:
            self._save_confusion_matrix(true, pred)
        return results

    def _per_class(self, true: np.ndarray, pred: np.ndarray) -> float:
        logger.info("=> per-class result")
        accuracies = []
        for label in np.unique(true).tolist():
            hits = pred[true == label] == label
            accuracies.append(100.0 * float(hits.mean()))
            logger.info(
                "* class: %d (%s)\ttotal: %s\tcorrect: %s\tacc: %.1f%%",
                label,
                self._lab2cname[label],
                f"{len(hits):,}",
                f"{int(hits.sum()):,}",
                accuracies[-1],
            )
        mean = float(np.mean(accuracies))
        logger.info("* average: %.1f%%", mean)
        return mean

    def _save_confusion_matrix(self, true: np.ndarray, pred: np.ndarray) -> None:
        """cmat.pt: a tensor [K, K], rows true, each summing to 1, over the K labels that occur."""
        from sklearn.metrics import confusion_matrix  # slow to import, rarely needed

        path = os.path.join(self.cfg.OUTPUT_DIR, "cmat.pt")
        save_tensors(torch.from_numpy(confusion_matrix(true, pred, normalize="true")), path)
        logger.info("Confusion matrix is saved to %s", path)


def _macro_f1(true: np.ndarray, pred: np.ndarray) -> float:
    from sklearn.metrics import f1_score  # slow to import, and only needed at the end

    labels = np.unique(true)
    return 100.0 * float(f1_score(true, pred, average="macro", labels=labels, zero_division=0))
