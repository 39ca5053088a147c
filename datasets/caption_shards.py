"""Image-caption pairs, and images alone, in webdataset shards: tars of `<key>.jpg`, `<key>.txt`.

Only images and captions are read from a tar, images by Pillow and captions as UTF-8:
webdataset's decoders, which unpickle files by their suffix, are not used.
"""

import io
import logging
import lzma
import tarfile
import zlib
from collections import ChainMap
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import accumulate, groupby, islice, pairwise
from operator import itemgetter
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
RULE = (
    f"A pair consists of <key>.txt and <key>.jpg (or {', '.join(IMAGES[1:])}), side by side in the "
    "tar; <key> ends at the first dot of the file name."
)
Slice = tuple[int, int, int]  # shard, first pair, one past the last pair
RawPair = tuple[str, list[tuple[str, bytes]]]  # name, and suffix and content of each file
Member = tuple[str, str, tarfile.TarInfo]  # key, suffix, entry
PADDING = 2**20  # most zero bytes after the end mark of a whole tar
# What tarfile raises for damaged tars, compressed ones too; ValueError for odd headers.
DAMAGED = (tarfile.TarError, EOFError, OSError, ValueError, zlib.error, lzma.LZMAError)


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
    seed, epoch, texts = 0, 0, None  # set by the loader and its builder

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
            step = self.epoch * self.batches + number
            yield fill_batch(islice(samples, self.share), self.share, step, self.texts)

    def _samples(self, worker: int, workers: int) -> Iterator[dict[str, Any]]:
        """Yield all samples of an epoch that a worker of this rank reads."""
        stretch = self.stretches(workers)[self.rank * workers + worker]
        remaining = sum(stop - start for _, start, stop in stretch)
        bad: list[str] = []
        named: set[str] = set()  # once, although a stretch may be read again
        turn = 0
        while remaining:
            rng = seeded(self.seed, self.epoch, self.rank, worker, turn)
            count = 0
            for sample in islice(self._read(stretch, rng, bad), remaining):
                yield {**sample, "bad": [name for name in bad if name not in named]}
                named.update(bad)
                bad.clear()
                count += 1
            if not count:
                # Shards that end before they should may end before the stretch begins.
                whole = [(shard, 0, self.counts[shard]) for shard, _, _ in stretch]
                if stretch == whole:
                    raise BadImageError(
                        f"None of {remaining} image-caption pairs can be read, such as {bad[0]}. "
                        f"Check the shard {absolute(self.shards[stretch[0][0]])} and those after "
                        f"it. {RULE}"
                    )
                stretch, bad = whole, []
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
        for name, files in webdataset.shuffle(self.shuffle, initial=self.shuffle, rng=rng)(raw):
            content = dict(files)
            image = next((content[suffix] for suffix in IMAGES if suffix in content), None)
            try:
                if len(content) < len(files):
                    raise BadPair("a file is there twice")
                picture, caption = read_pair(image, content.get(CAPTION))
            except BadPair as error:
                bad.append(f"{name} ({error})")
            else:
                yield {"img": self.transform(picture), "caption": caption}

    def _raw(self, piece: Slice, bad: list[str]) -> Iterator[RawPair]:
        """Yield the undecoded pairs of a slice of a shard; append faults of the shard to `bad`."""
        shard, start, stop = piece
        path, count, found = self.shards[shard], self.counts[shard], 0
        try:
            with tarfile.open(path) as tar:
                for found, (key, group) in enumerate(grouped(tar), start=1):
                    if found > count:
                        break
                    if found > start:  # others are passed over unread
                        files = [(suffix, tar.extractfile(e).read()) for _, suffix, e in group]
                        yield f"{path}/{key}", files
                    if found == stop < count:
                        return
                if found == count:
                    return
                if found < count:
                    check_end(tar)
            more = "more" if found > count else "fewer"
            fault = f"{more} pairs than the {count} counted: is {_record(path).name} right?"
        except DAMAGED as error:
            fault = str(error)
        bad.append(f"{path} (the rest of the shard: {fault})")


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
            for entry in entries(tar):
                name = Path(entry.name).name
                if entry.isreg() and is_image(name) and not name.startswith("."):
                    image = io.BytesIO(tar.extractfile(entry).read())
                    image.filename = entry.name
                    yield image
            check_end(tar)
    except DAMAGED as error:
        raise InputError(
            f"{shard} is no whole tar ({error}): it is cut off, damaged or compressed. Fetch it "
            "again, uncompressed, and start the same command"
        ) from error
    if not image:
        raise InputError(f"{shard} holds no image: no member's name ends like an image file's")


def entries(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the entries of a tar, without holding them all in memory."""
    while (entry := tar.next()) is not None:
        tar.members.clear()
        yield entry


def check_end(tar: tarfile.TarFile) -> None:
    """Raise ReadError if what follows the last entry read is not the end of a whole tar."""
    # tarfile takes an unreadable header and any zeros for the end, and reads nothing beyond.
    tar.fileobj.seek(tar.offset)
    mark, rest = tar.fileobj.read(tarfile.BLOCKSIZE), tar.fileobj.read(PADDING + 1)
    if mark != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no end mark at byte {tar.offset:,}")
    if any(rest):
        raise tarfile.ReadError(f"more data after its end at byte {tar.offset:,}: are tars joined?")
    if len(rest) > PADDING:
        raise tarfile.ReadError(f"only zeros from byte {tar.offset:,} on")


def grouped(tar: tarfile.TarFile) -> Iterator[tuple[str, Iterator[Member]]]:
    """Yield each key of a tar with its adjacent images and captions; each must be read at once."""
    from webdataset.tariterators import base_plus_ext

    files = (e for e in entries(tar) if e.isreg() and is_image_or_caption(e.name))
    members = ((*base_plus_ext(entry.name), entry) for entry in files)
    keyed = ((key, suffix.lower(), entry) for key, suffix, entry in members if key)
    return groupby(keyed, itemgetter(0))


def count_pairs(shards: Sequence[Path]) -> list[int]:
    """Count the pairs of each shard, from img2dataset's `<shard>_stats.json` if there is one.

    The ranks share the counting. The first shard is always read. Of others the record is taken if
    the first pair is complete. A count that is too high repeats pairs of the shards around it, one
    that is too low leaves out the last pairs; both are named when the shard has been read.

    Raises:
        InputError: a shard is no tar, or holds no captions, no images, or none beside the other.
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
    hidden = name.rpartition("/")[2].startswith(".")  # as systems leave behind
    return not hidden and name.rpartition(".")[2].lower() in (*IMAGES, CAPTION)


def is_pair(suffixes: Collection[str]) -> bool:
    """Return whether files of one key with these suffixes have an image and a caption."""
    return CAPTION in suffixes and not set(suffixes).isdisjoint(IMAGES)


def _record(shard: Path) -> Path:
    """Return the path of img2dataset's record of a shard."""
    return shard.with_name(f"{shard.stem}_stats.json")


def _recorded_count(shard: Path) -> int:
    """Return img2dataset's own count of a shard, 0 if there is none that can be right."""
    try:
        with tarfile.open(shard) as tar:
            first = [suffix for _, group in islice(grouped(tar), 1) for _, suffix, _ in group]
        return max(0, int(read_json(_record(shard))["successes"])) if is_pair(first) else 0
    except (*DAMAGED, KeyError, TypeError, OverflowError):  # OverflowError: infinity
        return 0


def _count_members(shard: Path) -> int:
    """Count the pairs in a shard by its members' names; warn if it is cut off."""
    names: list[str] = []
    pairs: list[list[str]] = []  # the suffixes of each
    try:
        with tarfile.open(shard) as tar:
            for _, group in grouped(tar):
                pairs.append([])
                for _, suffix, entry in group:
                    names.append(entry.name)
                    pairs[-1].append(suffix)
            check_end(tar)
    except DAMAGED as error:
        if not names:
            raise InputError(
                f"The shard {absolute(shard)} is no readable tar: {error}. Download it again, or "
                "leave it out of DATASET.PAIRS.PATH."
            ) from error
        logger.warning(
            f"The shard {absolute(shard)} is cut off after {len(names)} files ({error}): its "
            "other pairs are not used"
        )
    if not any(map(is_pair, pairs)):
        suffixes = {suffix for pair in pairs for suffix in pair}
        lacks = "images" if suffixes.isdisjoint(IMAGES) else "image beside its caption"
        raise InputError(
            f"The shard {absolute(shard)} holds no "
            f"{lacks if CAPTION in suffixes else 'captions (.txt)'}. Images and captions found in "
            f"it: {first_few(names) or 'none'}. {RULE}"
        )
    return len(pairs)
