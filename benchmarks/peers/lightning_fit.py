"""(c) Lightning: the encoder frozen, no logger, no checkpoints, no bars."""

import lightning
import torch
from torch.nn.functional import cross_entropy

from benchmarks.peers.task import Clock, Net, Task, begin


class Module(lightning.LightningModule):
    def __init__(self, net: Net, task: Task):
        super().__init__()
        self.net, self.task = net, task
        self.right: list[torch.Tensor] = []

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        x, mask, label = batch
        return cross_entropy(self.net(x, mask), label)

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        x, mask, label = batch
        self.right.append(self.net(x, mask).argmax(1) == label)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.task.optimizer(self.net)


class Laps(lightning.Callback):
    def __init__(self, clock: Clock):
        self.clock = clock

    def on_validation_start(self, trainer: lightning.Trainer, module: Module) -> None:
        self.clock.trained()

    def on_validation_end(self, trainer: lightning.Trainer, module: Module) -> None:
        self.clock.validated(torch.cat(module.right).float().mean())
        module.right.clear()


def main() -> None:
    task, clock = begin()
    train, val = task.loaders()
    module = Module(task.net(), task)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=task.epochs,
        callbacks=[Laps(clock)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    clock.ready()
    trainer.fit(module, train, val)
    clock.report()


if __name__ == "__main__":
    main()
