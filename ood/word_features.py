"""Text features of lists of words, on disk: encoded once for all class lists, runs and scores.

    <folder>/<hash of all that could change them>.f32     float32 [W, D], normalised
    <folder>/<the same>.json                              what was hashed, and the checksum

The folder is `promptood/texts` in the user's cache folder. Encoding 70,000 to 420,000 prompts
takes minutes on a GPU and hours on a CPU, so words are encoded and written in blocks: a process
that dies loses one block at most, and the next process continues after the last whole block.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from filelock import FileLock, Timeout
from torch import Tensor

from clip import ClipModel
from clip.prefix import encode_texts
from clip.templates import fill
from dassl.utils import InputError, progress_bar, read_json, versions, write_json
from dassl.utils.cache import cache_folder, check_room
from ood.features import file_checksum, text_hash

logger = logging.getLogger(__name__)

BLOCK = 2048  # words encoded and written at once
LIMIT = 10.0  # GiB that the folder may grow to
PACKAGES = ("torch", "open_clip_torch")  # they tokenise and encode


def template_features(model: ClipModel, words: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Return words' features `[W, D]`: means over templates of unnormalised features, normalised.

    This is how CSP's public code averages; with one template all methods agree.
    """
    texts = ([fill(template, word) for word in words] for template in templates)
    return F.normalize(sum(encode_texts(model, filled) for filled in texts), dim=-1)


def word_features(model: ClipModel, words: Sequence[str], templates: Sequence[str]) -> np.ndarray:
    """Return `template_features` of many words, float32 `[W, D]`, from disk where kept.

    If the disk has no room, they are encoded but not kept.

    Args:
        model: in float32, whatever a run's precision, as all runs share the kept features.
    """
    about = _description(model, words, templates)
    width = template_features(model, words[:1], templates[:1]).shape[-1]
    try:
        name = text_hash(json.dumps(about, sort_keys=True))[:32]
        place = cache_folder("texts") / f"{name}.f32"
        if not _is_complete(place, about):
            place.parent.mkdir(parents=True, exist_ok=True)
            with _locked(place.with_suffix(".lock")):  # a second process reads the first one's
                if not _is_complete(place, about):
                    _complete(place, about, width, model, words, templates)
        return np.memmap(place, "<f4", mode="r").reshape(len(words), width)  # [W, D]
    except (InputError, OSError) as reason:
        logger.warning("The features of %d words are not kept: %s", len(words), reason)
        return np.concatenate(list(_encoded(model, words, templates, 0)))


def _description(model: ClipModel, words: Sequence[str], templates: Sequence[str]) -> dict:
    """Return everything that could change the features."""
    return {
        "weights": model.weights_hash,
        "activation": model.activation,
        "device": model.logit_scale.device.type,
        "words": text_hash("\n".join(words))[:32],
        "count": len(words),
        "templates": list(templates),
        "versions": {name: versions()[name] for name in PACKAGES},
    }


def _is_complete(place: Path, about: dict) -> bool:
    """Return whether the features of `about` are on disk, whole."""
    with suppress(InputError, OSError, ValueError):  # ValueError: an empty file has no checksum
        note = read_json(place.with_suffix(".json"))
        return note == {**about, "checksum": file_checksum(place)}
    return False


def _locked(path: Path) -> AbstractContextManager:
    """Acquire a lock; say so if another process has to release it first."""
    lock = FileLock(path)
    with suppress(Timeout):
        return lock.acquire(blocking=False)
    logger.warning(
        "Waiting for another process that encodes the same words. If it ran on a machine that is "
        f"gone, remove {path}"
    )
    return lock.acquire()


def _complete(
    place: Path,
    about: dict,
    width: int,
    model: ClipModel,
    words: Sequence[str],
    templates: Sequence[str],
) -> None:
    """Append the blocks that are not in the file yet, then the note that says what is in it."""
    if (note := place.with_suffix(".json")).exists():
        logger.warning(
            f"The word features in {place} are damaged, or of other words or another model. The "
            "words are encoded again"
        )
        place.unlink(missing_ok=True)
        note.unlink()
    written = place.stat().st_size if place.exists() else 0
    needed = 4 * width * len(words) - written
    check_room(place.parent, needed, LIMIT, "the limit of kept word features")
    size = 4 * width * BLOCK
    with open(place, "ab") as file:
        done = min(file.tell() // size, len(words) // BLOCK)  # whole blocks in the file
        file.truncate(done * size)
        for block in _encoded(model, words, templates, done * BLOCK):
            file.write(block.tobytes())
            file.flush()
    write_json({**about, "checksum": file_checksum(place)}, note)


def _encoded(
    model: ClipModel, words: Sequence[str], templates: Sequence[str], start: int
) -> Iterator[np.ndarray]:
    title = f"encoding words in {len(templates)} template(s)"
    with progress_bar(total=len(words), initial=start, desc=title, unit="word") as bar:
        for begin in range(start, len(words), BLOCK):
            block = words[begin : begin + BLOCK]
            yield template_features(model, block, templates).cpu().numpy()
            bar.update(len(block))
