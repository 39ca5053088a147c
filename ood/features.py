"""Image features on disk: an image is encoded once for all methods, seeds and scores of a sweep.

    <folder>/<hash of model and transform>/<image set>-<hash of its list>/
        global.f32   float32 [n, D], normalised, of the n images that could be read, in their order
        local.f16    float16 [n, N, D], of the N regions of each; only where asked for
        about.json   what they are of, and the checksums

A run that repeats its augmentations (`trainers.views`) keeps those of its training images here,
too, unnormalised and in the precision they were computed in: a file's ending says which.

A set's folder gets its name when it is whole, so a pass that dies leaves none, and of two passes
that write the same at once the later one's stays. Nothing is used without comparing all that could
have changed: weights, transform, versions, and path, size and time of every image file.

Global features are kept as they are: scores from them equal, bit for bit, those of a pass that
encodes the images in batches of the same size. Local ones are rounded to float16, by whoever asks
for them to be kept and whether or not they are found, so that figures depend on what was asked and
never on what happened to lie in the folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode

from dassl import distributed
from dassl.data.data_manager import skips_bad_images
from dassl.data.datasets import Datum
from dassl.utils import read_json
from dassl.utils.cache import ABANDONED, check_room, file_state
from dassl.utils.errors import InputError
from dassl.utils.files import remove_leftovers, temporary_beside

logger = logging.getLogger(__name__)

SCHEMA = 2
ABOUT, GLOBAL, LOCAL, ATTENTION = "about.json", "global", "local", "attention"
ENDINGS = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
NUMPY = {"f32": "<f4", "f16": "<f2", "bf16": "<i2"}  # numpy has no bfloat16: its bits
OF_TESTS = {GLOBAL: torch.float32, LOCAL: torch.float16}


@dataclass(frozen=True)
class KeptFeatures:
    """Features of an image set as they lie on disk.

    Attributes:
        index: [n], which images of the set they are of; the others could not be read.
        features: memory map [n, D], float32 unless they were kept otherwise. regions: [n, N, D],
            float16 unless they were kept otherwise, or None. attention: of the regions [n, N], kept
            for training alone, or None.
    """

    index: np.ndarray
    features: np.ndarray
    regions: np.ndarray | None
    attention: np.ndarray | None = None

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        """Yield index and features of the batches that a loader of `size` makes of the set; to
        each of several ranks its share."""
        stop = int(self.index[-1]) + 1 if len(self.index) else 0
        borders = np.searchsorted(self.index, range(0, stop + size, size))
        parts = list(map(slice, borders[:-1], borders[1:]))
        for part in parts[distributed.rank() :: distributed.world_size()]:
            if part.start < part.stop:
                regions = None if self.regions is None else np.array(self.regions[part])
                yield self.index[part], np.array(self.features[part]), regions


class FeatureStore:
    """The features of one model's image tower, set by set.

    Args:
        cfg: EVAL names the folder, for all models, how many GiB it may come to hold, and whether
            local features are kept, too; DATASET.ROOT is what the paths of images are relative to,
            so that data may be moved.
        encoding: all that could change the features of an image file, as
            `ClipTrainer.image_encoding`.
    """

    def __init__(self, cfg: CfgNode, encoding: Mapping[str, Any]):
        self.folder, self.encoding, self.root = Path(cfg.EVAL.FEATURES), encoding, cfg.DATASET.ROOT
        self.limit, self.local = cfg.EVAL.FEATURES_LIMIT, cfg.EVAL.FEATURES_LOCAL
        self.skip_bad = skips_bad_images(cfg)

    def read(self, name: str, items: Sequence[Datum], local: bool) -> KeptFeatures | None:
        """Return the features of a set, with local ones if asked and there; None if there are none
        that fit, and those that do not fit are removed."""
        place = self._place(name, items)
        if not place.is_dir():
            return None
        try:
            found = self._open(place, items, local)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            logger.warning(
                f"Image features of {name} in {place} are damaged, or of image files that have "
                "changed since. They are made anew"
            )
            shutil.rmtree(place, ignore_errors=True)
            return None
        # With images left out, the loader must name the first of them, unless it may skip it.
        return found if self.skip_bad or len(found.index) == len(items) else None

    def _open(self, place: Path, items: Sequence[Datum], local: bool) -> KeptFeatures:
        about = read_json(place / ABOUT)
        if about["schema"] != SCHEMA or about["images"] != self.files_hash(items):
            raise ValueError("of another version, or of other images")
        index = np.delete(np.arange(len(items)), about["unreadable"])
        found = {}
        for name, checksum in about["files"].items():
            kind, ending = name.split(".")
            if kind == GLOBAL or local:
                if file_checksum(place / name) != checksum:
                    raise ValueError(f"{name} is damaged")
                found[kind] = np.memmap(place / name, NUMPY[ending], mode="r")
        features = found[GLOBAL].reshape(len(index), -1)  # [n, D]
        regions, attention = found.get(LOCAL), found.get(ATTENTION)
        if regions is not None:
            regions = regions.reshape(len(index), -1, features.shape[1])  # [n, N, D]
        if attention is not None:
            attention = attention.reshape(len(index), -1)  # [n, N]
        return KeptFeatures(index, features, regions, attention)

    def _place(self, name: str, items: Sequence[Datum]) -> Path:
        listed = "\n".join(self._relative(item) for item in items)
        model = text_hash(json.dumps(self.encoding, sort_keys=True))[:16]
        return self.folder / model / f"{name}-{text_hash(listed)[:8]}"

    def _relative(self, item: Datum) -> str:
        return os.path.relpath(item.impath, self.root)

    def files_hash(self, items: Sequence[Datum]) -> str:
        """Return the sha256 over path, size and time of change of every image file."""
        lines = []
        for item in items:
            size, changed = file_state(item.impath)
            lines.append(f"{self._relative(item)} {size} {changed}")
        return text_hash("\n".join(lines))

    def writers(
        self, sets: Mapping[str, Sequence[Datum]], width: int, regions: int
    ) -> dict[str, FeatureWriter]:
        """Make a writer for each of `sets`, whose features are `width` wide and, unless `regions`
        is 0, have that many local ones to keep; none, with the reason in the log, without room."""
        needed = width * (4 + 2 * regions) * sum(map(len, sets.values()))
        try:
            remove_leftovers(self.folder, ABANDONED)
            check_room(self.folder, needed, self.limit, "--features-limit")
            kinds = OF_TESTS if regions else {GLOBAL: OF_TESTS[GLOBAL]}
            writers = {name: self.writer(name, items, kinds) for name, items in sets.items()}
        except (InputError, OSError) as reason:
            logger.warning(
                f"Image features are not kept in {self.folder}, and the evaluation goes on "
                f"without: {reason}. --features names another folder"
            )
            return {}
        logger.info(
            f"Image features of {', '.join(sets)}{' and of their regions' if regions else ''} are "
            f"not in {self.folder} yet: they are kept there for later evaluations"
        )
        return writers

    def writer(
        self, name: str, items: Sequence[Datum], kinds: Mapping[str, torch.dtype]
    ) -> FeatureWriter:
        """Make a writer of a set's features of some `kinds`, each in a precision."""
        return FeatureWriter(self._place(name, items), self.files_hash(items), len(items), kinds)


class FeatureWriter:
    """Writes the features of a set batch by batch, in order; `finish` puts them in their place.

    A disk that fails ends the writing, which the log says, and nothing else.

    Args:
        images: what `FeatureStore.files_hash` says of the set's `count` images.
        kinds: what is written, GLOBAL alone or with LOCAL and ATTENTION, and in which precision.
    """

    def __init__(self, place: Path, images: str, count: int, kinds: Mapping[str, torch.dtype]):
        self.place, self.images, self.count, self.kinds = place, images, count, kinds
        self.index: list[int] = []
        self.temporary = temporary_beside(place)
        self.temporary.mkdir(parents=True)
        self.names = {kind: f"{kind}.{ENDINGS[dtype]}" for kind, dtype in kinds.items()}
        opened = (open(self.temporary / name, "wb") for name in self.names.values())  # noqa: SIM115 (until `finish`)
        self.files = dict(zip(kinds, opened, strict=True))

    def append(
        self,
        index: np.ndarray,
        features: Tensor,
        regions: Tensor | None,
        attention: Tensor | None = None,
    ) -> None:
        """Append features `[B, D]` of the images `index`; and those of regions `[B, N, D]` and
        their attention `[B, N]`, if these are kept."""
        self.index += index.tolist()
        parts = {GLOBAL: features, LOCAL: regions, ATTENTION: attention}
        with self._or_stop():
            for kind, file in self.files.items():
                # Rounded on the device: half as many bytes of local features are copied.
                values = parts[kind].to(self.kinds[kind]).cpu().contiguous()
                file.write(values.view(torch.uint8).numpy().tobytes())

    def finish(self) -> None:
        """Move the features to their place; another pass may have been quicker."""
        if not self.files or not self.index:
            return
        with self._or_stop():
            for file in self.files.values():
                file.close()
            read = set(self.index)
            about = {
                "schema": SCHEMA,
                "images": self.images,
                "unreadable": [i for i in range(self.count) if i not in read],
                "files": {
                    name: file_checksum(self.temporary / name) for name in self.names.values()
                },
            }
            (self.temporary / ABOUT).write_text(json.dumps(about) + "\n", encoding="utf-8")
            shutil.rmtree(self.place, ignore_errors=True)
            os.replace(self.temporary, self.place)

    def discard(self) -> None:
        """Remove what is not finished; after `finish` that is nothing."""
        for file in self.files.values():
            with suppress(OSError):  # what it still held did not fit on the disk
                file.close()
        self.files = {}
        shutil.rmtree(self.temporary, ignore_errors=True)

    @contextmanager
    def _or_stop(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            logger.warning("Image features are not kept in %s (%s)", self.place, error)
            self.discard()


def feature_store(cfg: CfgNode, encoding: Mapping[str, Any]) -> FeatureStore | None:
    """Return the `FeatureStore` that a config asks for, None where it keeps nothing."""
    return None if keeps_nothing(cfg) else FeatureStore(cfg, encoding)


def keeps_nothing(cfg: CfgNode) -> bool:
    """Return whether EVAL.FEATURES names no folder."""
    return cfg.EVAL.FEATURES.lower() in ("", "none")


def as_tensor(values: np.ndarray) -> Tensor:
    """Return the features that were mapped from a file, in the precision they were kept in."""
    tensor = torch.from_numpy(values)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor


def file_checksum(path: Path) -> int:
    """Return the CRC-32 of a file that is not empty."""
    return zlib.crc32(np.memmap(path, mode="r"))


def text_hash(text: str) -> str:
    """Return the SHA-256 of a text, as of file names, which are bytes and need not be UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
