"""Datum lists, few-shot sampling, transforms, loaders: against the public code's numbers."""

import io
import json
import pickle
import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torchvision import transforms

import tests.dassl.upstream_style_trainer  # noqa: F401  (registers the dataset)
from dassl.config import get_cfg_default
from dassl.data import DataManager, DatasetWrapper, build_data_loader
from dassl.data.data_manager import collate_readable
from dassl.data.datasets import DatasetBase, Datum, base_dataset, build_dataset
from dassl.data.transforms import build_transform
from dassl.data.transforms.transforms import AVAI_CHOICES
from dassl.utils import BadImageError, InputError, get_rng_state, read_image, set_random_seed

GOLDEN = Path(__file__).parents[1] / "golden"
FEWSHOT = json.loads((GOLDEN / "fewshot_dassl.json").read_text())


def items_of(sizes):
    """Datum lists whose impath is their index."""
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    return [Datum(impath=str(i), label=label) for i, label in enumerate(labels)]


def indices(items):
    return [int(item.impath) for item in items]


@pytest.mark.parametrize(
    "key, sizes", [("selected", [40] * 8), ("selected_short", [40, 40, 5] + [40] * 5)]
)
def test_fewshot_selection_equals_the_public_code(key, sizes):
    items, base = items_of(sizes), DatasetBase()
    for seed in FEWSHOT["seeds"]:
        for shots in FEWSHOT["shots"]:
            expected = FEWSHOT[key][f"seed{seed}_shots{shots}"]
            set_random_seed(seed)
            assert indices(base.generate_fewshot_dataset(items, num_shots=shots)) == expected
            own = base.generate_fewshot_dataset(items, num_shots=shots, rng=random.Random(seed))
            assert indices(own) == expected


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    shots=st.integers(1, 8),
    seed=st.integers(0, 9),
)
def test_fewshot_never_repeats_and_takes_small_classes_whole(sizes, shots, seed):
    base, items = DatasetBase(), items_of(sizes)
    chosen = base.generate_fewshot_dataset(items, num_shots=shots, rng=random.Random(seed))
    assert len(set(indices(chosen))) == len(chosen)
    counts = {label: len(found) for label, found in base.split_dataset_by_label(chosen).items()}
    assert counts == {label: min(size, shots) for label, size in enumerate(sizes)}
    filled = base.generate_fewshot_dataset(items, num_shots=shots, repeat=True)
    assert len(filled) == shots * len(sizes)


def test_fewshot_off_and_several_sources():
    base, items = DatasetBase(), items_of([3, 3])
    assert base.generate_fewshot_dataset(items) is items
    assert base.generate_fewshot_dataset(items, items, num_shots=0) == (items, items)
    both = base.generate_fewshot_dataset(items, items, num_shots=1, rng=random.Random(0))
    assert [len(part) for part in both] == [2, 2]


def test_training_set_is_listed_only_when_read():
    listed = []

    def list_images():
        listed.append(1)
        return items_of([2, 2])

    data = DatasetBase(train_x=list_images, classnames=["ant", "bee"])
    assert (data.num_classes, data.classnames) == (2, ["ant", "bee"])
    assert data.lab2cname == {0: "ant", 1: "bee"} and not listed
    assert len(data.train_x) == 4 and data.train_x is data.train_x and listed == [1]


def test_classes_from_training_images_as_upstream():
    items = [Datum("a", 2, classname="cat"), Datum("b", 0, classname="ant")]
    data = DatasetBase(train_x=items)
    assert (data.num_classes, data.classnames) == (3, ["ant", "cat"])
    assert DatasetBase(train_x=lambda: items).lab2cname == {0: "ant", 2: "cat"}
    with pytest.raises(InputError, match="empty"):
        DatasetBase(train_x=[]).num_classes  # noqa: B018


def test_a_path_is_text_and_items_can_be_sent_to_workers():
    with pytest.raises(TypeError):
        Datum(impath=Path("x"))
    datum = Datum("a.png", 3, 1, "ant")
    assert pickle.loads(pickle.dumps(datum)) == datum


class UpstreamsDatum:
    """The state of upstream's class, which CoOp's data sets pickle into the data folders."""

    __module__, __qualname__ = base_dataset.__name__, "Datum"

    def __init__(self, impath="", label=0, domain=0, classname=""):
        self._impath, self._label, self._domain, self._classname = impath, label, domain, classname


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_pickled_images_are_upstreams_both_ways(monkeypatch, protocol):
    values = ("a.png", 3, 1, "ant")
    ours = pickle.dumps(Datum(*values), protocol)
    with monkeypatch.context() as there:
        there.setattr(base_dataset, "Datum", UpstreamsDatum)
        theirs = pickle.dumps(UpstreamsDatum(*values), protocol)
        assert vars(pickle.loads(ours)) == vars(UpstreamsDatum(*values))
    assert pickle.loads(theirs) == Datum(*values) == pickle.loads(ours)


def test_protected_attributes_of_an_image_may_be_written_as_upstreams():
    datum = Datum("a.png", 3, 1, "ant")
    same = Datum(impath="a.png", label=3, domain=1, classname="ant")
    kept = {datum}
    assert datum == same and same in kept and repr(datum) == "Datum('a.png', 3, 1, 'ant')"
    datum._label += 5
    datum._domain = 2
    assert (datum.label, datum.domain) == (8, 2) and datum != same and datum in kept
    for name in ("impath", "label", "domain", "classname"):
        with pytest.raises(AttributeError):
            setattr(datum, name, 1)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    "name", ["train_x", "train_u", "val", "test", "lab2cname", "classnames", "num_classes"]
)
def test_protected_attributes_of_a_dataset_are_upstreams(name, listed):
    items = items_of([2, 2])
    data = DatasetBase(items if listed else lambda: items, items, items, items)
    assert getattr(data, f"_{name}") is getattr(data, name) is not None
    new = object()
    setattr(data, f"_{name}", new)
    assert getattr(data, name) is new
    with pytest.raises(AttributeError):
        setattr(data, name, new)


def test_labels_written_later_leave_the_classes_as_upstream():
    items = [Datum("a", 0, classname="ant"), Datum("b", 1, classname="bee")]
    data = DatasetBase(train_x=items)
    for item in data._train_x:
        item._label += 5
    assert (data._num_classes, data._classnames) == (2, ["ant", "bee"])
    assert data._lab2cname == {0: "ant", 1: "bee"} and data.get_num_classes(items) == 7


def clip_input(**keys):
    cfg = get_cfg_default()
    settings = {
        "SIZE": (64, 64),
        "INTERPOLATION": "bicubic",
        "PIXEL_MEAN": [0.48145466, 0.4578275, 0.40821073],
        "PIXEL_STD": [0.26862954, 0.26130258, 0.27577711],
        "TRANSFORMS": ("random_resized_crop", "random_flip", "normalize"),
    }
    for name, value in {**settings, **keys}.items():
        cfg.INPUT[name] = value
    return cfg


@pytest.mark.parametrize("i", range(3))
def test_transforms_equal_the_public_code_bit_for_bit(i):
    golden = np.load(GOLDEN / "preprocess.npz")
    image = Image.fromarray(golden[f"image_{i}"])
    test = build_transform(clip_input(), is_train=False)(image)
    assert np.array_equal(test.numpy(), golden[f"test_{i}"])
    train = build_transform(clip_input(), is_train=True)
    torch.manual_seed(i)
    assert np.array_equal(train(image).numpy(), golden[f"train_{i}"])


@pytest.mark.parametrize("i", [3, 4])
def test_evaluation_transform_equals_clipns_bit_for_bit(i):
    """The golden holds its pixels, before they are normalised."""
    golden = np.load(GOLDEN / "preprocess.npz")
    pixels = torch.from_numpy(golden[f"clipn_pixels_{i}"])
    cfg = clip_input(SIZE=pixels.shape[1:])
    test = build_transform(cfg, is_train=False)(Image.fromarray(golden[f"clipn_image_{i}"]))
    mean, std = cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD
    assert torch.equal(test, transforms.Normalize(mean, std)(pixels.float() / 255))


@pytest.mark.parametrize("choice", AVAI_CHOICES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_every_transform_gives_the_size_asked_for(choice, interpolation):
    cfg = clip_input(SIZE=(24, 32), INTERPOLATION=interpolation)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))
    for is_train in (True, False):
        assert build_transform(cfg, is_train, choices=[choice])(image).shape == (3, 24, 32)


def test_random_translation_crops_half_of_the_images_from_larger_ones():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))
    cfg = clip_input(SIZE=(24, 32), TRANSFORMS=("random_translation",))
    moved = build_transform(cfg, is_train=True)
    plain = build_transform(clip_input(SIZE=(24, 32), TRANSFORMS=()), is_train=True)(image)
    small = transforms.ToPILImage()(plain)
    larger = transforms.ToTensor()(transforms.Resize([27, 36])(small))
    places = [(y, x) for y in range(4) for x in range(5)]
    crops = {larger[:, y : y + 24, x : x + 32].numpy().tobytes() for y, x in places}
    torch.manual_seed(0)
    found = [moved(image).numpy().tobytes() for _ in range(60)]
    unmoved = plain.numpy().tobytes()
    assert 15 < found.count(unmoved) < 45 and set(found) <= crops | {unmoved}


def test_augmentations_are_applied_in_fas_order():
    """Whatever order they are named in; both flips and a rotation before the colours."""
    names = sorted({*AVAI_CHOICES} - {"random_translation"})
    found = [
        type(step).__name__ for step in build_transform(clip_input(TRANSFORMS=names)).transforms
    ]
    assert found == [
        "RandomResizedCrop",
        "RandomHorizontalFlip",
        "RandomVerticalFlip",
        "RandomRotation",
        "ColorJitter",
        "RandomGrayscale",
        "ToTensor",
        "Normalize",
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_smaller_last_batch_is_kept_if_asked(workers):
    cfg = get_cfg_default()
    cfg.DATALOADER.NUM_WORKERS = workers
    own = {"data_source": items_of([10]), "batch_size": 4, "dataset_wrapper": IndexOnly}
    assert len(build_data_loader(cfg, **own)) == 2
    loader = build_data_loader(cfg, **own, drop_last=False)
    assert len(loader) == 3
    if not workers:
        assert [len(batch) for batch in loader] == [4, 4, 2]


def test_unknown_transform_and_interpolation():
    with pytest.raises(InputError, match="Did you mean 'random_flip'"):
        build_transform(clip_input(TRANSFORMS=("random_flp",)))
    with pytest.raises(InputError, match="Did you mean 'bicubic'"):
        build_transform(clip_input(INTERPOLATION="cubic"))


class IndexOnly(torch.utils.data.Dataset):
    """A wrapper as users pass it: here an item is its own index."""

    def __init__(self, cfg, data_source, transform=None, is_train=False):
        self.data_source, self.is_train = data_source, is_train

    def __len__(self):
        return len(self.data_source)

    def __getitem__(self, idx):
        return idx


@pytest.mark.parametrize("key", FEWSHOT["loader"])
def test_loader_order_equals_the_public_code(key):
    seed, n = (int(part.removeprefix("seed").removeprefix("n")) for part in key.split("_"))
    cfg = get_cfg_default()
    cfg.DATALOADER.NUM_WORKERS, cfg.SEED = 0, seed
    loader = build_data_loader(
        cfg, "RandomSampler", items_of([n]), batch_size=32, dataset_wrapper=IndexOnly
    )
    torch.rand(1)  # nothing else that draws, and no later epoch, makes a difference
    assert [[b.tolist() for b in loader] for _ in range(2)] == FEWSHOT["loader"][key]
    loader.set_epoch(1)
    assert [b.tolist() for b in loader] == FEWSHOT["loader"][key][1]


class Noise(IndexOnly):
    """An item is what the three generators give."""

    def __getitem__(self, idx):
        return torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()])


@pytest.mark.parametrize("workers, size", [(0, 2), (0, 3), (2, 2)])
def test_what_an_image_draws_depends_on_seed_epoch_and_index(workers, size):
    """Not on workers and batches, nor on what else draws, which in turn notices nothing."""
    cfg = get_cfg_default()
    cfg.DATALOADER.NUM_WORKERS = 0
    source = items_of([6])
    plain = build_data_loader(cfg, "SequentialSampler", source, 6, dataset_wrapper=Noise)
    expected = [torch.cat(list(plain)) for _ in range(3)]
    assert torch.unique(torch.cat(expected)).numel() == 3 * 6 * 3
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = build_data_loader(cfg, "SequentialSampler", source, size, dataset_wrapper=Noise)
    set_random_seed(3)
    state = get_rng_state()
    for epoch in (2, 0, 1):
        loader.set_epoch(epoch)
        assert torch.equal(torch.cat(list(loader)), expected[epoch])
    assert str(state) == str(get_rng_state())
    cfg.SEED = 7
    other = build_data_loader(cfg, "SequentialSampler", source, size, dataset_wrapper=Noise)
    assert not torch.isin(torch.cat(list(other)), torch.cat(expected)).any()


def test_epochs_repeat_the_augmentations_of_as_many_views_and_not_the_order():
    cfg = get_cfg_default()
    cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.VIEWS = 0, 2
    drawn = build_data_loader(cfg, "SequentialSampler", items_of([6]), 2, dataset_wrapper=Noise)
    first, second, third, fourth = (torch.cat(list(drawn)) for _ in range(4))
    assert torch.equal(first, third) and torch.equal(second, fourth)
    assert not torch.isin(first, second).any()
    order = build_data_loader(cfg, "RandomSampler", items_of([40]), 40, dataset_wrapper=IndexOnly)
    assert len({tuple(next(iter(order)).tolist()) for _ in range(4)}) == 4


def test_empty_set_unknown_sampler_and_dropped_rest():
    cfg = get_cfg_default()
    cfg.DATALOADER.NUM_WORKERS = 0
    with pytest.raises(InputError, match=r"training set .* is empty"):
        build_data_loader(cfg, data_source=[])
    with pytest.raises(InputError, match="Did you mean 'RandomSampler'"):
        build_data_loader(cfg, "RandomSample", items_of([2]))
    for is_train, n, batches in ((True, 9, 2), (False, 9, 3), (True, 3, 1)):
        loader = build_data_loader(
            cfg,
            data_source=items_of([n]),
            batch_size=4,
            is_train=is_train,
            dataset_wrapper=IndexOnly,
        )
        assert len(loader) == batches and loader.dataset.is_train == is_train


def test_wrapper_items(make_cfg):
    cfg = make_cfg()
    data = build_dataset(cfg).train_x
    tfm = build_transform(cfg, is_train=True)
    item = DatasetWrapper(cfg, data, transform=[tfm, tfm], is_train=True)[7]
    assert set(item) == {"label", "domain", "impath", "index", "img", "img2"}
    assert (item["label"], item["index"]) == (1, 7)
    assert item["img"].shape == item["img2"].shape == (3, 16, 16)
    assert set(DatasetWrapper(cfg, data)[0]) == {"label", "domain", "impath", "index"}


def jpeg(path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path, quality=95)
    return path.read_bytes()


def test_truncated_and_foreign_images_are_noticed(tmp_path):
    whole = jpeg(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").mode == "RGB"
    for name, content in (
        ("cut.jpg", whole[: len(whole) * 2 // 3]),
        ("text.jpg", b"no image"),
        ("empty.jpg", b""),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadImageError, match=name):
            read_image(tmp_path / name)
    with pytest.raises(BadImageError, match=r"missing.jpg"):
        read_image(tmp_path / "missing.jpg")


@pytest.mark.parametrize(
    "name, mode",
    [("a.png", "I;16"), ("a.tif", "I;16"), ("a.tif", "I;16B"), ("a.tif", "I"), ("a.pgm", "I")],
)
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path, name, mode):
    kind = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    values = np.array([[0, 255, 256, 1000], [32768, 40000, 65279, 65535]]).astype(kind)
    Image.frombytes(mode, (4, 2), values.tobytes()).save(tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert image.mode == mode
    pixels = np.asarray(read_image(tmp_path / name))
    expected = [[0, 0, 1, 3], [128, 156, 254, 255]]
    assert pixels.shape == (2, 4, 3) and (pixels == np.array(expected)[..., None]).all()


@pytest.mark.parametrize("values", [[[0, 7, 128, 255]], [[-3, 0, 1, 90]]])
def test_integers_that_fit_8_bits_are_taken_as_they_are(tmp_path, values):
    Image.fromarray(np.array(values, np.int32)).save(tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as image:
        assert image.mode == "I"
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.tif")), expected)


def test_pixels_of_unknown_range_and_decompression_bombs_are_named(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(BadImageError, match=r"float\.tif .*mode F"):
        read_image(tmp_path / "float.tif")
    jpeg(tmp_path / "huge.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BadImageError, match=r"huge\.jpg .*exceeds limit"):
        read_image(tmp_path / "huge.jpg")


def test_exif_orientation_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (6, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (6, 4)


@pytest.mark.parametrize(
    "fault",
    [
        *(RuntimeError, IndexError, KeyError, NotImplementedError, ZeroDivisionError, TypeError),
        *(AttributeError, RecursionError, struct.error, zipfile.BadZipFile, OSError, ValueError),
    ],
)
def test_whatever_a_decoder_raises_the_image_is_unreadable(tmp_path, monkeypatch, fault):
    jpeg(tmp_path / "a.jpg")

    def load(image):
        raise fault("plane 1 failed")

    monkeypatch.setattr(JpegImageFile, "load", load)
    with pytest.raises(BadImageError, match=r"a\.jpg \(.*plane 1 failed"):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(BadImageError, match=r"in memory \(.*plane 1 failed"):
        read_image(io.BytesIO((tmp_path / "a.jpg").read_bytes()))


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_what_is_no_fault_of_the_image_is_raised(tmp_path, monkeypatch, stop):
    jpeg(tmp_path / "a.jpg")
    monkeypatch.setattr(JpegImageFile, "load", lambda image: (_ for _ in ()).throw(stop))
    with pytest.raises(stop):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_an_image_without_pixels_is_unreadable(size):
    with pytest.raises(BadImageError, match=rf"it is {size[0]} x {size[1]} pixels, and an image"):
        read_image(Image.new("RGB", size))


def test_bad_images_in_a_batch(make_cfg, tmp_path):
    cfg = make_cfg("DATALOADER.BAD_IMAGES", "skip")
    good = build_dataset(cfg).train_x[:2]
    source = [good[0], Datum(str(tmp_path / "none.png")), good[1], Datum(str(tmp_path / "no.png"))]
    loader = build_data_loader(
        cfg,
        data_source=source,
        batch_size=2,
        is_train=False,
        tfm=build_transform(cfg, is_train=False),
    )
    first = next(iter(loader))
    assert first["img"].shape[0] == 1 and first["bad"] == [source[1].impath]
    assert collate_readable([{"bad": "x"}, {"bad": "y"}]) == {"bad": ["x", "y"]}
    with pytest.raises(InputError, match="Did you mean 'skip'"):
        build_data_loader(make_cfg("DATALOADER.BAD_IMAGES", "skp"), data_source=source)


def test_manager_table_and_loaders(make_cfg, caplog):
    cfg = make_cfg("DATALOADER.TRAIN_X.BATCH_SIZE", 4)
    manager = DataManager(cfg, custom_tfm_test=build_transform(cfg, is_train=False))
    assert (manager.num_classes, manager.lab2cname[1], manager.num_source_domains) == (3, "bee", 0)
    assert (manager._num_classes, manager._lab2cname) == (3, manager.lab2cname)
    table = next(m for m in caplog.messages if m.startswith("---"))
    assert [line.split() for line in table.splitlines()[1:-1]] == [
        ["Dataset", "TinyFolders"],
        ["#", "classes", "3"],
        ["#", "train_x", "18"],
        ["#", "val", "9"],
        ["#", "test", "9"],
    ]
    assert len(manager.train_loader_x) == 4 and manager.train_loader_u is None
    assert next(iter(manager.test_loader))["img"].shape == (4, 3, 16, 16)
    assert manager.val_loader is not None


def test_transforms_of_ones_own_take_the_place_of_the_configs(make_cfg):
    ones, twos = (lambda image, n=n: torch.full((1,), n) for n in (1, 2))
    manager = DataManager(make_cfg(), custom_tfm_train=[ones, twos], custom_tfm_test=twos)
    batch = next(iter(manager.train_loader_x))
    assert (batch["img"] == 1).all() and (batch["img2"] == 2).all()
    for loader in (manager.val_loader, manager.test_loader):
        assert (next(iter(loader))["img"] == 2).all()


@pytest.mark.parametrize("same, size", [(True, 5), (False, 3)])
def test_unlabelled_images_have_a_loader_of_their_settings(make_cfg, same, size):
    settings = ("DATALOADER.TRAIN_U.BATCH_SIZE", 3, "DATALOADER.TRAIN_U.SAME_AS_X", same)
    manager = DataManager(make_cfg(*settings), dataset_wrapper=IndexOnly)
    manager.dataset._train_u = items_of([9])
    loader = manager.train_loader_u
    assert next(iter(loader)).shape == (size,) and loader.dataset.is_train


def test_test_images_come_in_the_order_asked_for(make_cfg):
    drawn, listed = (
        torch.cat([b["index"] for b in DataManager(make_cfg(*sampler)).test_loader]).tolist()
        for sampler in (("DATALOADER.TEST.SAMPLER", "RandomSampler"), ())
    )
    assert listed == list(range(9)) and drawn != listed and sorted(drawn) == listed


class OwnManager(DataManager):
    """Sets upstream's attributes itself, as MVLPT's does."""

    def __init__(self):
        self._num_classes, self._num_source_domains, self._lab2cname = 7, 2, {0: "ant"}
        self.train_loader_x = self.train_loader_u = self.val_loader = self.test_loader = ()


def test_a_manager_of_ones_own_sets_upstreams_attributes():
    manager = OwnManager()
    assert (manager.num_classes, manager.num_source_domains) == (7, 2)
    assert manager.lab2cname == {0: "ant"} and manager.test_loader == ()
