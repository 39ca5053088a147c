"""Jobs that draw and write a part of the benchmark, in a module that imports little."""

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from generated.ood import ood_sample
from generated.shifted import corrupted
from generated.streams import captioned_sample, id_sample

PAIRS = "pairs"  # a folder of captioned images, and the table of their captions
SHIFTED = "shifted"  # a folder of corrupted test images, and the list of their labels


@dataclass(frozen=True)
class Job:
    """Images first..last of one stream: an ID class (with its split), an OOD set, or the pairs.

    The first `shifted` of a class's test images are also written with a corruption.
    """

    folder: Path
    split: str
    name: str
    first: int
    last: int
    seed: int
    shifted: int = 0


def folder_name(name: str) -> str:
    return name.replace(" ", "_")


def run_job(job: Job) -> tuple[list[tuple[str, ...]], list[str]]:
    """Draw and write a job's images; return their table rows and a digest of each image."""
    rows, digests = [], []
    for index in range(job.first, job.last):
        if not job.split:
            image, kind = ood_sample(job.name, index, job.seed)
            path = f"{job.name}/{folder_name(kind)}/{index:05d}.png"
            _write(job.folder / path, image)
        else:
            write = _write_pair if job.split == PAIRS else _write_id_image
            path, image, row = write(job, index)
            rows.append(row)
        if job.split == "val" and index < job.shifted:
            digests.append(_digest(path, image))
            path, image, row = _write_corrupted(job, index, image)
            rows.append(row)
        digests.append(_digest(path, image))
    return rows, digests


def _digest(path: str, image: np.ndarray) -> str:
    return f"{path} {hashlib.sha256(image.tobytes()).hexdigest()}"


def _write_id_image(job: Job, index: int):
    sample = id_sample(job.split, job.name, index, job.seed)
    name = f"{folder_name(job.name)}/{index:05d}.png"
    path = f"images/{job.split}/{name}"
    _write(job.folder / path, sample.image)
    if job.split == "val":
        _write(job.folder / "masks/val" / name, sample.mask.astype(np.uint8) * 255)
    return path, sample.image, (path, sample.caption, sample.label, sample.background)


def _write_pair(job: Job, index: int):
    sample = captioned_sample("web", index, job.seed)
    path = f"{PAIRS}/{index:05d}.png"
    _write(job.folder / path, sample.image)
    return path, sample.image, (path, sample.caption, sample.label, sample.background)


def _write_corrupted(job: Job, index: int, image: np.ndarray):
    image, corruption, severity = corrupted(image, job.name, index, job.seed)
    path = f"{SHIFTED}/{corruption}/{severity}/{folder_name(job.name)}_{index:05d}.png"
    _write(job.folder / path, image)
    return path, image, (path, "", job.name, "")


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Huffman coding only: searching for repeats would take most of the time and find none.
    Image.fromarray(image).save(path, compress_level=1, compress_type=zlib.Z_HUFFMAN_ONLY)
