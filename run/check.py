"""Check the data: say what is there, what is missing, and how to mend it.

Takes the flags of train.py and eval_ood.py. Exits with 0 when the run that they describe can go
ahead (evaluation; with a --trainer that learns, or --shots, training as well), else with 1.
"""

import logging
import sys

from dassl.command import run
from dassl.engine import TRAINER_REGISTRY
from dassl.utils.files import write_json
from datasets.check.survey import check
from datasets.needs import EVALUATION, training_needs
from run.config import build_cfg
from run.flags import DEFAULT_DATASET, make_parser


def main() -> None:
    parser = make_parser(__doc__)
    parser.prog = "python -m run.check"
    parser.add_argument(
        "--full",
        action="store_true",
        help="decode all images and compare all files of the sets (default: decode a sample)",
    )
    parser.add_argument("--json", default="", help="file for all that was found (default: none)")
    args = parser.parse_args()
    logging.getLogger().addHandler(logging.NullHandler())  # the report has the loaders' warnings
    trains = args.shots is not None
    if not (args.trainer or args.model_dir):
        args.trainer = "ZeroshotCLIP"
    cfg = build_cfg(args)
    trains |= TRAINER_REGISTRY.get(cfg.TRAINER.NAME).LEARNS and not args.model_dir
    asked = ["evaluation", "training"] if trains else ["evaluation"]
    named = args.id_data or args.dataset or args.dataset_config_file or args.model_dir
    runs = {"evaluation": EVALUATION, "training": training_needs(cfg)}
    report = check(cfg, named or DEFAULT_DATASET, runs, asked, args.full)
    print(report.text())
    if args.json:
        write_json(report.record(), args.json)
    sys.exit(0 if report.ready else 1)


if __name__ == "__main__":
    run(main)
