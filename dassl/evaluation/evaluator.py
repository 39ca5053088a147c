"""Classification accuracy over a whole set."""

import logging
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from yacs.config import CfgNode

from dassl import distributed
from dassl.utils import InputError

from .build import EVALUATOR_REGISTRY

logger = logging.getLogger(__name__)


class EvaluatorBase:
    """The interface: `reset`, then `process` batch by batch, then `evaluate`."""

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

    def __init__(self, cfg: CfgNode, **_: Any) -> None:
        super().__init__(cfg)
        self.reset()

    def reset(self) -> None:
        self._y_true: list[int] = []
        self._y_pred: list[int] = []

    def process(self, mo: torch.Tensor, gt: torch.Tensor) -> None:
        """Add model output `mo` `[B, C]` and labels `gt` `[B]`."""
        self._y_true += gt.tolist()
        self._y_pred += mo.argmax(dim=1).tolist()

    def gather(self) -> None:
        """Collect, on each rank, what all ranks have processed."""
        gathered = distributed.from_all((self._y_true, self._y_pred))
        self._y_true = [label for true, _ in gathered for label in true]
        self._y_pred = [label for _, pred in gathered for label in pred]

    def evaluate(self) -> OrderedDict[str, float]:
        """Log and return the results; InputError if no image was processed."""
        if not self._y_true:
            raise InputError("No image was evaluated: the set is empty or none could be read.")
        from sklearn.metrics import f1_score  # slow to import, and only needed at the end

        true, pred = np.array(self._y_true), np.array(self._y_pred)
        accuracy = 100.0 * float((true == pred).mean())
        f1 = f1_score(true, pred, average="macro", labels=np.unique(true), zero_division=0)
        results = OrderedDict(
            accuracy=accuracy, error_rate=100.0 - accuracy, macro_f1=100.0 * float(f1)
        )
        logger.info(
            "=> result\n* total: %s\n* correct: %s\n* accuracy: %.1f%%\n* error: %.1f%%\n"
            "* macro_f1: %.1f%%",
            f"{len(true):,}",
            f"{int((true == pred).sum()):,}",
            *results.values(),
        )
        return results
