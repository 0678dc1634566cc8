"""Maps against captum, pytorch-grad-cam and torchcam on one net, at the last and inner stages."""

import numpy as np
import pytest
import torch
import torchvision
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torchcam import methods

from camlib.attention import attention
from camlib.maps import cam, grad_cam, grad_cam_pp
from camlib.observe import observe
from camlib.target import one_hot

K = 5
IMAGES = torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))
LABELS = [4, 0, 2]
STAGES = ("layer2", "layer3", "layer4")
stages = pytest.mark.parametrize("stage", range(3), ids=STAGES)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=K)
    with torch.no_grad():
        model(torch.randn(8, 3, 96, 96))
    return model.eval()


@pytest.fixture
def ours(model):
    out = observe(model, STAGES)(IMAGES)
    target = one_hot(torch.tensor(LABELS), K)
    found = [grad_cam(out.logits, maps, target).detach() for maps in out.maps]
    assert all(0 < (map_ > 0).float().mean() < 1 for map_ in found)
    return found


@stages
def test_captum(model, ours, stage):
    theirs = LayerGradCam(model, model.get_submodule(STAGES[stage]))
    expected = theirs.attribute(IMAGES, LABELS, relu_attributions=True)[:, 0].detach()
    torch.testing.assert_close(ours[stage], expected, rtol=1e-4, atol=1e-6 * expected.max().item())


@stages
def test_torchcam(model, ours, stage):
    with methods.GradCAM(model, STAGES[stage]) as theirs:
        (expected,) = theirs(LABELS, model(IMAGES), normalized=False)
    torch.testing.assert_close(ours[stage], expected.detach(), rtol=1e-4, atol=1e-6 * expected.max().item())


@stages
def test_pytorch_grad_cam(model, ours, stage):
    """It returns maps of the images' size from 0 to 1: ours are scaled by its own function."""
    with GradCAM(model, [model.get_submodule(STAGES[stage])]) as theirs:
        expected = theirs(IMAGES, [ClassifierOutputTarget(label) for label in LABELS])
    scaled = scale_cam_image(scale_cam_image(ours[stage].numpy(), (96, 96)))
    assert scaled.max() > 0.99
    np.testing.assert_allclose(scaled, expected, atol=1e-4)


@stages
def test_grad_cam_pp_of_pytorch_grad_cam(model, stage):
    """It adds 1e-6 to 2 g² + g³ Σ f, which is small beside them only where gradients are large."""
    with torch.no_grad():
        model.fc.weight *= 1000
    out = observe(model, STAGES)(IMAGES)
    found = grad_cam_pp(out.logits, out.maps[stage], one_hot(torch.tensor(LABELS), K)).detach()
    with GradCAMPlusPlus(model, [model.get_submodule(STAGES[stage])]) as theirs:
        expected = theirs(IMAGES, [ClassifierOutputTarget(label) for label in LABELS])
    scaled = scale_cam_image(scale_cam_image(found.numpy(), (96, 96)))
    assert scaled.max() > 0.99
    np.testing.assert_allclose(scaled, expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["grad_cam", "grad_cam_pp"])
def test_closed_forms_at_the_last_layer(model, kind):
    """pytorch-grad-cam and torchcam go back through the net for them."""
    with torch.no_grad():
        model.fc.weight *= 1000  # against the 1e-6 that pytorch-grad-cam adds
    found = attention(observe(model)(IMAGES), one_hot(torch.tensor(LABELS), K), kind=kind).detach()
    with {"grad_cam": GradCAM, "grad_cam_pp": GradCAMPlusPlus}[kind](model, [model.layer4]) as theirs:
        expected = theirs(IMAGES, [ClassifierOutputTarget(label) for label in LABELS])
    scaled = scale_cam_image(scale_cam_image(found.numpy(), (96, 96)))
    assert scaled.max() > 0.99
    np.testing.assert_allclose(scaled, expected, atol=1e-4)
    if kind == "grad_cam":  # torchcam's Grad-CAM++ divides a copy of alpha and goes on without the quotient
        with methods.GradCAM(model, "layer4") as theirs:
            (expected,) = theirs(LABELS, model(IMAGES), normalized=False)
        torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-6 * expected.max().item())


def test_cam_of_torchcam(model):
    out = observe(model)(IMAGES)
    found = cam(out.maps[-1], out.weight, one_hot(torch.tensor(LABELS), K)).detach()
    assert found.min() < 0 < found.max()
    with methods.CAM(model, "layer4", "fc") as theirs:
        model(IMAGES)
        (expected,) = theirs(LABELS, normalized=False)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)
