"""The sizes of an experiment: `quick`, `short`, `paper`. The one place that decides how large and how long each is.

A preset changes sizes and lengths, never the method, and none trains longer than the run's own protocol.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from camlib.lab.experiment import Call, Experiment
from camlib.train import Schedule

QUICK_EPOCHS, QUICK_IMAGES = 4, 1000
SHORT_EPOCHS = 12

# `short` takes at most the cost of ResNet-20 at 32 pixels, or of ResNet-18 at 112. Nets that are left as they are:
_SMALL = {"resnet8", "resnet20", "vgg8_slim", "resnet18_slim"}
# and what stands for others, ResNet-20 if nothing else is said. The slim nets have the layers of the large ones.
_SMALLER = {"vgg16_bn": "vgg8_slim", "vgg19_bn": "vgg8_slim", "resnet18_cifar": "resnet18_slim"}
_SMALLER_PICTURES = {
    "imagenet": "imagenet_112",
    "imagenet_ten_crop": "imagenet_112",
    "fine_grained": "fine_grained_112",
    "cub_448": "fine_grained_112",
    "whole_299": "whole_112",
    "few_shot": "few_shot_112",
}

# What stands for each data set where nothing must be downloaded.
_EMBEDDED = {
    "cub200": "scenes_fine",
    "cub50": "scenes_fine",
    "stanford_dogs": "scenes_fine",
    "cars196": "scenes_fine",
    "cub200_few_shot": "scenes_few_shot",
    "cub50_few_shot": "scenes_few_shot",
    "mini_imagenet_few_shot": "scenes_few_shot",
    "mini_to_cub": "scenes_few_shot",
    "voc2012": "scenes_multi",
    "voc_animals": "scenes_multi",
}


def _quick(experiment: Experiment) -> Experiment:
    """Embedded data, ResNet-8, four epochs of a thousand images: seconds on a processor."""

    def fewer(part: Call) -> Call:
        return Call(part.function, part.arguments | part.quick)

    batch_size = min(experiment.batch_size, 128)
    rate = experiment.schedule.learning_rate * batch_size / experiment.batch_size
    data = experiment.data if experiment.data.startswith("scenes") else _EMBEDDED.get(experiment.data, "scenes")
    return replace(
        experiment,
        net="resnet8",
        data=data,
        terms={name: (weight, fewer(term)) for name, (weight, term) in experiment.terms.items()},
        schedule=replace(experiment.schedule, learning_rate=rate),
        batch_size=batch_size,
        transform=None,
        train_images=min(experiment.train_images or QUICK_IMAGES, QUICK_IMAGES),
        test_images=QUICK_IMAGES // 2,
        tests=tuple(fewer(test) for test in experiment.tests),
    ).lasting(min(QUICK_EPOCHS, experiment.schedule.epochs))


def _short(experiment: Experiment) -> Experiment:
    """Real data, a small net, twelve epochs: 20 to 30 minutes of one processor core for CIFAR-100."""
    large = experiment.transform is not None and experiment.net not in _SMALL
    net = "resnet18" if large else _SMALLER.get(experiment.net, "resnet20")
    return replace(
        experiment,
        net=experiment.net if experiment.net in _SMALL else net,
        transform=_SMALLER_PICTURES.get(experiment.transform, experiment.transform),
    ).lasting(min(SHORT_EPOCHS, experiment.schedule.epochs))


def _paper(experiment: Experiment) -> Experiment:
    """As the paper has it; of a run that is in no paper, its own full protocol."""
    return experiment


PRESETS: dict[str, Callable[[Experiment], Experiment]] = {"quick": _quick, "short": _short, "paper": _paper}


def on(device: torch.device, preset: str, schedule: Schedule) -> Schedule:
    """The schedule in the arithmetic that suits a device: bfloat16 where its hardware has it, float16 on older GPUs.

    The preset `quick` computes in float32 everywhere, so that a chapter shows nearly the same digits on every
    processor.
    """
    if preset == "quick":
        return replace(schedule, channels_last=True)
    return replace(schedule, precision=_fast_precision(device), channels_last=True)


def _fast_precision(device: torch.device) -> str:
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    on_cpu = device.type == "cpu" and torch.backends.mkldnn.is_available()
    return "bfloat16" if on_cpu and torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"
