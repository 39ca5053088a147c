"""Train a method: python train.py --trainer LoCoOp --dataset imagenet --shots 16."""

import argparse
import logging
import shlex
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # not there with PYTHONSAFEPATH=1

from yacs.config import CfgNode

from dassl import distributed
from dassl.command import run
from dassl.engine import TRAINER_REGISTRY, TrainerX, build_trainer
from dassl.utils import explain_full_disk, set_random_seed, setup_logger, versions
from dassl.utils.errors import (
    InputError,
    KilledWorkerError,
    NonFiniteLossError,
    WriteError,
    explain_killed_worker,
)
from datasets.check.layout import require_data
from datasets.needs import Needs, missing_images, training_needs
from run.config import build_cfg
from run.flags import make_parser
from run.folder import RunState, describe_checkpoints, finish_run, locked, open_run, run_state
from run.settings import describe
from trainers.base import ClipTrainer

logger = logging.getLogger(__name__)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--resume", default="", help="folder of the run to resume (default: --output-dir)"
    )
    parser.add_argument("--eval-only", action="store_true", help="only test the run in --model-dir")
    args = parser.parse_args()
    cfg = build_cfg(args)
    if args.eval_only:
        setup_logger()
        require_data(cfg, Needs.TEST)
        trainer = build_trainer(cfg)
        trainer.load_model(args.model_dir, args.load_epoch)
        trainer.test()
        return
    if args.model_dir:
        raise InputError("--model-dir names a finished run: add --eval-only, or use --resume")
    if distributed.is_main():
        print_notes_on_defaults(args, cfg)
    train(cfg)


def print_notes_on_defaults(args: argparse.Namespace, cfg: CfgNode) -> None:
    """Print a line for each default in use that may surprise."""
    trainer_class = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    if not (args.dataset or args.dataset_config_file or args.id_data):
        print(
            "No data set was named, so this run uses the generated benchmark of synthetic images. "
            "To name one, add --dataset NAME or --id-data FOLDER"
        )
    if trainer_class.LEARNS and not trainer_class.READS_PAIRS and cfg.DATASET.NUM_SHOTS < 1:
        print("Training on all images. For few-shot training add --shots 16")


def train(cfg: CfgNode) -> None:
    """Start or resume a run, or report that it is already finished."""
    require_training_data(cfg)
    with locked(cfg.OUTPUT_DIR):
        state = distributed.from_main(lambda: open_run(cfg))
        if state is not RunState.FINISHED:
            start(cfg, state)
        elif distributed.is_main():
            print(f"already finished: {cfg.OUTPUT_DIR} (remove the folder to run it again)")
    trainer_class = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    # Images of other trainers, such as those written for Dassl, cannot be scored.
    is_scored = trainer_class.LEARNS and issubclass(trainer_class, ClipTrainer)
    if distributed.is_main() and is_scored:
        print(f"Evaluate it: bash scripts/eval.sh --model-dir {shlex.quote(cfg.OUTPUT_DIR)}")


def require_training_data(cfg: CfgNode) -> None:
    """Raise InputError if an unfinished run lacks data; call this before anything is written."""
    if run_state(cfg) is not RunState.FINISHED:
        require_data(cfg, training_needs(cfg))


def start(cfg: CfgNode, state: RunState) -> None:
    """Train an opened run to its end; an error on the way names the checkpoint that is kept."""
    try:
        with explain_full_disk(), explain_killed_worker():
            setup_logger(cfg.OUTPUT_DIR)
            begin(cfg, state).train()
            if distributed.is_main():
                finish_run(cfg)
    except (KeyboardInterrupt, NonFiniteLossError, WriteError, KilledWorkerError) as stop:
        message = f"{str(stop).rstrip('.') or 'stopped'}. {describe_checkpoints(cfg.OUTPUT_DIR)}"
        if isinstance(stop, NonFiniteLossError):
            message += (
                f" To continue from it with other settings, add --resume {cfg.OUTPUT_DIR} and "
                "another --output-dir."
            )
        raise type(stop)(message) from None


def begin(cfg: CfgNode, state: RunState, **options: Any) -> TrainerX:
    """Seed the generators and build the trainer of an opened run; `options` go to the trainer."""
    logger.info("%s run in %s; its config.yaml holds all settings", state.value, cfg.OUTPUT_DIR)
    logger.info("The method's settings, and all that differ from defaults:\n%s", describe(cfg))
    logger.info("Versions: %s", ", ".join(f"{name} {v}" for name, v in versions().items()))
    if cfg.SEED >= 0:
        set_random_seed(cfg.SEED)
    if not training_needs(cfg) & Needs.TEST:
        reason = missing_images(cfg)
        logger.warning("There is no final test; training needs only class names: %s", reason)
        cfg = cfg.clone()
        cfg.defrost()
        cfg.TEST.NO_TEST = True
        cfg.freeze()
        options["images"] = False
    return build_trainer(cfg, **options)


if __name__ == "__main__":
    run(main)
