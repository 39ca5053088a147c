"""What trainer files written for upstream Dassl import is there, under upstream's names.

The names are those that the public code of CoOp, CoCoOp, LoCoOp, MaPLe, PromptSRC, IVLP, KgCoOp,
TCP and SCT takes, and of trainers that learn from unlabelled images too.
"""

import importlib
from pathlib import Path

import pytest
import torch
from yacs.config import CfgNode

from dassl.data.samplers import SAMPLERS
from dassl.data.transforms.transforms import AVAI_CHOICES
from dassl.engine import TRAINER_REGISTRY, TrainerXU, build_trainer
from dassl.optim.optimizer import OPTIMIZERS
from dassl.utils import InputError
from tests.dassl import upstream_style_trainer

NAMES = {
    "dassl.config": "get_cfg_default clean_cfg",
    "dassl.data": "DataManager",
    "dassl.data.data_manager": "DataManager DatasetWrapper build_data_loader",
    "dassl.data.datasets": "DATASET_REGISTRY DatasetBase Datum build_dataset",
    "dassl.data.datasets.build": "DATASET_REGISTRY build_dataset",
    "dassl.data.samplers": "build_sampler",
    "dassl.data.transforms": "build_transform",
    "dassl.data.transforms.transforms": "build_transform INTERPOLATION_MODES",
    "dassl.engine": "TRAINER_REGISTRY SimpleTrainer TrainerBase TrainerX TrainerXU build_trainer",
    "dassl.engine.trainer": "AverageMeter MetricMeter SimpleTrainer TrainerBase TrainerX TrainerXU",
    "dassl.evaluation": "build_evaluator Classification EVALUATOR_REGISTRY EvaluatorBase",
    "dassl.evaluation.build": "build_evaluator EVALUATOR_REGISTRY",
    "dassl.evaluation.evaluator": "Classification EvaluatorBase",
    "dassl.metrics": "compute_accuracy",
    "dassl.optim": "build_lr_scheduler build_optimizer",
    "dassl.optim.lr_scheduler": "ConstantWarmupScheduler LinearWarmupScheduler build_lr_scheduler",
    "dassl.optim.optimizer": "build_optimizer",
    "dassl.utils": "AverageMeter MetricMeter Registry check_availability check_isfile "
    "collect_env_info count_num_param get_most_similar_str_to_a_from_b init_network_weights "
    "listdir_nohidden load_checkpoint load_pretrained_weights mkdir_if_missing open_all_layers "
    "open_specified_layers read_image read_json resume_from_checkpoint save_checkpoint "
    "set_random_seed setup_logger tolist_if_not write_json",
    "dassl.utils.logger": "setup_logger",
    "dassl.utils.meters": "AverageMeter MetricMeter",
    "dassl.utils.registry": "Registry",
    "dassl.utils.tools": "mkdir_if_missing read_json set_random_seed write_json",
    "dassl.utils.torchtools": "count_num_param init_network_weights load_checkpoint "
    "load_pretrained_weights open_all_layers open_specified_layers partial "
    "resume_from_checkpoint save_checkpoint",
}
# Upstream's that are not here, which the page for those who come from it must say.
REFUSED = {
    "optimisers": (OPTIMIZERS, "amsgrad radam rmsprop"),
    "samplers": (SAMPLERS, "RandomClassSampler RandomDomainSampler SeqDomainSampler"),
    "transforms": (
        AVAI_CHOICES,
        "cifar10_policy cutout gaussian_blur gaussian_noise imagenet_policy instance_norm "
        "randaugment randaugment2 randaugment_fixmatch random_crop svhn_policy",
    ),
}
METHODS = """after_epoch after_train before_epoch before_train check_cfg close_writer detect_anomaly
forward_backward get_current_lr get_model_names init_writer load_model model_backward
model_backward_and_update model_inference model_update model_zero_grad parse_batch_test
parse_batch_train register_model resume_model_if_exist run_epoch save_model set_model_mode test
train update_lr write_scalar"""


@pytest.mark.parametrize("module", NAMES)
def test_upstreams_names_are_there(module):
    found = importlib.import_module(module)
    assert [name for name in NAMES[module].split() if not hasattr(found, name)] == []


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_is_documented(kind):
    here, names = REFUSED[kind]
    page = (Path(__file__).parents[2] / "docs" / "coming-from.md").read_text()
    assert [name for name in names.split() if name in here or f"`{name}`" not in page] == []


def test_upstreams_methods_are_there():
    assert [name for name in METHODS.split() if not hasattr(TrainerXU, name)] == []


def test_a_trainer_of_upstreams_has_the_facts():
    """Those that it does not know of have defaults, so that nobody asks whether they are there."""
    kind = upstream_style_trainer.UpstreamStyle
    assert (kind.CONFIG_KEY, dict(kind.CONFIG), dict(kind.FLAGS)) == ("", {}, {})
    assert (kind.LEARNS, kind.READS_PAIRS, kind.SCORE, kind.INCIDENTAL) == (True, False, "MCM", ())


class Both(TrainerXU):
    """Counts the batches of both kinds."""

    build_model = upstream_style_trainer.UpstreamStyle.build_model

    def forward_backward(self, batch_x, batch_u):
        images, labels, _, unlabelled = self.parse_batch_train(batch_x, batch_u)
        both = torch.cat([images, unlabelled])
        loss = torch.nn.functional.cross_entropy(self.model(both)[: len(labels)], labels)
        self.model_backward_and_update(loss)
        self.seen = [*getattr(self, "seen", []), len(both)]
        return {"loss": loss.item()}


@pytest.mark.parametrize("count, batches", [("train_x", 3), ("train_u", 4), ("smaller_one", 3)])
def test_labelled_and_unlabelled_batches_come_in_pairs(make_cfg, monkeypatch, count, batches):
    monkeypatch.setitem(TRAINER_REGISTRY._objects, "Both", Both)
    cfg = make_cfg("TRAINER.NAME", "Both", "TRAIN.COUNT_ITER", count, "OPTIM.MAX_EPOCH", 1).clone()
    cfg.defrost()
    cfg.TRAINER.UPSTREAMSTYLE = CfgNode({"PREC": "fp32"})
    trainer = build_trainer(cfg)
    with pytest.raises(InputError, match="Both needs unlabelled images"):
        trainer.train()
    dataset = trainer.dm.train_loader_x.dataset
    trainer.__dict__["train_loader_u"] = torch.utils.data.DataLoader(dataset, batch_size=5)
    trainer.train()
    assert len(trainer.seen) == batches and trainer.seen[0] == 10
    trainer.epoch = 1
    trainer.begin_epoch()  # passes of an epoch have augmentations of their own
    assert trainer.train_loader_x.batch_sampler.epoch == (2 if batches == 4 else 1)
