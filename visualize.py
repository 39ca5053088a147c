"""Draw region maps: python visualize.py --model-dir DIR --image FILE --label NAME_OR_INDEX."""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent))  # not there with PYTHONSAFEPATH=1

from dassl.engine import build_trainer
from dassl.utils import atomic_write, nearest_name, read_image, setup_logger
from dassl.utils.errors import InputError
from datasets.check.layout import require_data
from datasets.needs import Needs, names_known
from ood.regions import (
    check_top_k,
    id_irrelevant_regions,
    region_agreement,
    region_caption,
    save_region_map,
    suggest_top_k,
)
from run.command import run
from run.config import build_cfg
from run.flags import make_parser

logger = logging.getLogger(__name__)

FEW = 20  # class names that a message lists


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
    if args.masks:
        compare_with_masks(trainer, Path(args.masks), k)
    else:
        draw(trainer, args.image, args.label, k)


def build(cfg, images: bool):
    """The trainer; of the ID set the class names alone, where no more is asked for or needed."""
    if not images and names_known(cfg):
        return build_trainer(cfg, images=False)
    require_data(cfg, Needs.TEST)
    return build_trainer(cfg)


def choose_k(asked: str | None, trainer) -> int:
    """K as asked, else the trainer's, else the paper's ratio."""
    classes = len(trainer.dm.dataset.classnames)
    if asked is not None and not asked.isdecimal():
        raise InputError(f"--topk {asked!r}: K is a whole number of classes")
    k = int(asked) if asked else getattr(trainer, "top_k", suggest_top_k(classes))
    check_top_k(k, classes)
    return k


def draw(trainer, path: str, label: str, k: int) -> None:
    """Save the region map of one image under the run's visualization/."""
    names, original = trainer.dm.dataset.classnames, read_image(path)
    index = find_label(label, names)
    irrelevant = irrelevant_regions(trainer, original, index, k)
    caption = region_caption(names[index], k, len(names), irrelevant)
    image = re.sub(r"[^\w.-]+", "_", f"{Path(path).absolute().parent.name}_{Path(path).stem}")
    name = f"{image}_class{index}_k{k}.png"
    output = Path(trainer.cfg.OUTPUT_DIR, "visualization", name)
    seen = as_seen(trainer.cfg, InterpolationMode(trainer.cfg.INPUT.INTERPOLATION))(original)
    save_region_map(output, path, original, seen, irrelevant, caption)
    logger.info("%s\nregion map: %s", caption, output)


def compare_with_masks(trainer, folder: Path, k: int) -> None:
    """Precision and recall of the extracted regions where the object's place is known."""
    seen = as_seen(trainer.cfg, InterpolationMode.NEAREST)
    extracted, objects = [], []
    for item in tqdm(trainer.dm.dataset.test, desc="comparing", unit="image"):
        path = Path(item.impath)
        mask = seen(read_image(str(folder / path.parent.name / f"{path.stem}.png")).convert("L"))
        extracted.append(irrelevant_regions(trainer, read_image(item.impath), item.label, k))
        objects.append(np.asarray(mask) > 127)
    figures = {"k": k, "images": len(extracted), **region_agreement(extracted, objects)}
    output = Path(trainer.cfg.OUTPUT_DIR, "visualization", f"regions_k{k}.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(output) as file:
        json.dump(figures, file, indent=1)
    logger.info(
        "ID-irrelevant regions, K = %d, %d images: precision %.1f %%, recall %.1f %% (%.1f %% of "
        "all regions show no object)\n%s",
        k,
        len(extracted),
        100 * figures["precision"],
        100 * figures["recall"],
        100 * figures["background"],
        output,
    )


def find_label(asked: str, names: list[str]) -> int:
    """Index of the class that `asked` names or numbers."""
    plain = [name.replace("_", " ").lower() for name in names]
    wanted = asked.replace("_", " ").lower()
    if wanted in plain:  # before the index: a class may be called 2
        return plain.index(wanted)
    if asked.isdecimal() and int(asked) < len(names):
        return int(asked)
    raise InputError(
        f"--label {asked!r} is neither a class name nor an index from 0 to {len(names) - 1}. "
        + (
            f"Classes: {', '.join(names)}"
            if len(names) <= FEW
            else f"Nearest name: {nearest_name(wanted, plain)!r}"
        )
    )


def as_seen(cfg, mode: InterpolationMode) -> Compose:
    """The part of an image that the model reads, before normalisation."""
    return Compose([Resize(max(cfg.INPUT.SIZE), mode), CenterCrop(cfg.INPUT.SIZE)])


@torch.inference_mode()
def irrelevant_regions(trainer, image: Image.Image, label: int, k: int) -> torch.Tensor:
    """Bool `[h, w]`: True where the class is not among the region's top K."""
    pixels = trainer.dm.tfm_test(image)[None].to(trainer.device)
    with trainer.autocast():
        _, local_cosines = trainer.model(pixels, trainer.text_features(), local=True)
    mask = id_irrelevant_regions(local_cosines[0], torch.tensor(label, device=trainer.device), k)
    return mask.reshape(trainer.model.clip.grid).cpu()


if __name__ == "__main__":
    run(main)
