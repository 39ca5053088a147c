"""Share what the benchmarks need: the model, the step, turns, the machine, the table, the file."""

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import open_clip
import torch
from torch import Tensor

from benchmarks import plain
from clip import ClipModel
from clip.facts import OPENAI_TRANSFORM
from dassl.data.datasets import DatasetBase
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import versions, write_json
from dassl.utils.tables import markdown_table
from datasets.classnames import imagenet_classnames
from run.settings import default_cfg
from trainers.base import ClipTrainer

GIB = 2**30
STEPS = 1_000_000  # of an epoch: none is its last
RESULTS = Path(__file__).parent / "results"
HEAD = ["measure", "at", "first", "second", "ratio", "ratio (CPU time)", "goal"]
Rows = tuple[list[list[str]], dict]  # of the table, and the figures behind them


def random_vit() -> open_clip.CLIP:
    """Return OpenAI's ViT-B/16, its weights drawn at random."""
    torch.manual_seed(0)
    return open_clip.CLIP(**open_clip.get_model_config("ViT-B-16"), quick_gelu=True)


def build_clip() -> ClipModel:
    """Return the same as the trainers hold it."""
    about = {"name": "ViT-B/16, random", "activation": "quick_gelu", "weights_hash": ""}
    return ClipModel(random_vit().eval(), **about, **OPENAI_TRANSFORM)


def class_names(count: int) -> list[str]:
    """Return `count` names spread over ImageNet's list; past its end the names come again."""
    names = imagenet_classnames()
    return [names[i * 1000 // count if count < 1000 else i % 1000] for i in range(count)]


class Bench:
    """Training steps on one batch of noise, each by the trainer of that name at its own settings.

    Besides: "plain", LoCoOp's as `benchmarks.plain` takes it, and with "kept " before a trainer's
    name its step without the image tower, as where views are kept. Weights, contexts and batch are
    the same on every device: all are drawn on the CPU.
    """

    def __init__(self, classes: int, batch: int, device: str = "cpu", precision: str = "fp32"):
        self.device, self.prec, self.clip = torch.device(device), precision, build_clip()
        self.images = torch.randn(batch, 3, 224, 224).to(self.device)
        self.labels = torch.randint(classes, (batch,)).to(self.device)
        data = DatasetBase(classnames=class_names(classes))
        facts = {"num_classes": classes, "lab2cname": data.lab2cname, "num_source_domains": 0}
        self.beside = SimpleNamespace(
            dm=SimpleNamespace(dataset=data, **facts),
            model=SimpleNamespace(clip=self.clip.to(self.device)),
        )
        self.trainers: dict[str, ClipTrainer] = {}
        self.locoop = locoop = self.trainer("LoCoOp")
        self.model, self.learner = locoop.model, locoop.learner

    def trainer(self, name: str) -> ClipTrainer:
        """Return a trainer that has no images, and takes its steps on the batch."""
        if name not in self.trainers:
            kind, cfg = TRAINER_REGISTRY.get(name), default_cfg()
            cfg.TRAINER[kind.CONFIG_KEY].PREC, cfg.USE_CUDA = self.prec, self.device.type == "cuda"
            cfg.OPTIM.NAME, cfg.VERBOSE = "sgd", False
            trainer = self.trainers[name] = kind(cfg, beside=self.beside)
            trainer.train_loader_x, trainer.num_batches = range(STEPS), STEPS
        return self.trainers[name]

    def step(self, kind: str) -> float:
        """Take one step and return the loss it started from; waits for the device."""
        if kind != "plain":
            batch = self.views if kind.startswith("kept ") else self.batch
            return self.trainer(kind.removeprefix("kept ")).forward_backward(batch)["loss"]
        loss = self.plain_loss()
        self.locoop.model_zero_grad()
        self.locoop.scaler.scale(loss).backward()
        return self.locoop.take_step({"loss": loss})["loss"]

    def plain_loss(self) -> Tensor:
        k, weight = self.locoop.top_k, self.locoop.settings.LAMBDA
        with self.locoop.autocast():
            return plain.locoop_loss(self.clip, self.learner, self.images, self.labels, k, weight)

    @property
    def batch(self) -> dict[str, Tensor]:
        return {"img": self.images, "label": self.labels}

    @cached_property
    def views(self) -> dict[str, Tensor]:
        """Encode the batch, once."""
        return self.locoop.encode(self.batch, local=True)


def in_turns(steps: Mapping[str, Callable], repeats: int) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of every turn of every step, "wall" clock and "cpu".

    With more than one turn there is one before them to warm up.
    """
    wall, cpu = ({kind: [] for kind in steps} for _ in range(2))
    for turn in range(repeats + (repeats > 1)):
        for kind, step in steps.items():
            start = time.perf_counter(), time.process_time()
            step()
            if turn or repeats == 1:
                wall[kind].append(time.perf_counter() - start[0])
                cpu[kind].append(time.process_time() - start[1])
    return {"wall": wall, "cpu": cpu}


def seconds(found: dict, kind: str) -> float:
    return statistics.median(found["wall"][kind])


def ratios(found: dict, over: str, under: str) -> list[str]:
    """Return the medians over the turns of one kind's time over the other's, by both clocks."""
    turns = [zip(found[clock][over], found[clock][under], strict=True) for clock in ("wall", "cpu")]
    return [f"{statistics.median(a / b for a, b in pairs):.2f}" for pairs in turns]


def compared(measure: str, where: str, found: dict, over: str, under: str, goal: str) -> list[str]:
    """Return a row of the table: two kinds that took turns."""
    times = [f"{seconds(found, kind):.2f} s" for kind in (over, under)]
    return [measure, where, *times, *ratios(found, over, under), goal]


def largest_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference over the largest expected value."""
    found, expected = (x.detach().double().cpu() for x in (found, expected))
    return ((found - expected).abs().max() / expected.abs().max()).item()


def peak_bytes() -> int:
    """Return the most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the parent process held before exec
        return kib(status, "VmHWM") * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def kib(path: Path, key: str) -> int:
    line = next(line for line in path.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1])


def machine() -> dict:
    """Return what the figures depend on beside the code."""
    names = Path("/proc/cpuinfo")
    lines = names.read_text().splitlines() if names.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        **versions(),
    }


def save(name: str, about: dict, folder: Path = RESULTS, **content: object) -> None:
    """Write a benchmark's figures, with the machine, to FOLDER/NAME.json, and say so."""
    path = folder / f"{name}.json"
    write_json({"machine": about, **content}, path, indent=1)
    print(f"\n{json.dumps(about)}\nsaved to {path}")


def make_parser(doc: str, repeats: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=repeats, help="turns (%(default)s)")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="of the CPU (%(default)s)"
    )
    return parser


def run_rows(
    name: str, parser: argparse.ArgumentParser, rows: Mapping[str, Callable[..., Rows]]
) -> None:
    """Measure the rows that the command line asks for, print and save them."""
    parser.add_argument("--rows", nargs="+", choices=rows, default=list(rows))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table, raw = [], {}
    for row in args.rows:
        lines, raw[row] = rows[row](args)
        table += lines
    print(markdown_table(table, HEAD))
    part = "" if args.rows == list(rows) else f"_{'_'.join(args.rows)}"
    save(name + part, {**machine(), "threads": args.threads}, rows=table, raw=raw)
