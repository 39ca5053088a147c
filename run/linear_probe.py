"""Fit a linear classifier to image features: python -m run.linear_probe --dataset dtd --shots 16.

This is CoOp's linear probe (Zhou et al., IJCV 2022): logistic regression on a few images of each
class, with C chosen on validation images, for 1, 2, 4, ... shots up to --shots.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from dassl.command import run
from dassl.data.datasets import DatasetBase, Datum
from dassl.engine import build_trainer
from dassl.utils import InputError, setup_logger, write_json
from dassl.utils.tables import text_table
from datasets.check.layout import require_data
from datasets.fewshot import check_shots, few_shot
from datasets.imagelist import VAL_SHOTS
from datasets.needs import Needs
from run.config import build_cfg
from run.flags import make_parser
from trainers.features import Features, features_by_path, with_labels

GRID = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)  # of C, before the binary search
STEPS = 8
MAX_SHOTS = 16


def main() -> None:
    args = make_parser(__doc__).parse_args()
    if args.trainer not in ("", "ZeroshotCLIP"):
        raise InputError(
            f"--trainer {args.trainer}: a linear probe reads the image tower's features, which are "
            "the same for every trainer; leave the flag out"
        )
    args.trainer, shots = "ZeroshotCLIP", MAX_SHOTS if args.shots is None else args.shots
    if shots < 1:
        raise InputError(f"--shots is {shots}: a linear probe needs 1 or more images per class")
    args.shots = shots + VAL_SHOTS  # without a val/, `divide` uses some of them for validation
    cfg = build_cfg(args)
    check_shots(args.shots, cfg.SEED)
    setup_logger()
    require_data(cfg, Needs.TEST | Needs.TRAIN)
    trainer = build_trainer(cfg)
    data = trainer.dm.dataset
    pool, val = (data.train_x, data.val) if data.val else divide(data.train_x)
    check_data(data.num_classes, val)
    features = features_by_path(trainer, {"pool": pool, "val": val, "test": data.test})
    rows = []
    for count in [2**i for i in range(shots.bit_length())]:
        train_shots = few_shot(pool, count, cfg.SEED)
        val_shots = few_shot(val, min(count, VAL_SHOTS), cfg.SEED)
        splits = (with_labels(features, split) for split in (train_shots, val_shots, data.test))
        rows.append((count, *probe(*splits)))
    folder = Path(args.output_dir or f"{cfg.OUTPUT_DIR}_linear_probe/seed{cfg.SEED}")
    table = [dict(zip(("shots", "accuracy", "C"), row, strict=True)) for row in rows]
    content = {"seed": cfg.SEED, "dataset": cfg.DATASET.NAME, "probe": table}
    write_json(content, folder / "probe.json")
    shown = [(count, f"{100 * accuracy:.2f} %", f"{c:.3g}") for count, accuracy, c in rows]
    print(text_table(shown, ("shots", "accuracy", "C")), f"\n{folder / 'probe.json'}")


def check_data(classes: int, val: Sequence[Datum]) -> None:
    """Raise InputError if there is only one class, or no validation image to choose C on."""
    if classes < 2 or not val:
        raise InputError(
            f"a linear probe needs 2 or more classes and some validation images; found {classes} "
            f"and {len(val)}. Without a val/ in the data set, half of the training images of each "
            "class, at most 4, are used for validation: give each class 2 or more"
        )


def divide(items: Sequence[Datum]) -> tuple[list[Datum], list[Datum]]:
    """Return training and validation images: of each class up to 4, at most half, validate."""
    train, val = [], []
    for members in DatasetBase.split_dataset_by_label(items).values():
        split = len(members) - min(VAL_SHOTS, len(members) // 2)
        train += members[:split]
        val += members[split:]
    return train, val


def probe(train: Features, val: Features, test: Features) -> tuple[float, float]:
    """Return the accuracy on `test`, and the C that was best on `val`."""
    from sklearn.linear_model import LogisticRegression  # here because it takes a second to import

    def fit(c: float) -> LogisticRegression:
        return LogisticRegression(C=c, max_iter=1000).fit(*train)

    best = search_c(lambda c: fit(c).score(*val))
    return float(fit(best).score(*test)), best


def search_c(accuracy: Callable[[float], float]) -> float:
    """Return the C of the best accuracy: of a grid, then by 8 bisections around it, as CoOp.

    Differs from upstream: features are normalised, so that another C is best.
    """
    peak = max(GRID, key=accuracy)  # the largest of equally good C
    left, right = peak / 10, peak * 10
    for _ in range(STEPS):
        middle = (left * right) ** 0.5
        better_right = accuracy(left) < accuracy(right)
        best = right if better_right else left
        left, right = (middle, right) if better_right else (left, middle)
    return best


if __name__ == "__main__":
    run(main)
