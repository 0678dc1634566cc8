"""What `python -m camlib look` costs beside the forward pass alone: the CAMs of five classes. Target: at most 1.05.

ResNet-50 at 224 px, random weights. Beside it torch-cam's CAM and pytorch-grad-cam's Grad-CAM of the same classes,
where they are installed (`make test-oracles` does it).
"""

import argparse
import copy

import torch
from timing import interleaved, machine, report
from torchvision.models import resnet50

from camlib import look, observe

FORWARD = "forward pass alone"


def torch_cam(model, images):
    """The CAMs of each photo's five likeliest classes by torch-cam."""
    from torchcam.methods import CAM

    extractor = CAM(model, target_layer="layer4", fc_layer="fc")

    @torch.no_grad()
    def call():
        logits = model(images)
        return [extractor(column.tolist(), logits) for column in logits.topk(5).indices.T]

    return call


def pytorch_grad_cam(model, images):
    """Grad-CAM of each photo's five likeliest classes by pytorch-grad-cam, which has no CAM."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    extractor = GradCAM(model=model, target_layers=[model.layer4])

    def call():
        with torch.no_grad():
            classes = model(images).topk(5).indices
        return [
            extractor(input_tensor=images, targets=[ClassifierOutputTarget(k) for k in column])
            for column in classes.T.tolist()
        ]

    return call


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repetitions", type=int, default=10)
    options = parser.parse_args()
    device = machine()
    torch.manual_seed(0)
    model = resnet50(weights=None).eval().to(device)
    photos = torch.randint(256, (options.batch, 3, options.size, options.size), dtype=torch.uint8)
    names = tuple(map(str, range(1000)))
    net = look.Net(observe(copy.deepcopy(model)), names, options.size, options.size, *look.IMAGENET)
    images = net.normalised(photos)

    @torch.inference_mode()
    def forward():
        return model(net.normalised(photos))

    calls = {FORWARD: forward, "camlib look": lambda: look.maps_of_likeliest(net, photos)}
    print(f"ResNet-50, {options.batch} photos of {options.size} px, float32, five classes each")
    for name, others in (("torch-cam CAM", torch_cam), ("pytorch-grad-cam GradCAM", pytorch_grad_cam)):
        try:
            calls[name] = others(copy.deepcopy(model), images)
        except ImportError:
            print(f"  {name}: not installed")
    report(interleaved(calls, options.repetitions), FORWARD, "look at most 1.05")


if __name__ == "__main__":
    main()
