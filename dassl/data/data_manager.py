"""Data loaders, built from a configuration."""

import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from operator import attrgetter
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate
from yacs.config import CfgNode

from dassl.utils import BadImageError, InputError, check_availability, read_image, tolist_if_not
from dassl.utils.tables import RULE, text_table

from .datasets import Datum, build_dataset
from .samplers import EpochBatches, RankBatches, build_sampler
from .transforms.transforms import build_transform
from .workers import worker_settings

logger = logging.getLogger(__name__)


class DatasetWrapper(Dataset):
    """A dataset of dicts (img, label, domain, impath, index), read from a list of Datum.

    `transform` is one transform or several (for img, img2, ...). An unreadable image raises
    BadImageError, or with BAD_IMAGES "skip" becomes {"bad": impath}, which `collate_readable`
    drops.
    """

    def __init__(
        self,
        cfg: CfgNode,
        data_source: Sequence[Datum],
        transform: Callable | Sequence[Callable] | None = None,
        is_train: bool = False,
    ) -> None:
        self.cfg = cfg
        self.data_source = data_source
        self.transform = transform
        self.is_train = is_train
        self.skip_bad = skips_bad_images(cfg)

    def __len__(self) -> int:
        return len(self.data_source)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        item = self.data_source[idx]
        try:
            image = read_image(item.impath)
        except BadImageError as error:
            if self.skip_bad:
                return {"bad": item.impath}
            raise BadImageError(
                f"{error} Or set DATALOADER.BAD_IMAGES skip to leave such images out."
            ) from error
        output = {"label": item.label, "domain": item.domain, "impath": item.impath, "index": idx}
        if self.transform is not None:
            for number, transform in enumerate(tolist_if_not(self.transform), start=1):
                output["img" if number == 1 else f"img{number}"] = transform(image)
        return output


def skips_bad_images(cfg: CfgNode) -> bool:
    """Return whether DATALOADER.BAD_IMAGES is "skip"; upstream's configurations lack the key."""
    setting = cfg.DATALOADER.get("BAD_IMAGES", "stop")
    check_availability(setting, ("stop", "skip"), what="DATALOADER.BAD_IMAGES")
    return setting == "skip"


def collate_readable(samples: list[Any]) -> Any:
    """Collate the readable samples; list the paths of {"bad": path} samples in batch["bad"].

    A batch without a readable image is {"bad": [...]}, without "img".
    """
    bad = [s["bad"] for s in samples if isinstance(s, dict) and "bad" in s]
    if not bad:
        return default_collate(samples)
    readable = [s for s in samples if "bad" not in s]
    return {**(default_collate(readable) if readable else {}), "bad": bad}


def build_data_loader(
    cfg: CfgNode,
    sampler_type: str = "SequentialSampler",
    data_source: Sequence[Datum] | None = None,
    batch_size: int = 64,
    n_domain: int = 0,
    n_ins: int = 2,
    tfm: Callable | Sequence[Callable] | None = None,
    is_train: bool = True,
    dataset_wrapper: type[Dataset] | None = None,
    batches: Sequence[Sequence[int]] | None = None,
    drop_last: bool = True,
) -> DataLoader:
    """Build a loader over `data_source`.

    In training, `batch_size` counts the images of all ranks together, this rank gets its slice of
    each batch, and `drop_last` leaves out an incomplete one; every rank evaluates the whole set.

    In training, the order depends only on SEED and the epoch, and an image's augmentation also on
    its position in `data_source`: see `EpochBatches`, whose `epoch` is set by `set_epoch`. Workers
    stay alive between epochs, unless `dataset_wrapper` is not ours: its state may change.
    Differs from upstream: there, augmentations depend on the number of workers.

    `batches` are positions in `data_source`, batch by batch, instead of a sampler and a batch size.
    """
    if not data_source:
        role = "training" if is_train else "evaluation"
        raise InputError(
            f"The {role} set of {cfg.DATASET.NAME or 'the dataset'} is empty: check DATASET.ROOT."
        )
    dataset = (dataset_wrapper or DatasetWrapper)(cfg, data_source, tfm, is_train)
    workers = cfg.DATALOADER.NUM_WORKERS
    sampling = {"batch_sampler": batches}
    if batches is None:
        sampler = build_sampler(sampler_type, cfg, data_source, batch_size, n_domain, n_ins)
        sampling = _sampling_arguments(cfg, sampler, batch_size, is_train, drop_last)
    return (TrainLoader if is_train else DataLoader)(
        dataset,
        **sampling,
        **worker_settings(cfg),
        persistent_workers=is_train and workers > 0 and type(dataset) is DatasetWrapper,
        collate_fn=collate_readable if skips_bad_images(cfg) else None,
    )


class TrainLoader(DataLoader):
    """A loader of `EpochBatches`."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0, of the next pass."""
        self.batch_sampler.epoch = epoch

    def end_workers(self) -> None:
        """End the workers, which stay alive between passes; another pass starts new ones.

        Python's garbage collection would close their queues first, then wait 5 s for each of them.
        """
        iterator, self._iterator = self._iterator, None
        if iterator is not None:
            iterator._shutdown_workers()


def _sampling_arguments(
    cfg: CfgNode, sampler: Sampler, batch_size: int, is_train: bool, drop_last: bool
) -> dict[str, Any]:
    """Return the arguments of a loader that determine which images form a batch."""
    if not is_train:
        return {"batch_size": batch_size, "sampler": sampler}
    batches = RankBatches(sampler, batch_size, drop_last and len(sampler) >= batch_size)
    seed = cfg.SEED if cfg.SEED >= 0 else int(torch.randint(2**31, ()))
    views = cfg.DATALOADER.get("VIEWS", 0)  # upstream's configurations lack the key
    # Its own generator: the worker seeds, unused here, must not be drawn from the global one.
    return {"batch_sampler": EpochBatches(batches, seed, views), "generator": torch.Generator()}


class DataManager:
    """The dataset that `cfg` names, with its transforms and loaders.

    Differs from upstream: a loader, and what only it needs, is built when it is first used, so that
    evaluation does not list or transform training images.

    With `images` False the dataset has class names only and need not be on the disk (see
    `build_dataset`); there are transforms, but no loaders.
    """

    _num_source_domains = 0  # part of upstream's API, for domain adaptation

    def __init__(
        self,
        cfg: CfgNode,
        custom_tfm_train: Callable | Sequence[Callable] | None = None,
        custom_tfm_test: Callable | Sequence[Callable] | None = None,
        dataset_wrapper: type[Dataset] | None = None,
        images: bool = True,
    ) -> None:
        self.cfg = cfg
        self.dataset = build_dataset(cfg, images)
        self._num_classes, self._lab2cname = self.dataset.num_classes, self.dataset.lab2cname
        self._custom_tfm_train = custom_tfm_train
        self._custom_tfm_test = custom_tfm_test
        self._dataset_wrapper = dataset_wrapper
        if cfg.VERBOSE:
            self.show_dataset_summary(cfg)

    num_classes = property(attrgetter("_num_classes"))
    num_source_domains = property(attrgetter("_num_source_domains"))
    lab2cname = property(attrgetter("_lab2cname"))

    @cached_property
    def tfm_train(self) -> Any:
        custom = self._custom_tfm_train
        return build_transform(self.cfg, is_train=True) if custom is None else custom

    @cached_property
    def tfm_test(self) -> Any:
        custom = self._custom_tfm_test
        return build_transform(self.cfg, is_train=False) if custom is None else custom

    @cached_property
    def train_loader_x(self) -> DataLoader:
        return self._loader(self.dataset.train_x, self.cfg.DATALOADER.TRAIN_X, True)

    @cached_property
    def train_loader_u(self) -> DataLoader | None:
        if not self.dataset.train_u:
            return None
        loaders = self.cfg.DATALOADER
        settings = loaders.TRAIN_X if loaders.TRAIN_U.SAME_AS_X else loaders.TRAIN_U
        return self._loader(self.dataset.train_u, settings, True)

    @cached_property
    def val_loader(self) -> DataLoader | None:
        val = self.dataset.val
        return self._loader(val, self.cfg.DATALOADER.TEST, False) if val else None

    @cached_property
    def test_loader(self) -> DataLoader:
        return self._loader(self.dataset.test, self.cfg.DATALOADER.TEST, False)

    def _loader(self, source: Sequence[Datum], settings: CfgNode, is_train: bool) -> DataLoader:
        training = {}
        if is_train:
            training = {"n_domain": settings.N_DOMAIN, "n_ins": settings.N_INS}
            training["drop_last"] = settings.DROP_LAST
        return build_data_loader(
            self.cfg,
            sampler_type=settings.SAMPLER,
            data_source=source,
            batch_size=settings.BATCH_SIZE,
            tfm=self.tfm_train if is_train else self.tfm_test,
            is_train=is_train,
            dataset_wrapper=self._dataset_wrapper,
            **training,
        )

    def show_dataset_summary(self, cfg: CfgNode) -> None:
        """Log a table of sizes. Training images are counted only if they are listed already."""
        data = self.dataset
        rows = [("Dataset", cfg.DATASET.NAME), ("# classes", f"{self.num_classes:,}")]
        train_size = f"{len(data.train_x or ()):,}" if data.train_x_listed else "not listed yet"
        rows.append(("# train_x", train_size))
        for name in ("train_u", "val", "test"):
            if images := getattr(data, name):
                rows.append((f"# {name}", f"{len(images):,}"))
        logger.info("%s", text_table([RULE, *rows, RULE]))
