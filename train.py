"""Train a method: python train.py --trainer LoCoOp --dataset imagenet --shots 16."""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # not there with PYTHONSAFEPATH=1

from yacs.config import CfgNode

from dassl import distributed
from dassl.command import run
from dassl.engine import TRAINER_REGISTRY, TrainerX, build_trainer
from dassl.utils import explain_full_disk, set_random_seed, setup_logger, versions
from dassl.utils.errors import InputError, NonFiniteLossError, WriteError
from datasets.check.layout import require_data
from datasets.needs import Needs, missing_images, training_needs
from run.config import build_cfg
from run.flags import make_parser
from run.folder import RunState, finish_run, locked, open_run, run_state, what_is_kept
from run.settings import describe

logger = logging.getLogger(__name__)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--resume", default="", help="folder of a run to go on from (default: --output-dir)"
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
        say_what_was_left_open(args, cfg)
    train(cfg)


def say_what_was_left_open(args: argparse.Namespace, cfg: CfgNode) -> None:
    """Print a line for each choice that the user left to the defaults and may not expect."""
    kind = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    if not (args.dataset or args.dataset_config_file or args.id_data):
        print(
            "No data set is named: this is the generated benchmark, of synthetic images. Your own: "
            "--dataset NAME or --id-data FOLDER"
        )
    if kind.LEARNS and not kind.READS_PAIRS and cfg.DATASET.NUM_SHOTS < 1:
        print("All training images are learned from. A few of each class: --shots 16")


def train(cfg: CfgNode) -> None:
    """Train a run, go on with it, or say that it is finished."""
    require_training_data(cfg)
    with locked(cfg.OUTPUT_DIR):
        state = distributed.from_main(lambda: open_run(cfg))
        if state is not RunState.FINISHED:
            start(cfg, state)
        elif distributed.is_main():
            print(f"finished before: {cfg.OUTPUT_DIR} (remove the folder to run it again)")


def require_training_data(cfg: CfgNode) -> None:
    """Raise an InputError, before anything is written, if a run that is to train lacks data."""
    if run_state(cfg) is not RunState.FINISHED:
        require_data(cfg, training_needs(cfg))


def start(cfg: CfgNode, state: RunState) -> None:
    """Train an opened run to its end; an error on the way says what is kept of it."""
    try:
        with explain_full_disk():
            setup_logger(cfg.OUTPUT_DIR)
            begin(cfg, state).train()
            if distributed.is_main():
                finish_run(cfg)
    except (KeyboardInterrupt, NonFiniteLossError, WriteError) as stop:
        said = f"{str(stop).rstrip('.') or 'stopped'}. {what_is_kept(cfg.OUTPUT_DIR)}"
        if isinstance(stop, NonFiniteLossError):
            said += (
                f" To go on from it with other settings, add --resume {cfg.OUTPUT_DIR} and another "
                "--output-dir."
            )
        raise type(stop)(said) from None


def begin(cfg: CfgNode, state: RunState, **options: Any) -> TrainerX:
    """Seed the generators and build the trainer of an opened run, with `options` of its own."""
    logger.info("%s run in %s; its config.yaml holds all settings", state.value, cfg.OUTPUT_DIR)
    logger.info("Settings that are not the defaults, and the method's own:\n%s", describe(cfg))
    logger.info("Versions: %s", ", ".join(f"{name} {v}" for name, v in versions().items()))
    if cfg.SEED >= 0:
        set_random_seed(cfg.SEED)
    if not training_needs(cfg) & Needs.TEST:
        why = missing_images(cfg)
        logger.warning("There is no final test, and training needs the class names alone: %s", why)
        cfg = cfg.clone()
        cfg.defrost()
        cfg.TEST.NO_TEST = True
        cfg.freeze()
        options["images"] = False
    return build_trainer(cfg, **options)


if __name__ == "__main__":
    run(main)
