"""Datasets: lists of images, class names, few-shot sampling."""

import logging
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from yacs.config import CfgNode

from dassl.utils import InputError, Registry

DATASET_REGISTRY = Registry("DATASET")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Datum:
    """One image: its path, class label, domain label and class name.

    Differs from upstream: a missing file is noticed when it is read, not here; a million stat
    calls took minutes on network drives.
    """

    impath: str = ""
    label: int = 0
    domain: int = 0
    classname: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.impath, str):
            raise TypeError(f"Datum.impath must be a str, not {type(self.impath).__name__}")


Source = Sequence[Datum]


class DatasetBase:
    """Lists of Datum for training, validation and test, and the class names.

    `train_x` is a list, or a function without arguments that lists the images when `.train_x` is
    first read, so that evaluation never lists a training set. `classnames` are in label order;
    without them classes are taken from `train_x`, as upstream does.
    """

    dataset_dir = ""  # the folder of the dataset under DATASET.ROOT
    class_folders: Sequence[str] = ()  # in label order, if each class is a folder
    held_out: Source = ()  # test images set apart if there is no test split

    def __init__(
        self,
        train_x: Source | Callable[[], Source] | None = None,
        train_u: Source | None = None,
        val: Source | None = None,
        test: Source | None = None,
        classnames: Iterable[str] | None = None,
    ) -> None:
        self._train_x, self.train_u, self.val, self.test = train_x, train_u, val, test
        if classnames is not None:
            self.lab2cname = dict(enumerate(classnames))

    @property
    def train_x_listed(self) -> bool:
        """Return whether the training images are listed already; reading `.train_x` lists them."""
        return not callable(self._train_x)

    @property
    def train_x(self) -> Source | None:
        if not self.train_x_listed:
            self._train_x = self._train_x()
        return self._train_x

    @cached_property
    def lab2cname(self) -> dict[int, str]:
        """Map labels to class names."""
        return self.get_lab2cname(self.train_x)[0]

    @cached_property
    def classnames(self) -> list[str]:
        return [self.lab2cname[label] for label in sorted(self.lab2cname)]

    @property
    def num_classes(self) -> int:
        """Return the largest label + 1."""
        return max(self.lab2cname, default=-1) + 1

    @staticmethod
    def get_lab2cname(data_source: Source | None) -> tuple[dict[int, str], list[str]]:
        """Return the mapping label -> class name, and the class names in label order."""
        if not data_source:
            raise InputError(
                "The training set is empty: check DATASET.ROOT and the folders under it."
            )
        mapping = {item.label: item.classname for item in data_source}
        return mapping, [mapping[label] for label in sorted(mapping)]

    def generate_fewshot_dataset(
        self,
        *data_sources: Source,
        num_shots: int = -1,
        repeat: bool = False,
        rng: random.Random | None = None,
    ) -> Source | Sequence[Source]:
        """Draw `num_shots` images of each class from each source, class by class.

        A class with fewer images is taken whole, without a draw; with `repeat`, `num_shots` of
        them are drawn with replacement. With `num_shots` below 1 the sources are returned as they
        are. `rng` defaults to Python's global generator, as upstream; after `random.seed(s)` it
        draws the same as `random.Random(s)`. One source gives one list, several a list of lists.
        """
        if num_shots < 1:
            return data_sources[0] if len(data_sources) == 1 else data_sources
        logger.info("Creating a %d-shot dataset", num_shots)
        generator = random if rng is None else rng
        drawn = [self._draw_shots(src, num_shots, repeat, generator) for src in data_sources]
        return drawn[0] if len(drawn) == 1 else drawn

    def _draw_shots(self, source: Source, num_shots: int, repeat: bool, rng) -> list[Datum]:
        chosen: list[Datum] = []
        for items in self.split_dataset_by_label(source).values():
            if len(items) >= num_shots:
                chosen += rng.sample(items, num_shots)
            elif repeat:
                chosen += rng.choices(items, k=num_shots)
            else:
                chosen += items
        return chosen

    @staticmethod
    def split_dataset_by_label(data_source: Source) -> defaultdict[int, list[Datum]]:
        """Return label -> its images, in order of first appearance."""
        groups = defaultdict(list)
        for item in data_source:
            groups[item.label].append(item)
        return groups


def build_dataset(cfg: CfgNode, images: bool = True) -> DatasetBase:
    """Build the registered dataset cfg.DATASET.NAME.

    With `images` False (for classes that accept it) the dataset has class names only: nothing need
    be on the disk, and its lists of images are None.
    """
    dataset_class = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    if cfg.VERBOSE:
        logger.info("Loading dataset: %s", cfg.DATASET.NAME)
    return dataset_class(cfg) if images else dataset_class(cfg, images=False)
