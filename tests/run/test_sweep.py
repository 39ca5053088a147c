"""A sweep against its runs done one by one, through the real command line."""

from __future__ import annotations

import json
import logging
import multiprocessing
import shlex
import shutil
import weakref
from pathlib import Path

import pytest
import torch

import eval_ood
import sweep
import train
from clip.templates import classifier
from dassl.engine import TRAINER_REGISTRY, TrainerBase, TrainerX
from ood.registry import SCORES, Score
from run import config, flags
from run import folder as run_folder
from tests.worlds import CLASSES, script
from trainers.base import ClipTrainer
from trainers.coop import CoOp
from trainers.side_by_side import SHARED, SideBySide, images_seen

pytestmark = pytest.mark.slow  # trains

TIMES = ("time", "data", "eta", "epoch_time", "data_share")


def sweep_flags(world: Path, output: Path, trainers: str = "CoOp,LoCoOp") -> list[str]:
    """Flags of a sweep of tiny runs: 8 or 12 images in batches of 4."""
    return [
        "--root",
        f"{world}/data",
        "--dataset-config-file",
        f"{world}/pets.yaml",
        "--config-file",
        f"{world}/CoOp/run.yaml",
        "--trainers",
        trainers,
        "--output-dir",
        str(output),
        "--scores",
        "MCM",
    ]


SETTINGS = [
    "DATALOADER.TRAIN_X.BATCH_SIZE",
    "4",
    "TRAINER.LOCOOP.TOPK",
    "2",
    "TRAINER.*.N_CTX",
    "4",
    "TRAIN.PRINT_FREQ",
    "1",
]


def listed(output: Path) -> list[dict]:
    return json.loads(next(output.rglob("runs.json")).read_text(encoding="utf-8"))


def alone(call, row: dict, folder: Path) -> Path:
    """The run of a row of runs.json, by train.py as the row says it, in another folder."""
    words = shlex.split(row["command"])[2:]
    words[words.index("--output-dir") + 1] = str(folder)
    call(train, *words)
    return folder


def same(one, other) -> bool:
    """Bit by bit, whatever a checkpoint holds."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if torch.is_tensor(one) else one == other


def metrics(folder: Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def files(folder: Path) -> set[str]:
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    own = {
        name
        for name in names
        if name.startswith(("plots", "scores", "results", "detector", "eval_log"))
    }
    return {name.partition(".tfevents")[0].partition("events.out")[0] for name in names - own}


def assert_is_the_run_alone(folder: Path, reference: Path) -> None:
    assert files(folder) == files(reference)
    checkpoints = [
        torch.load(path / "prompt_learner/model.pth.tar-3", weights_only=True)
        for path in (folder, reference)
    ]
    assert {"state_dict", "optimizer", "scheduler", "rng"} <= checkpoints[0].keys()
    assert same(*checkpoints)
    assert metrics(folder) == metrics(reference) and len(metrics(folder)) >= 6
    for name in ("split.json", "finished.json", "prompt_learner/checkpoint"):
        assert (folder / name).read_text() == (reference / name).read_text(), name
    configs = [run_folder.read_config(path) for path in (folder, reference)]
    assert configs[0] | {"OUTPUT_DIR": ""} == configs[1] | {"OUTPUT_DIR": ""}


def test_the_successors_share_images_with_locoop(world, call, tmp_path, capsys):
    """One pass over the images for six methods, whatever each reads of them; FA steps its rate in
    every batch."""
    names = "CoOp,LoCoOp,SCT,FA,LoCoOpFoBoR,SCTFoBoR"
    settings = [*SETTINGS[:2], *SETTINGS[4:]]
    call(sweep, *sweep_flags(world, tmp_path / "out", names), "--shots", 2, *settings)
    assert "6 runs in 1 group" in capsys.readouterr().out
    rows = listed(tmp_path / "out")
    assert {row["state"] for row in rows} == {"finished"} and all(row["evaluated"] for row in rows)
    for row in rows[1:5]:
        reference = alone(call, row, tmp_path / "alone" / row["method"])
        assert_is_the_run_alone(Path(row["folder"]), reference)


def test_every_run_is_the_run_alone(world, call, tmp_path, capsys):
    """Methods, shared and class-wise contexts, lambdas, Ks, learning rates and seeds, in two
    groups; each run trained again by train.py."""
    call(
        sweep,
        *sweep_flags(world, tmp_path / "out"),
        "--shots",
        2,
        "--seeds",
        "1,2",
        "--set",
        "TRAINER.*.CSC=False,True",
        "--set",
        "TRAINER.LOCOOP.LAMBDA=0.5,0.25",
        "--set",
        "TRAINER.LOCOOP.TOPK=1,2",
        "--set",
        "OPTIM.LR=0.002,0.1",
        "--no-eval",
        *SETTINGS,
    )
    rows = listed(tmp_path / "out")
    assert len(rows) == 2 * (2 * 2 + 2 * 2 * 2 * 2)
    assert {row["state"] for row in rows} == {"finished"}
    assert "40 runs in 2 groups" in capsys.readouterr().out
    contexts = set()
    for number, row in enumerate(rows):
        if number % 3 and number not in (1, 2):
            continue  # each third, and the first ones: every axis takes all its values
        folder = Path(row["folder"])
        reference = alone(call, row, tmp_path / "alone" / str(number))
        assert_is_the_run_alone(folder, reference)
        checkpoint = torch.load(folder / "prompt_learner/model.pth.tar-3", weights_only=True)
        contexts.add(checkpoint["state_dict"]["ctx"].numpy().tobytes())
    assert len(contexts) == len(list((tmp_path / "alone").iterdir())) > 12  # no two are the same


def test_workers_change_nothing_in_it(world, call, tmp_path):
    settings = [*SETTINGS, "DATALOADER.NUM_WORKERS", 2]
    call(sweep, *sweep_flags(world, tmp_path / "out"), "--shots", 3, "--no-eval", *settings)
    for row in listed(tmp_path / "out"):
        assert_is_the_run_alone(Path(row["folder"]), alone(call, row, tmp_path / row["run"]))


def test_a_sweep_by_the_script(world, call, tmp_path, capsys):
    """The folders are train.py's own; the table has a row a method, zero-shot included."""
    pairs = [*SETTINGS, "OPTIM.MAX_EPOCH", "3"]
    arguments = [
        *sweep_flags(world, tmp_path / "out", "ZeroshotCLIP,LoCoOp"),
        "--shots",
        "2",
        "--seeds",
        "1,2",
        "--set",
        "TRAINER.LOCOOP.LAMBDA=0.25,0.5",
    ]
    done = script(world, "sweep.sh", *arguments, *pairs)
    assert "5 runs in 3 groups" in done.stdout and "LoCoOp, LAMBDA 0.5" in done.stdout
    rows = listed(tmp_path / "out")
    assert [row["evaluated"] for row in rows] == [True] * 5
    assert rows[3]["run"] == "LoCoOp, LAMBDA 0.5, seed 1"
    method = tmp_path / "out/pets/LoCoOp/run_2shots"
    assert sorted(path.name for path in method.iterdir()) == [
        "nctx4_cscFalse_ctpend",
        "nctx4_cscFalse_ctpend_lambda0.5",
    ]
    summary = (tmp_path / "out/pets/sweep/summary.md").read_text(encoding="utf-8")
    cells = [line.split(" | ")[:3] for line in summary.splitlines() if "MCM" in line]
    assert cells[:3] == [
        ["| ZeroshotCLIP", "1", "MCM"],
        ["| LoCoOp, LAMBDA 0.25", "2", "MCM"],
        ["| LoCoOp, LAMBDA 0.5", "2", "MCM"],
    ]

    # A run's files are its own, and its log is of it alone.
    log = (method / "nctx4_cscFalse_ctpend/seed2/log.txt").read_text(encoding="utf-8")
    assert "epoch [3/3] batch [2/2]" in log and "* accuracy" in log and "lambda0.5" not in log
    assert log.count("Finish training") == 1 and "seed1" not in log
    # train.py takes it for its own run; so does eval_ood.py.
    command = shlex.split(rows[3]["command"])
    call(train, *command[2:])
    assert "already finished" in capsys.readouterr().out

    # Again: nothing is trained or evaluated a second time, but for what is asked for anew.
    stamps = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "out").rglob("*")
        if path.name in ("results.json", "model.pth.tar-3", "log.txt")
    }
    call(sweep, *arguments, *pairs)
    out = capsys.readouterr().out
    assert "evaluating" not in out and "LoCoOp, LAMBDA 0.5   2     MCM" in out
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    (Path(rows[3]["folder"]) / "results.json").unlink()
    call(sweep, *arguments, *pairs)
    assert capsys.readouterr().out.count("evaluating") == 1
    options = ["--root", f"{world}/data", "--model-dir", rows[3]["folder"]]
    call(eval_ood, *options, "--scores", "MCM", "--T", "2")
    call(sweep, *arguments, *pairs)
    assert "evaluating LoCoOp, LAMBDA 0.5, seed 1" in capsys.readouterr().out


def test_images_are_loaded_and_encoded_once(world, call, tmp_path, monkeypatch):
    """4 runs, 3 epochs of 2 batches, then the 12 test images in 3 batches."""
    from clip import ClipModel

    sizes, encode = [], ClipModel.encode_image

    def counted(self, images, local=False):
        sizes.append((len(images), local))
        return encode(self, images, local)

    monkeypatch.setattr(ClipModel, "encode_image", counted)
    arguments = [
        *sweep_flags(world, tmp_path / "out"),
        "--shots",
        2,
        "--no-eval",
        "--set",
        "TRAINER.*.CSC=True,False",
    ]
    call(sweep, *arguments, *SETTINGS, "DATALOADER.TEST.BATCH_SIZE", 4)
    assert sizes == [(4, True)] * 6 + [(4, False)] * 3


def test_a_failed_run_is_named_and_stops_no_other(world, call, told, tmp_path, capsys):
    arguments = [
        *sweep_flags(world, tmp_path / "out"),
        "--shots",
        2,
        "--set",
        "OPTIM.LR=0.002,1e30",
        "--set",
        "TRAINER.LOCOOP.TOPK=2,9",
        *SETTINGS,
    ]
    message = told(sweep, *arguments)
    assert "4 of 6 runs failed" in message and message.count("The loss is nan in epoch") == 2
    assert message.count("between 1 and the number of classes") == 2
    assert "[CoOp, OPTIM.LR 1e30, seed 1] failed: The loss is nan" in capsys.readouterr().out
    rows = {row["run"]: row for row in listed(tmp_path / "out")}
    good = [row for row in rows.values() if row["failed"] is None]
    assert [row["method"] for row in good] == [
        "CoOp, OPTIM.LR 0.002",
        "LoCoOp, OPTIM.LR 0.002, TOPK 2",
    ]
    for row in good:
        assert row["evaluated"] and row["state"] == "finished"
        assert_is_the_run_alone(Path(row["folder"]), alone(call, row, tmp_path / row["method"]))
    bad = Path(rows["CoOp, OPTIM.LR 1e30, seed 1"]["folder"])
    assert not (bad / "finished.json").exists()
    assert "failed: The loss is nan" in (bad / "log.txt").read_text(encoding="utf-8")
    summary = next((tmp_path / "out").rglob("summary.md")).read_text(encoding="utf-8")
    assert "1e30" not in summary


def test_a_sweep_with_the_preset_k_is_done_when_it_is_done(world, call, tmp_path, monkeypatch):
    arguments = [
        *sweep_flags(world, tmp_path / "out"),
        "--shots",
        2,
        "--scores",
        "MCM",
        *SETTINGS,
        "TRAINER.LOCOOP.TOPK",
        "0",
    ]
    call(sweep, *arguments)
    assert {row["state"] for row in listed(tmp_path / "out")} == {"finished"}
    evaluated = []
    monkeypatch.setattr(sweep.evaluation, "evaluate", lambda cfg, *_: evaluated.append(cfg))
    call(sweep, *arguments)
    assert not evaluated and {row["state"] for row in listed(tmp_path / "out")} == {"finished"}


def test_an_error_of_ours_is_isolated_too(world, told, tmp_path, monkeypatch):
    kind = TRAINER_REGISTRY.get("LoCoOp")
    monkeypatch.setattr(kind, "loss", lambda *_: 1 / 0)
    message = told(
        sweep, *sweep_flags(world, tmp_path / "out"), "--shots", 2, "--no-eval", *SETTINGS
    )
    assert "1 of 2 runs failed" in message and "LoCoOp, seed 1: division by zero" in message
    log = next(tmp_path.rglob("LoCoOp/**/log.txt")).read_text(encoding="utf-8")
    assert "Traceback" in log and "ZeroDivisionError" in log


def test_a_full_disk_fails_the_run_that_writes_there(world, told, tmp_path, monkeypatch, capfd):
    """Its log and its events: of both, closing would fail once more, when the others are done."""
    before_epoch = TRAINER_REGISTRY.get("LoCoOp").before_epoch

    def fill(self):
        log = next(h for h in logging.getLogger().handlers if h.get_name() == "dassl-run")
        log.stream.close()
        log.stream, self._writer.path = open("/dev/full", "w"), Path("/dev/full")
        before_epoch(self)

    monkeypatch.setattr(TRAINER_REGISTRY.get("LoCoOp"), "before_epoch", fill)
    message = told(
        sweep, *sweep_flags(world, tmp_path / "out"), "--shots", 2, "--no-eval", *SETTINGS
    )
    rows = {row["run"]: row for row in listed(tmp_path / "out")}
    full = Path(rows["LoCoOp, seed 1"]["folder"], "log.txt")
    assert f"1 of 2 runs failed:\n  LoCoOp, seed 1: Cannot write {full}: No space left" in message
    assert rows["CoOp, seed 1"]["state"] == "finished"
    told_ = capfd.readouterr()
    assert "Traceback" not in told_.out + told_.err and "Logging error" not in told_.err


def test_an_unreadable_image_fails_the_runs_that_read_it(world, told, tmp_path):
    shutil.copytree(world / "data", tmp_path / "data")
    for path in (tmp_path / "data/pets/train/cat").iterdir():
        path.write_bytes(b"no image")
    arguments = [*sweep_flags(world, tmp_path / "out"), "--shots", 2, "--no-eval", *SETTINGS]
    arguments[1] = str(tmp_path / "data")
    message = told(sweep, *arguments)
    assert "2 of 2 runs failed" in message and message.count("Cannot read the image") == 2


def stopped_at(epoch: int, monkeypatch, kind=TrainerBase):
    """Makes a run of `kind` stop before that epoch, from 0, as Ctrl-C does."""
    before_epoch = kind.before_epoch

    def stop(self):
        if self.epoch == epoch:
            raise KeyboardInterrupt
        before_epoch(self)

    monkeypatch.setattr(kind, "before_epoch", stop)


def test_a_stopped_sweep_goes_on_where_each_run_was(world, call, tmp_path, monkeypatch):
    """One run two epochs ahead of the others, a sweep stopped after one, then begun again."""
    arguments = [
        *sweep_flags(world, tmp_path / "out"),
        "--shots",
        2,
        "--no-eval",
        "--set",
        "TRAINER.LOCOOP.LAMBDA=0.25,1",
        *SETTINGS,
    ]
    ahead = tmp_path / "out/pets/LoCoOp/run_2shots/nctx4_cscFalse_ctpend/seed1"
    command = [
        *sweep_flags(world, ahead)[:6],
        "--trainer",
        "LoCoOp",
        "--shots",
        2,
        "--output-dir",
        ahead,
        *[word.replace("*", "LOCOOP") for word in SETTINGS],
    ]
    for module, words, epoch, kind in (
        (train, command, 2, TRAINER_REGISTRY.get("LoCoOp")),
        (sweep, arguments, 1, SideBySide),
    ):
        with monkeypatch.context() as patch, pytest.raises(SystemExit, match="130"):
            stopped_at(epoch, patch, kind)
            call(module, *words)
    notes = [
        path.read_text().strip() for path in (tmp_path / "out").rglob("prompt_learner/checkpoint")
    ]
    assert sorted(notes) == ["model.pth.tar-1", "model.pth.tar-1", "model.pth.tar-2"]

    passes, run_epoch = [], SideBySide.run_epoch
    monkeypatch.setattr(
        SideBySide, "run_epoch", lambda self: (passes.append(len(self.in_epoch)), run_epoch(self))
    )
    call(sweep, *arguments)
    assert passes == [2, 3]  # epochs 2 and 3
    for number, row in enumerate(listed(tmp_path / "out")):
        assert_is_the_run_alone(Path(row["folder"]), alone(call, row, tmp_path / str(number)))


def test_what_a_run_draws_is_its_own(world, call, tmp_path, monkeypatch):
    """Between epochs and in its steps: every run still sees the images it would see alone."""
    kind = TRAINER_REGISTRY.get("LoCoOp")
    before_epoch, loss = kind.before_epoch, kind.loss

    def noisy(self, *args):
        cosines, parts = loss(self, *args)
        return cosines, {**parts, "loss": parts["loss"] * (1 + 0.1 * torch.rand(()))}

    monkeypatch.setattr(kind, "before_epoch", lambda self: (torch.rand(1), before_epoch(self)))
    monkeypatch.setattr(kind, "loss", noisy)
    call(sweep, *sweep_flags(world, tmp_path / "out"), "--shots", 2, "--no-eval", *SETTINGS)
    for row in listed(tmp_path / "out"):
        assert_is_the_run_alone(Path(row["folder"]), alone(call, row, tmp_path / row["run"]))


def test_texts_encoded_while_building_are_those_of_the_run_alone(
    world, call, tmp_path, monkeypatch
):
    """In float32, whichever trainers were built on the same CLIP before."""
    for kind in map(TRAINER_REGISTRY.get, ("CoOp", "LoCoOp")):

        def build_model(self, build=kind.build_model) -> None:
            build(self)
            self.hand_written = classifier(self.model.clip, CLASSES, ["a photo of a {}."])

        def pulled(self, *args, loss=kind.loss):
            cosines, parts = loss(self, *args)
            pull = (self.model.text_features() - self.hand_written).square().sum()
            return cosines, {**parts, "loss": parts["loss"] + pull}

        monkeypatch.setattr(kind, "build_model", build_model)
        monkeypatch.setattr(kind, "loss", pulled)
    settings = [*SETTINGS, "TRAINER.*.PREC", "amp_bf16"]
    call(sweep, *sweep_flags(world, tmp_path / "out"), "--shots", 2, "--no-eval", *settings)
    for row in listed(tmp_path / "out"):
        assert_is_the_run_alone(Path(row["folder"]), alone(call, row, tmp_path / row["run"]))


def test_clipn_shares_nothing(world, call, tmp_path, capsys):
    arguments = [*sweep_flags(world, tmp_path / "out", "CLIPN"), "--shots", 1, "--no-eval"]
    arguments[arguments.index("--config-file") + 1] = f"{world}/CLIPN/run.yaml"
    call(sweep, *arguments, "--seeds", "1,2", "--dry-run")
    assert "2 runs in 2 groups" in capsys.readouterr().out
    call(sweep, *arguments, "OPTIM.MAX_EPOCH", 1, "TEST.NO_TEST", True)
    (row,) = listed(tmp_path / "out")
    assert row["state"] == "finished" and row["failed"] is None
    assert "bin_no" in (Path(row["folder"]) / "log.txt").read_text(encoding="utf-8")


def test_what_learns_nothing_has_no_shots_seeds_and_rates(world, call, tmp_path, capsys):
    call(
        sweep,
        *sweep_flags(world, tmp_path / "out", "ZeroshotCLIP,CoOp"),
        "--shots",
        "1,2",
        "--seeds",
        "1,2",
        "--set",
        "OPTIM.LR=0.1,0.2",
        "--set",
        "TRAINER.ZSCLIP.TEMPLATE=a {}.,the {}.",
        "--dry-run",
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "10 runs in 6 groups" and "ZeroshotCLIP, TEMPLATE the {}." in lines[3]
    assert lines[1].endswith("out/pets/ZeroshotCLIP/run_templatea-.")


def test_a_score_registered_since_enters_finished_runs_once(
    world, call, tmp_path, capsys, monkeypatch
):
    arguments = [*sweep_flags(world, tmp_path / "out", "ZeroshotCLIP")[:-1], "all"]
    own = {"Own": Score("Own", ("cosines",), lambda x: x.amax(-1), {})}
    lacking = {"Lacking": Score("Lacking", ("no_logits",), lambda x: x.amax(-1), {})}
    for registered, evaluated in (({}, 1), ({}, 0), (own, 1), (own | lacking, 0)):
        with monkeypatch.context() as patch:
            for name, score in registered.items():
                patch.setitem(SCORES, name, score)
            call(sweep, *arguments)
        assert capsys.readouterr().out.count("evaluating") == evaluated
    assert "| Own |" in next((tmp_path / "out").rglob("summary.md")).read_text(encoding="utf-8")


def test_a_dry_run_lists_and_touches_nothing(world, call, tmp_path, capsys):
    arguments = [*sweep_flags(world, tmp_path / "out"), "--seeds", "0,1", "--shots", "1,2"]
    call(
        sweep,
        *arguments,
        "--set",
        "TRAINER.LOCOOP.LAMBDA=0.25",
        "--set",
        "TRAINER.*.N_CTX=4,16",
        "--dry-run",
    )
    out = capsys.readouterr().out
    assert "16 runs in 4 groups" in out and out.count("4 runs, on the same images") == 4
    assert out.count("  new ") == 16 and "LoCoOp, 2 shots, N_CTX 16, seed 0" in out
    assert "LoCoOp, 1 shot, N_CTX 16, seed 0" in out
    assert f"{tmp_path}/out/pets/CoOp/run_1shots/nctx4_cscFalse_ctpend/seed0\n" in out
    assert "lambda" not in out  # the usual value, which train.py's folder stands for
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "extra, words",
    [
        (["--trainers", "CoOp,LoCop"], "LoCoOp"),
        (["--set", "OPTIM.LR"], "write KEY=VALUE"),
        (["--set", "OPTIM.LRR=1,2"], "Did you mean 'OPTIM.LR'?"),
        (
            ["--set", "TRAINER.CLIPN.VARIANT=learnable"],
            "no trainer of this sweep (CoOp, LoCoOp) has",
        ),
        (
            ["--set", "TRAINER.*.LAMDA=1"],
            "no trainer of this sweep (CoOp, LoCoOp) has TRAINER.*.LAMDA",
        ),
        (["--set", "TRAINER.LOCOOP.LAMDA=1"], "unknown setting TRAINER.LOCOOP.LAMDA"),
        (["--set", "OPTIM.LR=0.1,1e-1"], "two runs of the sweep would have the folder"),
        (["--seeds", "1,1"], "two runs of the sweep would have the folder"),
        (
            ["--set", "OUTPUT_DIR=a,b"],
            "OUTPUT_DIR has a flag of its own in a sweep: use --output-dir",
        ),
        (["--set", "SEED=1,2"], "use --seeds"),
        (["SEED", "2"], "use --seeds"),
        (["--scores", "MCN"], "MCM"),
        (["EVAL.STREAMS", "OODE"], "OODD"),
        (["--set", "EVAL.TPR=0.9,1.5"], "1.5"),
        (["--features-local", "EVAL.FEATURES", "none"], "drop one"),
        (["OPTIM.LR"], "pairs of KEY VALUE"),
    ],
)
def test_bad_input_is_told_before_anything_is_done(world, told, tmp_path, extra, words):
    assert words in told(sweep, *sweep_flags(world, tmp_path / "out"), *extra)
    assert not (tmp_path / "out").exists()


def test_a_trainer_that_cannot_be_scored_is_refused_before_it_is_trained(
    world, call, told, tmp_path, monkeypatch
):
    plain = type("Plain", (TrainerX,), {"CONFIG_KEY": "COOP", "CONFIG": CoOp.CONFIG})
    monkeypatch.setitem(TRAINER_REGISTRY._objects, "Plain", plain)
    arguments = sweep_flags(world, tmp_path / "out", "CoOp,Plain")
    words = told(sweep, *arguments)
    assert "Plain is no ClipTrainer" in words and "sweep.sh --no-eval trains it" in words
    assert not (tmp_path / "out").exists()
    call(sweep, *arguments, "--no-eval", "--dry-run")


def test_what_decides_which_images_a_run_sees(world, monkeypatch):
    def seen(*words, trainer="CoOp"):
        words = [*sweep_flags(world, world)[:6], "--trainer", trainer, "--output-dir", "x", *words]
        return images_seen(config.build_cfg(flags.make_parser("").parse_args(words)))

    usual = seen()
    alike = [
        ["OPTIM.LR", "1.0"],
        ["TRAINER.COOP.N_CTX", "4"],
        ["TRAINER.COOP.CSC", "True"],
        ["OUTPUT_DIR", "y"],
        ["TRAIN.CHECKPOINT_FREQ", "2"],
        ["MODEL.INIT_WEIGHTS", "x"],
    ]
    assert all(seen(*words) == usual for words in alike) and seen(trainer="LoCoOp") == usual
    other = [
        ["--shots", "3"],
        ["--seed", "2"],
        ["--backbone", "RN50"],
        ["OPTIM.MAX_EPOCH", "9"],
        ["DATALOADER.TRAIN_X.BATCH_SIZE", "3"],
        ["DATALOADER.NUM_WORKERS", "3"],
        ["INPUT.TRANSFORMS", "['normalize']"],
        ["TRAINER.COOP.PREC", "fp32"],
        ["DATASET.CLASSES", "cat"],
        ["--root", "elsewhere"],
    ]
    assert len({usual, *(seen(*words) for words in other)}) == 1 + len(other)
    assert seen("--seed", "-1") is None
    kind = TRAINER_REGISTRY.get("CoOp")
    for name in SHARED:  # a step, images or features of its own
        with monkeypatch.context() as patch:
            patch.setattr(kind, name, lambda self, *_: None)
            assert seen() is None and seen(trainer="LoCoOp") == usual, name
    assert seen() == usual


@pytest.mark.parametrize("trainers", ["CoOp,LoCoOp", "CLIPN"])
def test_a_group_is_freed_before_the_next_begins(world, call, tmp_path, monkeypatch, trainers):
    """Its CLIP, what was encoded of the test set, and the workers."""
    arguments = sweep_flags(world, tmp_path / "out", trainers)
    if trainers == "CLIPN":
        arguments[arguments.index("--config-file") + 1] = f"{world}/CLIPN/run.yaml"
    alive, build = [], ClipTrainer.__init__

    def watched(self, cfg, **options):
        if not options.get("beside"):
            assert [ref for ref in alive if ref() is not None] == []
        build(self, cfg, **options)
        alive.extend(map(weakref.ref, (self, self.model, self.model.clip, self.train_loader_x)))

    monkeypatch.setattr(ClipTrainer, "__init__", watched)
    workers = ["DATALOADER.NUM_WORKERS", 1, "OPTIM.MAX_EPOCH", 1]
    settings = [*SETTINGS, *workers] if trainers != "CLIPN" else workers
    call(sweep, *arguments, "--shots", 2, "--seeds", "1,2", "--no-eval", *settings)
    assert [ref for ref in alive if ref() is not None] == [] and len(alive) >= 8
    assert not multiprocessing.active_children()
