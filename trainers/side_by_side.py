"""Prompt learners trained side by side: a batch is loaded and encoded once for all of them.

Exact, not alike. A run alone draws its images from the global random generators, which a
checkpoint holds and a resumed run restores. Here every run keeps a state of these generators of
its own, and in each epoch those runs share a pass over the loader whose states are the same:
they would have drawn the same images alone. Each run then takes its own step, in turn, by the
code that a run alone takes it by, from the very features it would have computed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property

from torch.utils.data import DataLoader
from yacs.config import CfgNode

from dassl.data.ahead import batches_for
from dassl.engine import TRAINER_REGISTRY, TrainerBase, TrainerX
from dassl.engine.progress import timed
from dassl.engine.simple import has_images
from dassl.utils import (
    RunLog,
    explain_full_disk,
    flatten,
    get_rng_state,
    plain,
    progress_bar,
    same_rng_state,
    set_rng_state,
)
from dassl.utils.errors import InputError
from trainers.prompt_trainer import PromptTrainer

logger = logging.getLogger(__name__)

# Settings that runs on the same images may differ in: what is learned from them, and where to.
OWN = ("TRAINER", "OPTIM", "TRAIN", "MODEL.INIT_WEIGHTS", "OUTPUT_DIR", "RESUME", "VERBOSE")


def images_seen(cfg: CfgNode) -> str | None:
    """Return a key that is equal for runs that encode the same images; None if it shares none.

    Only prompt learners share, whose step is that of `PromptTrainer`, with a seed.
    """
    kind = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    shares = (
        issubclass(kind, PromptTrainer)
        and cfg.SEED >= 0
        and kind.forward_backward is PromptTrainer.forward_backward
        and kind.run_epoch is TrainerX.run_epoch
    )
    if not shares:
        return None
    seen = {
        key: value
        for key, value in flatten(cfg).items()
        if not any(key == own or key.startswith(f"{own}.") for own in OWN)
    }
    seen |= {"PREC": cfg.TRAINER[kind.CONFIG_KEY].PREC, "MAX_EPOCH": cfg.OPTIM.MAX_EPOCH}
    return json.dumps(plain(seen), sort_keys=True)


class Member:
    """A run of a group: its trainer, its log and its random state.

    `error` is what ended it, None as long as it goes well.
    """

    def __init__(self, name: str, log: RunLog) -> None:
        self.name, self.log = name, log
        self.trainer: PromptTrainer | None = None
        self.error: Exception | None = None
        self.rng = get_rng_state()

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Put this run's random state and log in place; an error ends this run, and only it."""
        set_rng_state(self.rng)
        with self.log:
            try:
                with explain_full_disk():
                    yield
            except Exception as error:
                self.error = error
                # A mistake of the user's is logged as a sentence, one of ours with its place.
                unexpected = None if isinstance(error, InputError) else error
                logger.error("failed: %s", error, exc_info=unexpected)
        self.rng = get_rng_state()


class SideBySide(TrainerBase):
    """A trainer whose every hook is that hook of its members, one after the other.

    `add` the runs, then `train`; what failed has an `error` then. The members' settings must
    have the same `images_seen`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.members: list[Member] = []
        self._bar: progress_bar | None = None

    def add(self, name: str, folder: str, build: Callable[..., PromptTrainer]) -> Member:
        """Add a run called `name`, which logs into `folder`.

        `build(beside=other)` makes its trainer on the data and CLIP of `other`, if not None.
        """
        member = Member(name, RunLog(folder, name))
        self.members.append(member)
        built = (m.trainer for m in self.members if m.trainer is not None)
        with member.acting():
            member.trainer = build(beside=next(built, None))
        return member

    def train(self) -> None:
        super().train(0, max((m.trainer.max_epoch for m in self.going), default=0))

    @property
    def going(self) -> list[Member]:
        """Return the members that have not failed."""
        return still_going(self.members)

    @property
    def now(self) -> list[Member]:
        """Return those that have this epoch before them: some may be resumed further on."""
        return [m for m in self.going if m.trainer.start_epoch <= self.epoch]

    def before_train(self) -> None:
        self._all(self.going, "before_train")
        starts = [m.trainer.start_epoch for m in self.going]
        self.start_epoch = min(starts, default=self.max_epoch)

    def before_epoch(self) -> None:
        for member in self.now:
            member.trainer.epoch = self.epoch
        self._all(self.now, "before_epoch")

    def run_epoch(self) -> None:
        for members in in_the_same_state(self.now):
            self._share_pass(members)

    def after_epoch(self) -> None:
        self._all(self.now, "after_epoch")

    def after_train(self) -> None:
        self._close_bar()
        if self.going:
            first = self.going[0].trainer
            # Read by those alone that test their model (TEST.NO_TEST).

            def encode(batch: dict) -> dict:
                with first.memory_of("a test batch", "TEST"):
                    return first.encode(batch, local=False)

            shared = EncodedOnce(lambda: first.dm.test_loader, encode)
            for member in self.going:
                member.trainer.test_loader = shared
        self._all(self.going, "after_train")
        for member in self.going:
            # It holds the first trainer, and so its own: a ring that would keep the CLIP alive.
            member.trainer.__dict__.pop("test_loader", None)

    def close_writer(self) -> None:
        self._close_bar()
        for member in self.members:
            if member.trainer is not None:
                member.trainer.close_writer()
            member.log.close()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _all(self, members: Iterable[Member], hook: str) -> None:
        for member in members:
            with member.acting():
                getattr(member.trainer, hook)()

    def _share_pass(self, members: list[Member]) -> None:
        """Run one epoch of members that are about to draw the same images."""
        start = members[0].rng
        first, local = members[0].trainer, any(m.trainer.LOCAL for m in members)
        self._all(members, "begin_epoch")
        self._show(members)
        set_rng_state(start)
        try:
            batches = batches_for(first.train_loader_x, first.device)
            for number, (batch, waited) in enumerate(timed(batches)):
                if has_images(batch):
                    with first.memory_of("a training step", "TRAIN_X"):
                        batch = first.encode(batch, local)
                self._step(still_going(members), number, batch, waited)
                self._bar.update()
                if not still_going(members):
                    return
        except Exception as error:  # of the images: each of the runs would have met it alone
            for member in still_going(members):
                with member.acting():
                    raise error
        end = get_rng_state()
        for member in members:
            member.rng = end
        self._all(still_going(members), "end_epoch")

    def _step(self, members: list[Member], number: int, batch: dict, waited: float) -> None:
        """Take a step of every member on an encoded batch."""
        state = get_rng_state()
        for member in members:
            member.rng = state
            with member.acting():
                member.trainer.batch_idx = number
                member.trainer.run_batch(batch, waited)
                _check_drew_nothing(state)
        set_rng_state(state)

    def _show(self, members: list[Member]) -> None:
        if self._bar is None:
            left = (self.max_epoch - self.epoch) * members[0].trainer.num_batches
            self._bar = progress_bar(total=left, unit="batch")
        self._bar.set_description(f"{len(members)} runs, epoch {self.epoch + 1}/{self.max_epoch}")


def _check_drew_nothing(before: dict) -> None:
    if not same_rng_state(get_rng_state(), before):
        # Alone, the next batch of this run would have been another than that of the others.
        raise RuntimeError(
            "this trainer's step draws random numbers: it cannot share images; train it alone"
        )


class EncodedOnce:
    """The batches of a loader, encoded when they are first read, then kept: features are small."""

    def __init__(self, loader: Callable[[], DataLoader], encode: Callable[[dict], dict]) -> None:
        self._loader, self._encode = loader, encode

    @cached_property
    def _batches(self) -> list[dict]:
        return [
            self._encode(batch) if has_images(batch) else batch
            for batch in progress_bar(self._loader(), "encoding the test images", "batch")
        ]

    def __iter__(self) -> Iterator[dict]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


def still_going(members: Iterable[Member]) -> list[Member]:
    """Return those without an error."""
    return [m for m in members if m.error is None]


def in_the_same_state(members: Iterable[Member]) -> list[list[Member]]:
    """Group members by the state of their random generators."""
    parts: list[list[Member]] = []
    for member in members:
        for part in parts:
            if same_rng_state(part[0].rng, member.rng):
                part.append(member)
                break
        else:
            parts.append([member])
    return parts
