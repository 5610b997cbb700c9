"""(d) Transformers' Trainer: the encoder frozen, no saving, no logging, no bars, no clipping."""

import sys

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainingArguments

from benchmarks.peers.task import Clock, Net, begin


class WithLoss(torch.nn.Module):
    """What the Trainer wants of a model."""

    def __init__(self, net: Net):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(x, mask)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


class Laps(TrainerCallback):
    def __init__(self, clock: Clock):
        self.clock = clock

    def on_epoch_end(self, args, state, control, **more) -> None:
        self.clock.trained()

    def on_evaluate(self, args, state, control, metrics, **more) -> None:
        self.clock.validated(metrics["eval_accuracy"])


def named(samples: list[tuple[Tensor, Tensor, Tensor]]) -> dict[str, Tensor]:
    return dict(zip(("x", "mask", "labels"), map(torch.stack, zip(*samples, strict=True)), strict=True))


def right(found: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())}


def main() -> None:
    task, clock = begin()
    train, val = task.data()
    net = task.net()
    optimizer = task.optimizer(net)
    arguments = TrainingArguments(
        output_dir=sys.argv[2],
        num_train_epochs=task.epochs,
        per_device_train_batch_size=task.batch,
        per_device_eval_batch_size=task.batch,
        eval_strategy="epoch",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        max_grad_norm=0.0,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_num_workers=task.workers,
        dataloader_persistent_workers=task.workers > 0,
        dataloader_pin_memory=False,
        seed=task.spec["seed"],
    )
    trainer = Trainer(
        model=WithLoss(net),
        args=arguments,
        train_dataset=train,
        eval_dataset=val,
        data_collator=named,
        compute_metrics=right,
        optimizers=(optimizer, LambdaLR(optimizer, lambda step: 1.0)),
        callbacks=[Laps(clock)],
    )
    clock.ready()
    trainer.train()
    clock.report()


if __name__ == "__main__":
    main()
