"""Datasets: lists of images, class names, few-shot sampling."""

import logging
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from operator import attrgetter

from dassl.utils import InputError

logger = logging.getLogger(__name__)


class Datum:
    """One image: its path, class label, domain label and class name.

    Its attributes are upstream's, protected ones included, because projects write them, and pickles
    of it lie in data folders that both share.

    Differs from upstream: a missing file is noticed when it is read, not here, as a million stat
    calls took minutes on network drives; and images are equal if all four are.
    """

    def __init__(
        self, impath: str = "", label: int = 0, domain: int = 0, classname: str = ""
    ) -> None:
        if not isinstance(impath, str):
            raise TypeError(f"Datum.impath must be a str, not {type(impath).__name__}")
        self._impath, self._label, self._domain, self._classname = impath, label, domain, classname

    impath = property(attrgetter("_impath"))
    label = property(attrgetter("_label"))
    domain = property(attrgetter("_domain"))
    classname = property(attrgetter("_classname"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Datum) and _values(self) == _values(other)

    def __hash__(self) -> int:
        return hash(self._impath)  # which nobody writes, unlike the label

    def __repr__(self) -> str:
        return f"Datum{_values(self)}"


_values = attrgetter("_impath", "_label", "_domain", "_classname")

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
        self._train_u, self._val, self._test = train_u, val, test
        if callable(train_x):
            self._list_train_x = train_x
        else:
            self._train_x = train_x
        if classnames is not None:
            self._lab2cname = dict(enumerate(classnames))
        elif self.train_x_listed and train_x:  # now, as a project may write the labels later
            self._num_classes = self.get_num_classes(train_x)
            self._lab2cname, self._classnames = self.get_lab2cname(train_x)

    # Projects read and assign upstream's protected attributes; here, some are made when first read.

    @cached_property
    def _train_x(self) -> Source | None:
        images = self._list_train_x()
        del self._list_train_x  # it may hold all images of which these were drawn
        return images

    @cached_property
    def _lab2cname(self) -> dict[int, str]:
        return self.get_lab2cname(self.train_x)[0]

    @cached_property
    def _classnames(self) -> list[str]:
        return [self.lab2cname[label] for label in sorted(self.lab2cname)]

    @cached_property
    def _num_classes(self) -> int:
        return max(self.lab2cname, default=-1) + 1

    @property
    def train_x_listed(self) -> bool:
        """Return whether the training images are listed already; reading `.train_x` lists them."""
        return "_train_x" in vars(self)

    train_x = property(attrgetter("_train_x"))
    train_u = property(attrgetter("_train_u"))
    val = property(attrgetter("_val"))
    test = property(attrgetter("_test"))
    classnames = property(attrgetter("_classnames"))
    lab2cname = property(attrgetter("_lab2cname"), doc="Map labels to class names.")
    num_classes = property(attrgetter("_num_classes"), doc="Return the largest label + 1.")

    @staticmethod
    def get_num_classes(data_source: Source) -> int:
        """Return the largest label + 1."""
        return max(item.label for item in data_source) + 1

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
