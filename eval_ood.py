"""Evaluate OOD detection: python eval_ood.py --model-dir DIR; without --model-dir, zero-shot CLIP.

Flags set keys of the config, which can also be given as KEY VALUE pairs or in a YAML file.
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
    "SCORES": "all that are usual and the model can give, or some, separated by commas: "
    f"{', '.join(SCORES)}; or {PREFIX}NAME, a detector of that library (docs/methods.md)",
    "TEMPERATURE": "of MCM and GL-MCM, on cosine similarities",
    "LOCAL_WEIGHT": "weight of the regions in GL-MCM",
    "NEGATIVES": "words that are not classes, for NegLabel and CSP: a folder of lists "
    "(noun.NAME.txt, adj.NAME.txt) or of WordNet's data files, from here or under --root; or "
    "wordnet, the words of which come with this repository",
    "NEGATIVES_SHARE": "share of these words, the farthest from the classes, that is used",
    "OUTLIERS": "a .txt file with the name of an outlier a line, for EOE",
    "STREAMS": "test-time methods, which learn from the images they score: "
    f"{', '.join(STREAMS)}, separated by commas. They need kept features, and have a table of "
    "their own",
    "STREAM_RATIO": "shares of OOD images in their streams, as 0.01,0.1,0.5; none takes all images "
    "of both sets",
    "STREAM_BATCH": "images a batch; 0 is each method's own: "
    f"{', '.join(f'{name} {kind.batch}' for name, kind in STREAMS.items())}",
    "STREAM_SEED": "seed of the order of the images",
    "TPR": "share of ID images that the saved detector keeps",
    "FEATURES": "folder of image features that later evaluations, and runs with DATALOADER.VIEWS, "
    "read; none to keep none",
    "FEATURES_LIMIT": "GiB that this folder may come to hold",
    "FEATURES_LOCAL": "keep also the features of the regions, for GL-MCM, rounded to float16 "
    "(ImageNet and its OOD sets: 16 GiB)",
}


def main() -> None:
    args = parse_args()
    cfg = build_cfg(args)
    check_settings(cfg)
    with locked(cfg.OUTPUT_DIR):
        setup_logger(Path(cfg.OUTPUT_DIR, LOG))
        evaluate(cfg, args.model_dir, args.load_epoch)


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the options of an evaluation, from `arguments` or the command line.

    The flags for the keys of EVAL become KEY VALUE pairs before the given ones.
    """
    parser = make_parser(__doc__)
    parser.set_defaults(trains=False)
    for key, usual in EVAL.items():
        name = f"--{key.lower().replace('_', '-')}"
        names = ("--T", name) if key == "TEMPERATURE" else (name,)
        kind = {"action": "store_true"} if usual is False else {"type": type(usual)}
        text = f"{HELP[key]} (default: {'none' if usual == '' else usual})"
        parser.add_argument(*names, dest=key, default=None, help=text, **kind)
    args = parser.parse_args(arguments)
    if not (args.trainer or args.model_dir):
        args.trainer = "ZeroshotCLIP"
    given = {key: getattr(args, key) for key in EVAL}
    pairs = [(f"EVAL.{key}", str(value)) for key, value in given.items() if value is not None]
    args.opts = [word for pair in pairs for word in pair] + args.opts
    return args


if __name__ == "__main__":
    run(main)
