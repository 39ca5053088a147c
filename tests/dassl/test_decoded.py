"""Training images decoded once: the same batches, never other images, never more than allowed."""

import os
import pickle
import shutil
from pathlib import Path

import PIL
import pytest
import torch
from PIL import Image

import tests.dassl.upstream_style_trainer  # noqa: F401  (registers the dataset)
from dassl.data import build_data_loader, decoded
from dassl.data.datasets import Datum, build_dataset
from dassl.data.transforms import build_transform
from dassl.utils import BadImageError, read_image, set_random_seed


@pytest.fixture
def root(tiny_root, tmp_path):
    return shutil.copytree(tiny_root, tmp_path / "data", ignore=shutil.ignore_patterns(".*"))


@pytest.fixture
def make(make_cfg, root):
    return lambda *opts: make_cfg("DATASET.ROOT", str(root), *opts)


def training_items(cfg):
    return build_dataset(cfg).train_x


def batches(cfg, epochs=2):
    set_random_seed(0)
    loader = build_data_loader(
        cfg,
        "RandomSampler",
        training_items(cfg),
        batch_size=5,
        tfm=build_transform(cfg, is_train=True),
    )
    return [batch for _ in range(epochs) for batch in loader]


def the_file(root):
    (file,) = (root / ".decoded").iterdir()
    return file


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_bit_identical(make, root, workers, monkeypatch):
    workers = ("DATALOADER.NUM_WORKERS", workers)
    plain = batches(make(*workers, "DATALOADER.DECODED.GIB", 0.0))
    assert not (root / ".decoded").exists()
    state = torch.get_rng_state()
    first = batches(make(*workers))
    assert torch.equal(torch.get_rng_state(), state) and the_file(root).suffix == ".rgb"
    monkeypatch.setattr(decoded, "read_image", lambda path: pytest.fail(f"{path} was decoded"))
    for found in (first, batches(make(*workers))):
        assert len(found) == len(plain) == 6
        for one, other in zip(found, plain, strict=True):
            assert one.keys() == other.keys() and one["impath"] == other["impath"]
            assert torch.equal(one["img"], other["img"])


def test_pixels_are_those_of_read_image(make, root):
    Image.new("L", (7, 3), 200).save(root / "tiny/train/ant/0.png")  # other sizes, other modes
    items = training_items(make())
    reader = decoded.image_reader(make(), items * 2)
    assert isinstance(reader, decoded.DecodedImages)
    for item in items:
        ours, theirs = reader(item.impath), read_image(item.impath)
        assert (
            ours.mode == "RGB" and ours.size == theirs.size and ours.tobytes() == theirs.tobytes()
        )
    assert the_file(root).stat().st_size < 18 * 20 * 24 * 3 + 4000  # each once


def change_pixels(root):
    Image.new("RGB", (24, 20)).save(root / "tiny/train/bee/2.png")
    return "bee/2.png has changed since"


def touch(root):
    os.utime(root / "tiny/train/cat/0.png", ns=(1, 1))
    return "cat/0.png has changed since"


def remove(root):
    (root / "tiny/train/cat/5.png").unlink()
    return None  # another list of images: another file


def cut(root):
    file = the_file(root)
    file.write_bytes(file.read_bytes()[:-50])
    return "damaged"


def drop_pixels(root):
    file = the_file(root)
    file.write_bytes(file.read_bytes()[100:])
    return "damaged"


def empty(root):
    the_file(root).write_bytes(b"")
    return "not readable"


def flip_index(root):
    content = bytearray(the_file(root).read_bytes())
    content[-40] ^= 1
    the_file(root).write_bytes(content)
    return "damaged"


@pytest.mark.parametrize(
    "change", [change_pixels, touch, remove, cut, drop_pixels, empty, flip_index]
)
def test_what_does_not_match_is_made_again(make, root, caplog, change):
    batches(make())
    said = change(root)
    caplog.clear()
    found = batches(make())
    told = [m for m in caplog.messages if "is made again" in m]
    assert told == [] if said is None else said in told[0] and len(told) == 1
    plain = batches(make("DATALOADER.DECODED.GIB", 0.0))
    assert all(torch.equal(a["img"], b["img"]) for a, b in zip(found, plain, strict=True))
    caplog.clear()
    batches(make())
    assert any(m.startswith("Decoded training images: ") for m in caplog.messages)


def test_pixels_of_another_pillow_are_not_used(make, root, monkeypatch):
    batches(make())
    monkeypatch.setattr(PIL, "__version__", "0.1")
    batches(make())
    assert len(list((root / ".decoded").iterdir())) == 2


@pytest.mark.parametrize("setting", ["stop", "skip"])
@pytest.mark.parametrize("workers", [0, 2])
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


def test_more_than_is_allowed_is_not_begun(make, root, caplog):
    cfg = make("DATALOADER.DECODED.GIB", 1e-6)
    assert len(batches(cfg)) == 6
    (told,) = refusals(caplog)
    assert "they need about 2.41e-05 GiB, 9.99e-07 GiB are allowed" in told
    assert "DATALOADER.DECODED.GIB 1e-06" in told and "GiB free there" in told
    assert list((root / ".decoded").iterdir()) == []


def test_the_bound_is_of_all_sets_together(make, root, caplog):
    gib = ("DATALOADER.DECODED.GIB", 40_000 / 2**30)  # 18 images are 26 kB
    batches(make(*gib))
    (root / "tiny/train/cat/5.png").unlink()
    batches(make(*gib))
    assert "for other sets in" in refusals(caplog)[0] and the_file(root)


def test_a_bad_guess_stops_at_the_bound(make, root, caplog, monkeypatch):
    monkeypatch.setattr(decoded, "_estimate", lambda paths: 0)
    assert len(batches(make("DATALOADER.DECODED.GIB", 1e-6))) == 6
    assert "they need more than the 9.99e-07 GiB allowed" in refusals(caplog)[0]
    assert list((root / ".decoded").iterdir()) == []


def test_a_full_disk_and_a_folder_that_cannot_be_written(make, root, caplog, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoded, "END", type("Full", (), {"pack": fail, "size": 20}))
    assert len(batches(make())) == 6
    monkeypatch.undo()
    assert "No space left on device" in refusals(caplog)[0]
    assert list((root / ".decoded").iterdir()) == []
    (root / "file").touch()
    assert len(batches(make("DATALOADER.DECODED.FOLDER", str(root / "file" / "x")))) == 6
    assert "DATALOADER.DECODED.FOLDER" in refusals(caplog)[1]


def test_a_root_marked_read_only_stays_as_it_is(make, root, caplog):
    """Also for the superuser, whom no permission stops."""
    root.chmod(0o555)
    assert len(batches(make())) == 6
    root.chmod(0o755)
    assert not (root / ".decoded").exists()
    assert f"{root} is read-only. Another folder can be named" in refusals(caplog)[0]


def test_another_folder_and_what_a_killed_run_left(make, root, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    old, new = folder / ".a.rgb.1.tmp", folder / ".b.rgb.2.tmp"
    old.touch(), new.touch()
    os.utime(old, (1, 1))
    batches(make("DATALOADER.DECODED.FOLDER", str(folder)))
    assert {path.suffix for path in folder.iterdir()} == {".rgb", ".tmp"}
    assert not old.exists() and new.exists() and not (root / ".decoded").exists()


def test_one_epoch_or_no_root_keeps_nothing(make, make_cfg, root):
    batches(make("OPTIM.MAX_EPOCH", 1))
    assert not (root / ".decoded").exists()
    items = [Datum("x.png")]
    assert decoded.image_reader(make_cfg("DATASET.ROOT", ""), items) is read_image


def test_a_worker_that_is_not_forked_maps_the_file_itself(make, root):
    cfg = make()
    items = training_items(cfg)
    reader = decoded.image_reader(cfg, items)
    state = pickle.dumps(reader)
    assert len(state) < 5000
    path = items[3].impath
    assert pickle.loads(state)._places and pickle.loads(state)(path) == reader(path)
    Image.new("RGB", (30, 30)).save(path)
    decoded.image_reader(cfg, items)  # another run makes the file again
    assert pickle.loads(state)._places == {}  # its places are not those of the new file
    assert pickle.loads(state)(path).size == (30, 30)
    Path(the_file(root)).unlink()
    assert pickle.loads(state)(path).size == (30, 30)
