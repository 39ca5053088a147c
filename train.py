"""Train a method: python train.py --trainer LoCoOp --dataset imagenet --shots 16."""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # not there with PYTHONSAFEPATH=1

from dassl import distributed
from dassl.engine import build_trainer
from dassl.utils import collect_env_info, explain_full_disk, set_random_seed, setup_logger
from dassl.utils.errors import InputError, NonFiniteLossError, WriteError
from datasets.check.layout import require_data
from datasets.needs import Needs, missing_images
from run.command import run
from run.config import build_cfg
from run.flags import make_parser
from run.folder import RunState, finish_run, locked, open_run, what_is_kept
from run.needs import training_needs

logger = logging.getLogger(__name__)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--resume", default="", help="folder of a run to go on from")
    parser.add_argument("--eval-only", action="store_true", help="only test the run in --model-dir")
    parser.add_argument("--no-train", action="store_true", help="only build everything")
    args = parser.parse_args()
    cfg = build_cfg(args)
    if args.model_dir and not args.eval_only:
        raise InputError("--model-dir names a finished run: add --eval-only, or use --resume")

    if args.eval_only or args.no_train:
        setup_logger()
        if args.eval_only:
            require_data(cfg, Needs.TEST)
        trainer = build_trainer(cfg)
        if args.eval_only:
            trainer.load_model(args.model_dir, args.load_epoch)
            trainer.test()
        return
    train(cfg)


def train(cfg) -> None:
    """Train, or go on, or say that it is done."""
    with locked(cfg.OUTPUT_DIR):
        state = distributed.from_main(lambda: open_run(cfg))
        if state is not RunState.FINISHED:
            start(cfg, state)
        elif distributed.is_main():
            print(f"finished before: {cfg.OUTPUT_DIR} (remove the folder to run it again)")


def start(cfg, state: RunState) -> None:
    """Train to the end; what stops it on the way also tells what is kept."""
    try:
        with explain_full_disk():
            setup_logger(cfg.OUTPUT_DIR)
            begin(cfg, state).train()
            if distributed.is_main():
                finish(cfg)
    except KeyboardInterrupt as stop:
        raise type(stop)(f"{str(stop) or 'stopped'}. {what_is_kept(cfg.OUTPUT_DIR)}") from None
    except NonFiniteLossError as error:
        raise NonFiniteLossError(
            f"{error} {what_is_kept(cfg.OUTPUT_DIR)} To go on from it with other settings, add "
            f"--resume {cfg.OUTPUT_DIR} and another --output-dir."
        ) from error
    except WriteError as error:
        raise WriteError(f"{error} {what_is_kept(cfg.OUTPUT_DIR)}") from error


def begin(cfg, state: RunState, **options):
    """The trainer of an opened run, built with `options`, the generators seeded for it."""
    needs = training_needs(cfg)
    require_data(cfg, needs)
    logger.info("%s run in %s", state.value, cfg.OUTPUT_DIR)
    logger.info("** Config **\n%s\n** System **\n%s", cfg, collect_env_info())
    if cfg.SEED >= 0:
        logger.info("Setting fixed seed: %d", cfg.SEED)
        set_random_seed(cfg.SEED)
    if not needs & Needs.TEST:
        why = missing_images(cfg)
        logger.warning("There is no final test, and training needs the class names alone: %s", why)
        return build_trainer(untested(cfg), images=False, **options)
    return build_trainer(cfg, **options)


def untested(cfg):
    """The config, but that nothing is tested."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.NO_TEST = True
    cfg.freeze()
    return cfg


def finish(cfg) -> None:
    """Mark a run that is trained."""
    finish_run(cfg, trainer=cfg.TRAINER.NAME, seed=cfg.SEED)


if __name__ == "__main__":
    run(main)
