"""Draw region maps: visualize.py --model-dir DIR --image FILE --label NAME_OR_INDEX."""

import argparse
import logging
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # not there with PYTHONSAFEPATH=1

from dassl.command import run
from dassl.data.datasets import DatasetBase
from dassl.engine import build_trainer
from dassl.utils import InputError, setup_logger
from dassl.utils.figures import FORMATS
from dassl.utils.files import file_name
from dassl.utils.names import suggest
from datasets.check.layout import require_data
from datasets.classfolders import ClassFolders
from datasets.folders import images_of
from datasets.needs import Needs, names_known
from detector import Detector
from detector.of_trainer import detector_of
from detector.spec import DetectorSpec
from generated.agreement import compare_with_masks
from ood.region_maps import DPI, MOST, save_region_maps
from ood.regions import check_top_k
from run.config import build_cfg
from run.flags import make_parser
from run.settings import require_clip_trainer

logger = logging.getLogger(__name__)

Keys = dict[str, list[int]]  # a name without capitals and underscores, and its labels


def main() -> None:
    args = parse_args()
    top_k, args.topk = args.topk, None  # K of the map; the trainer may have no such setting
    cfg = build_cfg(args)
    require_clip_trainer(cfg)
    setup_logger()
    names_suffice = bool(args.image) and names_known(cfg)
    if not names_suffice:
        require_data(cfg, Needs.TEST)
    trainer = build_trainer(cfg, images=not names_suffice)
    if args.model_dir:
        trainer.load_model(args.model_dir, args.load_epoch)
    detector = detector_of(trainer)
    k = choose_k(top_k, detector.spec)
    detector = Detector(replace(detector.spec, top_k=k), trainer.model.clip)
    folder = Path(cfg.OUTPUT_DIR, "visualization")
    if args.image:
        draw(detector, args, class_keys(trainer.dm.dataset), folder)
        return
    compare_with_masks(
        trainer.dm.dataset.test,
        Path(args.masks),
        lambda image, label: detector.irrelevant_regions(image, label).numpy(),
        replace(detector.spec.preprocess, interpolation="nearest").view,
        k,
        folder / f"regions_k{k}.json",
    )


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.set_defaults(trains=False)
    add = parser.add_argument
    add(
        "--image",
        "--image_path",
        action="append",
        default=[],
        metavar="FILE_OR_FOLDER",
        help="an image, or a folder of images; repeat the flag to draw several in one figure (at "
        f"most {MOST}; default: none)",
    )
    add(
        "--label",
        action="append",
        default=[],
        help="name, folder or index of the image's class; give it once for all images, or once "
        "for each (default: the class that the image's folder is named after, else the predicted)",
    )
    add(
        "--masks",
        default="",
        metavar="FOLDER",
        help="object masks (CLASS/NAME.png, white where the object is). With --image, the object's "
        "outline is drawn; without, the regions of all test images are compared with the masks "
        "(default: none)",
    )
    add(
        "--format",
        choices=FORMATS,
        default=FORMATS[0],
        help=f"format of the figure (default: {FORMATS[0]}, {DPI} dots per inch)",
    )
    args = parser.parse_args()
    if not (args.masks or args.image):
        raise InputError("give --image FILE and --label NAME_OR_INDEX, or --masks FOLDER")
    if not (args.trainer or args.model_dir):
        args.trainer = "ZeroshotCLIP"
    return args


def choose_k(asked: str | None, spec: DetectorSpec) -> int:
    """Return K as asked, else that of the detector."""
    if asked is not None and not asked.isdecimal():
        raise InputError(f"--topk {asked!r}: K is a whole number of classes")
    k = int(asked) if asked else spec.top_k
    check_top_k(k, len(spec.classnames))
    return k


def draw(detector: Detector, args: argparse.Namespace, known: Sequence[Keys], folder: Path) -> None:
    """Draw the region maps of all images into one figure in `folder`; `known` is `class_keys`."""
    images = [Path(path).absolute() for path in images_of(args.image)]
    if not 1 <= len(images) <= MOST:
        raise InputError(f"--image names {len(images)} images; a figure shows 1 to {MOST}")
    labels = find_labels(args.label, images, known)
    maps = []
    for image, label in zip(images, labels, strict=True):
        mask = Path(args.masks, image.parent.name, f"{image.stem}.png")
        mask_file = str(mask) if args.masks and mask.is_file() else ""
        maps.append(detector.region_map(image, label, mask_file))
        logger.info("%s\n%s", image, maps[-1].caption)
    if args.masks and not any(region_map.mask for region_map in maps):
        logger.warning("--masks %s has none of these images: no outline is drawn", args.masks)
    name = file_name(f"{images[0].parent.name}_{images[0].stem}")
    if len(images) > 1:
        name += f"_and_{len(images) - 1}_more"
    else:
        name += "_predicted" if labels[0] is None else f"_class{labels[0]}"
    output = folder / f"{name}_k{detector.spec.top_k}.{args.format}"
    logger.info("region maps: %s", save_region_maps(output, maps))


def class_keys(dataset: DatasetBase) -> list[Keys]:
    """Return the labels by class folder, in data sets that have them, and by class name."""
    folders = dataset.class_folders if isinstance(dataset, ClassFolders) else []
    known: list[Keys] = [{}, {}]
    for keys, names in zip(known, (folders, dataset.classnames), strict=True):
        for label, name in enumerate(names):
            keys.setdefault(_plain(name), []).append(label)
    return known


def find_labels(
    asked: Sequence[str], images: Sequence[Path], known: Sequence[Keys]
) -> list[int | None]:
    """Return the label of every image: as asked, else by its folder's name, else None."""
    if not asked:
        return [label_of_folder(image.parent.name, known) for image in images]
    if len(asked) not in (1, len(images)):
        raise InputError(
            f"{len(asked)} --label for {len(images)} images: give one for all, or one for each"
        )
    labels = [find_label(name, known) for name in asked]
    return labels * len(images) if len(labels) == 1 else labels


def label_of_folder(folder: str, known: Sequence[Keys]) -> int | None:
    """Return the label of the class whose folder, else whose name, is `folder`; None if none."""
    found = [keys[_plain(folder)] for keys in known if _plain(folder) in keys]
    return _only(folder, found[0]) if found else None


def find_label(asked: str, known: Sequence[Keys]) -> int:
    """Return the label of the class with the name, folder or index `asked`."""
    name, count = _plain(asked), 1 + max(map(max, known[-1].values()))
    labels = {label for keys in known for label in keys.get(name, [])}
    if labels:  # names come before indices: a class may be called 2
        return _only(asked, labels)
    if asked.isdecimal() and int(asked) < count:
        return int(asked)
    raise InputError(
        f"--label {asked!r} is neither a class name nor an index from 0 to {count - 1}. "
        f"{suggest(name, {**known[0], **known[1]})}"
    )


def _only(name: str, labels: Collection[int]) -> int:
    if len(labels) > 1:
        raise InputError(
            f"{name!r} names the classes {' and '.join(map(str, sorted(labels)))}: give the index "
            "of the one that is meant as --label"
        )
    return next(iter(labels))


def _plain(name: str) -> str:
    return name.replace("_", " ").lower()


if __name__ == "__main__":
    run(main)
