"""Shared parts of the benchmarks: the model, its steps, timing, tables and result files."""

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
STEPS = 1_000_000  # steps of an epoch, so that none is its last
RESULTS = Path(__file__).parent / "results"
HEAD = ["measure", "at", "first", "second", "ratio", "ratio (CPU time)", "goal"]
Rows = tuple[list[list[str]], dict]  # rows of the table, and the figures behind them


def random_vit() -> open_clip.CLIP:
    """Return OpenAI's ViT-B/16 with random weights."""
    torch.manual_seed(0)
    return open_clip.CLIP(**open_clip.get_model_config("ViT-B-16"), quick_gelu=True)


def build_clip() -> ClipModel:
    """Return that model as a ClipModel, which trainers take."""
    facts = {"name": "ViT-B/16, random", "activation": "quick_gelu", "weights_hash": ""}
    return ClipModel(random_vit().eval(), **facts, **OPENAI_TRANSFORM)


def class_names(count: int) -> list[str]:
    """Return `count` names spread over ImageNet's list; above 1000 the names repeat."""
    names = imagenet_classnames()
    return [names[i * 1000 // count if count < 1000 else i % 1000] for i in range(count)]


class Bench:
    """Training steps on one batch of noise, by name.

    A name is a trainer's, at its default settings; "plain" is LoCoOp's step by `benchmarks.plain`;
    "kept NAME" is the step of the trainer NAME on kept image features, without the image encoder.
    Weights, contexts and batch are drawn on the CPU, so that they are the same on every device.
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
        """Return the trainer of that name, without a data set."""
        if name not in self.trainers:
            trainer_class, cfg = TRAINER_REGISTRY.get(name), default_cfg()
            cfg.TRAINER[trainer_class.CONFIG_KEY].PREC = self.prec
            cfg.USE_CUDA = self.device.type == "cuda"
            cfg.OPTIM.NAME, cfg.VERBOSE = "sgd", False
            trainer = self.trainers[name] = trainer_class(cfg, beside=[self.beside])
            trainer.store_for_autocast()
            trainer.train_loader_x, trainer.num_batches = range(STEPS), STEPS
        return self.trainers[name]

    def step(self, name: str) -> float:
        """Take one step, wait for the device, and return the loss before the step."""
        if name != "plain":
            batch = self.views if name.startswith("kept ") else self.batch
            return self.trainer(name.removeprefix("kept ")).forward_backward(batch)["loss"]
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
        """Return the image features of the batch, encoded once."""
        return self.locoop.encode(self.batch, local=True)


def in_turns(steps: Mapping[str, Callable], repeats: int) -> dict[str, dict[str, list[float]]]:
    """Call the steps in turns; return the seconds of each call, by "wall" and "cpu" clock.

    With more than one turn there is an extra one at first, to warm up.
    """
    wall, cpu = ({name: [] for name in steps} for _ in range(2))
    for turn in range(repeats + (repeats > 1)):
        for name, step in steps.items():
            start = time.perf_counter(), time.process_time()
            step()
            if turn or repeats == 1:
                wall[name].append(time.perf_counter() - start[0])
                cpu[name].append(time.process_time() - start[1])
    return {"wall": wall, "cpu": cpu}


def seconds(times: dict, name: str) -> float:
    return statistics.median(times["wall"][name])


def ratios(times: dict, over: str, under: str) -> list[str]:
    """Return the median over the turns of the ratio of two steps' times, for both clocks."""
    turns = [zip(times[clock][over], times[clock][under], strict=True) for clock in ("wall", "cpu")]
    return [f"{statistics.median(a / b for a, b in pairs):.2f}" for pairs in turns]


def ratio_row(measure: str, where: str, times: dict, over: str, under: str, goal: str) -> list[str]:
    """Return the row of the table that compares two steps."""
    medians = [f"{seconds(times, name):.2f} s" for name in (over, under)]
    return [measure, where, *medians, *ratios(times, over, under), goal]


def largest_difference(values: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest expected value."""
    values, expected = (x.detach().double().cpu() for x in (values, expected))
    return ((values - expected).abs().max() / expected.abs().max()).item()


def peak_bytes() -> int:
    """Return the peak memory of this process."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the parent process held before exec
        return read_kib(status, "VmHWM") * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def read_kib(path: Path, key: str) -> int:
    line = next(line for line in path.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1])


def machine() -> dict:
    """Return the hardware and the versions that figures depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        **versions(),
    }


def save(name: str, facts: dict, folder: Path = RESULTS, **content: object) -> None:
    """Write figures and `facts` about the machine to FOLDER/NAME.json; print the facts."""
    path = folder / f"{name}.json"
    write_json({"machine": facts, **content}, path, indent=1)
    print(f"\n{json.dumps(facts)}\nsaved to {path}")


def make_parser(doc: str, repeats: int) -> argparse.ArgumentParser:
    defaults = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=doc.split("\n")[0], formatter_class=defaults)
    parser.add_argument("--repeats", type=int, default=repeats, help="number of turns")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads")
    return parser


def run_rows(
    name: str, parser: argparse.ArgumentParser, rows: Mapping[str, Callable[..., Rows]]
) -> None:
    """Measure the rows that the command line asks for; print and save them."""
    parser.add_argument("--rows", nargs="+", choices=rows, default=list(rows), help="what to run")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table, raw = [], {}
    for row in args.rows:
        lines, raw[row] = rows[row](args)
        table += lines
    print(markdown_table(table, HEAD))
    suffix = "" if args.rows == list(rows) else f"_{'_'.join(args.rows)}"
    save(name + suffix, {**machine(), "threads": args.threads}, rows=table, raw=raw)
