"""What the other losses cost: a training step with each of them against a step of the same kind without it.

Targets: CCM beside KD at most 1.05; center loss and NegativeCAM beside cross-entropy at most 1.10.
"""

import argparse

import torch
from timing import interleaved, machine, report

from camlib import Objective, models, observe, one_hot
from camlib.losses import CCM, KD, CAMLoss, CenterLoss, CrossEntropy, NegativeCAM

CLASSES = 100
CE = {"ce": (1.0, CrossEntropy())}
TAUGHT = {"ce": (0.5, CrossEntropy()), "kd": (0.5, KD())}

# Reference -> (target, name -> terms, given the number of features).
GROUPS = {
    "KD": (
        "at most 1.05",
        {
            "KD": lambda features: TAUGHT,
            "KD and CCM": lambda features: TAUGHT | {"ccm": (1.0, CCM())},
        },
    ),
    "cross-entropy": (
        "at most 1.10",
        {
            "cross-entropy": lambda features: CE,
            "center loss": lambda features: CE | {"center": (0.003, CenterLoss(CLASSES, features))},
            "NegativeCAM": lambda features: CE | {"negative": (0.07, NegativeCAM())},
        },
    ),
    "CAM-loss": (
        "",
        {
            "CAM-loss": lambda features: CE | {"cam": (3.0, CAMLoss())},
            "by Grad-CAM": lambda features: CE | {"cam": (3.0, CAMLoss(attention="grad_cam"))},
            "by Grad-CAM++": lambda features: CE | {"cam": (3.0, CAMLoss(attention="grad_cam_pp"))},
        },
    ),
}


def step(terms, options, device, dtype, layout):
    """A function that makes one training step on one fixed batch."""
    torch.manual_seed(0)
    observed = observe(models.create(options.net, CLASSES)).to(device, memory_format=layout).train()
    terms = terms(observed.head.in_features)
    teacher = observe(models.create(options.teacher, CLASSES)).to(memory_format=layout) if "kd" in terms else None
    objective = Objective(teacher=teacher, **terms).to(device)
    optimizer = torch.optim.SGD(observed.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    images = torch.randn(options.batch, 3, 32, 32, device=device).contiguous(memory_format=layout)
    target = one_hot(torch.randint(CLASSES, (options.batch,), device=device), CLASSES)

    def call():
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = objective(observed, images, target)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return call


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="resnet20")
    parser.add_argument("--teacher", default="resnet56")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=30)
    options = parser.parse_args()
    device = machine()
    for arithmetic, dtype, layout in (
        ("bfloat16, channels last", torch.bfloat16, torch.channels_last),
        ("float32", torch.float32, torch.contiguous_format),
    ):
        print(f"{options.net}, teacher {options.teacher}, batch {options.batch}, {arithmetic}")
        for reference, (target, arms) in GROUPS.items():
            steps = {name: step(terms, options, device, dtype, layout) for name, terms in arms.items()}
            report(interleaved(steps, options.repetitions), reference, target)


if __name__ == "__main__":
    main()
