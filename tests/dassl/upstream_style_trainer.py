"""A dataset and a trainer written for upstream Dassl, without anything of PromptOOD."""

import os.path as osp

import torch
import torch.nn as nn
from torch.nn import functional as F

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import listdir_nohidden, load_checkpoint, load_pretrained_weights


@DATASET_REGISTRY.register()
class TinyFolders(DatasetBase):
    dataset_dir = "tiny"

    def __init__(self, cfg):
        self.dataset_dir = osp.join(osp.abspath(cfg.DATASET.ROOT), self.dataset_dir)
        train = self.read_data("train")
        test = self.read_data("test")
        num_shots = cfg.DATASET.NUM_SHOTS
        if num_shots >= 1:
            train = self.generate_fewshot_dataset(train, num_shots=num_shots)
        super().__init__(train_x=train, val=test, test=test)

    def read_data(self, split):
        items = []
        folders = sorted(listdir_nohidden(osp.join(self.dataset_dir, split)))
        for label, folder in enumerate(folders):
            for name in listdir_nohidden(osp.join(self.dataset_dir, split, folder), sort=True):
                impath = osp.join(self.dataset_dir, split, folder, name)
                items.append(Datum(impath=impath, label=label, classname=folder))
        return items


class PromptLearner(nn.Module):
    def __init__(self, classnames, width=12):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        table = torch.randn(len(classnames), 2, width, generator=generator)
        self.register_buffer("token_prefix", table[:, :1, :])
        self.register_buffer("token_suffix", table[:, 1:, :])
        ctx = torch.empty(4, width)
        nn.init.normal_(ctx, std=0.02)
        self.ctx = nn.Parameter(ctx)

    def forward(self):
        ctx = self.ctx.unsqueeze(0).expand(len(self.token_prefix), -1, -1)
        return torch.cat([self.token_prefix, ctx, self.token_suffix], dim=1)


class CustomModel(nn.Module):
    def __init__(self, classnames):
        super().__init__()
        self.prompt_learner = PromptLearner(classnames)
        self.image_encoder = nn.Sequential(
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 12), nn.Dropout(0.2)
        )

    def forward(self, image):
        text = torch.tanh(self.prompt_learner().mean(dim=1))
        image = F.normalize(self.image_encoder(image), dim=-1)
        return 10.0 * image @ F.normalize(text, dim=-1).t()


@TRAINER_REGISTRY.register()
class UpstreamStyle(TrainerX):
    def check_cfg(self, cfg):
        assert cfg.TRAINER.UPSTREAMSTYLE.PREC in ["fp16", "fp32", "amp"]

    def build_model(self):
        cfg = self.cfg
        classnames = self.dm.dataset.classnames
        self.model = CustomModel(classnames)

        for name, param in self.model.named_parameters():
            if "prompt_learner" not in name:
                param.requires_grad_(False)

        if cfg.MODEL.INIT_WEIGHTS:
            load_pretrained_weights(self.model.prompt_learner, cfg.MODEL.INIT_WEIGHTS)

        self.model.to(self.device)
        self.optim = build_optimizer(self.model.prompt_learner, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("prompt_learner", self.model.prompt_learner, self.optim, self.sched)

        prec = cfg.TRAINER.UPSTREAMSTYLE.PREC
        self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0) if prec == "amp" else None

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)

        prec = self.cfg.TRAINER.UPSTREAMSTYLE.PREC
        if prec == "amp":
            output = self.model(image)
            loss = F.cross_entropy(output, label)
            self.optim.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optim)
            self.scaler.update()
        else:
            output = self.model(image)
            loss = F.cross_entropy(output, label)
            self.model_backward_and_update(loss)

        loss_summary = {"loss": loss.item(), "acc": compute_accuracy(output, label)[0].item()}

        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()

        return loss_summary

    def parse_batch_train(self, batch):
        input = batch["img"]
        label = batch["label"]
        input = input.to(self.device)
        label = label.to(self.device)
        return input, label

    def load_model(self, directory, epoch=None):
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return

        names = self.get_model_names()
        model_file = "model-best.pth.tar"

        if epoch is not None:
            model_file = "model.pth.tar-" + str(epoch)

        for name in names:
            model_path = osp.join(directory, name, model_file)

            if not osp.exists(model_path):
                raise FileNotFoundError(f'Model not found at "{model_path}"')

            checkpoint = load_checkpoint(model_path)
            state_dict = checkpoint["state_dict"]
            epoch = checkpoint["epoch"]

            if "token_prefix" in state_dict:
                del state_dict["token_prefix"]

            if "token_suffix" in state_dict:
                del state_dict["token_suffix"]

            self._models[name].load_state_dict(state_dict, strict=False)
