"""Evaluate OOD detection: python eval_ood.py --model-dir DIR; without --model-dir, zero-shot CLIP.

Each flag sets a key under EVAL in the config; KEY VALUE pairs or a YAML file can set it as well.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # not there with PYTHONSAFEPATH=1

from dassl.command import run
from dassl.config.defaults import EVAL
from dassl.utils import setup_logger
from ood.library import PREFIX
from ood.scores import SCORES
from ood.stream_methods import STREAMS
from run.config import build_cfg
from run.evaluation import LOG, check_settings, evaluate
from run.flags import make_parser
from run.folder import locked

HELP = {
    "SCORES": "scores to compute, separated by commas: all, which means the usual ones that the "
    f"model supports, or some of {', '.join(SCORES)}; or {PREFIX}NAME for a detector of that "
    "library (docs/methods.md)",
    "TEMPERATURE": "temperature of MCM, GL-MCM, L-MCM and FA's scores, for cosine similarities",
    "LOCAL_WEIGHT": "weight of the regions in GL-MCM",
    "NEGATIVES": "words that are not classes, for NegLabel and CSP: wordnet, which this repository "
    "includes, or a folder of word lists (noun.NAME.txt, adj.NAME.txt) or of WordNet's data "
    "files, relative to the working directory or to --root",
    "NEGATIVES_SHARE": "share of these words to use: those farthest from the classes",
    "OUTLIERS": ".txt file of outlier names, one per line, for EOE",
    "STREAMS": "test-time methods, which learn from the images they score, separated by commas: "
    f"{', '.join(STREAMS)}. They need kept features, and get a table of their own",
    "STREAM_RATIO": "share of OOD images in a stream, or several such as 0.01,0.1,0.5; without it "
    "a stream has all images of both sets",
    "STREAM_BATCH": "images in a batch of a stream; 0 for each method's own: "
    f"{', '.join(f'{name} {method.batch}' for name, method in STREAMS.items())}",
    "STREAM_SEED": "seed of the order of the images in a stream",
    "TPR": "share of ID images that the saved detector keeps",
    "FEATURES": "folder to keep image features in, for later evaluations and for runs with "
    "DATALOADER.VIEWS; the word none keeps none",
    "FEATURES_LIMIT": "limit on the size of that folder, in GiB",
    "FEATURES_LOCAL": "also keep the features of the regions, for GL-MCM, rounded to float16 "
    "(16 GiB for ImageNet and its OOD sets)",
}


def main() -> None:
    args = parse_args()
    cfg = build_cfg(args)
    check_settings(cfg)
    with locked(cfg.OUTPUT_DIR):
        setup_logger(Path(cfg.OUTPUT_DIR, LOG))
        evaluate(cfg, args.model_dir, args.load_epoch)


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the flags of an evaluation, from `arguments` or the command line.

    Flags for keys of EVAL become KEY VALUE pairs, placed before the user's own pairs.
    """
    parser = make_parser(__doc__)
    parser.set_defaults(trains=False)
    for key, default in EVAL.items():
        flag = f"--{key.lower().replace('_', '-')}"
        flags = ("--T", flag) if key == "TEMPERATURE" else (flag,)
        options = {"action": "store_true"} if default is False else {"type": type(default)}
        text = f"{HELP[key]} (default: {'none' if default == '' else default})"
        parser.add_argument(*flags, dest=key, default=None, help=text, **options)
    args = parser.parse_args(arguments)
    if not (args.trainer or args.model_dir):
        args.trainer = "ZeroshotCLIP"
    given = {key: value for key in EVAL if (value := getattr(args, key)) is not None}
    args.opts = [(f"EVAL.{key}", str(value)) for key, value in given.items()] + args.opts
    return args


if __name__ == "__main__":
    run(main)
