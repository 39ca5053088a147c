"""Image-caption pairs in plain files: from a table, or an ID data set with its class names."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset
from yacs.config import CfgNode

from dassl.data.datasets import build_dataset
from dassl.data.samplers import SeededBatch
from dassl.utils import BadImageError
from dassl.utils.errors import InputError
from dassl.utils.files import read_text
from datasets.folders import absolute, first_few
from datasets.pairs import BadPair, fill_batch, read_caption, read_pair, seeded

# So many unreadable pairs in a row are an error, not an accident.
MAX_BAD_IN_A_ROW = 100


class CaptionedImages(Dataset):
    """Batches of images with captions, indexed by a batch's number and the indices of its pairs.

    Args:
        images: paths of the images.
        captions: for each image, the text that replaces {} in a template.
        templates: one is drawn for each image and epoch, by `seed`, like augmentations.

    Attributes:
        encoded: path -> features `[D]` of the readable images, which replace these in batches.
    """

    seed = epoch = 0  # set by the loader

    def __init__(
        self,
        images: Sequence[str],
        captions: Sequence[str],
        transform: Callable,
        templates: Sequence[str] = ("{}",),
    ) -> None:
        self.images, self.captions, self.transform = images, captions, transform
        self.templates, self.count = list(templates), len(images)
        self.encoded: Mapping[str, Tensor] | None = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, batch: tuple[int, Sequence[int]]) -> dict[str, Any]:
        number, indices = batch
        seeded_indices = SeededBatch(indices, self.seed, self.epoch)
        return fill_batch(map(self._pair, seeded_indices), len(indices), number)

    def _pair(self, index: int) -> dict[str, Any]:
        """Return the pair, or the next one that can be read; "bad" names the skipped ones."""
        bad: list[str] = []
        for position in range(index, index + min(MAX_BAD_IN_A_ROW, self.count)):
            i = position % self.count
            try:
                image, caption = self._read(i)
            except BadPair as error:
                bad.append(f"{self.images[i]} ({error})")
                continue
            return {"img": image, "caption": caption, "bad": bad}
        raise BadImageError(
            f"{len(bad)} image-caption pairs in a row cannot be read, such as {bad[0]}. Check "
            "DATASET.PAIRS.PATH and the files."
        )

    def _read(self, index: int) -> tuple[Tensor, str]:
        path = self.images[index]
        template = seeded(self.seed, self.epoch, index).choice(self.templates)
        # Not str.format, which would interpret other braces in a template.
        caption = template.replace("{}", self.captions[index])
        if self.encoded is None:
            image, text = read_pair(path, caption)
            return self.transform(image), text
        if path not in self.encoded:
            raise BadPair("no readable image")
        return self.encoded[path], read_caption(caption)


def csv_pairs(path: Path, columns: Sequence[str], transform: Callable) -> CaptionedImages:
    """Return the pairs of a table with a header line, separated by tabs or else commas.

    Args:
        columns: of image paths, absolute or relative to the table's folder, and of captions.

    Raises:
        InputError: the file is missing or not a table, lacks the columns or has no rows, or none
            of the first images exists.
    """
    rows = _rows(path, columns)
    images = [str(path.parent / image) for image, _ in rows]
    first = images[:MAX_BAD_IN_A_ROW]
    if not any(Path(image).is_file() for image in first):
        raise InputError(
            f"None of the first {len(first)} images of {absolute(path)} exists, such as "
            f"{absolute(first[0])}. Paths are relative to the table's own folder, or absolute."
        )
    return CaptionedImages(images, [text for _, text in rows], transform)


def class_pairs(cfg: CfgNode, transform: Callable) -> CaptionedImages:
    """Return the training images of the ID set, captioned with its class names; InputError if there
    are no templates or no training images, or a template has no {}."""
    templates = cfg.DATASET.PAIRS.TEMPLATES
    wrong = [text for text in templates if not isinstance(text, str) or text.count("{}") != 1]
    if wrong or not templates:
        raise InputError(
            f"DATASET.PAIRS.TEMPLATES is {tuple(templates)}: there must be a template, and each "
            "must hold {} once, where the class name goes."
        )
    items = build_dataset(cfg).train_x
    images, names = [item.impath for item in items], [item.classname for item in items]
    return CaptionedImages(images, names, transform, templates)


def _rows(path: Path, columns: Sequence[str]) -> list[tuple[str, str]]:
    if len(columns) != 2 or not all(isinstance(name, str) for name in columns):
        raise InputError(
            f"DATASET.PAIRS.COLUMNS is {tuple(columns)}: it must name two columns, that of image "
            "paths and that of captions, such as ('filepath', 'title')."
        )
    image, caption = columns
    lines = read_text(Path(absolute(path)), "The table of pairs").split("\n")
    delimiter = "\t" if "\t" in lines[0] else ","
    table = csv.DictReader((f"{line}\n" for line in lines), delimiter=delimiter)
    try:
        header = table.fieldnames or []
        missing = [name for name in (image, caption) if name not in header]
        rows = [] if missing else [(row[image] or "", row[caption] or "") for row in table]
    except csv.Error as error:
        raise InputError(
            f"The table of pairs {absolute(path)} cannot be read: {error}. Give the path of a "
            "UTF-8 CSV file with a header line."
        ) from error
    if missing or not rows:
        fault = f"has no column {first_few(missing)}" if missing else "has no rows"
        raise InputError(
            f"The table of pairs {absolute(path)} {fault}. Columns: {first_few(header) or 'none'}. "
            "Name its columns in DATASET.PAIRS.COLUMNS, such as ('filepath', 'title')."
        )
    return rows
