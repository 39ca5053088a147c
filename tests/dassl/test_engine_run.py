"""A trainer written for upstream Dassl, end to end on the CPU."""

import json
import logging
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import tests.dassl.upstream_style_trainer  # noqa: F401  (registers the trainer)
from dassl import distributed
from dassl.engine import TRAINER_REGISTRY, TrainerBase, build_trainer
from dassl.utils import (
    InputError,
    NonFiniteLossError,
    get_rng_state,
    load_checkpoint,
    set_random_seed,
    set_rng_state,
)

CHECKPOINT_KEYS = {"state_dict", "epoch", "optimizer", "scheduler", "val_result", "rng", "meta"}
CHECKPOINT_KEYS |= {"optim_settings"}


class StoppedHere(Exception):
    pass


def run(cfg, stop_after=None):
    """Train as an entry point would; `stop_after` epochs the process "dies"."""
    set_random_seed(cfg.SEED)
    trainer = build_trainer(cfg)
    if stop_after is not None:
        after_epoch = trainer.after_epoch

        def dying():
            after_epoch()
            if trainer.epoch + 1 == stop_after:
                raise StoppedHere

        trainer.after_epoch = dying
        with pytest.raises(StoppedHere):
            trainer.train()
    else:
        trainer.train()
    return trainer


def test_settings_that_a_trainer_reads_but_does_not_declare_are_named(make_cfg):
    cfg = make_cfg().clone()
    for lacking, group in (("PREC", cfg.TRAINER.UPSTREAMSTYLE), ("UPSTREAMSTYLE", cfg.TRAINER)):
        group.pop(lacking)
        with pytest.raises(InputError, match=f"reads the setting {lacking}, .*CONFIG_KEY"):
            build_trainer(cfg)


def records(cfg):
    return [json.loads(x) for x in Path(cfg.OUTPUT_DIR, "metrics.jsonl").read_text().splitlines()]


def test_output_layout_checkpoint_and_console(make_cfg, caplog):
    cfg = make_cfg()
    run(cfg)
    out = Path(cfg.OUTPUT_DIR)
    assert (out / "prompt_learner/checkpoint").read_text() == "model.pth.tar-3\n"
    assert sorted(p.name for p in (out / "prompt_learner").iterdir()) == [
        "checkpoint",
        "model.pth.tar-3",
    ]
    state = torch.load(out / "prompt_learner/model.pth.tar-3", weights_only=True)
    assert set(state) == CHECKPOINT_KEYS and state["epoch"] == 3 and state["val_result"] is None
    assert set(state["state_dict"]) == {"ctx", "token_prefix", "token_suffix"}
    lines = [m for m in caplog.messages if m.startswith("epoch [")]
    assert len(lines) == 9  # 18 images, batches of 5, the incomplete one left out; 3 epochs
    assert lines[2].startswith("epoch [1/3] batch [3/3] time ")
    # The rate each step used: upstream printed the next epoch's in the last batch.
    assert [line.split(" lr ")[1].split()[0] for line in lines[2:5]] == [
        "1.0000e-05",
        "5.0000e-02",
        "5.0000e-02",
    ]
    for text in (
        "No checkpoint found, train from scratch",
        "Finish training",
        "Deploy the last-epoch model",
        "Evaluate on the *test* set",
    ):
        assert text in caplog.messages
    assert any(m.startswith("=> result\n* total: 9\n* correct: ") for m in caplog.messages)


def test_metrics_file_has_a_line_a_print_and_one_an_epoch(make_cfg):
    cfg = make_cfg("TRAIN.PRINT_FREQ", 2)
    run(cfg)
    rows = records(cfg)
    assert [(r["epoch"], r.get("batch")) for r in rows] == [
        (1, 2),
        (1, None),
        (2, 2),
        (2, None),
        (3, 2),
        (3, None),
        (3, None),
    ]
    assert {"loss", "acc", "lr", "time", "data", "eta"} <= set(rows[0])
    assert all(0 <= r["data_share"] <= 1 and r["bad_images"] == 0 for r in rows[1:6:2])
    assert set(rows[6]) == {"epoch", "test/accuracy", "test/error_rate", "test/macro_f1"}


def last_file(trainer, epoch):
    return Path(trainer.output_dir, f"prompt_learner/model.pth.tar-{epoch}")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("prec", ["fp32", "amp"])
def test_resumed_run_equals_uninterrupted_one(make_cfg, tmp_path, workers, prec):
    common = (
        "DATALOADER.NUM_WORKERS",
        workers,
        "TRAIN.CHECKPOINT_FREQ",
        1,
        "DATASET.NUM_SHOTS",
        4,
        "TRAINER.UPSTREAMSTYLE.PREC",
        prec,
        "OPTIM.MAX_EPOCH",
        4,
    )
    whole = run(make_cfg(*common, "OUTPUT_DIR", str(tmp_path / "whole")))
    cfg = make_cfg(*common, "OUTPUT_DIR", str(tmp_path / "parts"))
    run(cfg, stop_after=2)
    resumed = run(cfg)
    assert resumed.start_epoch == 2
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    states = [load_checkpoint(last_file(t, 4))["rng"] for t in (whole, resumed)]
    assert torch.equal(states[0]["torch"], states[1]["torch"])
    assert torch.equal(states[0]["python"]["words"], states[1]["python"]["words"])
    losses = [[r.get("loss") for r in records(t.cfg)] for t in (whole, resumed)]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_the_resume_test_can_fail(make_cfg, tmp_path, monkeypatch):
    """Without restored generators the resumed run is another one."""
    monkeypatch.setattr("dassl.engine.models.set_rng_state", lambda state: None)
    common = ("TRAIN.CHECKPOINT_FREQ", 1)
    whole = run(make_cfg(*common, "OUTPUT_DIR", str(tmp_path / "whole")))
    cfg = make_cfg(*common, "OUTPUT_DIR", str(tmp_path / "parts"))
    run(cfg, stop_after=2)
    assert not torch.equal(run(cfg).model.prompt_learner.ctx, whole.model.prompt_learner.ctx)


@pytest.mark.parametrize("freq, saved", [(0, [3]), (1, [1, 2, 3]), (2, [2, 3]), (-1, [3])])
def test_the_last_epoch_is_saved_and_every_few_before(make_cfg, caplog, freq, saved):
    build_trainer(make_cfg("TRAIN.CHECKPOINT_FREQ", freq, "TEST.NO_TEST", True)).train()
    files = [m for m in caplog.messages if m.startswith("Checkpoint saved to")]
    assert [int(m.rpartition("-")[2]) for m in files] == saved


def test_only_the_newest_intermediate_checkpoint_stays(make_cfg):
    cfg = make_cfg("TRAIN.CHECKPOINT_FREQ", 1)
    folder = Path(cfg.OUTPUT_DIR, "prompt_learner")
    run(cfg, stop_after=2)
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint", "model.pth.tar-2"]
    assert (folder / "checkpoint").read_text() == "model.pth.tar-2\n"


@pytest.mark.slow
def test_the_checkpoint_resumed_from_goes_too_unless_it_is_elsewhere(make_cfg, tmp_path):
    def files(cfg):
        return {p.name for p in Path(cfg.OUTPUT_DIR, "prompt_learner").glob("model*")}

    cfg = make_cfg("TRAIN.CHECKPOINT_FREQ", 1)
    run(cfg, stop_after=2)
    other = make_cfg("RESUME", cfg.OUTPUT_DIR, "OUTPUT_DIR", str(tmp_path / "other"))
    run(other)
    assert files(cfg) == {"model.pth.tar-2"} and files(other) == {"model.pth.tar-3"}
    run(cfg)
    assert files(cfg) == {"model.pth.tar-3"}


def test_a_setting_that_the_config_no_longer_has_is_no_new_schedule(make_cfg, caplog):
    cfg = make_cfg()
    run(cfg, stop_after=2)
    path = Path(cfg.OUTPUT_DIR, "prompt_learner/model.pth.tar-2")
    state = load_checkpoint(path)
    state["optim_settings"]["STAGED_LR"] = False
    torch.save(state, path)
    run(cfg)
    assert "New settings of the optimiser" not in caplog.text


@pytest.mark.parametrize("epochs", [3, 5, 8])
def test_a_checkpoint_that_records_no_settings_follows_the_configs_schedule(
    make_cfg, tmp_path, epochs
):
    """From the epoch reached; the same rates as before if the schedule is unchanged."""
    cfg = make_cfg()
    run(cfg, stop_after=2)
    path = Path(cfg.OUTPUT_DIR, "prompt_learner/model.pth.tar-2")
    state = load_checkpoint(path)
    del state["optim_settings"]
    torch.save(state, path)
    common = ("OPTIM.MAX_EPOCH", epochs, "TEST.NO_TEST", True, "OUTPUT_DIR")
    fresh, resumed = make_cfg(*common, str(tmp_path / "fresh")), make_cfg(*common, cfg.OUTPUT_DIR)
    run(fresh), run(resumed)
    expected, found = ({r["epoch"]: r["lr"] for r in records(c) if "lr" in r} for c in (fresh, cfg))
    assert found.keys() == expected.keys() == {*range(1, epochs + 1)}
    assert [found[e] for e in range(3, epochs + 1)] == [expected[e] for e in range(3, epochs + 1)]


@pytest.mark.parametrize("recorded", [True, False])
def test_the_state_of_another_optimiser_is_refused(make_cfg, recorded):
    run(make_cfg(), stop_after=2)
    path = Path(make_cfg().OUTPUT_DIR, "prompt_learner/model.pth.tar-2")
    state = load_checkpoint(path)
    if not recorded:
        del state["optim_settings"]
    torch.save(state, path)
    with pytest.raises(InputError, match=r"another optimiser.*(SGD, OPTIM asks for Adam|is adam)"):
        run(make_cfg("OPTIM.NAME", "adam"))


def test_best_val_keeps_and_deploys_the_best(make_cfg):
    cfg = make_cfg("TEST.FINAL_MODEL", "best_val")
    trainer = run(cfg)
    best = load_checkpoint(Path(cfg.OUTPUT_DIR, "prompt_learner/model-best.pth.tar"))
    assert best["val_result"] == trainer.best_result
    torch.testing.assert_close(best["state_dict"]["ctx"], trainer.model.prompt_learner.ctx.detach())


def test_a_resumed_run_keeps_the_best_of_before(make_cfg):
    cfg = make_cfg("TEST.FINAL_MODEL", "best_val", "TRAIN.CHECKPOINT_FREQ", 1)
    for epochs, accuracy in ((2, 60.0), (3, 40.0)):
        trainer = build_trainer(cfg)
        trainer.test = lambda split="test", val=accuracy: val if split == "val" else 99.0
        trainer.train(max_epoch=epochs)
    best = load_checkpoint(Path(cfg.OUTPUT_DIR, "prompt_learner/model-best.pth.tar"))
    assert (best["val_result"], best["epoch"]) == (60.0, 1)  # the first of equal ones


def test_the_split_asked_for_is_evaluated_each_time_anew(make_cfg, caplog):
    trainer, training = build_trainer(make_cfg()), []
    trainer.dm.dataset._val = trainer.dm.dataset.val[:5]
    learner = trainer.model.prompt_learner
    learner.register_forward_hook(lambda *_: training.append(learner.training))
    for split, total in (("val", 5), ("test", 9), (None, 9), ("val", 5)):
        caplog.clear()
        trainer.set_model_mode("train")
        trainer.test(split)
        assert f"* total: {total}\n" in caplog.text
    trainer.val_loader = None
    trainer.test("val")
    assert "Evaluate on the *test* set" in caplog.messages[-2] and not any(training)


def test_all_ranks_start_from_rank_0s_models_and_are_seeded_in_each_epoch(make_cfg, monkeypatch):
    given, epochs = [], []
    trainer = build_trainer(make_cfg("TEST.NO_TEST", True))
    monkeypatch.setattr(distributed, "broadcast_state", given.append)
    monkeypatch.setattr(distributed, "seed_other_ranks", lambda: epochs.append(trainer.epoch))
    trainer.train()
    assert given == [trainer.model.prompt_learner] and epochs == [0, 1, 2]


def test_best_val_without_validation_set_is_refused(make_cfg):
    trainer = build_trainer(make_cfg("TEST.FINAL_MODEL", "best_val"))
    trainer.val_loader = None
    with pytest.raises(InputError, match="no validation images"):
        trainer.train()


def test_resume_from_a_folder_without_checkpoint_is_refused(make_cfg, tmp_path):
    with pytest.raises(InputError, match="RESUME names"):
        build_trainer(make_cfg("RESUME", str(tmp_path))).train()


def test_what_a_trainer_writes_is_a_line_of_metrics(make_cfg):
    trainer = build_trainer(make_cfg("TEST.NO_TEST", True))
    trainer.write_scalar("before", 1.0)  # nothing is open
    trainer.init_writer(trainer.output_dir)
    trainer.write_scalar("train/own", torch.tensor(0.5), 7)
    assert records(trainer.cfg) == [{"epoch": 1, "step": 7, "train/own": 0.5}]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_a_sentence(make_cfg, monkeypatch):
    trainer = build_trainer(make_cfg("TEST.NO_TEST", True))

    def fill(self):
        trainer._writer.path = Path("/dev/full")

    monkeypatch.setattr(type(trainer), "after_epoch", fill)
    with pytest.raises(InputError, match="Cannot write /dev/full: No space left on device"):
        trainer.train()


@pytest.mark.parametrize("split", ["train", "vla", ""])
def test_a_split_that_is_none_is_refused(make_cfg, split):
    with pytest.raises(InputError, match=f"split '{split}'.*val"):
        build_trainer(make_cfg()).test(split)


def test_a_config_without_the_trainers_node_is_refused(make_cfg, monkeypatch):
    cfg = make_cfg().clone()
    monkeypatch.setattr(TRAINER_REGISTRY.get(cfg.TRAINER.NAME), "CONFIG_KEY", "OTHER")
    with pytest.raises(InputError, match=r"no settings of .*, TRAINER\.OTHER: .*default_cfg"):
        build_trainer(cfg)


def test_evaluation_builds_no_training_loader(make_cfg):
    trainer = build_trainer(make_cfg())
    trainer.test()
    assert "train_loader_x" not in trainer.dm.__dict__
    assert "tfm_train" not in trainer.dm.__dict__


def test_pretrained_weights_and_own_load_model(make_cfg, tmp_path):
    cfg = make_cfg()
    first = run(cfg)
    weights = Path(cfg.OUTPUT_DIR, "prompt_learner/model.pth.tar-3")
    second = build_trainer(make_cfg("MODEL.INIT_WEIGHTS", str(weights)))
    assert torch.equal(second.model.prompt_learner.ctx, first.model.prompt_learner.ctx)
    third = build_trainer(make_cfg())
    third.load_model(cfg.OUTPUT_DIR, epoch=3)
    assert torch.equal(third.model.prompt_learner.ctx, first.model.prompt_learner.ctx)


@pytest.fixture
def base(tmp_path):
    trainer = TrainerBase()  # no cfg anywhere
    trainer.register_model("net", torch.nn.Linear(2, 2))
    return trainer


def test_load_model_picks_best_then_newest_and_epoch_zero_is_a_value(base, tmp_path, caplog):
    base.save_model(-1, tmp_path)  # epoch 0
    base.save_model(1, tmp_path)
    base.load_model(tmp_path)
    assert "model.pth.tar-2" in caplog.messages[-1] and "val_result" not in caplog.messages[-1]
    base.load_model(tmp_path, epoch=0)
    assert "model.pth.tar-0" in caplog.messages[-1]
    base.save_model(0, tmp_path, val_result=61.25, model_name="model-best.pth.tar")
    base.load_model(tmp_path)
    assert "model-best.pth.tar" in caplog.messages[-1]
    assert "val_result = 61.2" in caplog.messages[-1]
    with pytest.raises(InputError, match=r"model\.pth\.tar-7.*holds: .*model\.pth\.tar-2"):
        base.load_model(tmp_path, epoch=7)


def test_without_a_note_the_highest_epoch_is_loaded(base, tmp_path, caplog):
    for epoch in (8, 49, 4):
        base.save_model(epoch, tmp_path)
    (tmp_path / "net/checkpoint").unlink()
    (tmp_path / "net/model.pth.tar-99.part").touch()
    base.load_model(tmp_path)
    assert "model.pth.tar-50 " in caplog.messages[-1]
    with pytest.raises(InputError, match=r"no checkpoint .*model-best"):
        base.load_model(tmp_path / "elsewhere")


@pytest.mark.parametrize("name", ["model.pth.tar", "published.ckpt"])
def test_a_file_without_an_epoch_in_its_name_is_told_how_to_be_named(base, tmp_path, name):
    base.save_model(0, tmp_path, model_name=name)
    (tmp_path / "net/checkpoint").unlink()
    with pytest.raises(InputError, match=rf"holds: {name}\. Rename .* to model\.pth\.tar-50"):
        base.load_model(tmp_path)


def test_checkpoint_of_another_shape_is_a_sentence(base, tmp_path):
    base.save_model(0, tmp_path)
    other = TrainerBase()
    other.register_model("net", torch.nn.Linear(3, 2))
    with pytest.raises(InputError, match=r"does not fit the model.*another method, backbone"):
        other.load_model(tmp_path, epoch=1)


def test_checkpoints_of_different_epochs_are_not_mixed(base, tmp_path):
    base.register_model("other", torch.nn.Linear(1, 1))
    base.save_model(0, tmp_path)
    Path(tmp_path, "net/checkpoint").write_text("model.pth.tar-2\n")
    state = load_checkpoint(tmp_path / "net/model.pth.tar-1")
    torch.save({**state, "epoch": 2}, tmp_path / "net/model.pth.tar-2")
    with pytest.raises(InputError, match="different epochs"):
        base.resume_model_if_exist(tmp_path)


def test_a_resumed_run_has_the_scale_and_the_generators_of_its_checkpoint(base, tmp_path):
    base.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    base.save_model(0, tmp_path)
    expected = torch.rand(3)
    base.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    assert base.resume_model_if_exist(tmp_path) == 1
    assert base.scaler.get_scale() == 4.0 and torch.equal(torch.rand(3), expected)


def test_a_checkpoint_of_upstreams_is_resumed_with_a_warning(base, tmp_path, caplog):
    """Its files record neither scale, generators nor who wrote them."""
    base.save_model(0, tmp_path)
    path = tmp_path / "net/model.pth.tar-1"
    state = load_checkpoint(path)
    torch.save({key: state[key] for key in ("state_dict", "epoch", "optimizer")}, path)
    base.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    assert base.resume_model_if_exist(tmp_path) == 1 and base.scaler.get_scale() == 8.0
    assert "holds no random state, so resuming is not exact" in caplog.text


def test_another_trainers_run_is_not_resumed(base, tmp_path):
    base.checkpoint_meta = lambda: {"trainer": "CoOp"}
    base.save_model(0, tmp_path)
    base.checkpoint_meta = lambda: {"trainer": "SCT"}
    with pytest.raises(InputError, match=r"is of CoOp, not SCT: .*MODEL\.INIT_WEIGHTS"):
        base.resume_model_if_exist(tmp_path)


@pytest.mark.parametrize("way", ["load_model", "resume_model_if_exist"])
def test_a_trainer_may_refuse_a_checkpoint(base, tmp_path, way):
    base.save_model(0, tmp_path)

    def refuse(checkpoint, path):
        raise InputError(f"{path.name} of epoch {checkpoint['epoch']} does not fit")

    base.check_checkpoint = refuse
    with pytest.raises(InputError, match=r"model\.pth\.tar-1 of epoch 1 does not fit"):
        getattr(base, way)(tmp_path)


def test_nothing_is_resumed_without_models(tmp_path):
    assert TrainerBase().resume_model_if_exist(tmp_path) == 0


def test_spoilt_weights_are_not_saved(base, tmp_path):
    """The step after the last loss that was seen may have spoilt them."""
    base.save_model(0, tmp_path)
    net = base._models["net"]
    net.bias.data[0] = math.nan
    with pytest.raises(NonFiniteLossError, match=r"bias of net is not finite after epoch 2\. Try"):
        base.save_model(1, tmp_path)
    assert Path(tmp_path, "net/checkpoint").read_text() == "model.pth.tar-1\n"
    net.bias.requires_grad_(False)  # frozen: no step spoilt it
    base.save_model(1, tmp_path)


def test_a_model_without_an_optimiser_takes_no_step(base):
    net = base._models["net"]
    before = net.weight.clone()
    base.model_backward_and_update(net(torch.ones(1, 2)).sum())
    assert torch.equal(net.weight, before)


@pytest.mark.parametrize("text", ["model.pth.tar-1", " model.pth.tar-1 \r\nmodel.pth.tar-2\n"])
def test_the_first_line_of_the_file_checkpoint_counts(base, tmp_path, text):
    base.save_model(0, tmp_path)
    Path(tmp_path, "net/checkpoint").write_text(text)
    assert base.resume_model_if_exist(tmp_path) == 1
    for blank in ("", " \n"):
        Path(tmp_path, "net/checkpoint").write_text(blank)
        with pytest.raises(InputError, match="checkpoint is empty; write the name"):
            base.resume_model_if_exist(tmp_path)


def test_registration_rules(base):
    with pytest.raises(ValueError, match="registered already"):
        base.register_model("net")
    with pytest.raises(InputError, match="Did you mean 'net'"):
        base.get_model_names("nett")
    with pytest.raises(AttributeError):
        TrainerBase.__new__(TrainerBase).register_model("net")


@pytest.mark.parametrize(
    "precision, words",
    [
        ("fp32", "Try a smaller OPTIM.LR"),
        ("amp", "Try precision fp32, a smaller OPTIM.LR"),
        ("fp16", "Try precision fp32 or amp, a smaller"),
    ],
)
def test_nobody_is_told_to_use_the_precision_in_use(base, precision, words):
    base.precision_in_use = lambda: precision
    with pytest.raises(NonFiniteLossError, match=f"at precision {precision}. {words}"):
        base.detect_anomaly(torch.tensor(math.nan))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_loss_names_its_place(make_cfg, value):
    trainer = build_trainer(make_cfg())
    trainer.epoch, trainer.batch_idx = 4, 1
    with pytest.raises(
        NonFiniteLossError, match=r"epoch 5, batch 2\. Try precision fp32"
    ) as caught:
        trainer.model_backward(torch.tensor(value, requires_grad=True))
    assert isinstance(caught.value, FloatingPointError) and isinstance(caught.value, InputError)


def test_rng_state_round_trip_is_weights_only(tmp_path):
    set_random_seed(0)
    random.gauss(0, 1), np.random.randn()  # leaves a cached second value in both
    torch.save(get_rng_state(), tmp_path / "rng")
    first = (random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand())
    drawn = torch.rand(3)
    set_rng_state(torch.load(tmp_path / "rng", weights_only=True))
    assert (random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand()) == first
    assert torch.equal(torch.rand(3), drawn)


def break_images(cfg, tmp_path, broken):
    """A copy of the data with the `broken` training images cut short."""
    import shutil

    root = tmp_path / "broken"
    shutil.copytree(cfg.DATASET.ROOT, root)
    for path in broken:
        file = root / "tiny" / path
        file.write_bytes(file.read_bytes()[:60])
    return str(root)


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_image_stops_with_a_sentence(make_cfg, tmp_path, workers):
    root = break_images(make_cfg(), tmp_path, ["train/bee/1.png"])
    trainer = build_trainer(
        make_cfg(
            "DATASET.ROOT",
            root,
            "DATALOADER.NUM_WORKERS",
            workers,
            "DATALOADER.TRAIN_X.BATCH_SIZE",
            18,
        )
    )
    with pytest.raises(InputError, match=r"^Cannot read the image .*bee/1\.png") as caught:
        trainer.train()
    assert "Traceback" not in str(caught.value)


@pytest.mark.slow
def test_bad_images_are_skipped_counted_and_named_once(make_cfg, tmp_path, caplog):
    root = break_images(make_cfg(), tmp_path, ["train/bee/1.png", "test/ant/0.png"])
    cfg = make_cfg(
        "DATASET.ROOT", root, "DATALOADER.BAD_IMAGES", "skip", "DATALOADER.TRAIN_X.BATCH_SIZE", 18
    )
    run(cfg)
    named = [m for m in caplog.messages if m.startswith("Left out an image that cannot be read: ")]
    assert sorted(Path(m).parent.name + "/" + Path(m).name for m in named) == [
        "ant/0.png",
        "bee/1.png",
    ]
    assert "Epoch 3: 1 unreadable images were left out" in caplog.messages
    assert "1 unreadable images of the test set were left out" in caplog.messages
    assert any("* total: 8\n" in m for m in caplog.messages)
    assert [r["bad_images"] for r in records(cfg) if "bad_images" in r] == [1, 1, 1]


def test_unreadable_images_of_all_ranks_are_counted(make_cfg, tmp_path, caplog, monkeypatch):
    root = break_images(make_cfg(), tmp_path, ["train/bee/1.png", "test/ant/0.png"])
    skip = ("DATALOADER.BAD_IMAGES", "skip", "DATALOADER.TRAIN_X.BATCH_SIZE", 18)
    trainer = build_trainer(make_cfg("DATASET.ROOT", root, *skip))
    monkeypatch.setattr(distributed, "from_all", lambda value: [value, value])  # two such ranks
    trainer.train(max_epoch=1)
    assert "Epoch 1: 2 unreadable images were left out" in caplog.messages
    assert "2 unreadable images of the test set were left out" in caplog.messages
    assert any("* total: 16\n" in m for m in caplog.messages)


def test_learning_rate_moves_on_when_the_last_batch_is_all_bad(make_cfg, tmp_path):
    broken = [f"train/cat/{i}.png" for i in range(6)]
    root = break_images(make_cfg(), tmp_path, broken)
    cfg = make_cfg(
        "DATASET.ROOT",
        root,
        "DATALOADER.BAD_IMAGES",
        "skip",
        "DATALOADER.TRAIN_X.SAMPLER",
        "SequentialSampler",
        "DATALOADER.TRAIN_X.BATCH_SIZE",
        6,
    )
    run(cfg)
    assert [r["lr"] for r in records(cfg) if "lr" in r][::2] == [1e-5, 0.05, 0.0375]


def test_no_readable_image_at_all_is_an_error(make_cfg, tmp_path):
    broken = [f"train/{c}/{i}.png" for c in ("ant", "bee", "cat") for i in range(6)]
    root = break_images(make_cfg(), tmp_path, broken)
    trainer = build_trainer(make_cfg("DATASET.ROOT", root, "DATALOADER.BAD_IMAGES", "skip"))
    logging.getLogger("dassl").setLevel(logging.ERROR)
    try:
        with pytest.warns(UserWarning), pytest.raises(InputError, match="No training image"):
            trainer.train()
    finally:
        logging.getLogger("dassl").setLevel(logging.NOTSET)


def test_unknown_trainer_names_the_nearest(make_cfg):
    with pytest.raises(InputError, match=r"Unknown trainer 'UpstreamStile'.*'UpstreamStyle'"):
        build_trainer(make_cfg("TRAINER.NAME", "UpstreamStile"))
