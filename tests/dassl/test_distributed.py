"""Two processes with gloo against one."""

import logging
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dassl import distributed
from dassl.data.samplers import RankBatches
from dassl.distributed import rank_slice
from dassl.engine import TrainerBase, build_trainer
from dassl.utils import InputError, setup_logger
from tests.dassl import two_ranks, upstream_style_trainer  # noqa: F401  (registers a trainer)

pytestmark = pytest.mark.slow  # two processes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What two_ranks.py found: (in one process, in rank 0 of 2, in rank 1 of 2)."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    two_ranks.main(str(one))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, two_ranks.__file__, str(two)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    files = [*one.iterdir(), *sorted(two.iterdir())]
    found = [torch.load(path, weights_only=True) for path in files]
    assert [part["world"] for part in found] == [(0, 1), (0, 2), (1, 2)]
    return found


def test_gathered_rows_and_their_gradient(results):
    (rows, grad), *ranks = (part["gather"] for part in results)
    for every, _ in ranks:
        assert torch.equal(every, rows)
    torch.testing.assert_close(torch.cat([own for _, own in ranks]), grad, rtol=1e-12, atol=0)


def test_two_ranks_take_the_step_of_one(results):
    (loss, parameters), *ranks = (part["step"] for part in results)
    for other_loss, others in ranks:
        torch.testing.assert_close(other_loss, loss, rtol=1e-12, atol=0)
        for own, other in zip(parameters, others, strict=True):
            torch.testing.assert_close(other, own, rtol=1e-9, atol=1e-12)


def test_the_step_test_can_fail(results):
    _, *ranks = (part["step_without_mean"][1] for part in results)
    assert any((a - b).abs().max() > 1e-6 for a, b in zip(*ranks, strict=True))


def test_means_weigh_each_value_alike(results):
    for value, grad, nothing in (part["mean"] for part in results):
        assert value == 5.0 and grad == 2.5 and nothing == 0


def test_a_parameter_that_one_rank_did_not_reach(results):
    for part in results:
        assert part["no_grad_on_one"].tolist() == [1.0, 2.0]


def test_objects_travel_in_rank_order(results):
    assert [part["objects"] for part in results] == [([0], 7, 1), ([0, 1], 7, 3), ([0, 1], 7, 3)]


def test_ranks_see_the_global_batches_of_one_process(results):
    (whole, length), (first, n1), (second, n2) = (part["batches"] for part in results)
    assert length == n1 == n2 == 3
    for epoch in range(2):
        joined = [a + b for a, b in zip(first[epoch], second[epoch], strict=True)]
        assert joined == whole[epoch] and sorted(chain(*joined)) == list(range(11))
    assert whole[0] != whole[1]


def test_all_start_from_rank_0s_model(results):
    (first, kept), (second, kept_too) = (part["broadcast"] for part in results[1:])
    assert len(first) == 7 and all(map(torch.equal, first, second))
    assert kept and kept_too


def test_all_ranks_skip_the_step_in_which_one_overflows(results):
    for part in results[1:]:
        (first, scale), (second, halved), (third, _) = part["overflow"]
        assert torch.equal(first, second) and not torch.equal(second, third)
        assert (scale, halved) == (8.0, 4.0)
    assert torch.equal(results[1]["overflow"][2][0], results[2]["overflow"][2][0])


def test_ranks_share_the_test_out(results):
    """Each image once, in the batches of one process, and the result of all on each."""
    (accuracy, pairs, seen), *ranks = (part["test"] for part in results)
    assert seen == [3, 3, 3, 2] and [rank[2] for rank in ranks] == [[3, 3], [3, 2]]
    for rank in ranks:
        assert rank[:2] == (accuracy, pairs) and len(pairs) == 11


def test_ranks_save_a_best_model_together(results):
    """By rank 0's result: rank 1 alone would have saved, and have waited for ever."""
    assert [part["best"] for part in results[1:]] == [[], []]


@pytest.mark.parametrize(
    "error", [ValueError("Tensors must be contiguous"), RuntimeError("reset by peer"), OSError()]
)
def test_whatever_a_collective_raises_is_explained(monkeypatch, error):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    for name in ("broadcast", "all_reduce", "barrier", "all_gather_object"):
        monkeypatch.setattr(torch.distributed, name, broken)
    parameter = torch.nn.Parameter(torch.ones(1))
    for call in (
        lambda: distributed.broadcast_state(torch.nn.Linear(1, 1)),
        lambda: distributed.gather_with_grad(torch.ones(2)),
        lambda: distributed.mean_gradients([parameter]),
        distributed.barrier,
        lambda: distributed.from_all(1),
    ):
        with pytest.raises(InputError, match=f"rank 1 of 2 .*{type(error).__name__}"):
            call()


def test_ranks_draw_other_numbers_that_rank_0s_state_decides(results):
    one, first, second = (part["seeds"] for part in results)
    assert one == first and second[0] == second[1]
    assert all(a != b for a, b in zip(first[0], second[0], strict=True))


def test_ranks_share_the_pairs_of_shards_out(results):
    assert [part["pairs"][0] for part in results] == [13, 13, 13]  # each counted some of the shards
    (_, whole), (_, first), (_, second) = (part["pairs"] for part in results)
    for epoch in range(2):
        assert [len(batch) for batch in whole[epoch]] == [4, 4, 4]
        assert [len(batch) for batch in first[epoch] + second[epoch]] == [2] * 6
        seen = list(chain(*first[epoch], *second[epoch]))
        assert len(set(seen)) == len(seen) == 12


@pytest.mark.parametrize("csc, position, chunk", two_ranks.PROMPTS)
def test_ranks_share_the_class_prompts_out(results, csc, position, chunk):
    """Another part of the rows on each, and the loss and gradient of all on both."""
    one, *ranks = (part["prompts"][f"{csc} {position} {chunk}"] for part in results)
    rows = [rank["rows"] for rank in ranks]
    assert min(rows) > 0 and abs(rows[0] - rows[1]) <= 1 and sum(rows) == one["rows"]
    for rank in ranks:
        for key in ("text", "loss", "gradient"):
            torch.testing.assert_close(rank[key], one[key], rtol=1e-5, atol=1e-7)
    # Where no gradient is wanted rank 0 encodes alone, without the other.
    torch.testing.assert_close(ranks[0]["alone"], one["alone"], rtol=1e-12, atol=0)


def test_clipns_losses_and_gradients_on_two_ranks_are_the_public_codes(results, golden):
    """There gloo's two ranks gathered with gradients, too."""
    arrays, ranks = golden("clipn_loss.npz"), [part["clipn"] for part in results[1:]]
    for losses, _ in ranks:
        assert losses.tolist() == pytest.approx(arrays["ddp/N4/losses"][:3].tolist(), rel=1e-12)
    for i, key in enumerate(two_ranks.FEATURES):
        expected = torch.from_numpy(arrays[f"ddp/N4/ranks_g_{key}"])
        found = torch.cat([grads[i] for _, grads in ranks])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_ranks_with_unequal_shares_log_the_accuracy_of_the_batch(results):
    assert [part["accuracy"].item() for part in results] == [pytest.approx(100 / 3)] * 3


def test_ranks_with_unequal_shares_keep_the_prompts_of_one_process(results):
    whole, first, second = (part["kept"] for part in results)
    for count, expected in whole.items():
        assert expected.shape == (count, 2)
        assert torch.cat([first[count], second[count]]).equal(expected)


def test_a_batch_that_ranks_cannot_share_is_refused(results):
    for part in results[1:]:
        assert "BATCH_SIZE is 5, which 2 processes cannot share equally" in part["share"]


def test_one_rank_tells_why(results):
    assert [part["first"] for part in results].count(True) == 2  # the single one, one of two


@given(st.lists(st.integers(), max_size=40), st.integers(1, 9))
def test_slices_partition_a_batch(batch, ranks):
    parts = [rank_slice(batch, rank, ranks) for rank in range(ranks)]
    assert list(chain(*parts)) == batch
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 6), st.booleans())
def test_ranks_partition_the_batches_of_one(count, ranks, share, drop_last):
    """Ranks simulated one after the other, over a sampler without chance."""
    batch_size = ranks * share
    last = count % batch_size
    if not drop_last and 0 < last < ranks:
        return
    plain = torch.utils.data.BatchSampler(range(count), batch_size, drop_last)
    parts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "world_size", lambda: ranks)
        patch.setattr(distributed, "from_main", lambda function: function())
        for rank in range(ranks):
            patch.setattr(distributed, "rank", lambda rank=rank: rank)
            batches = RankBatches(range(count), batch_size, drop_last)
            parts.append(list(batches))
            assert len(parts[-1]) == len(batches) == len(plain)
    assert [list(chain(*of_ranks)) for of_ranks in zip(*parts, strict=True)] == list(plain)


def test_a_last_batch_smaller_than_the_ranks_is_refused(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 4)
    with pytest.raises(InputError, match="4 processes cannot share a batch of 3 images"):
        RankBatches(range(11), 8, drop_last=False)


@pytest.mark.parametrize("ranks, size", [(1, 0), (2, 0), (2, 5), (4, 6)])
def test_batches_that_ranks_cannot_share_are_refused(monkeypatch, ranks, size):
    monkeypatch.setattr(distributed, "world_size", lambda: ranks)
    with pytest.raises(InputError, match=rf"BATCH_SIZE is {size}, which {ranks} processes cannot"):
        RankBatches(range(12), size, drop_last=True)


def test_one_process_needs_no_group():
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.is_main() and distributed.first_to_fail()
    assert distributed.name_of_rank() == ""
    distributed.barrier()
    distributed.shutdown()


def test_more_processes_than_gpus_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(InputError, match=r"Process 2 of this machine has no GPU.*NPROC=1"):
        distributed.local_device()
    assert distributed.local_device(use_cuda=False) == torch.device("cpu")


def test_other_ranks_log_warnings_only_and_write_no_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    try:
        setup_logger(tmp_path)
        logging.getLogger("x").info("all is well")
        logging.getLogger("x").warning("look here")
    finally:
        monkeypatch.undo()
        setup_logger()
    assert capsys.readouterr().out == "[rank 1 of 2] look here\n"
    assert not list(tmp_path.iterdir())


def test_ranks_that_see_other_checkpoints_are_refused(tmp_path, monkeypatch):
    trainer = TrainerBase()
    trainer.register_model("net", torch.nn.Linear(2, 2))
    trainer.save_model(0, tmp_path)
    monkeypatch.setattr(distributed, "from_all", lambda value: [value, 0])
    with pytest.raises(InputError, match=r"different epochs in .*: \[1, 0\].*all machines share"):
        trainer.resume_model_if_exist(tmp_path)


def test_a_rank_does_not_stand_by_without_images(make_cfg, monkeypatch):
    trainer = build_trainer(make_cfg())
    trainer.__dict__["train_loader_x"] = [{"bad": ["x.png"]}]
    monkeypatch.setattr(distributed, "seed_other_ranks", lambda: None)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(InputError, match="rank 0 of 2 can read no image of its share of a batch"):
        trainer.run_epoch()


def test_a_loader_is_told_the_epoch(make_cfg):
    class Told(torch.utils.data.DataLoader):
        epochs: ClassVar = []

        def set_epoch(self, epoch):
            self.epochs.append(epoch)

    trainer = build_trainer(make_cfg())
    trainer.__dict__["train_loader_x"] = Told(trainer.dm.train_loader_x.dataset, batch_size=9)
    trainer.train()
    assert Told.epochs == [0, 1, 2]


def test_every_rank_draws_numbers_of_its_own(monkeypatch):
    """Also the ranks above 1; rank 0's are those of a single process."""
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    monkeypatch.setattr(distributed, "from_main", lambda function: function())
    drawn, state = [], torch.get_rng_state()
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        torch.set_rng_state(state)
        distributed.seed_other_ranks()
        drawn.append(torch.rand(()).item())
    torch.set_rng_state(state)
    assert len(set(drawn)) == 3 and drawn[0] == torch.rand(()).item()
