"""Image-caption pairs, and images alone, in webdataset shards: tars of `<key>.jpg`, `<key>.txt`.

Only images and captions are read from a tar, images by Pillow and captions as UTF-8:
webdataset's decoders, which unpickle files by their suffix, are not used.
"""

import io
import logging
import tarfile
from collections import ChainMap
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, groupby, islice, pairwise
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from dassl import distributed
from dassl.utils import BadImageError, progress_bar, read_json
from dassl.utils.errors import InputError
from datasets.folders import DataError, absolute, contents, first_few, is_image
from datasets.pairs import BadPair, fill_batch, read_pair, seeded

logger = logging.getLogger(__name__)

IMAGES, CAPTION = ("jpg", "jpeg", "png", "webp"), "txt"
Slice = tuple[int, int, int]  # shard, first pair, one past the last pair


class ShardPairs(IterableDataset):
    """This rank's batches of an epoch, divided among its workers.

    The shards are shuffled for the epoch; their pairs, in that order, are cut into one stretch for
    each worker of each rank, so that no pair is read twice; within its stretch a worker shuffles
    through a buffer. A worker reads its stretch again from the start to replace unreadable pairs.

    Args:
        pattern: a path with braces, `cc3m/{00000..00331}.tar`, or a folder of .tar files.
        shuffle: number of undecoded pairs in each worker's buffer.

    Attributes:
        count: pairs in all shards.
        batches, share: steps of an epoch, the same for all ranks, and how many pairs of each a
            rank reads. Must be set before reading.

    Raises:
        InputError: there are no shards, or some are missing, no tars, or without captions.
    """

    batches = share = 0
    seed = epoch = 0  # set by the loader

    def __init__(self, pattern: Path, transform: Callable, shuffle: int):
        self.shards = find_shards(pattern)
        self.counts = count_pairs(self.shards)
        self.count = sum(self.counts)
        self.transform, self.shuffle = transform, max(1, shuffle)
        # Read here, because workers do not know them.
        self.rank, self.ranks = distributed.rank(), distributed.world_size()

    def __len__(self) -> int:
        return self.batches * self.share

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        samples = self._samples(worker, workers)
        for number in range(worker, self.batches, workers):
            yield fill_batch(islice(samples, self.share), self.share, number)

    def _samples(self, worker: int, workers: int) -> Iterator[dict[str, Any]]:
        """Yield all samples of an epoch that a worker of this rank reads."""
        stretch = self.stretches(workers)[self.rank * workers + worker]
        remaining = sum(stop - start for _, start, stop in stretch)
        bad: list[str] = []
        turn = 0
        while remaining:
            rng = seeded(self.seed, self.epoch, self.rank, worker, turn)
            count = 0
            for sample in islice(self._read(stretch, rng, bad), remaining):
                yield {**sample, "bad": bad.copy()}
                bad.clear()
                count += 1
            if not count:
                raise BadImageError(
                    f"None of {remaining} image-caption pairs can be read, such as {bad[0]}. Check "
                    f"the shard {absolute(self.shards[stretch[0][0]])} and those after it."
                )
            remaining -= count
            turn += 1

    def stretches(self, workers: int) -> list[list[Slice]]:
        """Return the stretch of each worker of each rank in this epoch, rank by rank."""
        order = list(range(len(self.shards)))
        seeded(self.seed, self.epoch).shuffle(order)
        # Workers make batches in turn, so the first ones may make one more.
        quotas = [len(range(w, self.batches, workers)) * self.share for w in range(workers)]
        return cut(order, self.counts, quotas * self.ranks)

    def _read(self, stretch: Sequence[Slice], rng, bad: list[str]) -> Iterator[dict[str, Any]]:
        import webdataset

        raw = (pair for piece in stretch for pair in self._raw(piece, bad))
        for pair in webdataset.shuffle(self.shuffle, initial=self.shuffle, rng=rng)(raw):
            image = next((pair[suffix] for suffix in IMAGES if suffix in pair), None)
            try:
                picture, caption = read_pair(image, pair.get(CAPTION))
            except BadPair as error:
                bad.append(f"{pair['__url__']}/{pair['__key__']} ({error})")
            else:
                yield {"img": self.transform(picture), "caption": caption}

    def _raw(self, piece: Slice, bad: list[str]) -> Iterator[dict[str, Any]]:
        """Yield the undecoded pairs of a slice of a shard; append faults of the shard to `bad`."""
        from webdataset.tariterators import group_by_keys, tar_file_expander

        shard, start, stop = piece
        path = str(self.shards[shard])

        def note(error: Exception) -> bool:
            bad.append(f"{path} (the rest of the shard: {error.args[0]})")
            return False  # stops reading this shard

        try:
            with open(path, "rb") as stream:
                source = [{"url": path, "stream": stream}]
                files = tar_file_expander(source, handler=note, select_files=is_image_or_caption)
                yield from islice(group_by_keys(files, handler=note), start, stop)
        except OSError as error:
            bad.append(f"{path} (the whole shard: {error.strerror})")


def find_shards(pattern: Path, setting: str = "DATASET.PAIRS.PATH") -> list[Path]:
    """List the shards that a pattern with braces names, or that a folder holds.

    Args:
        setting: the config key or flag that gave the pattern, for messages.

    Raises:
        DataError: a brace is missing, there is no shard, or some do not exist or are empty files.
    """
    import braceexpand

    if pattern.is_dir():
        shards = sorted(path for path in pattern.glob("*.tar") if not path.name.startswith("."))
    else:
        try:
            shards = [Path(path) for path in braceexpand.braceexpand(str(pattern))]
        except braceexpand.UnbalancedBracesError as error:
            raise DataError(
                f"{setting} ({absolute(pattern)}) lacks a brace, {{ or }}: write the range of "
                "numbers as in cc3m/{00000..00331}.tar, or name the folder that holds the tars."
            ) from error
    lost = [absolute(path) for path in shards if not path.is_file() or not path.stat().st_size]
    if lost or not shards:
        fault = f"{len(lost)} of {len(shards)} shards do not exist or are empty: {first_few(lost)}"
        folder = pattern if pattern.is_dir() else pattern.parent
        raise DataError(
            f"{setting} ({absolute(pattern)}): {fault if lost else 'no .tar file'}. "
            f"Found in {absolute(folder)}: {contents(folder)}. Give the path of local tars, such "
            "as cc3m/{00000..00331}.tar, or the folder that holds them.",
            "missing",
            lost,
        )
    return shards


def images_in(shard: Path) -> Iterator[io.BytesIO]:
    """Yield the undecoded image files of a plain tar, in its order, each with its `filename`;
    InputError if the file is no tar, is cut off or damaged, or holds no images."""
    image = None
    try:
        with tarfile.open(shard, "r:") as tar:
            while (entry := tar.next()) is not None:
                tar.members.clear()  # or it would hold every entry in memory
                name = Path(entry.name).name
                if entry.isreg() and is_image(name) and not name.startswith("."):
                    image = io.BytesIO(tar.extractfile(entry).read())
                    image.filename = entry.name
                    yield image
            # tarfile takes an unreadable header for the end, so check the end mark.
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"no end mark at byte {tar.offset:,}")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(
            f"{shard} is no whole tar ({error}): it is cut off, damaged or compressed. Fetch it "
            "again, uncompressed, and start the same command"
        ) from error
    if not image:
        raise InputError(f"{shard} holds no image: no member's name ends like an image file's")


def count_pairs(shards: Sequence[Path]) -> list[int]:
    """Count the pairs of each shard, from img2dataset's `<shard>_stats.json` if there is one.

    The ranks share the counting. The first shard is always read. A count that is too high
    only repeats some pairs of the shard's neighbours.

    Raises:
        InputError: a shard is no tar, or holds no captions or no images.
    """
    mine = range(distributed.rank(), len(shards), distributed.world_size())
    quiet = not distributed.is_main()
    own_counts = {
        shard: (shard != 0 and _recorded_count(shards[shard])) or _count_members(shards[shard])
        for shard in progress_bar(mine, desc="counting pairs", unit="shard", disable=quiet)
    }
    counts = ChainMap(*distributed.from_all(own_counts))
    return [counts[shard] for shard in range(len(shards))]


def cut(order: Sequence[int], counts: Sequence[int], quotas: Sequence[int]) -> list[list[Slice]]:
    """Cut the pairs of the shards, taken in `order`, into stretches.

    Args:
        counts: number of pairs in each shard.
        quotas: number of pairs in each stretch; their sum is at most that of `counts`.
    """
    stretches = []
    for first, end in pairwise(accumulate(quotas, initial=0)):
        stretch, before = [], 0  # before: pairs in the previous shards
        for shard in order:
            start, stop = max(first - before, 0), min(end - before, counts[shard])
            if start < stop:
                stretch.append((shard, start, stop))
            before += counts[shard]
        stretches.append(stretch)
    return stretches


def is_image_or_caption(name: str) -> bool:
    """Return whether a tar's member is an image or a caption; no other is read."""
    return name.rpartition(".")[2].lower() in (*IMAGES, CAPTION)


def _recorded_count(shard: Path) -> int:
    """Return img2dataset's own count of a shard, 0 if there is none."""
    try:
        return int(read_json(shard.with_name(f"{shard.stem}_stats.json"))["successes"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _count_members(shard: Path) -> int:
    """Count the pairs in a shard by its members' names; warn if it is cut off."""
    from webdataset.tariterators import base_plus_ext

    names: list[str] = []
    try:
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.isreg() and is_image_or_caption(member.name):
                    names.append(member.name)
    except (tarfile.ReadError, EOFError, OSError) as error:
        if not names:
            raise InputError(
                f"The shard {absolute(shard)} is no readable tar: {error}. Download it again, or "
                "leave it out of DATASET.PAIRS.PATH."
            ) from error
        logger.warning(
            f"The shard {absolute(shard)} is cut off after {len(names)} files ({error}): its "
            "other pairs are not used"
        )
    suffixes = {name.rpartition(".")[2].lower() for name in names}
    lacks = "captions (.txt)" if CAPTION not in suffixes else "images"
    if CAPTION not in suffixes or not suffixes.intersection(IMAGES):
        raise InputError(
            f"The shard {absolute(shard)} holds no {lacks}. Images and captions found in it: "
            f"{first_few(names) or 'none'}. A pair consists of <key>.txt and <key>.jpg (or "
            f"{', '.join(IMAGES[1:])})."
        )
    return sum(1 for key, _ in groupby(base_plus_ext(name)[0] for name in names) if key)
