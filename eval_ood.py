"""Evaluate OOD detection: python eval_ood.py --model-dir DIR; without --model-dir, zero-shot CLIP.

Flags set keys of the config, which can also be given as KEY VALUE pairs or in a YAML file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dassl.utils import setup_logger
from ood.config import EVAL
from ood.scores import SCORES
from run.command import run
from run.config import build_cfg
from run.evaluation import LOG, check_settings, evaluate
from run.flags import make_parser
from run.folder import locked

FLAGS = ("scores", "temperature", "local_weight", "tpr", "features", "features_limit")


def main() -> None:
    args = parse_args()
    cfg = build_cfg(args)
    check_settings(cfg)
    with locked(cfg.OUTPUT_DIR):
        setup_logger(Path(cfg.OUTPUT_DIR, LOG))
        evaluate(cfg, args.model_dir, args.load_epoch)


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the options of an evaluation, from `arguments` or the command line.

    Those of the node EVAL become KEY VALUE pairs before the given ones.
    """
    parser = make_parser(__doc__)
    parser.set_defaults(trains=False)
    add_flags(parser)
    args = parser.parse_args(arguments)
    if not (args.trainer or args.model_dir):
        args.trainer = "ZeroshotCLIP"
    given = [(flag, getattr(args, flag)) for flag in FLAGS]
    given.append(("features_local", args.features_local or None))
    pairs = [(f"EVAL.{flag.upper()}", str(value)) for flag, value in given if value is not None]
    args.opts = [word for pair in pairs for word in pair] + args.opts
    return args


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that set EVAL's keys."""
    add = parser.add_argument
    add(
        "--scores",
        help=f"all that are usual and the model can give, or some, separated by commas: "
        f"{', '.join(SCORES)} (default: {EVAL['SCORES']})",
    )
    add(
        "--T",
        "--temperature",
        type=float,
        dest="temperature",
        help=f"of MCM and GL-MCM, on cosine similarities (default: {EVAL['TEMPERATURE']:g})",
    )
    add(
        "--local-weight",
        type=float,
        help=f"weight of the regions in GL-MCM (default: {EVAL['LOCAL_WEIGHT']:g})",
    )
    add(
        "--tpr",
        type=float,
        help=f"share of ID images that the saved detector keeps (default: {EVAL['TPR']:g})",
    )
    kept = parser.add_argument_group("image features kept on disk, for later evaluations")
    kept.add_argument(
        "--features",
        metavar="DIR",
        help=f"folder they are kept in; none to keep none (default: {EVAL['FEATURES']})",
    )
    kept.add_argument(
        "--features-limit",
        type=float,
        metavar="GIB",
        help=f"size that folder may come to have (default: {EVAL['FEATURES_LIMIT']:g})",
    )
    kept.add_argument(
        "--features-local",
        action="store_true",
        help="also those of the regions, for GL-MCM, rounded to float16 "
        "(ImageNet and its OOD sets: 16 GiB; default: no)",
    )


if __name__ == "__main__":
    run(main)
