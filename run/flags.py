"""The command-line flags that the entry points share."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import trainers  # noqa: F401  (registers the trainers)
from dassl.config import get_cfg_default
from dassl.engine import TRAINER_REGISTRY
from dassl.utils.names import suggest

DATASET_CONFIGS, TRAINER_CONFIGS = Path("configs/datasets"), Path("configs/trainers")
DEFAULT_DATASET = "generated"
OWN_DATASET = "imagefolder"  # that --id-data fills in
# Where a dataset has no config of its own name.
DEFAULT_CONFIGS = ("vit_b16_ep50", "vit_b16_ep25", "vit_b16_ep30", "vit_b16", "vit_b16_cc3m")

COMMON_FLAGS = {  # of entry points of one run and of many
    "root": f"folder of the data sets (default: {get_cfg_default().DATASET.ROOT})",
    "dataset": f"name of a file in {DATASET_CONFIGS} (default: {DEFAULT_DATASET})",
    "dataset-config-file": "path of such a file, instead of its name",
    "config": f"name of a file in {TRAINER_CONFIGS}/TRAINER (default: the data set's name, or its "
    f"_BASE_'s, if there is such a file, else {DEFAULT_CONFIGS[0]})",
    "config-file": "path of such a file, instead of its name",
    "id-data": "folder of your ID images: with train/ and val/ or test/ in it, a folder for each "
    "class in these; or of class folders alone, then a part of each class is held out "
    "for testing",
    "backbone": "CLIP: OpenAI name, open_clip model/tag or file (default: the config's)",
}


class Parser(argparse.ArgumentParser):
    """A parser that understands flags before, between and behind KEY VALUE pairs, its `opts`."""

    def __init__(self, description: str, pairs: bool = True) -> None:
        what = "[KEY VALUE ...]" if pairs else "FILE ..."
        super().__init__(
            description=description.split("\n")[0],
            usage=f"%(prog)s [--FLAG VALUE ...] {what}   (--help lists the flags)",
            epilog="KEY VALUE pairs set anything in the config, such as OPTIM.LR 0.001." * pairs,
            allow_abbrev=False,
        )
        self.set_defaults(opts=[])

    def parse_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        found, rest = self.parse_known_args(args, namespace)
        if unknown := [word for word in rest if word.startswith("--")]:
            known = [flag for flag in self._option_string_actions if flag.startswith("--")]
            self.error(f"unknown flag {unknown[0]}. {suggest(unknown[0], known)}")
        found.opts = rest
        return found


def make_parser(description: str, pairs: bool = True) -> Parser:
    """Return a parser of the flags that every entry point has.

    Args:
        pairs: whether KEY VALUE pairs may follow; an entry point that takes files there has none.
    """
    parser = Parser(description, pairs)
    add = parser.add_argument
    known = ", ".join(TRAINER_REGISTRY.registered_names())
    add("--trainer", default="", help=f"one of {known} (default: that of --model-dir)")
    add_data_flags(parser)
    add("--shots", type=int, default=None, help="images a class; -1 for all (default: all)")
    seed = get_cfg_default().SEED
    add("--seed", type=int, default=None, help=f"0 or more; -1: not seeded (default: {seed})")
    add(
        "--output-dir",
        default="",
        help="folder of the run (default: output/DATASET/TRAINER/CONFIG_SHOTSshots/.../seedSEED)",
    )
    add("--model-dir", default="", help="folder of a trained run (default: none)")
    add("--load-epoch", type=int, default=None, help="epoch of its checkpoint (default: the last)")
    for flag, owners in trainer_flags().items():
        kinds = [TRAINER_REGISTRY.get(name) for name in owners]
        keys = ", ".join(f"TRAINER.{kind.CONFIG_KEY}.{kind.FLAGS[flag]}" for kind in kinds)
        usual = kinds[0].CONFIG[kinds[0].FLAGS[flag]]
        add(f"--{flag}", default=None, help=f"sets {keys} (default: the config's, usually {usual})")
    parser.set_defaults(resume="", trains=True)
    return parser


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for data and model, of entry points of one run and of many."""
    for flag, text in COMMON_FLAGS.items():
        parser.add_argument(f"--{flag}", default="", help=text)
    parser.add_argument(
        "--ood-data",
        action="append",
        default=[],
        metavar="[NAME=]FOLDER",
        help="an OOD set of yours, any folder of images; give it once for each (default: the data "
        "set's)",
    )


def trainer_flags() -> dict[str, dict[str, str]]:
    """Return the flags that trainers declare: flag -> {trainer: config key}."""
    flags: dict[str, dict[str, str]] = {}
    for name in TRAINER_REGISTRY.registered_names():
        for flag, key in TRAINER_REGISTRY.get(name).FLAGS.items():
            flags.setdefault(flag, {})[name] = key
    return flags


def choose(args: argparse.Namespace, **chosen: object) -> argparse.Namespace:
    """Return the arguments of one run: those of `args`, others where they are `chosen`."""
    return argparse.Namespace(**{**vars(make_parser("").parse_args([])), **vars(args), **chosen})


def as_words(args: argparse.Namespace) -> list[str]:
    """Return the command line that `args` of one run stand for."""
    parser, words = make_parser(""), []
    for action in parser._actions:
        value = getattr(args, action.dest, action.default)
        if action.option_strings and value != action.default:
            for one in value if isinstance(value, list) else [value]:
                words += [action.option_strings[0], str(one)]
    return words + args.opts
