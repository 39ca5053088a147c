"""torchvision's small data sets as class folders, on files made in their format."""

import hashlib
import pickle

import numpy as np
import pytest
from PIL import Image

from dassl.data.datasets import build_dataset
from dassl.utils.errors import InputError
from datasets import export as module
from datasets.export import IMAGES, export, main

CLASSES = ["airplane", "automobile", "bird"]
COUNTS = {"train": 6, "test": 3}


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 255, (9, 3072), dtype=np.uint8)


@pytest.fixture
def cifar(tmp_path, monkeypatch, pixels):
    """CIFAR-10's files, with 9 images of 3 classes, and torchvision told their MD5 sums."""
    folder = tmp_path / "cifar-10-batches-py"

    def batch(part):
        return pickle.dumps({"data": pixels[part], "labels": [i % 3 for i in range(9)][part]})

    cls = module.tv.CIFAR10
    sums = [
        write(folder / "data_batch_1", batch(slice(0, 6))),
        write(folder / "test_batch", batch(slice(6, 9))),
    ]
    meta = write(folder / "batches.meta", pickle.dumps({"label_names": CLASSES}))
    monkeypatch.setattr(cls, "train_list", [["data_batch_1", sums[0]]])
    monkeypatch.setattr(cls, "test_list", [["test_batch", sums[1]]])
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": meta})
    monkeypatch.setitem(IMAGES, "cifar10", COUNTS)
    return tmp_path


def test_folders_hold_the_very_pixels(cifar, pixels, cfg, capsys):
    main(["--name", "cifar10", "--root", str(cifar)])
    assert "{'train': 6, 'test': 3}" in capsys.readouterr().out
    for index, row in enumerate(pixels):
        split, number = ("train", index) if index < 6 else ("test", index - 6)
        path = cifar / "cifar10" / split / CLASSES[index % 3] / f"{number:05}.png"
        np.testing.assert_array_equal(
            np.asarray(Image.open(path)), row.reshape(3, 32, 32).transpose(1, 2, 0)
        )
    cfg.DATASET.NAME, cfg.DATASET.FOLDER = "ImageFolder", "cifar10"
    dataset = build_dataset(cfg)
    assert dataset.classnames == CLASSES and len(dataset.train_x) == 6 and len(dataset.test) == 3
    assert sorted(path.name for path in cifar.iterdir()) == ["cifar-10-batches-py", "cifar10"]


def test_a_complete_folder_is_left_alone(cifar):
    folder = export("cifar10", cifar)
    before = (folder / "train/bird/00002.png").stat().st_mtime_ns
    assert export("cifar10", cifar) == folder
    assert (folder / "train/bird/00002.png").stat().st_mtime_ns == before


def test_an_incomplete_folder_is_refused(cifar):
    (export("cifar10", cifar) / "train/bird/00002.png").unlink()
    with pytest.raises(InputError, match=r"holds {'train': 5, 'test': 3} images where"):
        export("cifar10", cifar)


def test_an_interrupted_export_leaves_nothing(cifar, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_require_complete", stop)
    with pytest.raises(KeyboardInterrupt):
        export("cifar10", cifar)
    assert [path.name for path in cifar.iterdir()] == ["cifar-10-batches-py"]


class Trap:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle of unknown origin was read')",)


def test_files_with_another_checksum_are_not_unpickled(cifar):
    (cifar / "cifar-10-batches-py/data_batch_1").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match=r"not found or corrupted.*MD5 sum.*--download"):
        export("cifar10", cifar)
    assert not (cifar / "cifar10").exists()


@pytest.mark.parametrize("name", IMAGES)
def test_missing_files_say_how_to_get_them(tmp_path, name):
    with pytest.raises(InputError, match=f"export --name {name} --root .* --download"):
        export(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_svhn_has_digits_for_classes(tmp_path, monkeypatch):
    from scipy.io import savemat

    pictures = np.random.default_rng(0).integers(0, 255, (32, 32, 3, 4), dtype=np.uint8)
    lists = {}
    for split in ("train", "test"):
        path = tmp_path / f"{split}_32x32.mat"
        savemat(path, {"X": pictures, "y": np.array([[10], [1], [9], [1]])})
        lists[split] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(module.tv.SVHN, "split_list", lists)
    monkeypatch.setitem(IMAGES, "svhn", {"train": 4, "test": 4})
    folder = export("svhn", tmp_path)
    assert sorted(path.name for path in (folder / "test").iterdir()) == [str(d) for d in range(10)]
    np.testing.assert_array_equal(
        np.asarray(Image.open(folder / "test/0/00000.png")), pictures[..., 0]
    )


def test_help_begins_with_one_line_of_the_docstring(capsys):
    with pytest.raises(SystemExit, match="0"):
        module.main(["--help"])
    text = capsys.readouterr().out
    assert "--name cifar10" in text and "MD5" not in text
