"""Time an evaluation: against a plain one, the bare image encoder, and from features on disk.

ViT-B/16 with random weights (nothing is downloaded), ImageNet's class names, 16 context tokens,
float32, all scores that CLIP alone can give. What is compared takes turns within one process, and
ratios are medians over the turns.

    python benchmarks/evaluate.py                 # both rows: batch, kept
    python benchmarks/evaluate.py --rows kept     # a second method, on 85,640 images' features

batch: `score_sets` on images that are decoded already. Its prompts are encoded once a pass, so
that their time is divided by the batches of ImageNet's protocol.
kept: everything from the prompts to results.json, scores/ and plots/, without the start of Python
and the loading of CLIP.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks import common, plain
from benchmarks.common import Rows, compared, in_turns, make_parser, ratios, run_rows, seconds
from clip.prompted import PromptedCLIP
from dassl.data.datasets import Datum
from ood import evaluation
from ood.evaluation import Evaluation, score_sets
from ood.features import FeatureStore
from ood.scoring import offered_scores
from run.config import default_cfg
from run.evaluation import report

# ImageNet's protocol: images of the ID set and of the OOD sets.
PROTOCOL = {"ID": 50_000, "iNaturalist": 10_000, "SUN": 10_000, "Places": 10_000, "Texture": 5_640}
CPU = torch.device("cpu")


class Noise(Dataset):
    """Images of noise, as a data set of ours gives them."""

    def __init__(self, count: int):
        self.images = torch.randn(count, 3, 224, 224)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return {"img": self.images[index], "index": index}


class Bench(common.Bench):
    """A learned context over ImageNet's names, and all the scores it can have."""

    def __init__(self, classes: int):
        super().__init__(classes, batch=1)
        self.scores = offered_scores("all", self.model.provides)

    def text(self) -> torch.Tensor:
        with torch.inference_mode():
            return self.model.text_features()

    def score(
        self,
        model: PromptedCLIP,
        sets: dict,
        size: int,
        scores: list,
        root: str,
        store: FeatureStore | None = None,
    ) -> Evaluation:
        cfg = default_cfg()
        cfg.DATASET.ROOT, cfg.DATALOADER.TEST.BATCH_SIZE = root, size
        return score_sets(cfg, model, sets, None, scores, {}, CPU, nullcontext, store)


def batch(args: argparse.Namespace) -> Rows:
    """Measure one batch: plain, here, and the image tower as open_clip runs it."""
    bench, noise = Bench(args.classes), Noise(args.batch)
    known = bench.text()
    prompted = PromptedCLIP(bench.clip, lambda: known)  # the prompts are timed apart
    sets, size = {"ID": _items("ID", args.batch)}, args.batch
    # Decoded already: in the place of the loader that reads files.
    evaluation.build_data_loader = lambda *_, batches, **__: DataLoader(
        noise, batch_sampler=batches
    )

    @torch.inference_mode()
    def encoder():
        return bench.clip.visual(noise.images)

    found = in_turns(
        {
            "plain": lambda: plain.scores(bench.clip, bench.learner, noise.images),
            "here": lambda: bench.score(prompted, sets, size, bench.scores, "."),
            "encoder": encoder,
            "text": bench.text,
        },
        args.repeats,
    )
    _check_same(
        plain.scores(bench.clip, bench.learner, noise.images),
        bench.score(prompted, sets, size, bench.scores, ".").sets["ID"].scores,
    )
    share = args.batch / sum(PROTOCOL.values())
    for clock in ("wall", "cpu"):
        found[clock]["here"] = [
            here + share * text
            for here, text in zip(found[clock]["here"], found[clock]["text"], strict=True)
        ]
    where = f"{args.classes} classes, batch {args.batch}, {len(bench.scores)} scores"
    rates = [f"{args.batch / seconds(found, kind):.2f}/s" for kind in ("here", "encoder")]
    relative = ratios(found, "encoder", "here")
    return [
        compared("evaluation, plain over here", where, found, "plain", "here", ">= 3.5"),
        ["throughput, here over bare image encoder", where, *rates, *relative, ">= 0.9"],
    ], found


def _check_same(slow: dict, fast: dict) -> None:
    """Check that both sides compute the same, or the comparison says nothing."""
    for name, values in fast.items():
        torch.testing.assert_close(torch.from_numpy(values), slow[name], rtol=1e-4, atol=1e-4)


def kept(args: argparse.Namespace) -> Rows:
    """Measure a second method: the features of all images are there, the scores are not."""
    bench = Bench(args.classes)
    scores = [s for s in bench.scores if "local_cosines" not in s.needs]
    with tempfile.TemporaryDirectory() as folder:
        sets = {
            name: _files(
                folder, name, max(20, count * args.images // sum(PROTOCOL.values())), args.classes
            )
            for name, count in PROTOCOL.items()
        }
        store = FeatureStore(Path(folder, "features"), {"weights": "random"}, folder, limit=1)
        _fill(store, sets)
        times, start = {}, time.perf_counter()
        text = bench.text()
        times["text"] = time.perf_counter() - start
        model = PromptedCLIP(bench.clip, lambda: text)
        scored = bench.score(model, sets, args.batch, scores, folder, store)
        if scored.read != list(sets):
            raise RuntimeError(f"features were read of {scored.read} only")
        times["scores"] = time.perf_counter() - start - times["text"]
        about = {"comparable": {"num_classes": args.classes}}
        report(Path(folder, "run"), scored.sets, about)
        times["all"] = time.perf_counter() - start
        times["results"] = times["all"] - times["text"] - times["scores"]
    count = sum(map(len, sets.values()))
    where = f"{count} images, {args.classes} classes, {len(scores)} scores"
    row = ["second method, on kept features", where, f"{times['all']:.1f} s", "", "", "", "< 60 s"]
    return [row], times


def _items(name: str, count: int, classes: int = 1, root: str = ".") -> list[Datum]:
    """Return images of a set, labelled if it is the ID set."""
    return [
        Datum(f"{root}/{name}/{i % 1000:03d}/{i}.jpg", i % classes if name == "ID" else -1)
        for i in range(count)
    ]


def _files(root: str, name: str, count: int, classes: int) -> list[Datum]:
    """Write empty files: only their size and time of change are looked at."""
    items = _items(name, count, classes, root)
    for parent in {Path(item.impath).parent for item in items}:
        parent.mkdir(parents=True)
    for item in items:
        Path(item.impath).touch()
    return items


def _fill(store: FeatureStore, sets: dict) -> None:
    for name, writer in store.writers(sets, width=512, regions=0).items():
        for part in torch.arange(len(sets[name])).split(1000):
            writer.append(part.numpy(), F.normalize(torch.randn(len(part), 512), dim=-1), None)
        writer.finish()


def main() -> None:
    parser = make_parser(__doc__, repeats=3)
    parser.add_argument("--classes", type=int, default=1000, help="(%(default)s)")
    parser.add_argument("--batch", type=int, default=100, help="images (%(default)s)")
    parser.add_argument(
        "--images",
        type=int,
        default=sum(PROTOCOL.values()),
        help="of all sets together, with features kept (%(default)s)",
    )
    run_rows("evaluate", parser, {"batch": batch, "kept": kept})


if __name__ == "__main__":
    main()
