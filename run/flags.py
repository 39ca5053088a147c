"""The command-line flags that the entry points share."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import trainers  # noqa: F401  (registers the trainers)
from dassl.config import get_cfg_default
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import InputError
from dassl.utils.names import suggest

DATASET_CONFIGS, TRAINER_CONFIGS = Path("configs/datasets"), Path("configs/trainers")
DEFAULT_DATASET = "generated"
OWN_DATASET = "imagefolder"  # for --id-data
# The first that a trainer has is used if it has no config named after the data set.
DEFAULT_CONFIGS = (
    *("vit_b16_ep50", "vit_b16_ep25", "vit_b16_ep30"),
    *("vit_b16", "vit_b16_cc3m", "vit_b32_coco"),
)

COMMON_FLAGS = {  # of sweep.py and of the entry points for one run
    "root": f"folder of the data sets (default: {get_cfg_default().DATASET.ROOT})",
    "dataset": f"name of a file in {DATASET_CONFIGS} (default: {OWN_DATASET} with --id-data, else "
    f"{DEFAULT_DATASET})",
    "dataset-config-file": "path of such a file, in place of --dataset (default: none)",
    "config": f"name of a file in {TRAINER_CONFIGS}/TRAINER (default: the data set's name, or its "
    f"_BASE_'s, if there is such a file, else the first there is of {', '.join(DEFAULT_CONFIGS)})",
    "config-file": "path of such a file, in place of --config (default: none)",
    "id-data": "folder of your ID images: class folders inside train/ and val/ or test/; or class "
    "folders alone, and then part of each class is held out for testing (default: none)",
    "backbone": "CLIP: OpenAI name, open_clip model/tag, file or Hugging Face folder (default: the "
    "config's)",
}
TRAINER_FLAGS = {  # what the flags that trainers declare mean
    "variant": "prompts of the negated text tower: learnable or handcrafted",
    "template": "class prompts: a text with {}, or a set of texts such as imagenet80",
    "lambda_value": "weight of the loss on ID-irrelevant regions",
    "topk": "K: a region without its image's class among its K likeliest is ID-irrelevant; 0: a "
    "fifth of the classes",
}


class Parser(argparse.ArgumentParser):
    """A parser for flags and KEY VALUE pairs in any order; the pairs become the list `opts`."""

    def __init__(self, description: str, pairs: bool = True) -> None:
        what = "[KEY VALUE ...]" if pairs else "FILE ..."
        super().__init__(
            description=description.split("\n")[0],
            usage=f"%(prog)s [--FLAG VALUE ...] {what}   (--help lists the flags)",
            epilog="KEY VALUE pairs set any key of the config, as in OPTIM.LR 0.001." * pairs,
            allow_abbrev=False,
        )
        self.set_defaults(opts=[])

    def parse_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        parsed, rest = self.parse_known_args(args, namespace)
        if unknown := [word for word in rest if word.startswith("--")]:
            known = [flag for flag in self._option_string_actions if flag.startswith("--")]
            self.error(f"unknown flag {unknown[0]}. {suggest(unknown[0], known)}")
        if len(rest) % 2:
            raise InputError(f"settings come in pairs of KEY VALUE, got {' '.join(rest)}")
        parsed.opts = list(zip(rest[::2], rest[1::2], strict=True))
        return parsed


def make_parser(description: str, pairs: bool = True) -> Parser:
    """Return a parser of the flags that all entry points for one run share.

    Args:
        pairs: whether words without a flag are KEY VALUE pairs; if not, they are files.
    """
    parser = Parser(description, pairs)
    add = parser.add_argument
    known = ", ".join(TRAINER_REGISTRY.registered_names())
    add("--trainer", default="", help=f"one of {known} (default: that of --model-dir)")
    add_data_flags(parser)
    shots = "images per class; -1 for all (default: that of the run in --model-dir, else all)"
    add("--shots", type=int, default=None, help=shots)
    seed = get_cfg_default().SEED
    text = f"0 or more; -1 for no seed (default: that of the run in --model-dir, else {seed})"
    add("--seed", type=int, default=None, help=text)
    add(
        "--output-dir",
        default="",
        help="folder of the results (default: the folder of --model-dir, else one named after the "
        "settings, output/DATASET/TRAINER/...)",
    )
    run = "folder of a trained run, whose settings become the other flags' defaults (default: none)"
    add("--model-dir", default="", help=run)
    add("--load-epoch", type=int, default=None, help="epoch of its checkpoint (default: the last)")
    for flag, owners in trainer_flags().items():
        classes = [TRAINER_REGISTRY.get(name) for name in owners]
        keys = ", ".join(f"TRAINER.{each.CONFIG_KEY}.{each.FLAGS[flag]}" for each in classes)
        value = classes[0].CONFIG[classes[0].FLAGS[flag]]
        meaning = f"{TRAINER_FLAGS[flag]}; " if flag in TRAINER_FLAGS else ""
        text = f"{meaning}sets {keys} (default: the config's, often {value})"
        add(f"--{flag}", default=None, help=text)
    parser.set_defaults(resume="", trains=True)
    return parser


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for data and model, which sweep.py has too."""
    for flag, text in COMMON_FLAGS.items():
        parser.add_argument(f"--{flag}", default="", help=text)
    parser.add_argument(
        "--ood-data",
        action="append",
        default=[],
        metavar="[NAME=]FOLDER",
        help="an OOD set of yours: any folder of images; repeat the flag for several (default: the "
        "data set's)",
    )


def trainer_flags() -> dict[str, dict[str, str]]:
    """Return the flags that trainers declare: flag -> {trainer: config key}."""
    flags: dict[str, dict[str, str]] = {}
    for name in TRAINER_REGISTRY.registered_names():
        for flag, key in TRAINER_REGISTRY.get(name).FLAGS.items():
            flags.setdefault(flag, {})[name] = key
    return flags


def choose(args: argparse.Namespace, **chosen: object) -> argparse.Namespace:
    """Return the arguments of one run: `args` updated with `chosen`, completed by defaults."""
    return argparse.Namespace(**{**vars(make_parser("").parse_args([])), **vars(args), **chosen})


def as_words(args: argparse.Namespace) -> list[str]:
    """Return the words of the command line that gives `args`, the arguments of one run."""
    parser, words = make_parser(""), []
    for action in parser._actions:
        value = getattr(args, action.dest, action.default)
        if action.option_strings and value != action.default:
            for item in value if isinstance(value, list) else [value]:
                words += [action.option_strings[0], str(item)]
    return words + [word for pair in args.opts for word in pair]
