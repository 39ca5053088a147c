"""Image-caption pairs from shards, tables, folders and class names."""

import collections
import io
import json
import pickle
import re
import tarfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import Compose, RandomCrop, ToTensor

from dassl import distributed
from dassl.utils.errors import InputError
from datasets import caption_shards
from datasets.caption_shards import cut, find_shards
from datasets.captions import build_pairs_loader
from datasets.pairs import BadPair, read_caption, read_pair

TRANSFORM = Compose([RandomCrop(6), ToTensor()])


def image_bytes(number=0, kind="JPEG"):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def pair(number, suffix="jpg", caption=None):
    text = f"caption {number}\n" if caption is None else caption
    image = image_bytes(number, "PNG" if suffix == "png" else "JPEG")
    return {
        f"{number:09}.{suffix}": image,
        f"{number:09}.txt": text.encode(),
        f"{number:09}.json": b"{}",
    }


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def members(numbers, **kwargs):
    return {name: data for n in numbers for name, data in pair(n, **kwargs).items()}


@pytest.fixture
def shards(tmp_path):
    """Five shards of 3, 7, 1, 6 and 4 pairs, numbered through."""
    start = 0
    for shard, count in enumerate((3, 7, 1, 6, 4)):
        suffix = ("jpg", "png", "jpeg")[shard % 3]
        content = members(range(start, start + count), suffix=suffix)
        write_tar(tmp_path / f"cc/{shard:05}.tar", content)
        start += count
    return tmp_path / "cc"


@pytest.fixture
def loader(cfg):
    """loader(batch_size=4, workers=0, SOURCE="shards", PATH=...) builds one."""

    def make(batch_size=4, workers=0, seed=1, **keys):
        cfg.DATALOADER.TRAIN_X.BATCH_SIZE, cfg.DATALOADER.NUM_WORKERS = batch_size, workers
        for key, value in {"SOURCE": "shards", "PATH": "cc/{00000..00004}.tar", **keys}.items():
            cfg.DATASET.PAIRS[key] = value
        cfg.SEED = seed
        return build_pairs_loader(cfg, TRANSFORM)

    return make


def captions(loader):
    return [text for batch in loader for text in batch["caption"]]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_shards(shards, loader, workers):
    batches = list(loader(workers=workers))
    assert len(batches) == len(loader(workers=workers)) == 5  # 21 pairs, the last one left out
    for batch in batches:
        assert set(batch) == {"img", "caption"}
        assert batch["img"].shape == (4, 3, 6, 6) and batch["img"].dtype == torch.float32
        assert len(batch["caption"]) == 4
    seen = [text for batch in batches for text in batch["caption"]]
    assert len(set(seen)) == 20 and set(seen) < {f"caption {n}" for n in range(21)}


def test_image_and_caption_stay_together(shards, cfg, loader):
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 7
    loader(batch_size=7)
    plain = build_pairs_loader(cfg, ToTensor())
    for batch in plain:
        for image, text in zip(batch["img"], batch["caption"], strict=True):
            number = int(text.split()[1])
            kind = "PNG" if 3 <= number < 10 or number >= 17 else "JPEG"
            expected = ToTensor()(Image.open(io.BytesIO(image_bytes(number, kind))).convert("RGB"))
            torch.testing.assert_close(image, expected)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_order_and_augmentation_depend_on_seed_and_epoch_alone(shards, loader, workers):
    def epoch(number, seed=1, before=()):
        made = loader(workers=workers, seed=seed)
        for earlier in before:
            made.set_epoch(earlier)
            captions(made)
        made.set_epoch(number)
        torch.manual_seed(number)  # without workers the trainer's own generator augments
        return list(made)

    first, again = epoch(3), epoch(3, before=(0, 2))
    for one, other in zip(first, again, strict=True):
        assert one["caption"] == other["caption"] and torch.equal(one["img"], other["img"])
    others = epoch(4), epoch(3, seed=2)
    texts = [[text for b in part for text in b["caption"]] for part in (first, *others)]
    assert texts[0] != texts[1] and texts[0] != texts[2]
    assert sorted(texts[0]) != texts[0]


@pytest.fixture
def as_rank(monkeypatch):
    """as_rank(1, 2): from here on this process takes itself for rank 1 of 2."""

    def be(rank, ranks):
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        monkeypatch.setattr(distributed, "world_size", lambda: ranks)
        monkeypatch.setattr(caption_shards, "count_pairs", lambda shards: [3, 7, 1, 6, 4])

    return be


@pytest.mark.slow
@pytest.mark.parametrize("ranks, workers", [(2, 0), (4, 0), (2, 2), (1, 2)])
def test_ranks_and_workers_share_the_pairs_out(shards, loader, as_rank, ranks, workers):
    for epoch in range(2):
        seen = []
        for rank in range(ranks):
            as_rank(rank, ranks)
            made = loader(batch_size=4, workers=workers)
            made.set_epoch(epoch)
            batches = list(made)
            assert [len(batch["caption"]) for batch in batches] == [4 // ranks] * 5
            seen += [text for batch in batches for text in batch["caption"]]
        assert len(seen) == len(set(seen)) == 20


def test_ranks_share_each_batch_of_a_table(folder, loader, as_rank):
    whole = [batch["caption"] for batch in loader(batch_size=4, **LISTED[1])]
    parts = []
    for rank in range(2):
        as_rank(rank, 2)
        parts.append([batch["caption"] for batch in loader(batch_size=4, **LISTED[1])])
    assert [one + other for one, other in zip(*parts, strict=True)] == whole


def test_workers_of_each_rank_draw_numbers_of_their_own(folder, loader, as_rank):
    seeds = set()
    for rank in range(3):
        as_rank(rank, 1)
        made = loader(batch_size=4, **LISTED[0])
        for epoch in (0, 1):
            made.set_epoch(epoch)
            iter(made)
            seeds.add(made.generator.initial_seed())
    assert len(seeds) == 6


def test_ranks_that_do_not_divide_the_batch(folder, loader, as_rank):
    as_rank(0, 3)
    with pytest.raises(InputError, match="BATCH_SIZE is 4, which 3 processes cannot share"):
        loader(batch_size=4, **LISTED[1])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.data())
def test_stretches_cover_each_pair_at_most_once(counts, data):
    order = data.draw(st.permutations(range(len(counts))))
    left, quotas = sum(counts), []
    for _ in range(data.draw(st.integers(1, 6))):
        quotas.append(data.draw(st.integers(0, left)))
        left -= quotas[-1]
    stretches = cut(order, counts, quotas)
    pairs = [[(s, i) for s, a, b in part for i in range(a, b)] for part in stretches]
    assert [len(part) for part in pairs] == quotas
    flat = [p for part in pairs for p in part]
    assert flat == [(s, i) for s in order for i in range(counts[s])][: len(flat)]


def test_fewer_pairs_an_epoch_are_others_each_time(shards, loader):
    made = loader(NUM_PAIRS=10)
    assert len(made) == 2
    epochs = []
    for epoch in range(4):
        made.set_epoch(epoch)
        epochs.append(frozenset(captions(made)))
    assert all(len(part) == 8 for part in epochs) and len(set(epochs)) > 1


def test_bad_samples_are_named_and_replaced(shards, loader):
    bad = pair(100) | pair(101, caption="  ") | pair(102) | pair(103)
    bad["000000100.jpg"] = b"no image"
    del bad["000000102.txt"]
    bad["000000103.txt"] = b"\xff\xfe"
    write_tar(shards / "00001.tar", {**members(range(3, 10)), **bad})
    batches = list(loader(batch_size=5))
    assert [len(batch["caption"]) for batch in batches] == [5] * 5
    named = {name.rpartition("/")[2] for batch in batches for name in batch.get("bad", ())}
    reasons = {name.split(" (")[0]: name.split(" (")[1] for name in named}
    assert set(reasons) == {f"000000{n}" for n in (100, 101, 102, 103)}
    assert reasons["000000100"].startswith("no readable image: cannot identify")
    assert reasons["000000101"] == reasons["000000102"] == "no caption)"
    assert reasons["000000103"] == "the caption is not UTF-8)"
    counts = collections.Counter(text for batch in batches for text in batch["caption"])
    assert sum(counts.values()) == 25 and len(counts) == 21


def test_a_shard_cut_off_is_warned_of_and_made_up_for(shards, loader, caplog):
    path = shards / "00003.tar"
    write_tar(path, members(range(11, 31)))
    path.write_bytes(path.read_bytes()[:20000])
    made = loader()
    assert "00003.tar is cut off after" in caplog.text
    batches = list(made)
    assert all(len(batch["caption"]) == 4 for batch in batches) and len(batches) == len(made)
    named = [name for batch in batches for name in batch.get("bad", ())]
    assert any("00003.tar (the rest of the shard: " in name for name in named)


def test_counts_of_img2dataset_are_taken_and_may_be_wrong(shards, loader):
    (shards / "00003_stats.json").write_text(json.dumps({"successes": 9}))
    (shards / "00004_stats.json").write_text("no json")
    made = loader()
    assert made.dataset.counts == [3, 7, 1, 9, 4]
    assert [len(batch["caption"]) for batch in made] == [4] * 6


def cut_at(name):
    return lambda whole: whole[: whole.index(name)]


@pytest.mark.parametrize(
    "damage, words",
    [
        (cut_at(b"000000014.jpg"), "no end mark at byte"),
        (lambda whole: whole.replace(b"000000014.jpg", b"\xff" * 13), "no end mark at byte"),
        (lambda whole: cut_at(b"000000014.jpg")(whole).ljust(2 * 10**6, b"\0"), "only zeros from"),
        (lambda whole: whole + whole, "more data after its end at byte .* are tars joined"),
        (lambda whole: whole.rstrip(b"\0").ljust(2**16, b"\0"), ""),  # padding
    ],
    ids=["at a member", "a header", "zeros", "joined", "whole"],
)
def test_the_end_of_a_shard_is_checked(shards, loader, caplog, damage, words):
    """tarfile and webdataset end at each of these without a word."""
    path = shards / "00003.tar"
    path.write_bytes(damage(path.read_bytes()))
    made = loader(batch_size=1)
    pairs = 3 if words.startswith(("no end", "only zeros")) else 6
    assert made.dataset.counts[3] == pairs
    if words:
        found = rf"00003.tar is cut off after {2 * pairs} files \({words}.*other pairs are not used"
        (warned,) = [record.message for record in caplog.records if "00003" in record.message]
        assert re.search(found, warned)
    else:
        assert "00003" not in caplog.text
    batches = list(made)
    assert len({batch["caption"][0] for batch in batches}) == len(batches) == 15 + pairs
    assert not any("bad" in batch for batch in batches)


@pytest.mark.parametrize("successes", ["-3", "0", "Infinity", '"many"', "null"])
def test_a_record_that_cannot_be_right_is_not_believed(shards, loader, successes):
    (shards / "00003_stats.json").write_text(f'{{"successes": {successes}}}')
    assert loader().dataset.counts == [3, 7, 1, 6, 4]


def test_a_shard_of_more_pairs_than_recorded_is_named(shards, loader):
    (shards / "00003_stats.json").write_text(json.dumps({"successes": 2}))
    made = loader(batch_size=1)
    assert made.dataset.counts == [3, 7, 1, 2, 4]
    (named,) = [name for batch in made for name in batch.get("bad", ())]
    assert "00003.tar (the rest of the shard: more pairs than the 2 counted" in named


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_of_fewer_pairs_than_recorded_is_named_once(shards, loader, workers):
    """With two workers, one of them has a stretch that lies wholly beyond the shard's end."""
    for number in (0, 2, 3, 4):
        (shards / f"{number:05}.tar").unlink()
    write_tar(shards / "00000.tar", members([30]))
    (shards / "00001_stats.json").write_text(json.dumps({"successes": 90}))
    made = loader(PATH="cc", workers=workers)
    assert made.dataset.counts == [1, 90]
    for epoch in range(3):
        made.set_epoch(epoch)
        batches = list(made)
        assert [len(batch["caption"]) for batch in batches] == [4] * 22
        named = [name for batch in batches for name in batch.get("bad", ())]
        assert len(named) == (workers or 1)
        assert all(
            "fewer pairs than the 90 counted: is 00001_stats.json right?" in n for n in named
        )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_recorded_shard_without_captions_is_named(shards, loader, workers):
    names = {name: data for name, data in members(range(20, 29)).items() if ".txt" not in name}
    write_tar(shards / "00003.tar", names)
    (shards / "00003_stats.json").write_text(json.dumps({"successes": 9}))
    with pytest.raises(InputError, match=r"00003\.tar holds no captions"):
        loader(workers=workers)


def test_a_file_that_is_there_twice_costs_its_pair_alone(shards, loader):
    path = shards / "00000.tar"
    with tarfile.open(path, "w") as tar:
        for number in (0, 1, 1, 2):
            for name, content in pair(number).items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    batches = list(loader(batch_size=3, PATH="cc/00000.tar"))
    assert {text for batch in batches for text in batch["caption"]} == {"caption 0", "caption 2"}
    named = [name for batch in batches for name in batch.get("bad", ())]
    assert named == [f"{path}/000000001 (a file is there twice)"]


def test_files_that_systems_leave_behind_part_no_pair(shards, loader):
    content = {}
    for name, data in members(range(2)).items():
        content |= {f"cc/._{name}": b"?", f"cc/{name}": data}
    write_tar(shards / "00000.tar", content)
    made = loader(batch_size=2, PATH="cc/00000.tar")
    assert sorted(captions(made)) == ["caption 0", "caption 1"]


def test_bad_pairs_have_the_same_names_in_each_epoch(shards, loader):
    """So that each is logged once."""
    write_tar(shards / "00001.tar", members(range(3, 9)) | {"a.jpg": b"?", "a.txt": b"a"})
    made, named = loader(batch_size=1), []
    for epoch in range(2):
        made.set_epoch(epoch)
        named += [name for batch in made for name in batch.get("bad", ())]
    assert len(named) == 2 and len(set(named)) == 1


class Trap:
    def __reduce__(self):
        return exec, ("raise SystemExit('code of the tar was run')",)


def test_nothing_is_unpickled(shards, loader):
    content = members(range(3))
    for suffix in ("pyd", "pkl", "pickle", "pyc", "pth"):
        content[f"000000002.{suffix}"] = pickle.dumps(Trap())
    write_tar(shards / "00000.tar", content)
    assert len(captions(loader())) == 20


def test_a_folder_of_tars(shards, loader):
    assert len(captions(loader(PATH="cc"))) == 20


def told(message, **keys):
    return pytest.param(keys, message, id=message[:30])


@pytest.mark.parametrize(
    "keys, message",
    [
        told(
            "2 of 7 shards do not exist or are empty: .*00005.tar, .*00006.tar",
            PATH="cc/{00000..00006}.tar",
        ),
        told("PAIRS.PATH .*no .tar file.*Found in", PATH="empty"),
        told("PAIRS.PATH is empty", PATH=""),
        told("do not exist or are empty: .*pipe:touch x", PATH="pipe:touch x"),
        told("Unknown DATASET.PAIRS.SOURCE 'shard'.*Did you mean 'shards'", SOURCE="shard"),
        told("NUM_PAIRS is 22, but there are 21", NUM_PAIRS=22),
        told("3 .*fewer than a batch.*BATCH_SIZE 3 to the command", NUM_PAIRS=3),
    ],
)
def test_bad_input_is_a_sentence(shards, loader, tmp_path, keys, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        loader(**keys)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "content, message",
    [
        ({"a.jpg": image_bytes(), "a.json": b"{}"}, "holds no captions .*found in it: a.jpg"),
        ({"a.txt": b"text"}, "holds no images"),
        ({"a.json": b"{}"}, "holds no captions .*found in it: none"),
        ({"a.v1.jpg": b"", "a.v1.txt": b""}, "holds no captions .*ends at the first dot"),
        ({"a.jpg": b"", "b.jpg": b"", "a.txt": b"", "b.txt": b""}, "holds no image beside"),
        (None, "is no readable tar"),
    ],
)
def test_bad_shards_are_named(shards, loader, content, message):
    path = shards / "00002.tar"
    path.write_bytes(b"garbage" * 100) if content is None else write_tar(path, content)
    with pytest.raises(InputError, match=f"00002.tar {message}"):
        loader()


@pytest.mark.parametrize("workers", [0, 1])
def test_no_readable_pair_at_all_is_a_sentence(tmp_path, loader, workers):
    write_tar(tmp_path / "bad.tar", {f"{n}.{s}": b" " for n in range(4) for s in ("jpg", "txt")})
    with pytest.raises(InputError, match=r"^None of 4 image-caption pairs can be read, such as "):
        list(loader(PATH="bad.tar", workers=workers))


def test_find_shards_keeps_the_order_of_the_braces(shards):
    assert [path.stem for path in find_shards(shards / "{00003,00001}.tar")] == ["00003", "00001"]


@pytest.mark.parametrize("pattern", ["{00000..00331.tar", "00000..00331}.tar", "{"])
def test_a_missing_brace_is_named(tmp_path, pattern):
    with pytest.raises(InputError, match=r"^--shards \(.* lacks a brace, \{ or \}"):
        find_shards(tmp_path / pattern, "--shards")


@pytest.fixture
def folder(tmp_path):
    """Ten images in a folder and one below it, and tables that list them with captions."""
    names = [f"{'deep/' if n % 2 else ''}{n}.jpg" for n in range(10)]
    (tmp_path / "web/deep").mkdir(parents=True)
    for n, name in enumerate(names):
        (tmp_path / "web" / name).write_bytes(image_bytes(n))
    rows = [f'{name}{{0}}"caption {n}"{{0}}x' for n, name in enumerate(names)]
    for name, between, header in (
        ("a.csv", ",", "path,caption,class"),
        ("b.tsv", "\t", "filepath\ttitle\tclass"),
    ):
        text = "\n".join([header, *(row.format(between) for row in rows)])
        (tmp_path / "web" / name).write_text(text)
    return tmp_path / "web"


LISTED = [
    {"SOURCE": "csv", "PATH": "web/a.csv"},
    {"SOURCE": "csv", "PATH": "web/b.tsv", "COLUMNS": ("filepath", "title")},
]


@pytest.mark.slow
@pytest.mark.parametrize("source", LISTED)
def test_tables(folder, loader, source):
    made = loader(batch_size=4, **source)
    assert len(made) == 2
    epochs = []
    for epoch in (0, 1, 0):
        made.set_epoch(epoch)
        epochs.append(captions(made))
    assert epochs[0] == epochs[2] != epochs[1]
    assert len(set(epochs[0])) == 8 and set(epochs[0]) < {f"caption {n}" for n in range(10)}


@pytest.mark.parametrize("source", LISTED)
def test_a_bad_image_gives_way_to_the_next(folder, loader, source):
    (folder / "deep/3.jpg").write_bytes(b"")
    (folder / "4.jpg").unlink()
    batches = list(loader(batch_size=5, **source))
    assert [len(batch["caption"]) for batch in batches] == [5, 5]
    named = {name.split(" ")[0].rpartition("/")[2] for b in batches for name in b.get("bad", ())}
    assert named == {"3.jpg", "4.jpg"}


def test_the_last_image_gives_way_to_the_first(folder, loader):
    (folder / "deep/9.jpg").unlink()
    made = loader(batch_size=5, SOURCE="csv", PATH="web/a.csv")
    assert sorted(captions(made)) == sorted(f"caption {n % 9}" for n in range(10))


def test_without_a_seed_each_run_draws_its_own(folder, loader):
    made = [loader(seed=-1, SOURCE="csv", PATH="web/a.csv").seed for _ in range(3)]
    assert min(made) >= 0 and len(set(made)) == 3


@pytest.mark.parametrize(
    "keys, message",
    [
        told("cannot be read: .*No such file", SOURCE="csv", PATH="nowhere.csv"),
        told("pairs .*0.jpg is no UTF-8 text", SOURCE="csv", PATH="web/0.jpg"),
        told(
            "has no column text. Columns: path, caption",
            SOURCE="csv",
            PATH="web/a.csv",
            COLUMNS=("path", "text"),
        ),
        told(
            "None of the first 1 images of .*lost.csv exists, such as .*web/z.jpg",
            SOURCE="csv",
            PATH="web/lost.csv",
        ),
        told("has no rows", SOURCE="csv", PATH="web/none.csv"),
        told(
            r"COLUMNS is \('path',\): it must name two columns",
            SOURCE="csv",
            PATH="web/a.csv",
            COLUMNS=("path",),
        ),
        told(
            r"COLUMNS is \(1, 2\): it must name two columns",
            SOURCE="csv",
            PATH="web/a.csv",
            COLUMNS=(1, 2),
        ),
        told(
            r"COLUMNS is \('path', 'path'\): it must name two columns",
            SOURCE="csv",
            PATH="web/a.csv",
            COLUMNS=("path", "path"),
        ),
        told("has more than one column caption. .*Line 1", SOURCE="csv", PATH="web/twice.csv"),
    ],
)
def test_bad_tables(folder, loader, keys, message):
    (folder / "lost.csv").write_text("path,caption\nz.jpg,text\n")
    (folder / "none.csv").write_text("path,caption\n")
    (folder / "twice.csv").write_text("path,caption,caption\n0.jpg,a cat,\n")
    with pytest.raises(InputError, match=message):
        loader(**keys)


@pytest.mark.parametrize(
    "line, reason",
    [
        ("0.jpg,a red dog, sitting", "fields: 3, in the header: 2"),
        ("0.jpg", "fields: 1, in the header: 2"),
        ("0.jpg,a dog,,sitting", "fields: 4, in the header: 2"),
        ('0.jpg,"a red dog', "',' expected after '\"'"),
        ('0.jpg,"a red dog\n1.jpg,a cat"', "takes in the next row"),
        ('0.jpg,"Jaws" is a film', "',' expected after '\"'"),
        ("0.jpg," + 200000 * "a", "field larger than field limit"),
    ],
)
def test_a_line_that_is_no_row_is_named(folder, loader, line, reason):
    (folder / "a.csv").write_text(f'path,caption\n\n0.jpg,a cat\n{line}\n2.jpg,"a hen"\n')
    with pytest.raises(InputError) as refused:
        loader(SOURCE="csv", PATH="web/a.csv")
    message = str(refused.value)
    assert message.startswith("Line 4 of the table of pairs ") and reason in message
    assert "into quotes" in message


def test_quoted_captions_and_blank_lines(folder, loader):
    rows = [
        '0.jpg,"a ""red"" dog, 24"""',
        "",
        '2.jpg,24"',
        " ",
        '1.jpg,"a cat,\non grass\n"',
        "0.jpg,x,",
    ]
    (folder / "a.csv").write_text("\n".join(["path,caption", *rows]))
    made = loader(batch_size=2, SOURCE="csv", PATH="web/a.csv")
    assert made.dataset.captions == ['a "red" dog, 24"', '24"', "a cat,\non grass\n", "x"]


@pytest.mark.parametrize("name", ["a.parquet", "A.PARQUET", "a.jsonl", "a.csv.gz"])
def test_a_table_of_another_kind_is_refused(folder, loader, name):
    (folder / name).write_bytes(b"PAR1\0\1\2")
    with pytest.raises(InputError, match=f"{name} is no text: .*SOURCE csv reads CSV or TSV"):
        loader(SOURCE="csv", PATH=f"web/{name}")


def test_every_image_bad_ends_with_a_sentence(folder, loader):
    made = loader(batch_size=2, SOURCE="csv", PATH="web/a.csv")
    for image in folder.rglob("*.jpg"):
        image.write_bytes(b"")
    with pytest.raises(InputError, match="10 image-caption pairs in a row cannot be read"):
        list(made)


@pytest.fixture
def pets(tree, cfg):
    names = ("cat", "polar_bear")
    tree({f"pets/{split}/{name}": 6 for split in ("train", "val") for name in names})
    cfg.DATASET.NAME, cfg.DATASET.FOLDER, cfg.DATASET.NUM_SHOTS = "ImageFolder", "pets", 4


@pytest.mark.parametrize("caption", ["\ufeffa cat", b"\xef\xbb\xbfa cat\n", " \ufeff a cat"])
def test_a_byte_order_mark_is_no_part_of_a_caption(caption):
    assert read_caption(caption) == "a cat"
    with pytest.raises(BadPair, match="no caption"):
        read_caption("\ufeff")


def test_captions_of_class_names(pets, loader, cfg):
    cfg.INPUT.SIZE = (2, 2)
    templates = ("a photo of a {}.", "the {}")
    made = loader(batch_size=4, SOURCE="classnames", TEMPLATES=templates)
    made.dataset.transform = ToTensor()
    texts = set()
    for epoch in range(6):
        made.set_epoch(epoch)
        drawn = captions(made)
        assert len(drawn) == 8 and sum("polar bear" in text for text in drawn) == 4
        assert drawn == captions(made)
        texts |= set(drawn)
    assert texts == {t.format(name) for t in templates for name in ("cat", "polar bear")}


@pytest.mark.parametrize("ranks, batch", [(1, 8), (3, 6)])
def test_few_images_with_class_names_make_a_smaller_batch(
    pets, loader, as_rank, caplog, ranks, batch
):
    """The configured batch is of CC3M's size: 2048."""
    as_rank(0, ranks)
    made = loader(batch_size=2048, SOURCE="classnames", TEMPLATES=("{}",))
    made.dataset.transform = ToTensor()
    assert [len(found["caption"]) for found in made] == [batch // ranks]
    assert f"batches of {batch} are used" in caplog.text


def test_a_batch_is_held_once(folder, loader, monkeypatch):
    """Images are copied into the batch as they are read, and a worker has few batches ahead."""
    read = []

    def stacked(*_, **__):
        raise AssertionError("a list of images was stacked")

    monkeypatch.setattr(torch, "stack", stacked)
    made = loader(batch_size=4, SOURCE="csv", PATH="web/a.csv")
    made.dataset.transform = lambda image: read.append(1) or torch.zeros(3, 6, 6)
    assert [batch["img"].shape[0] for batch in made] == [4, 4] and len(read) == 8
    assert loader(batch_size=4, workers=2, SOURCE="csv", PATH="web/a.csv").prefetch_factor == 1


def test_other_braces_of_a_template_stay(pets, loader):
    made = loader(batch_size=4, SOURCE="classnames", TEMPLATES=("a {} in {style}, {0} {",))
    made.dataset.transform = ToTensor()
    assert set(captions(made)) == {
        f"a {name} in {{style}}, {{0}} {{" for name in ("cat", "polar bear")
    }


@pytest.mark.parametrize("templates", [(), ("a photo",), ("{} and {}",), (1,)])
def test_templates_need_one_place_for_the_name(pets, loader, templates):
    with pytest.raises(InputError, match=r"TEMPLATES.*must hold {} once"):
        loader(SOURCE="classnames", TEMPLATES=templates)


def test_a_pair_without_an_image_says_so():
    with pytest.raises(BadPair, match=r"^no image$"):
        read_pair(None, "a cat")
