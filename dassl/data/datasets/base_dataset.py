"""Datasets: lists of images, class names, few-shot sampling."""

from __future__ import annotations

import logging
import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dassl.utils import InputError, read_json, write_json

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Datum:
    """One image: its path, class label, domain label and class name.

    Differs from upstream: the file is looked for when it is read, not here; a million stat calls
    took minutes on network drives.
    """

    impath: str = ""
    label: int = 0
    domain: int = 0
    classname: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.impath, str):
            raise TypeError(f"Datum.impath must be a str, not {type(self.impath).__name__}")

    def __setstate__(self, state: Sequence | dict) -> None:
        """Unpickle: our own state, or upstream's, as in CoOp's files `shot_16-seed_1.pkl`."""
        for i, name in enumerate(self.__slots__):
            value = state[f"_{name}"] if isinstance(state, dict) else state[i]
            object.__setattr__(self, name, value)  # the class is frozen


Source = Sequence[Datum]


class DatasetBase:
    """Lists of Datum for training, validation and test, and the class names.

    `train_x` is a list, or a function without arguments that lists the images when `.train_x` is
    first read, so that evaluation never lists a training set. `classnames` are in label order;
    without them classes are taken from `train_x`, as upstream does.
    """

    dataset_dir = ""  # the folder of the dataset under DATASET.ROOT
    domains: ClassVar[list[str]] = []  # names of all domains

    def __init__(
        self,
        train_x: Source | Callable[[], Source] | None = None,
        train_u: Source | None = None,
        val: Source | None = None,
        test: Source | None = None,
        classnames: Iterable[str] | None = None,
    ) -> None:
        self._train_x = train_x
        self._train_u = train_u
        self._val = val
        self._test = test
        self._lab2cname: dict[int, str] | None = None
        self._classnames: list[str] = []
        self._num_classes = 0
        if classnames is not None:
            self._set_classes(dict(enumerate(classnames)))
        elif train_x is not None and self.train_x_listed:
            self._read_classes()

    @classmethod
    def without_images(cls, cfg: CfgNode) -> DatasetBase:
        """Build the dataset with its class names alone, for which nothing need be on the disk.

        Its lists of images are None. InputError if only the images have the class names, as here.
        """
        raise InputError(
            f"The class names of {cls.__name__} (DATASET.NAME) are not known without its images."
        )

    @property
    def train_x_listed(self) -> bool:
        """Return whether the training images are listed; reading `.train_x` lists them."""
        return not callable(self._train_x)

    @property
    def train_x(self) -> Source | None:
        if not self.train_x_listed:
            self._train_x = self._train_x()
        return self._train_x

    @property
    def train_u(self) -> Source | None:
        return self._train_u

    @property
    def val(self) -> Source | None:
        return self._val

    @property
    def test(self) -> Source | None:
        return self._test

    @property
    def lab2cname(self) -> dict[int, str]:
        if self._lab2cname is None:
            self._read_classes()
        return self._lab2cname

    @property
    def classnames(self) -> list[str]:
        if self._lab2cname is None:
            self._read_classes()
        return self._classnames

    @property
    def num_classes(self) -> int:
        if self._lab2cname is None:
            self._read_classes()
        return self._num_classes

    def _read_classes(self) -> None:
        self._set_classes(self.get_lab2cname(self.train_x)[0])
        self._num_classes = self.get_num_classes(self.train_x)

    def _set_classes(self, lab2cname: dict[int, str]) -> None:
        self._lab2cname = lab2cname
        self._classnames = [lab2cname[label] for label in sorted(lab2cname)]
        self._num_classes = len(lab2cname)

    @staticmethod
    def get_num_classes(data_source: Source | None) -> int:
        """Return the largest label + 1; InputError if there is no image."""
        return max(item.label for item in _non_empty(data_source)) + 1

    @staticmethod
    def get_lab2cname(data_source: Source | None) -> tuple[dict[int, str], list[str]]:
        """Return the mapping label -> class name, and the class names in label order."""
        mapping = {item.label: item.classname for item in _non_empty(data_source)}
        return mapping, [mapping[label] for label in sorted(mapping)]

    def check_input_domains(
        self, source_domains: Iterable[str], target_domains: Iterable[str]
    ) -> None:
        """Raise InputError unless all the names are domains of this dataset."""
        self.is_input_domain_valid(source_domains)
        self.is_input_domain_valid(target_domains)

    def is_input_domain_valid(self, input_domains: Iterable[str]) -> None:
        """Raise InputError unless all `input_domains` are domains of this dataset."""
        for domain in input_domains:
            if domain not in self.domains:
                raise InputError(f"Unknown domain {domain!r}; this dataset has {self.domains}.")

    def generate_fewshot_dataset(
        self,
        *data_sources: Source,
        num_shots: int = -1,
        repeat: bool = False,
        rng: random.Random | None = None,
    ) -> Source | Sequence[Source]:
        """Draw `num_shots` images of each class from each source, class by class.

        A class with fewer images is taken whole, without a draw; with `repeat` it is filled up
        by drawing with replacement. Below 1, the sources come back unchanged. `rng` defaults to
        Python's global generator, as upstream; after `random.seed(s)` that draws the same as
        `random.Random(s)`. One source gives one list, several a list of lists.
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

    @staticmethod
    def split_dataset_by_domain(data_source: Source) -> defaultdict[int, list[Datum]]:
        """Return domain -> its images, in order of first appearance."""
        groups = defaultdict(list)
        for item in data_source:
            groups[item.domain].append(item)
        return groups

    @staticmethod
    def save_split(
        train: Source, val: Source, test: Source, filepath: str, path_prefix: str
    ) -> None:
        """Write a split as CoOp does: JSON rows [path under `path_prefix`, label, class name]."""
        write_json(
            {
                name: [[os.path.relpath(d.impath, path_prefix), d.label, d.classname] for d in part]
                for name, part in (("train", train), ("val", val), ("test", test))
            },
            filepath,
        )

    @staticmethod
    def read_split(filepath: str, path_prefix: str) -> tuple[list[Datum], ...]:
        """Read the train, val and test lists of a split file in CoOp's layout."""
        split = read_json(filepath)
        return tuple(
            [
                Datum(impath=os.path.join(path_prefix, path), label=int(label), classname=name)
                for path, label, name in split[part]
            ]
            for part in ("train", "val", "test")
        )


def _non_empty(data_source: Source | None) -> Source:
    if not data_source:
        raise InputError("The training set is empty: check DATASET.ROOT and the folders under it.")
    return data_source
