"""Image features on disk: an image is encoded once for all methods, seeds and scores of a sweep.

    <folder>/<hash of model and transform>/<image set>-<hash of its list>/
        global.f32   float32 [n, D], normalised, of the n images that could be read, in their order
        local.f16    float16 [n, N, D], of the N regions of each image; only if asked for
        about.json   the image files' hash, the unreadable images, and the checksums

A run that repeats its augmentations (`trainers.views`) keeps the features of its training images
here too, unnormalised and in the precision they were computed in, which the file's suffix names.

A set's folder gets its name when it is complete, so an evaluation that dies leaves none; if two
write the same set at once, the later one's folder stays. Features are only used if all that could
change them is equal: weights, transform, versions, and path, size and time of every image file.

Global features are kept exactly: scores from them equal, bit for bit, those of an evaluation that
encodes the images in batches of the same size. Local features are rounded to float16 by every
evaluation that asks to keep them, whether or not they are found, so that figures depend on what was
asked for and never on what was in the folder.
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
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode

from dassl import distributed
from dassl.data.data_manager import skips_bad_images
from dassl.data.datasets import Datum
from dassl.utils import InputError, read_json
from dassl.utils.cache import ABANDONED, check_room, file_state
from dassl.utils.files import remove_leftovers, temporary_beside

logger = logging.getLogger(__name__)

SCHEMA = 2
ABOUT, GLOBAL, LOCAL, ATTENTION = "about.json", "global", "local", "attention"
SUFFIXES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
NUMPY_TYPES = {"f32": "<f4", "f16": "<f2", "bf16": "<i2"}  # NumPy has no bfloat16: map its bits
TEST_PRECISIONS = {GLOBAL: torch.float32, LOCAL: torch.float16}


@dataclass(frozen=True)
class KeptFeatures:
    """Features of an image set on disk.

    Attributes:
        index: [n], numbers of the images that could be read, at least one.
        features: memory map [n, D], float32 unless kept for training. regions: [n, N, D], float16
            unless kept for training, or None. attention: of the regions, [n, N], which is kept only
            for training, or None.
    """

    index: np.ndarray
    features: np.ndarray
    regions: np.ndarray | None
    attention: np.ndarray | None = None

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        """Yield index, features and regions of the batches in which a loader with batches of
        `size` reads the set; each rank gets its share."""
        borders = np.searchsorted(self.index, range(0, self.index[-1] + 1 + size, size))
        batches = list(map(slice, borders[:-1], borders[1:]))
        for batch in batches[distributed.rank() :: distributed.world_size()]:
            if batch.start < batch.stop:
                regions = None if self.regions is None else np.array(self.regions[batch])
                yield self.index[batch], np.array(self.features[batch]), regions


class FeatureStore:
    """The features of one model's image tower, set by set.

    Args:
        cfg: reads EVAL (the folder for all models, its limit in GiB, and whether to keep local
            features) and DATASET.ROOT; paths are kept relative to it, so that data may be moved.
        encoding: everything that could change an image's features, see
            `ClipTrainer.image_encoding`.
    """

    def __init__(self, cfg: CfgNode, encoding: Mapping[str, Any]):
        self.folder, self.encoding, self.root = Path(cfg.EVAL.FEATURES), encoding, cfg.DATASET.ROOT
        self.limit, self.local = cfg.EVAL.FEATURES_LIMIT, cfg.EVAL.FEATURES_LOCAL
        self.skip_bad = skips_bad_images(cfg)

    def read(self, name: str, items: Sequence[Datum], local: bool) -> KeptFeatures | None:
        """Return a set's features, with local ones if asked for and kept; None if none are kept.
        Features that are damaged, or of files that have changed, are removed."""
        place = self._place(name, items)
        if not place.is_dir():
            return None
        try:
            kept = self._open(place, items, local)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            logger.warning(
                f"The image features of {name} in {place} are damaged, or the image files have "
                "changed since. The images are encoded again"
            )
            shutil.rmtree(place, ignore_errors=True)
            return None
        # Unless bad images may be skipped, the loader must meet and name the first one.
        return kept if self.skip_bad or len(kept.index) == len(items) else None

    def _open(self, place: Path, items: Sequence[Datum], local: bool) -> KeptFeatures:
        about = read_json(place / ABOUT)
        if about["schema"] != SCHEMA or about["images"] != self.files_hash(items):
            raise ValueError("of another version, or of other images")
        index = np.delete(np.arange(len(items)), about["unreadable"])
        arrays = {}
        for name, checksum in about["files"].items():
            kind, suffix = name.split(".")
            if kind == GLOBAL or local:
                if file_checksum(place / name) != checksum:
                    raise ValueError(f"{name} is damaged")
                values = np.memmap(place / name, NUMPY_TYPES[suffix], mode="r")
                arrays[kind] = values.reshape(len(index), -1)  # a row for each image
        features, regions, attention = arrays[GLOBAL], arrays.get(LOCAL), arrays.get(ATTENTION)
        if regions is not None:
            regions = regions.reshape(len(index), -1, features.shape[1])  # [n, N, D]
        return KeptFeatures(index, features, regions, attention)

    def _place(self, name: str, items: Sequence[Datum]) -> Path:
        paths = "\n".join(self._relative(item) for item in items)
        model = text_hash(json.dumps(self.encoding, sort_keys=True))[:16]
        return self.folder / model / f"{name}-{text_hash(paths)[:8]}"

    def _relative(self, item: Datum) -> str:
        return os.path.relpath(item.impath, self.root)

    def files_hash(self, items: Sequence[Datum]) -> str:
        """Return the SHA-256 over path, size and modification time of every image file."""
        lines = []
        for item in items:
            size, changed = file_state(item.impath)
            lines.append(f"{self._relative(item)} {size} {changed}")
        return text_hash("\n".join(lines))

    def writers(
        self, sets: Mapping[str, Sequence[Datum]], width: int, regions: int
    ) -> dict[str, FeatureWriter]:
        """Build a writer for each of `sets`, of features `width` wide and `regions` local ones an
        image (0 to keep none); {} if there is no room for them, with the reason in the log."""
        needed = width * (4 + 2 * regions) * sum(map(len, sets.values()))
        try:
            for model in self.folder.glob("*/"):
                remove_leftovers(model, ABANDONED)
            check_room(self.folder, needed, self.limit, "--features-limit")
            self.folder.mkdir(parents=True, exist_ok=True)
            kinds = TEST_PRECISIONS if regions else {GLOBAL: TEST_PRECISIONS[GLOBAL]}
            writers = {name: self.writer(name, items, kinds) for name, items in sets.items()}
        except (InputError, OSError) as reason:
            logger.warning(
                f"Image features cannot be kept in {self.folder}: {reason}. The evaluation goes on "
                "without keeping them; --features names another folder"
            )
            return {}
        logger.info(
            f"Image features of {', '.join(sets)}{' and of their regions' if regions else ''} will "
            f"be kept in {self.folder} for later evaluations"
        )
        return writers

    def writer(
        self, name: str, items: Sequence[Datum], kinds: Mapping[str, torch.dtype]
    ) -> FeatureWriter:
        """Build the writer of a set's features; `kinds` maps each kind to its precision."""
        return FeatureWriter(self._place(name, items), self.files_hash(items), len(items), kinds)


class FeatureWriter:
    """Write the features of a set batch by batch, in order; `finish` moves them to their place.

    If the disk fails, a warning is logged and nothing more is written; the evaluation goes on.

    Args:
        images: the result of `FeatureStore.files_hash` for the set's `count` images.
        kinds: the kinds to write, GLOBAL alone or with LOCAL and ATTENTION, and their precisions.
    """

    def __init__(self, place: Path, images: str, count: int, kinds: Mapping[str, torch.dtype]):
        self.place, self.images, self.count, self.kinds = place, images, count, kinds
        self.index: list[int] = []
        self.temporary = temporary_beside(place)
        self.names = {kind: f"{kind}.{SUFFIXES[dtype]}" for kind, dtype in kinds.items()}
        # Opened for the first batch: those of a set that waits would soon count as abandoned.
        self.files: dict[str, IO] | None = None

    def append(
        self,
        index: np.ndarray,
        features: Tensor,
        regions: Tensor | None,
        attention: Tensor | None = None,
    ) -> None:
        """Append features `[B, D]` of the images `index`, and, if these are kept, features of
        regions `[B, N, D]` and their attention `[B, N]`."""
        self.index += index.tolist()
        tensors = {GLOBAL: features, LOCAL: regions, ATTENTION: attention}
        with self._stopping_at_errors():
            for kind, file in self._opened().items():
                # Rounding on the device halves the bytes of local features to copy.
                values = tensors[kind].to(self.kinds[kind]).cpu().contiguous()
                file.write(values.view(torch.uint8).numpy().tobytes())

    def _opened(self) -> dict[str, IO]:
        if self.files is None:
            self.temporary.mkdir(parents=True)
            self.files = {}
            for kind, name in self.names.items():
                self.files[kind] = open(self.temporary / name, "wb")  # noqa: SIM115 (until `finish`)
        return self.files

    def finish(self) -> None:
        """Move the features to their place, replacing those another evaluation wrote meanwhile."""
        if not self.files or not self.index:
            return
        with self._stopping_at_errors():
            for file in self.files.values():
                file.close()
            about = {
                "schema": SCHEMA,
                "images": self.images,
                "unreadable": np.setdiff1d(np.arange(self.count), self.index).tolist(),
                "files": {
                    name: file_checksum(self.temporary / name) for name in self.names.values()
                },
            }
            (self.temporary / ABOUT).write_text(json.dumps(about) + "\n", encoding="utf-8")
            shutil.rmtree(self.place, ignore_errors=True)
            os.replace(self.temporary, self.place)

    def discard(self) -> None:
        """Remove unfinished files; after `finish` there are none."""
        for file in (self.files or {}).values():
            with suppress(OSError):  # its buffer did not fit on the disk
                file.close()
        self.files = {}
        shutil.rmtree(self.temporary, ignore_errors=True)

    @contextmanager
    def _stopping_at_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            logger.warning("Image features cannot be kept in %s: %s", self.place, error)
            self.discard()


def feature_store(cfg: CfgNode, encoding: Mapping[str, Any]) -> FeatureStore | None:
    """Return the `FeatureStore` of a config; None if EVAL.FEATURES names no folder."""
    return None if keeps_nothing(cfg) else FeatureStore(cfg, encoding)


def keeps_nothing(cfg: CfgNode) -> bool:
    """Return whether EVAL.FEATURES names no folder."""
    return cfg.EVAL.FEATURES.lower() in ("", "none")


def as_tensor(values: np.ndarray) -> Tensor:
    """Return features mapped from a file as a tensor, in the precision they were kept in."""
    tensor = torch.from_numpy(values)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor


def file_checksum(path: Path) -> int:
    """Return the CRC-32 of a file, which must not be empty."""
    return zlib.crc32(np.memmap(path, mode="r"))


def images_hash(items: Sequence[Datum]) -> str:
    """Return 16 hexadecimal digits of a hash over a set's labels and file names, in any order: with
    the last folder that all files share, wherever that is."""
    shared = os.path.commonpath([os.path.dirname(item.impath) for item in items])
    above = os.path.dirname(shared)
    lines = (f"{os.path.relpath(item.impath, above)} {item.label}" for item in items)
    return text_hash("\n".join(sorted(lines)))[:16]


def text_hash(text: str) -> str:
    """Return the SHA-256 of a text; parts of it, such as file names, need not be valid UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
