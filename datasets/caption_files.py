"""Image-caption pairs in plain files: from a table, or an ID data set with its class names."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
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
NO_TEXT = (".parquet", ".json", ".jsonl", ".arrow", ".feather", ".xlsx", ".gz", ".zip")


class CaptionedImages(Dataset):
    """Batches of images with captions, indexed by a batch's step and the indices of its pairs.

    Args:
        images: paths of the images.
        captions: for each image, the text that replaces {} in a template.
        templates: one is drawn for each image and epoch, by `seed`, like augmentations.

    Attributes:
        encoded: path -> features `[D]` of the readable images, which replace these in batches.
    """

    seed, epoch, texts = 0, 0, None  # set by the loader and its builder

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
        step, indices = batch
        seeded_indices = SeededBatch(indices, self.seed, self.epoch)
        return fill_batch(map(self._pair, seeded_indices), len(indices), step, self.texts)

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
        InputError: the file is missing or not a table, lacks the columns or has them twice, has no
            rows or one that does not fit the header, or none of the first images exists.
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
    texts = [name for name in columns if isinstance(name, str)]
    if len(columns) != 2 or len(set(texts)) != 2:
        raise InputError(
            f"DATASET.PAIRS.COLUMNS is {tuple(columns)}: it must name two columns, that of image "
            "paths and that of captions, such as ('filepath', 'title')."
        )
    records = _records(path)
    header = next(records)
    missing = [name for name in columns if name not in header]
    twice = [name for name in columns if header.count(name) > 1]
    rows = []
    if not missing and not twice:
        image, caption = map(header.index, columns)
        rows = [(fields[image], fields[caption]) for fields in records]
    if not rows:
        many, names = ("no", missing) if missing else ("more than one", twice)
        fault = f"has {many} column {first_few(names)}" if names else "has no rows"
        raise InputError(
            f"The table of pairs {absolute(path)} {fault}. Columns: {first_few(header) or 'none'}. "
            "Line 1 must name each once. Name its columns in DATASET.PAIRS.COLUMNS, such as "
            "('filepath', 'title')."
        )
    return rows


def _records(path: Path) -> Iterator[list[str]]:
    """Yield the fields of a table's header and of each row; InputError for a row that is none."""
    if path.suffix.lower() in NO_TEXT:
        raise InputError(
            f"The table of pairs {absolute(path)} is no text: DATASET.PAIRS.SOURCE csv reads CSV "
            "or TSV. Save it as CSV, for example by pandas' to_csv(index=False)."
        )
    text = read_text(Path(absolute(path)), "The table of pairs")
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header, number = next(table, []), 1
    yield header
    try:
        for fields in table:
            if any(map(str.strip, fields)):
                yield _checked(fields, len(header), delimiter)
            number = 1 + table.line_num
    except csv.Error as error:
        raise InputError(
            f"Line {number} of the table of pairs {absolute(path)} is no row of it ({error}). Put "
            "a caption that holds commas, tabs, quotes or line breaks into quotes, and double the "
            "quotes in it."
        ) from error


def _checked(fields: list[str], count: int, delimiter: str) -> list[str]:
    """Return a row's `count` fields; csv.Error for fewer or more, or one that holds other rows."""
    if len(fields) < count or any(fields[count:]):
        raise csv.Error(f"fields: {len(fields)}, in the header: {count}")
    lines = (line for field in fields for line in field.splitlines()[1:])
    if any(line.count(delimiter) >= count - 1 for line in lines):
        raise csv.Error("a quote that is not closed on its line takes in the next row")
    return fields[:count]
