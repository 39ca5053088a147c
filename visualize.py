"""Draw an image's region map: visualize.py --model-dir DIR --image FILE --label NAME_OR_INDEX."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from yacs.config import CfgNode

sys.path.insert(0, str(Path(__file__).resolve().parent))  # not there with PYTHONSAFEPATH=1

from dassl.data.transforms.transforms import build_preprocess
from dassl.engine import build_trainer
from dassl.utils import nearest_name, read_image, setup_logger
from dassl.utils.errors import InputError
from datasets.check.layout import require_data
from datasets.needs import Needs, names_known
from generated.agreement import compare_with_masks
from ood.regions import (
    check_top_k,
    extract_regions,
    file_name,
    region_caption,
    save_region_map,
    suggest_top_k,
)
from run.command import run
from run.config import build_cfg
from run.flags import make_parser
from trainers.base import ClipTrainer

logger = logging.getLogger(__name__)

FEW = 10  # class names that a message lists


def main() -> None:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--image", "--image_path", default="", help="any image file")
    add("--label", default="", help="name or index of the image's class")
    add(
        "--masks",
        default="",
        help="instead of one image: compare the regions of all test images "
        "with the object masks in this folder (CLASS/NAME.png, white where the object is)",
    )
    args = parser.parse_args()
    if not args.masks and not (args.image and args.label):
        raise InputError("give --image FILE and --label NAME_OR_INDEX, or --masks FOLDER")
    if not (args.trainer or args.model_dir):
        args.trainer = "ZeroshotCLIP"
    top_k, args.topk = args.topk, None  # of the map, whether or not the trainer has a K
    cfg = build_cfg(args)
    setup_logger()
    trainer = build(cfg, images=bool(args.masks))
    if args.model_dir:
        trainer.load_model(args.model_dir, args.load_epoch)
    k = choose_k(top_k, trainer)
    folder = Path(cfg.OUTPUT_DIR, "visualization")
    if not args.masks:
        draw(trainer, args.image, args.label, k, folder)
        return
    compare_with_masks(
        trainer.dm.dataset.test,
        Path(args.masks),
        lambda image, label: extract(trainer, image, label, k).numpy(),
        replace(build_preprocess(cfg, normalize=False), interpolation="nearest").view,
        k,
        folder / f"regions_k{k}.json",
    )


def build(cfg: CfgNode, images: bool) -> ClipTrainer:
    """Build the trainer; of the ID set the class names alone, where no more is asked or needed."""
    if not images and names_known(cfg):
        return build_trainer(cfg, images=False)
    require_data(cfg, Needs.TEST)
    return build_trainer(cfg)


def choose_k(asked: str | None, trainer: ClipTrainer) -> int:
    """Return K as asked, else the trainer's, else the paper's ratio."""
    classes = len(trainer.dm.dataset.classnames)
    if asked is not None and not asked.isdecimal():
        raise InputError(f"--topk {asked!r}: K is a whole number of classes")
    k = int(asked) if asked else getattr(trainer, "top_k", suggest_top_k(classes))
    check_top_k(k, classes)
    return k


def draw(trainer: ClipTrainer, path: str, label: str, k: int, folder: Path) -> None:
    """Save the region map of one image in `folder`."""
    names, original = trainer.dm.dataset.classnames, read_image(path)
    index = find_label(label, names)
    irrelevant = extract(trainer, original, index, k)
    caption = region_caption(names[index], k, len(names), irrelevant)
    image = file_name(f"{Path(path).absolute().parent.name}_{Path(path).stem}")
    output = folder / f"{image}_class{index}_k{k}.png"
    seen = build_preprocess(trainer.cfg, normalize=False).view(original)
    save_region_map(output, path, original, seen, irrelevant, caption)
    logger.info("%s\nregion map: %s", caption, output)


def extract(trainer: ClipTrainer, image: Image.Image, label: int, k: int) -> torch.Tensor:
    """Return where the regions of an image are ID-irrelevant, bool `[h, w]`."""
    pixels = trainer.dm.tfm_test(image)[None].to(trainer.device)
    with trainer.autocast():
        return extract_regions(trainer.model, pixels, trainer.text_features(), label, k)


def find_label(asked: str, names: list[str]) -> int:
    """Return the index of the class that `asked` names or numbers."""
    plain = [name.replace("_", " ").lower() for name in names]
    wanted = asked.replace("_", " ").lower()
    if wanted in plain:  # before the index: a class may be called 2
        return plain.index(wanted)
    if asked.isdecimal() and int(asked) < len(names):
        return int(asked)
    known = f"The classes: {', '.join(plain)}. " if len(names) <= FEW else ""
    raise InputError(
        f"--label {asked!r} is neither a class name nor an index from 0 to {len(names) - 1}. "
        f"{known}Nearest name: {nearest_name(wanted, plain)!r}"
    )


if __name__ == "__main__":
    run(main)
