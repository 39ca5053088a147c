"""Draw an image's region map: visualize.py --model-dir DIR --image FILE --label NAME_OR_INDEX."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # not there with PYTHONSAFEPATH=1

from dassl.engine import build_trainer
from dassl.utils import nearest_name, setup_logger
from dassl.utils.errors import InputError
from datasets.check.layout import require_data
from datasets.needs import Needs, names_known
from detector import Detector
from detector.of_trainer import detector_of
from detector.spec import DetectorSpec
from generated.agreement import compare_with_masks
from ood.regions import check_top_k, file_name
from run.command import run
from run.config import build_cfg
from run.flags import make_parser

logger = logging.getLogger(__name__)

FEW = 10  # class names that a message lists


def main() -> None:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--image", "--image_path", default="", help="any image file (default: none)")
    add("--label", default="", help="name or index of the image's class (default: none)")
    add(
        "--masks",
        default="",
        help="instead of one image: compare the regions of all test images with the object "
        "masks in this folder (CLASS/NAME.png, white where the object is; default: none)",
    )
    args = parser.parse_args()
    if not args.masks and not (args.image and args.label):
        raise InputError("give --image FILE and --label NAME_OR_INDEX, or --masks FOLDER")
    if not (args.trainer or args.model_dir):
        args.trainer = "ZeroshotCLIP"
    top_k, args.topk = args.topk, None  # of the map, whether or not the trainer has a K
    cfg = build_cfg(args)
    setup_logger()
    names_suffice = not args.masks and names_known(cfg)
    if not names_suffice:
        require_data(cfg, Needs.TEST)
    trainer = build_trainer(cfg, images=not names_suffice)
    if args.model_dir:
        trainer.load_model(args.model_dir, args.load_epoch)
    detector = detector_of(trainer)
    k = choose_k(top_k, detector.spec)
    detector = Detector(replace(detector.spec, top_k=k), trainer.model.clip)
    folder = Path(cfg.OUTPUT_DIR, "visualization")
    if not args.masks:
        draw(detector, args.image, args.label, folder)
        return
    compare_with_masks(
        trainer.dm.dataset.test,
        Path(args.masks),
        lambda image, label: detector.irrelevant_regions(image, label).numpy(),
        replace(detector.spec.preprocess, interpolation="nearest").view,
        k,
        folder / f"regions_k{k}.json",
    )


def choose_k(asked: str | None, spec: DetectorSpec) -> int:
    """Return K as asked, else the trainer's, else the paper's ratio."""
    if asked is not None and not asked.isdecimal():
        raise InputError(f"--topk {asked!r}: K is a whole number of classes")
    k = int(asked) if asked else spec.top_k
    check_top_k(k, len(spec.classnames))
    return k


def draw(detector: Detector, path: str, label: str, folder: Path) -> None:
    """Save the region map of one image in `folder`."""
    index = find_label(label, detector.spec.classnames)
    image = file_name(f"{Path(path).absolute().parent.name}_{Path(path).stem}")
    output = folder / f"{image}_class{index}_k{detector.spec.top_k}.png"
    logger.info("%s\nregion map: %s", detector.save_regions(path, output, index), output)


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
