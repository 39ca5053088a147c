"""Workers stay and their number changes nothing; batches sent ahead are the loader's own."""

import random
from contextlib import nullcontext
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tests.dassl.upstream_style_trainer  # noqa: F401  (registers the dataset)
from dassl.data import ahead, build_data_loader
from dassl.data.ahead import batches_for, images_of, move_images, one_ahead
from dassl.data.datasets import build_dataset


def draw(_):
    """A transform: what the worker's generators give."""
    return torch.tensor([random.random(), float(torch.rand(())), np.random.rand()])


def loader_of(make_cfg, workers=2):
    cfg = make_cfg("DATALOADER.NUM_WORKERS", workers)
    source = build_dataset(cfg).train_x
    return build_data_loader(cfg, "RandomSampler", source, batch_size=4, tfm=draw)


def epochs_of(loader, count=3):
    return [[(b["index"], b["img"]) for b in loader] for _ in range(count)]


def test_the_number_of_workers_changes_nothing(make_cfg):
    expected = epochs_of(loader_of(make_cfg, 0))
    for workers in (1, 2):
        found = epochs_of(loader_of(make_cfg, workers))
        for epoch, other in zip(found, expected, strict=True):
            for pair, other_pair in zip(epoch, other, strict=True):
                assert all(map(torch.equal, pair, other_pair))
    drawn = torch.cat([drawn for epoch in expected for _, drawn in epoch])
    assert len(drawn.unique(dim=0)) == 48


def test_workers_are_the_same_processes_in_all_epochs(make_cfg):
    loader = loader_of(make_cfg)
    pids = []
    for _ in range(3):
        iterator = iter(loader)
        pids.append([worker.pid for worker in iterator._workers])
        list(iterator)
    assert pids[0] == pids[1] == pids[2]


def test_an_epoch_is_the_same_in_a_new_loader_and_after_one_that_was_broken_off(make_cfg):
    expected = epochs_of(loader_of(make_cfg))
    loader = loader_of(make_cfg)
    next(iter(loader))
    for epoch in (2, 1):
        loader.set_epoch(epoch)
        (found,) = epochs_of(loader, 1)
        for pair, other in zip(found, expected[epoch], strict=True):
            assert all(map(torch.equal, pair, other))


class Broken(Exception):
    pass


@given(st.integers(0, 6), st.booleans())
def test_batches_sent_ahead_keep_order_content_and_errors(count, broken):
    log, found = [], []

    def source():
        yield from range(count)
        if broken:
            raise Broken

    def send(batch):
        log.append(("send", batch))
        return batch * 10

    def receive(batch):
        log.append(("receive", batch // 10))
        return batch + 1

    def read():
        for batch in one_ahead(source(), send, receive):
            log.append(("step", (batch - 1) // 10))
            found.append(batch)

    with pytest.raises(Broken) if broken else nullcontext():
        read()
    assert found == [10 * n + 1 for n in range(count)]
    for n in range(count):  # waited for before the next is sent, which is before this one's step
        at = log.index(("step", n))
        before = [("send", n + 1)] if n + 1 < count else []
        assert log[at - len(before) - 1 : at] == [("receive", n), *before]


def test_every_epoch_copies_on_the_same_stream(monkeypatch):
    """PyTorch's allocator keeps the freed memory of each stream for that stream alone."""
    made, current = [], MagicMock()
    stream = lambda device: made.append(device) or MagicMock()  # noqa: E731
    for name, stand_in in {
        "Stream": stream,
        "stream": lambda _: nullcontext(),
        "current_stream": lambda _: current,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(ahead, "move_images", lambda batch, device: batch)
    ahead.copy_stream.cache_clear()
    batches = type("Loader", (list,), {"num_workers": 2})([{"label": 1}, {"label": 2}])
    for _ in range(3):
        assert list(batches_for(batches, torch.device("cuda"))) == batches
    assert made == [torch.device("cuda")]
    ahead.copy_stream.cache_clear()


def test_images_move_and_the_rest_stays():
    image = torch.zeros(2, 3, 4, 4)
    batch = {"img": image, "img2": image, "label": torch.tensor([1, 2]), "bad": ["x"]}
    moved = move_images(batch, torch.device("meta"))
    assert moved["label"] is batch["label"] and moved["bad"] == ["x"]
    assert [found.device.type for found in images_of(moved).values()] == ["meta"] * 2
    assert move_images({"bad": ["x"]}, torch.device("meta")) == {"bad": ["x"]}
    assert move_images([image], torch.device("meta")) == [image] and images_of([image]) == {}


@pytest.mark.slow
@pytest.mark.parametrize("device, workers", [("cpu", 2), ("cpu", 0), ("cuda", 0)])
def test_where_nothing_is_gained_the_loader_is_read_plainly(make_cfg, device, workers):
    plain = [batch["img"] for batch in loader_of(make_cfg, workers)]
    ahead = batches_for(loader_of(make_cfg, workers), torch.device(device))
    assert all(torch.equal(a["img"], b) for a, b in zip(ahead, plain, strict=True))
