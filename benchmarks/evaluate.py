"""Time an evaluation against a plain one and against the bare image encoder.

ViT-B/16 with random weights (nothing is downloaded), ImageNet's class names, 16 context tokens,
float32, all scores that CLIP alone can give, by `score_sets` on images that are decoded already.
An evaluation encodes its prompts once, so a batch is charged its share of that time, by the size of
ImageNet's protocol. The sides take turns within one process; ratios are medians over the turns.

    python benchmarks/evaluate.py
"""

import argparse
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.utils.data import DataLoader

from benchmarks import common, plain
from benchmarks.common import Bench, Rows
from clip.prompted import PromptedCLIP
from dassl.data.datasets import Datum
from ood import evaluation
from ood.scoring import offered_scores
from run.settings import default_cfg

PROTOCOL = 85_640  # images of ImageNet's protocol: its validation set and the four OOD sets


def decoded_loader(images: torch.Tensor, *_: object, batches: list, **__: object) -> DataLoader:
    """Return a loader of decoded images, to replace the one that reads files."""
    items = [{"img": image, "index": i} for i, image in enumerate(images)]
    return DataLoader(items, batch_sampler=batches)


def batch(args: argparse.Namespace) -> Rows:
    """Measure one batch: plain, here, and open_clip's image encoder alone."""
    bench, cfg = Bench(args.classes, batch=1), default_cfg()
    noise = torch.randn(args.batch, 3, 224, 224)
    cfg.DATASET.ROOT, cfg.DATALOADER.TEST.BATCH_SIZE = ".", args.batch
    scores = offered_scores("all", bench.model.provides)
    encode_text = torch.inference_mode()(bench.model.text_features)
    text = encode_text()
    prompted = PromptedCLIP(bench.clip, lambda: text)  # prompts are timed separately
    sets = {"ID": [Datum(f"{i}.jpg") for i in range(args.batch)]}
    evaluation.build_data_loader = partial(decoded_loader, noise)

    def score() -> dict:
        result = evaluation.score_sets(
            cfg, prompted, sets, None, scores, {}, torch.device("cpu"), nullcontext
        )
        return result.sets["ID"].scores

    times = common.in_turns(
        {
            "plain": lambda: plain.scores(bench.clip, bench.learner, noise),
            "here": score,
            "encoder": torch.inference_mode()(lambda: bench.clip.visual(noise)),
            "text": encode_text,
        },
        args.repeats,
    )
    # The comparison is meaningful only if both sides compute the same scores.
    expected = plain.scores(bench.clip, bench.learner, noise)
    for name, values in score().items():
        torch.testing.assert_close(torch.from_numpy(values), expected[name], rtol=1e-4, atol=1e-4)
    share = args.batch / PROTOCOL
    for clock in times.values():
        turns = zip(clock["here"], clock["text"], strict=True)
        clock["here"] = [here + share * prompts for here, prompts in turns]
    where = f"{args.classes} classes, batch {args.batch}, {len(scores)} scores"
    rates = [f"{args.batch / common.seconds(times, side):.2f}/s" for side in ("here", "encoder")]
    relative = common.ratios(times, "encoder", "here")
    return [
        common.ratio_row("evaluation, plain over here", where, times, "plain", "here", ">= 3.5"),
        ["throughput, here over bare image encoder", where, *rates, *relative, ">= 0.9"],
    ], times


def main() -> None:
    parser = common.make_parser(__doc__, repeats=3)
    parser.add_argument("--classes", type=int, default=1000, help="number of classes")
    parser.add_argument("--batch", type=int, default=100, help="images in a batch")
    common.run_rows("evaluate", parser, {"batch": batch})


if __name__ == "__main__":
    main()
