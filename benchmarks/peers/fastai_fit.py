"""(b) fastai: `fit` on a frozen Learner, with PyTorch's Adam and without bars."""

from functools import partial

import fastai.callback.progress  # noqa: F401  gives Learner its `no_bar`
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import OptimWrapper

from benchmarks.peers.task import Clock, Net, begin


class Laps(Callback):
    def __init__(self, clock: Clock):
        super().__init__()
        self.clock = clock

    def after_train(self) -> None:
        self.clock.trained()

    def after_epoch(self) -> None:
        self.clock.validated(self.learn.recorder.metrics[0].value)


def parts(net: Net) -> list[list[torch.nn.Parameter]]:
    return [list(net.encoder.parameters()), list(net.head.parameters())]


def main() -> None:
    task, clock = begin()
    learner = Learner(
        DataLoaders(*task.loaders()),
        task.net(),
        loss_func=torch.nn.functional.cross_entropy,
        opt_func=partial(OptimWrapper, opt=torch.optim.Adam),
        splitter=parts,
        metrics=accuracy,
        train_bn=False,
        cbs=Laps(clock),
    )
    learner.freeze()
    clock.ready()
    with learner.no_bar(), learner.no_logging():
        learner.fit(task.epochs, lr=task.rates["head"])
    clock.report()


if __name__ == "__main__":
    main()
