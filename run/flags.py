"""The command-line flags that the entry points share."""

from __future__ import annotations

import argparse
from pathlib import Path

import trainers  # noqa: F401  (registers the trainers)
from dassl.engine import TRAINER_REGISTRY

DATASET_CONFIGS, TRAINER_CONFIGS = Path("configs/datasets"), Path("configs/trainers")
DEFAULT_DATASET = "generated"
OWN_DATASET = "imagefolder"  # that --id-data fills in
# Where a dataset has no config of its own name.
DEFAULT_CONFIGS = ("vit_b16_ep50", "vit_b16", "vit_b16_cc3m")

COMMON_FLAGS = {  # of entry points of one run and of many
    "root": "folder of the datasets (data)",
    "dataset": f"name of a file in {DATASET_CONFIGS} ({DEFAULT_DATASET})",
    "dataset-config-file": "its path, instead of the name",
    "config": f"name of a file in {TRAINER_CONFIGS}/TRAINER (the dataset's name where there is "
    f"such a file, else {DEFAULT_CONFIGS[0]})",
    "config-file": "its path, instead of the name",
    "id-data": "folder of your ID images: with train/ and val/ or test/ in it, a folder for each "
    "class in these; or of class folders alone, then a part of each class is held out "
    "for testing",
    "backbone": "CLIP: OpenAI name, open_clip model/tag or file",
}


def make_parser(description: str, pairs: bool = True) -> argparse.ArgumentParser:
    """The flags that every entry point has; published names where there are any.

    pairs: KEY VALUE pairs may follow; an entry point that takes files there has none.
    """
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    add = parser.add_argument
    add("--trainer", default="", help=f"one of {', '.join(TRAINER_REGISTRY.registered_names())}")
    add_data_flags(parser)
    add("--shots", type=int, default=None, help="images a class; -1 for all")
    add("--seed", type=int, default=None, help="0 is a seed like any other; -1 for none (1)")
    add("--output-dir", default="", help="(output/DATASET/TRAINER/CONFIG_SHOTSshots/.../seedSEED)")
    add("--model-dir", default="", help="folder of a trained run")
    add("--load-epoch", type=int, default=None, help="epoch of its checkpoint (the last)")
    for flag, owners in trainer_flags().items():
        add(
            f"--{flag}",
            default=None,
            help=f"of {', '.join(owners)}: TRAINER.*.{owners[next(iter(owners))]}",
        )
    if pairs:
        add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="any config keys")
    else:
        parser.set_defaults(opts=[])
    return parser


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Data and model, the flags of entry points of one run and of many."""
    for flag, text in COMMON_FLAGS.items():
        parser.add_argument(f"--{flag}", default="", help=text)
    parser.add_argument(
        "--ood-data",
        action="append",
        default=[],
        metavar="[NAME=]FOLDER",
        help="an OOD set of "
        "yours, any folder of images, instead of the data set's; give it once for each",
    )


def trainer_flags() -> dict[str, dict[str, str]]:
    """Flags that trainers declare: flag -> {trainer: config key}."""
    flags: dict[str, dict[str, str]] = {}
    for name in TRAINER_REGISTRY.registered_names():
        for flag, key in getattr(TRAINER_REGISTRY.get(name), "FLAGS", {}).items():
            flags.setdefault(flag, {})[name] = key
    return flags
