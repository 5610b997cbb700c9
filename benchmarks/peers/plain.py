"""(a) The loop one writes by hand: the frozen part under no_grad in eval mode, every epoch."""

import torch
from torch.nn.functional import cross_entropy

from benchmarks.peers.task import begin


def main() -> None:
    task, clock = begin()
    train, val = task.loaders()
    net = task.net()
    optimizer = task.optimizer(net)
    clock.ready()
    for _ in range(task.epochs):
        net.train()
        for x, mask, label in train:
            loss = cross_entropy(net(x, mask), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        clock.trained()
        net.eval()
        with torch.no_grad():
            right = [(net(x, mask).argmax(1) == label) for x, mask, label in val]
        clock.validated(torch.cat(right).float().mean())
    clock.report()


if __name__ == "__main__":
    main()
