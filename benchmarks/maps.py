"""What maps cost beside the forward pass alone. Target: `cam` and `grad_cam` at most 1.05 in float32.

ResNet-18 at 224 px. The same map by captum, torch-cam and pytorch-grad-cam where they are installed
(`make test-oracles` does it), and the maps of five classes of every image; target there: faster than both.
"""

import argparse
import copy

import torch
from timing import interleaved, machine, report
from torchvision.models import resnet18

from camlib import maps, observe, one_hot
from camlib.attention import attention

FORWARD = "forward pass alone"


def alternatives(model, images, labels):
    """Name -> function. Each is given labels, so that none has to find the class to show."""
    observed = observe(copy.deepcopy(model))
    target = one_hot(labels, 1000)

    @torch.inference_mode()
    def forward():
        return model(images)

    @torch.inference_mode()
    def cam():
        out = observed(images)
        return maps.cam(out.maps[-1], out.weight, target)

    def grad_cam(observed):
        out = observed(images)
        return maps.grad_cam(out.logits, out.maps[-1], target).detach()

    # The gradient goes back to the last maps only, so that nothing before the last stage need be recorded.
    frozen = observe(copy.deepcopy(model)).requires_grad_(False)
    frozen.graph.get_submodule("layer4").requires_grad_(True)
    return {
        FORWARD: forward,
        "camlib cam": cam,
        "camlib grad_cam": lambda: grad_cam(observed),
        "camlib grad_cam, all but the last stage frozen": lambda: grad_cam(frozen),
    }


def others(model, images, labels):
    """Grad-CAM at the last stage by other libraries: name -> function, or None if it is not installed."""
    found = {}
    try:
        from captum.attr import LayerGradCam

        captum_cam = LayerGradCam(copy.deepcopy(model), None)
        captum_cam.layer = captum_cam.forward_func.layer4
        found["captum LayerGradCam"] = lambda: captum_cam.attribute(images, target=labels)
    except ImportError:
        found["captum"] = None
    try:
        from torchcam.methods import CAM, GradCAM

        def torchcam(method):
            own = copy.deepcopy(model)
            extractor = method(own, target_layer="layer4")
            return lambda: extractor(labels.tolist(), own(images))

        found |= {
            "torch-cam CAM": torch.no_grad()(torchcam(CAM)),
            "torch-cam GradCAM": torchcam(GradCAM),
        }
    except ImportError:
        found["torch-cam"] = None
    try:
        from pytorch_grad_cam import GradCAM as PytorchGradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        own = copy.deepcopy(model)
        jacobs = PytorchGradCAM(model=own, target_layers=[own.layer4])
        classes = [ClassifierOutputTarget(label) for label in labels.tolist()]
        found["pytorch-grad-cam GradCAM"] = lambda: jacobs(input_tensor=images, targets=classes)
    except ImportError:
        found["pytorch-grad-cam"] = None
    return found


def five_classes(model, images, layer):
    """Grad-CAM of five classes of every image at a stage: name -> function, of the libraries that are installed."""
    stage = {-1: "layer4", -2: "layer3"}[layer]
    # Nothing before the stage need be recorded.
    observed = observe(copy.deepcopy(model)).requires_grad_(False)
    observed.graph.get_submodule(stage).requires_grad_(True)
    classes = [torch.full((len(images),), k, device=images.device) for k in range(5)]
    targets = [one_hot(labels, 1000) for labels in classes]

    def ours():
        out = run_for_attention(observed, images) if layer == -1 else observed(images)
        return torch.stack([attention(out, target, layer, "grad_cam").detach() for target in targets], 1)

    calls = {"camlib attention": ours}
    try:
        from torchcam.methods import GradCAM

        own = copy.deepcopy(model)
        extractor = GradCAM(own, target_layer=stage)

        def torchcam():
            scores = own(images)
            return [extractor(labels.tolist(), scores, retain_graph=True) for labels in classes]

        calls["torch-cam GradCAM"] = torchcam
    except ImportError:
        print("  torch-cam: not installed")
    try:
        from pytorch_grad_cam import GradCAM as PytorchGradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        another = copy.deepcopy(model)
        jacobs = PytorchGradCAM(model=another, target_layers=[another.get_submodule(stage)])
        calls["pytorch-grad-cam GradCAM"] = lambda: [
            jacobs(input_tensor=images, targets=[ClassifierOutputTarget(k)] * len(images)) for k in range(5)
        ]
    except ImportError:
        print("  pytorch-grad-cam: not installed")
    return calls


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repetitions", type=int, default=15)
    options = parser.parse_args()
    device = machine()
    torch.manual_seed(0)
    model = resnet18(weights=None).eval().to(device)
    images = torch.randn(options.batch, 3, options.size, options.size, device=device)
    labels = torch.randint(1000, (options.batch,), device=device)

    print(f"ResNet-18, {options.batch} images of {options.size} px, float32")
    peers = others(model, images, labels)
    calls = alternatives(model, images, labels) | {name: call for name, call in peers.items() if call}
    report(interleaved(calls, options.repetitions), FORWARD, "cam and grad_cam at most 1.05")
    for name, call in peers.items():
        if call is None:
            print(f"  {name}: not installed")

    for layer, stage in ((-1, "last stage"), (-2, "stage before it")):
        print(f"five classes of every image at the {stage}, float32")
        report(interleaved(five_classes(model, images, layer), 3), "camlib attention", "the others above 1")

    print("one class, in bfloat16 and channels last, and the forward pass in float32 beside it")
    half = alternatives(
        copy.deepcopy(model).to(memory_format=torch.channels_last),
        images.contiguous(memory_format=torch.channels_last),
        labels,
    )

    def mixed(call):
        def wrapped():
            with torch.autocast(device.type, torch.bfloat16):
                return call()

        return wrapped

    calls = {name: mixed(call) for name, call in half.items()} | {"float32 forward pass": calls[FORWARD]}
    report(interleaved(calls, options.repetitions), FORWARD)


if __name__ == "__main__":
    main()
