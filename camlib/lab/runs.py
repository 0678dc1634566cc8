"""Every training there is, under one name: SETTING/NET/ARM, as "scenes/resnet8/icasc".

The setting is a data set with a protocol: "cifar100" is CIFAR-100 as CAM-loss trains on it, "cifar100_icasc" as ICASC
does. The arm is what a method asks (`camlib.lab.arms`). A preset and a seed beside the name say which run it is.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from camlib import measure
from camlib.lab.arms import with_arm
from camlib.lab.experiment import Experiment, Terms, call
from camlib.lab.presets import PRESETS
from camlib.losses import MultiLabelSoftMargin
from camlib.names import lookup
from camlib.train import Schedule

_CONFUSION = (call(measure.Confusion),)
_MARGIN: Terms = {"ce": (1.0, call(MultiLabelSoftMargin))}


def _steps(epochs: int, milestones: tuple[int, ...], **more) -> Schedule:
    return Schedule(epochs=epochs, annealing="steps", milestones=milestones, **more)


# Weight decay and Nesterov's momentum as in each net's own paper, which CAM-loss, §4.2 follows.
_WIDE = {"weight_decay": 5e-4, "nesterov": True}
_DECAY = {
    **{f"resnet{depth}": {"weight_decay": 1e-4} for depth in (8, 20, 56, 110)},
    **dict.fromkeys(("wrn16_2", "wrn16_4", "wrn28_2", "wrn28_4", "wrn28_10"), _WIDE),
    "resnext29_8x64d": {"weight_decay": 5e-4},
    "densenet_bc_190_40": {"weight_decay": 1e-4, "nesterov": True},
}


def _cifar(net: str, data: str = "cifar100") -> Experiment:
    """CAM-loss, §4.2: 160 epochs, batch 128, learning rate 0.1 with cosine decay."""
    return Experiment(net, data, Schedule(epochs=160, learning_rate=0.1, **_DECAY[net]), tests=_CONFUSION)


def _tenth(net: str) -> Experiment:
    """A tenth of CIFAR-100, the first 50 images of each class, by the same protocol: ours, in no paper."""
    return _cifar(net, "cifar100_tenth")


def _isda(net: str, data: str) -> Experiment:
    """CAM-loss, Table 3 takes over the settings of ISDA (Wang et al. 2019)."""
    if net == "wrn28_10":
        schedule = _steps(240, (60, 120, 160, 200), decay=0.2, **_WIDE)
        return with_arm(Experiment(net, data, schedule, tests=_CONFUSION), "dropout")
    return Experiment(net, data, _steps(160, (80, 120), weight_decay=1e-4, nesterov=True), tests=_CONFUSION)


def _cutmix_cifar(net: str) -> Experiment:
    """CAM-loss, Table 2 follows the comparison of CutMix (Yun et al. 2019) on CIFAR-100."""
    schedule = _steps(300, (150, 225), learning_rate=0.25, weight_decay=1e-4, nesterov=True)
    return Experiment(net, "cifar100", schedule, batch_size=64)


def _cutmix_imagenet(net: str) -> Experiment:
    """CAM-loss, Table 2 follows the comparison of CutMix (Yun et al. 2019) on ImageNet."""
    schedule = _steps(300, (75, 150, 225), weight_decay=1e-4, nesterov=True)
    return Experiment(net, "imagenet", schedule, batch_size=256, augment=(), transform="imagenet")


def _imagenet(net: str) -> Experiment:
    """CAM-loss, §4.2: 120 epochs, batch 1024, learning rate 0.4 (512 and 0.2 for ResNeXt-101), cosine decay."""
    halves = 2 if net == "resnext101_32x8d" else 1
    schedule = Schedule(epochs=120, learning_rate=0.4 / halves, weight_decay=1e-4)
    return Experiment(net, "imagenet", schedule, batch_size=1024 // halves, augment=(), transform="imagenet")


def _fine_tuning(net: str, data: str) -> Experiment:
    """CAM-loss, §4.3, which does not name the loss of the fine-tuning: cross-entropy is our reading."""
    schedule = Schedule(epochs=90, learning_rate=1e-3, weight_decay=5e-4)
    batch_size = 16 if data == "stanford_dogs" else 8
    return Experiment(net, data, schedule, batch_size=batch_size, augment=(), transform="fine_grained")


def _few_shot(net: str, data: str, shots: tuple[int, ...], transform: str = "few_shot") -> Experiment:
    """CAM-loss, Table 6: Baseline++ as Chen et al. 2019 train it: 400 epochs, batch 16, Adam at 0.001, no decay."""
    schedule = _steps(400, (), learning_rate=1e-3, optimizer="adam", weight_decay=0, test_every=400)
    test = call(measure.FewShot, ways=5, shots=shots, episodes=600).at_quick(episodes=100)
    return Experiment(net, data, schedule, batch_size=16, augment=(), transform=transform, head="cosine", tests=(test,))


def _icasc_cifar(net: str) -> Experiment:
    """ICASC, A.1: 160 epochs, batch 128, learning rate 0.1 divided by 10 at 81 and 122, weight decay 0.0005."""
    return Experiment(net, "cifar100", _steps(160, (81, 122), weight_decay=5e-4), tests=_CONFUSION)


def _icasc_imagenet(net: str) -> Experiment:
    """ICASC, A.1: 90 epochs, batch 256, learning rate 0.1 divided by 10 at 30 and 60."""
    return Experiment(
        net,
        "imagenet",
        _steps(90, (30, 60), weight_decay=1e-4),
        batch_size=256,
        augment=(),
        transform="imagenet_ten_crop",
        tests=(call(measure.TenCrop),),
    )


# The nets that ICASC takes trained on ImageNet.
_STARTS = {
    "resnet18": "imagenet_icasc/resnet18/ce",
    "resnet50": "imagenet/resnet50/ce",
    "resnet101": "imagenet/resnet101/ce",
    "vgg19_bn": "imagenet_icasc/vgg19_bn/ce",
}


def _caltech(net: str, images: int) -> Experiment:
    """ICASC, A.1. Cyclic cosine annealing with one cycle is half a cosine over the whole training."""
    return Experiment(
        net,
        f"caltech256_{images}",
        Schedule(epochs=20, learning_rate=0.01, weight_decay=1e-3),
        batch_size=16,
        augment=(),
        transform="whole_299",
        start=_STARTS[net],
    )


def _icasc_cub(net: str) -> Experiment:
    """ICASC, A.2 and Table 1, whose weight decay is 0.0005; the table of its appendix has 0.0001."""
    return Experiment(
        net,
        "cub200",
        _steps(90, (30, 60), learning_rate=1e-3, weight_decay=5e-4),
        batch_size=10,
        augment=(),
        transform="cub_448",
        start=_STARTS[net],
        tests=_CONFUSION,
    )


def _voc(net: str) -> Experiment:
    """ICASC, A.3 and its table: 20 epochs, batch 16, cyclic cosine annealing with one cycle.

    VGG-19 is there for its segments alone, and tested once: DeepLab is trained for every test.
    """
    schedule = Schedule(epochs=20, learning_rate=0.01, weight_decay=1e-3)
    tests = (call(measure.MultiLabel),)
    if net == "vgg19_bn":
        schedule = replace(schedule, test_every=schedule.epochs)
        deeplab = call(measure.WeakSegmentation, deeplab=20, data="voc2012")
        tests = (deeplab.at_quick(deeplab=1, data="scenes_multi", train_images=100),)
    return Experiment(
        net,
        "voc2012",
        schedule,
        terms=_MARGIN,
        batch_size=16,
        augment=(),
        transform="whole_299",
        start=_STARTS[net],
        tests=tests,
    )


def _voc_animals(net: str) -> Experiment:
    """A subset and a net that a machine without an accelerator can train, from fresh weights: our settings."""
    return Experiment(
        net,
        "voc_animals",
        Schedule(epochs=60, learning_rate=0.05, weight_decay=5e-4, test_every=10),
        terms=_MARGIN,
        batch_size=64,
        augment=(),
        transform="whole_64",
        tests=(call(measure.MultiLabel, least=30).at_quick(least=10), call(measure.WeakSegmentation)),
    )


def _scenes(net: str, data: str = "scenes") -> Experiment:
    """Twelve epochs of Scenes: our settings. What CAM-loss counts from 160 epochs moves in proportion."""
    schedule = Schedule(epochs=160, weight_decay=5e-4)
    tests = (*_CONFUSION, call(measure.Grouping), call(measure.FreeGrounds).at_quick(count=500))
    return Experiment(net, data, schedule, tests=tests)


def _animals_trap(net: str) -> Experiment:
    """Photographs with the trap of Scenes: our settings."""
    return replace(_scenes(net, "animals_trap"), tests=(*_CONFUSION, call(measure.FreeGrounds).at_quick(count=500)))


def _scenes_fair(net: str) -> Experiment:
    """Grounds that say nothing, and so few images that cross-entropy makes errors on images like them."""
    base = _scenes(net, "scenes_free")
    schedule = replace(base.schedule, test_every=20)
    return replace(base, train_images=250, schedule=schedule, tests=(*_CONFUSION, call(measure.Grouping)))


def _scenes_multi(net: str) -> Experiment:
    tests = (call(measure.MultiLabel), call(measure.WeakSegmentation))
    return Experiment(
        net, "scenes_multi", Schedule(epochs=160, weight_decay=5e-4, test_every=12), terms=_MARGIN, tests=tests
    )


def _scenes_fine(net: str) -> Experiment:
    return Experiment(net, "scenes_fine", Schedule(epochs=12, learning_rate=0.01, weight_decay=5e-4))


def _mnist(net: str) -> Experiment:
    """The poster of CC-Loss tells λ = 1, five rounds and, by its Table 3, batches; everything else is our reading.

    The slim nets are ours, for machines without an accelerator: five epochs are enough for their size.
    """
    if net.endswith("_slim"):
        schedule = Schedule(epochs=5, learning_rate=0.05, weight_decay=5e-4, test_every=5)
        return Experiment(net, "mnist", schedule, batch_size=32, augment=(), tests=(call(measure.Grouping),))
    schedule = Schedule(epochs=30, learning_rate=0.01, weight_decay=5e-4)
    return Experiment(net, "mnist", schedule, batch_size=32, augment=())


def _mnist_few(net: str) -> Experiment:
    """So few images of MNIST that cross-entropy is as accurate as the poster's: our settings."""
    base = _mnist(net)
    return replace(base, train_images=1200, schedule=replace(base.schedule, epochs=30, test_every=30))


def _cc_cifar(net: str) -> Experiment:
    """Batch 32 by CC-Loss, Table 3; the rest our reading, with CAM-loss' rate brought down with the batch."""
    schedule = Schedule(epochs=160, learning_rate=0.025, weight_decay=5e-4)
    return Experiment(net, "cifar100", schedule, batch_size=32)


def _cars(net: str) -> Experiment:
    """Batch 16 by CC-Loss, Table 3. The paper's accuracies ask for pre-trained weights: give them by `--start`."""
    schedule = Schedule(epochs=90, learning_rate=0.01, weight_decay=5e-4)
    return Experiment(net, "cars196", schedule, batch_size=16, augment=(), transform="fine_grained")


def _batch(experiment: Experiment, size: int) -> Experiment:
    """The rate goes with the batch, so that what differs is how many pairs a step sees (CC-Loss, Table 3)."""
    rate = experiment.schedule.learning_rate * size / experiment.batch_size
    return replace(experiment, batch_size=size, schedule=replace(experiment.schedule, learning_rate=rate))


def _arms(setting: str, base: Experiment, *arms: str, epochs: int | None = None) -> Iterable[tuple[str, Experiment]]:
    """Runs of one setting and net, each name with its experiment; `epochs` shortens their schedules in proportion."""
    for arm in arms:
        experiment = with_arm(base, arm)
        yield f"{setting}/{base.net}/{arm}", experiment.lasting(epochs) if epochs else experiment


def _from(runs: Iterable[tuple[str, Experiment]], other: str, how: str) -> Iterable[tuple[str, Experiment]]:
    """The same runs with a teacher, or from the weights of another run; the arm's name says of which."""
    of = other.split("/")[1] if how == "teacher" else other.split("/")[2]
    for name, experiment in runs:
        yield f"{name}_from_{of}", replace(experiment, **{how: other})


_CONTROLS = ("cam_detached", "caam_detached", "random_class", "uniform")
_COMPACT = ("center", "l_softmax", "sm_softmax")
_NEGATIVE = ("negative_cam", "negative_cam_kd")
_SCHEDULES = (
    *(f"cam_t{t}_c1" for t in (0, 10, 20, 30, 40, 60, 80)),
    *(f"cam_t20_c{c}" for c in (2, 4, 5)),
    "cam_adaptive",
)
_REGULARIZERS = ("cutout", "manifold_mixup", "stochastic_depth", "drop_block", "mixup", "shake_drop", "cutmix")
_ICASC = ("icasc_grad_cam", "icasc", "icasc_random_confuser")
_ABLATION = (
    "icasc_inner",
    "icasc_inner_consistent",
    "icasc_last",
    "icasc_last_consistent",
    "icasc_separate",
    "icasc_consistent",
)
_LOSSES = ("focal", "a_softmax", "mc", "ical", "fical")
_CC = ("gate", "cc", "cc_normalised", "cc_hinge", "cc_difference")
_LAMBDAS = tuple(f"cc_lambda_{weight}" for weight in (0.5, 1.5, 2.0))
FIVE = ("ce", "cam", "icasc", "gate", "cc")  # cross-entropy, each method, and the gate that CC-Loss asks for


def _all() -> Iterable[tuple[str, Experiment]]:
    # Ours: embedded images and small nets.
    free = ("icasc_late", "icasc_unscaled", "icasc_same_ground", "icasc_masked")
    weights = tuple(f"icasc_weight_{weight}" for weight in (0.03, 0.1, 0.3))
    more_cc = ("cc_late", "cc_lambda_0.02", "cc_lambda_0.1", "triplet", "gate_narrow", "cc_narrow")
    everything = (*FIVE, *_CONTROLS, "cam_detached_c1", *_ICASC[::2], *free, *_ABLATION)
    everything += (*weights, *_LOSSES, *_CC[2:], *more_cc)
    yield from _arms("scenes", _scenes("resnet8"), *everything, epochs=12)
    yield from _arms("scenes_fair", _scenes_fair("resnet8"), *everything, epochs=200)
    still = _arms("scenes", _scenes("resnet8"), "still_guide", epochs=12)
    yield from _from(still, "scenes/resnet8/ce", "teacher")
    still = _arms("scenes_fair", _scenes_fair("resnet8"), "still_guide", epochs=200)
    yield from _from(still, "scenes_fair/resnet8/ce", "teacher")
    arms = (*FIVE, *_CONTROLS, "icasc_random_confuser", "cc_normalised")
    yield from _arms("animals_trap", _animals_trap("resnet8"), *arms, epochs=40)
    multi = ("ce", "icasc_grad_cam", "icasc", "icasc_late")
    yield from _arms("scenes_multi", _scenes_multi("resnet8"), *multi, epochs=12)
    for start in ("ce", "cam"):
        yield from _from(_arms("scenes_fine", _scenes_fine("resnet8"), "ce"), f"scenes/resnet8/{start}", "start")
    for net in ("vgg8_slim", "resnet18_slim"):
        yield from _arms("mnist", _mnist(net), "ce", *_CC, *_LOSSES)
    yield from _arms("mnist", _mnist("vgg8_slim"), *_LAMBDAS)
    yield from _arms("mnist_few", _mnist_few("vgg8_slim"), "ce", *_CC, *_LOSSES, "triplet", *_LAMBDAS)
    yield from _arms("cifar100", _cifar("resnet20"), *FIVE, *_CONTROLS, *_SCHEDULES, *_COMPACT, *_NEGATIVE)
    yield from _arms("cifar100", _cifar("resnet20"), *_ICASC[::2], *_ABLATION, *_LOSSES, *_CC[2:], *_LAMBDAS)
    yield from _arms("cifar100_tenth", _tenth("resnet20"), *FIVE, *_CONTROLS, *_ICASC[::2], "cc_normalised")
    yield from _arms("voc_animals", _voc_animals("resnet20"), "ce", "cam", *_ICASC, "icasc_late")
    few_birds = _few_shot("resnet18", "cub50_few_shot", (1, 5), "few_shot_112")
    yield from _arms("cub50_few_shot", few_birds, "ce", "cam_adaptive")
    yield from _arms("cifar100", _cifar("resnet8"), "ce")
    yield from _from(_arms("cifar100", _cifar("resnet8"), "kd", "at", "ccm"), "cifar100/resnet20/ce", "teacher")
    # CAM-loss.
    yield from _arms("cifar100", _cifar("resnet56"), "ce", "cam", *_CONTROLS, *_SCHEDULES, *_NEGATIVE)
    for net in ("wrn28_10", "resnext29_8x64d", "densenet_bc_190_40"):
        yield from _arms("cifar100", _cifar(net), "ce", "cam")
    for net in ("resnet56", "resnet20"):
        yield from _arms("cifar100", _cifar(net), *_REGULARIZERS, *(f"{name}+cam" for name in _REGULARIZERS))
    for net in ("resnet50", "resnet101", "resnext50_32x4d", "resnext101_32x8d"):
        yield from _arms("imagenet", _imagenet(net), "ce", "cam")
    for net in ("resnet50", "resnet101"):
        yield from _arms("imagenet", _imagenet(net), "negative_cam_k100", "negative_cam_kd_k100")
    both = ("ce", *_REGULARIZERS, "cutmix+shake_drop")
    yield from _arms("cifar100_cutmix", _cutmix_cifar("pyramidnet200_a240"), *both)
    with_cam = ("cam", "shake_drop+cam", "cutmix+cam", "cutmix+shake_drop+cam")
    yield from _arms("cifar100_cutmix", _cutmix_cifar("pyramidnet200_a240"), *with_cam)
    imagenet = ("ce", "cam", "cutout", "manifold_mixup", "mixup", "cutmix_always", "cutmix_always+cam")
    yield from _arms("imagenet_cutmix", _cutmix_imagenet("resnet50"), *imagenet)
    for net, data in (
        ("resnet110", "cifar10"),
        ("resnet110", "cifar100"),
        ("wrn28_10", "cifar10"),
        ("wrn28_10", "cifar100"),
    ):
        yield from _arms(f"{data}_isda", _isda(net, data), "ce", *_COMPACT, "cam")
    yield from _arms("cifar100_isda", _isda("resnet110", "cifar100"), *_NEGATIVE)
    for data in ("cub200", "stanford_dogs"):
        for start in ("ce", "cam"):
            yield from _from(_arms(data, _fine_tuning("resnet50", data), "ce"), f"imagenet/resnet50/{start}", "start")
    for data, shots in (("mini_imagenet", (1, 5)), ("cub200", (1, 5))):
        yield from _arms(f"{data}_few_shot", _few_shot("resnet18", f"{data}_few_shot", shots), "ce", "cam")
    yield from _arms("mini_to_cub", _few_shot("resnet18", "mini_to_cub", (5,)), "ce", "cam")
    for net in ("wrn28_4", "wrn16_4", "wrn28_2", "wrn16_2"):
        yield from _arms("cifar100", _cifar(net), "ce")
    for net in ("wrn16_4", "wrn28_2", "wrn16_2", "resnet56"):
        yield from _from(_arms("cifar100", _cifar(net), "kd", "at", "ccm"), "cifar100/wrn28_4/ce", "teacher")
    teacher = "cifar100_cutmix/pyramidnet200_a240/ce"
    yield from _from(_arms("cifar100", _cifar("wrn28_4"), "kd", "at", "ccm"), teacher, "teacher")
    # ICASC.
    yield from _arms("cifar100_icasc", _icasc_cifar("resnet110"), "ce", *_ICASC, "stochastic_depth")
    yield from _arms("cifar100_icasc", _icasc_cifar("preresnet164"), "ce")
    for images in (30, 60):
        for net in ("resnet18", "vgg19_bn"):
            yield from _arms(f"caltech256_{images}", _caltech(net, images), "ce", "icasc_grad_cam", "icasc")
    yield from _arms("imagenet_icasc", _icasc_imagenet("resnet18"), "ce", "icasc_grad_cam", "icasc")
    yield from _arms("imagenet_icasc", _icasc_imagenet("vgg19_bn"), "ce")
    yield from _arms("cub200_icasc", _icasc_cub("resnet50"), "ce", *_ICASC, *_ABLATION)
    yield from _arms("cub200_icasc", _icasc_cub("resnet101"), "ce", "icasc_grad_cam", "icasc")
    yield from _arms("voc2012", _voc("resnet18"), "ce", "icasc_grad_cam", "icasc", "icasc_late")
    yield from _arms("voc2012", _voc("vgg19_bn"), "ce")
    # CC-Loss.
    for setting, make, nets in (
        ("mnist", _mnist, ("vgg16_bn", "resnet18_cifar")),
        ("cifar100_cc", _cc_cifar, ("vgg16_bn", "resnet18_cifar")),
        ("cars196", _cars, ("vgg16_bn", "resnet18")),
    ):
        for net in nets:
            yield from _arms(setting, make(net), "ce", "gate", "cc", *_LOSSES, *_LAMBDAS[: 3 * (net == "vgg16_bn")])
    for setting, base in (
        ("cifar100_cc", _cc_cifar("vgg16_bn")),
        ("cars196", _cars("vgg16_bn")),
        ("mnist", _mnist("vgg8_slim")),
    ):
        for size in (8, 16, 32, 64, 128):
            if size != base.batch_size:
                yield from _arms(f"{setting}_batch_{size}", _batch(base, size), "gate", "cc")


RUNS: dict[str, Experiment] = dict(_all())


class Run(NamedTuple):
    """A training: a name of `RUNS`, a preset and a seed. Written as its path, "scenes/resnet8/ce/paper/seed-0"."""

    name: str
    preset: str = "paper"
    seed: int = 0

    @property
    def path(self) -> str:
        """Of its checkpoints, below the folder for runs."""
        return f"{self.name}/{self.preset}/seed-{self.seed}"

    @property
    def command(self) -> str:
        """The command that trains it."""
        return f"python -m camlib run {self.name} --preset {self.preset} --seed {self.seed}"

    @property
    def experiment(self) -> Experiment:
        """What is trained. A teacher and a start are runs at the same preset, by the names they have there.

        Raises:
            UnknownName: there is no such run or preset.
        """
        at_preset = lookup(PRESETS, self.preset, "preset")(lookup(RUNS, self.name, "run"))
        others = {how: getattr(at_preset, how) for how in ("teacher", "start") if getattr(at_preset, how)}
        return replace(at_preset, **{how: canonical(Run(other, self.preset)).name for how, other in others.items()})


def canonical(run: Run) -> Run:
    """The one name of a training: a preset may make one experiment of two, and a small run's `short` is its `paper`.

    Raises:
        UnknownName: there is no such run or preset.
    """
    experiment = run.experiment
    for preset in dict.fromkeys(["paper", run.preset]):
        name = _names(preset).get(repr(experiment))
        if name:
            return Run(name, preset, run.seed)
    return run


@cache
def _names(preset: str) -> dict[str, str]:
    """Experiment at a preset, as text -> the first of the runs that it is."""
    names: dict[str, str] = {}
    for name in RUNS:
        experiment = PRESETS[preset](RUNS[name])
        if not (experiment.teacher or experiment.start):  # those of one that has keep their own name
            names.setdefault(repr(experiment), name)
    return names
