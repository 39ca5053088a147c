"""Training images decoded once: the same batches, never other images, never more than allowed."""

import ast
import os
import pickle
import resource
import shutil

import PIL
import pytest
import torch
from PIL import Image

import tests.dassl.upstream_style_trainer  # noqa: F401  (registers the dataset)
from dassl.data import build_data_loader, decoded
from dassl.data.datasets import build_dataset
from dassl.data.transforms import build_transform
from dassl.utils import BadImageError, cache, read_image, set_random_seed


@pytest.fixture
def root(tiny_root, tmp_path):
    return shutil.copytree(tiny_root, tmp_path / "data")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The cache in the user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/promptood/decoded"


@pytest.fixture
def make(make_cfg, root, folder):
    return lambda *opts: make_cfg("DATASET.ROOT", str(root), *opts)


def training_items(cfg):
    return build_dataset(cfg).train_x


def batches(cfg, epochs=3):
    set_random_seed(0)
    loader = build_data_loader(
        cfg,
        "RandomSampler",
        training_items(cfg),
        batch_size=5,
        tfm=build_transform(cfg, is_train=True),
    )
    try:
        return [batch for _ in range(epochs) for batch in loader]
    finally:
        loader.end_workers()


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def listing(folder):
    return sorted((path, cache.file_state(path)) for path in folder.rglob("*"))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_batches_are_bit_identical(make, root, folder, workers, monkeypatch):
    workers = ("DATALOADER.NUM_WORKERS", workers)
    before = listing(root)
    plain = batches(make(*workers, "DATALOADER.DECODED.GIB", 0.0))
    assert not folder.exists()
    state = torch.get_rng_state()
    first = batches(make(*workers))
    assert torch.equal(torch.get_rng_state(), state)
    batches(make(*workers), epochs=9)  # an epoch leaves out 3 of the 18 images
    assert len(files(folder)) == 18 and listing(root) == before
    monkeypatch.setattr(decoded, "read_image", lambda path: pytest.fail(f"{path} was decoded"))
    for found in (first, batches(make(*workers))):
        for one, other in zip(found, plain, strict=True):
            assert one.keys() == other.keys() and one["impath"] == other["impath"]
            assert torch.equal(one["img"], other["img"])


def test_pixels_are_those_of_read_image(make, root):
    Image.new("L", (7, 3), 200).save(root / "tiny/train/ant/0.png")  # other sizes, other modes
    items = training_items(make())
    reader = decoded.image_reader(make(), items * 2)
    assert isinstance(reader, decoded.DecodedImages)
    for item in items * 2:
        ours, theirs = reader(item.impath), read_image(item.impath)
        assert ours.mode == "RGB" and ours.size == theirs.size
        assert ours.tobytes() == theirs.tobytes()


def test_a_changed_image_is_decoded_again(make, root):
    path = root / "tiny/train/bee/2.png"
    reader = decoded.image_reader(make(), training_items(make()))
    reader(str(path))
    Image.new("RGB", (24, 20), "red").save(path)
    assert reader(str(path)).getpixel((3, 3)) == (255, 0, 0)
    os.utime(path, ns=(1, 1))
    assert reader.file_of(str(path)).exists() is False


@pytest.mark.parametrize("damage", [b"", lambda c: c[:-50], lambda c: c[:60], lambda c: c[9:]])
def test_a_file_that_was_cut_off_is_made_again(make, folder, damage):
    item = training_items(make())[0]
    reader = decoded.image_reader(make(), [item])
    expected = reader(item.impath).tobytes()
    (file,) = files(folder)
    whole = file.read_bytes()
    file.write_bytes(damage if isinstance(damage, bytes) else damage(whole))
    assert reader(item.impath).tobytes() == expected and file.read_bytes() == whole


def recast(content, **header):
    """Change entries of the array's header in place, which keeps the length of the file."""
    start = content.index(b"{'descr'")
    old = content[start : content.index(b"\n", start)]
    new = repr({**ast.literal_eval(old.decode()), **header}).encode()
    return content.replace(old, new.ljust(len(old)))


def zeroed(content):
    start = content.index(b"\n", content.index(b"{'descr'")) + 1
    return content[:start] + bytes(300) + content[start + 300 :]


def flip(content, place):
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        zeroed,
        lambda c: recast(c, shape=(24, 20, 3)),  # edges swapped
        lambda c: recast(c, shape=(2, 20, 3)),  # ends before the checksum
        lambda c: recast(c, shape=(480, 3)),
        lambda c: recast(c, descr="<u2"),
        lambda c: recast(c, descr="|u9"),
        lambda c: c.replace(b"{'descr'", b"{((((((("),
        lambda c: c.replace(b"shape", b"shapE"),
        lambda c: bytes(len(c)),
        lambda c: flip(c, len(c) - 4),
        lambda c: pickle.dumps([1]),
        *(lambda c, k=k: flip(c, len(c) * k // 12) for k in range(12)),
    ],
)
def test_a_damaged_file_is_made_again(make, root, folder, damage):
    path = str(root / "tiny/train/ant/0.png")
    Image.linear_gradient("L").resize((24, 20)).save(path)
    expected = (reader := decoded.image_reader(make(), training_items(make())))(path).tobytes()
    (file,) = files(folder)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert file.read_bytes() != whole
    assert reader(path).tobytes() == expected and reader(path).tobytes() == expected


@pytest.mark.parametrize("room", [0, 100, 1000, 1400])
def test_a_disk_that_is_full_in_the_middle_leaves_nothing(make, folder, room, caplog):
    item = training_items(make())[0]
    reader, expected = decoded.image_reader(make(), [item]), read_image(item.impath).tobytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        assert reader(item.impath).tobytes() == expected
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(folder) == [] and len(refusals(caplog)) == 1


def test_pixels_of_another_pillow_are_not_used(make, monkeypatch):
    item = training_items(make())[0]
    reader = decoded.image_reader(make(), [item])
    before = reader.file_of(item.impath)
    monkeypatch.setattr(PIL, "__version__", "0.1")
    assert reader.file_of(item.impath) != before


@pytest.mark.parametrize("setting", ["stop", "skip"])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_bad_images_stop_or_are_skipped_as_without(make, root, setting, workers):
    (root / "tiny/train/bee/1.png").write_bytes(b"no image")
    options = ("DATALOADER.BAD_IMAGES", setting, "DATALOADER.NUM_WORKERS", workers)
    outcomes = []
    for gib in (0.0, 1.0, 1.0):
        cfg = make(*options, "DATALOADER.DECODED.GIB", gib)
        if setting == "skip":
            outcomes.append([batch.get("bad") for batch in batches(cfg)])
        else:
            with pytest.raises(BadImageError) as caught:
                batches(cfg)
            outcomes.append(str(caught.value))
    assert outcomes[0] == outcomes[1] == outcomes[2] and "bee/1.png" in str(outcomes[0])


def refusals(caplog):
    return [m for m in caplog.messages if m.startswith("The training images are decoded anew")]


def test_more_than_is_allowed_is_not_begun(make, folder, caplog):
    cfg = make("DATALOADER.DECODED.GIB", 1e-6)
    assert len(batches(cfg)) == 9
    (refusal,) = refusals(caplog)
    assert "about 2.41e-05 GiB are needed, 1e-06 GiB are allowed" in refusal
    assert "DATALOADER.DECODED.GIB is 1e-06 GiB" in refusal and "GiB free there" in refusal
    assert files(folder) == []


def test_the_bound_is_of_all_sets_together(make, root, folder, caplog):
    gib = ("DATALOADER.DECODED.GIB", 40_000 / 2**30)  # 18 images are 26 kB
    batches(make(*gib), epochs=9)
    batches(make(*gib))  # nothing more is needed
    assert refusals(caplog) == []
    for path in root.rglob("train/*/*.png"):
        os.utime(path, ns=(1, 1))
    batches(make(*gib))
    assert f"{folder} holds" in refusals(caplog)[0] and len(files(folder)) == 18


def test_a_full_disk_and_a_folder_that_cannot_be_written(make, root, folder, caplog, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    assert len(batches(make())) == 9
    monkeypatch.undo()
    (refusal,) = refusals(caplog)
    assert "No space left on device" in refusal and files(folder) == []
    (root / "file").touch()
    assert len(batches(make("DATALOADER.DECODED.FOLDER", str(root / "file" / "x")))) == 9
    assert "DATALOADER.DECODED.FOLDER" in refusals(caplog)[1]


def test_another_folder_and_what_a_killed_run_left(make, folder, tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    old, new = other / ".a.npy.0123abcd.tmp", other / ".b.npy.0123abce.tmp"
    old.touch(), new.touch()
    os.utime(old, (1, 1))
    batches(make("DATALOADER.DECODED.FOLDER", str(other)))
    assert {path.suffix for path in files(other)} == {".npy", ".tmp"}
    assert not old.exists() and new.exists() and not folder.exists()


def test_without_a_home_folder_nothing_is_kept(make, monkeypatch, caplog):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as it is without one
    assert len(batches(make())) == 9 and "no home folder" in refusals(caplog)[0]


def test_one_epoch_keeps_nothing(make, folder):
    batches(make("OPTIM.MAX_EPOCH", 1))
    assert not folder.exists()


def test_a_worker_that_is_not_forked_reads_the_same(make):
    item = training_items(make())[3]
    reader = decoded.image_reader(make(), [item])
    assert pickle.loads(pickle.dumps(reader))(item.impath) == reader(item.impath)
