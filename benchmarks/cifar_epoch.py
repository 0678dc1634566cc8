"""An epoch of CIFAR-100 in camlib against the usual loop. Target: at least 2 times as fast.

The usual loop: float32, channels first, torchvision's transforms on PIL images, a DataLoader with 2 workers.
Camlib: images and augmentation on the device, bfloat16, channels last. A third line, camlib in float32 and
channels first, tells the two causes apart. Some steps of each are timed in turn and scaled to an epoch. The
usual loop is timed from its second step on, when its workers have begun to work ahead, in its favour.
"""

import argparse
import statistics
import time

import torch
from PIL import Image
from timing import machine
from torch import nn
from torchvision import transforms

from camlib import Objective, data, models, observe
from camlib.losses import CrossEntropy

EPOCH = 50_000


class Pictures(torch.utils.data.Dataset):
    """What torchvision's CIFAR100 does: PIL images from arrays, through a transform."""

    def __init__(self, images, labels, transform):
        self.arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels, self.transform = labels.tolist(), transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.arrays[index])), self.labels[index]


def cifar100(count):
    """The first training images, or random ones of the same shape."""
    try:
        found = data.load("cifar100", "train")
        print("CIFAR-100's training images")
        return found.images[:count], found.labels[:count]
    except data.DataError:
        print(f"CIFAR-100 is not in {data.data_root()}: random images of the same shape")
        return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8), torch.randint(100, (count,))


def optimiser(model):
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)


def usual(net, images, labels, mean, std, batch, device):
    """A function that makes one step after another; it yields once for each."""
    steps = (
        transforms.RandomCrop(32, padding=4),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(mean.tolist(), std.tolist()),
    )
    loader = torch.utils.data.DataLoader(
        Pictures(images, labels, transforms.Compose(steps)),
        batch,
        shuffle=True,
        num_workers=2,
        pin_memory=device.type == "cuda",
    )
    model = models.create(net, 100).to(device).train()
    optimizer, criterion = optimiser(model), nn.CrossEntropyLoss()

    def steps_of_an_epoch():
        for pixels, target in loader:
            pixels, target = pixels.to(device, non_blocking=True), target.to(device, non_blocking=True)
            loss = criterion(model(pixels), target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            yield

    return steps_of_an_epoch


def ours(net, images, labels, mean, std, batch, device, dtype, layout):
    """As `usual`."""
    loader = data.Loader(
        images, labels, 100, batch, mean=mean, std=std, augment=("crop", "flip"), shuffle=True, device=device
    )
    observed = observe(models.create(net, 100)).to(device, memory_format=layout).train()
    optimizer, objective = optimiser(observed), Objective(ce=(1.0, CrossEntropy()))

    def steps_of_an_epoch():
        for pixels, target in loader:
            pixels = pixels.contiguous(memory_format=layout)
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                loss = objective(observed, pixels, target)["loss"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            yield

    return steps_of_an_epoch


def seconds_per_step(steps_of_an_epoch):
    """From the second step on; every step is made, so that no worker goes on in the background."""
    steps = steps_of_an_epoch()
    next(steps)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    count = sum(1 for _ in steps)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / count


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="resnet20")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=30, help="in a round, besides the first")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    device = machine()
    images, labels = cifar100(options.batch * (options.steps + 1))
    common = (options.net, images, labels, *data.statistics(images), options.batch, device)
    arms = {
        "the usual loop": usual(*common),
        "camlib": ours(*common, torch.bfloat16, torch.channels_last),
        "camlib, float32, channels first": ours(*common, torch.float32, torch.contiguous_format),
    }
    rounds = [{name: seconds_per_step(steps) for name, steps in arms.items()} for _ in range(options.rounds + 1)][1:]
    print(f"{options.net}, batch {options.batch}, {options.steps} steps in each of {options.rounds} rounds")
    for name in arms:
        epoch = statistics.median(times[name] for times in rounds) * EPOCH / options.batch
        gains = sorted(times["the usual loop"] / times[name] for times in rounds)
        print(
            f"  {name}: {epoch:.1f} s an epoch, {statistics.median(gains):.2f} times as fast "
            f"({gains[0]:.2f} … {gains[-1]:.2f})"
        )
    print("  target: camlib at least 2 times as fast")


if __name__ == "__main__":
    main()
