"""Foreign classifiers under `observe`: what it returns, and what it refuses (CAM-loss, Eq. 1; CAM-loss, Figure 2)."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from camlib.attention import class_map
from camlib.losses import CAMLoss
from camlib.maps import stretch
from camlib.models import Gate, create
from camlib.objective import State
from camlib.observe import NotObservable, observe, tokens_as_maps
from camlib.target import one_hot

K = 5
FOREIGN = {
    "resnet18": {},
    "resnext50_32x4d": {},
    "densenet121": {},
    "mobilenet_v2": {},
    "efficientnet_b0": {},
    "regnet_y_400mf": {},
    "shufflenet_v2_x0_5": {},
    "mnasnet0_5": {},
    "googlenet": {"init_weights": False},
    "wide_resnet50_2": {},
}


def pixels(count=2, size=64):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def mean_cam(out):
    """1/(HW) Σ_xy Σ_k w_k^i f_k(x, y) for every class i, without the bias."""
    return torch.einsum("ik,nkyx->ni", out.weight, out.maps[-1]) / out.maps[-1][0, 0].numel()


@pytest.fixture(scope="module", params=FOREIGN)
def foreign(request):
    """A model with statistics of real batches: at initialisation some nets return little but their bias."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, request.param)(weights=None, num_classes=K, **FOREIGN[request.param])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(pixels(4))
    return model


def test_a_foreign_model_shows_what_it_classifies_by(foreign):
    foreign.eval()
    observed, images = observe(foreign), pixels()
    assert not observed.training
    with torch.no_grad():
        out, expected = observed(images), foreign(images)
    assert torch.equal(out.logits, expected)
    explained = expected - observed.head.bias
    assert explained.std() > 1e-4
    torch.testing.assert_close(mean_cam(out), explained, rtol=1e-4, atol=1e-4 * explained.abs().max().item())
    torch.testing.assert_close(out.pooled, out.maps[-1].mean((2, 3)), rtol=1e-4, atol=1e-6)
    assert out.weight is observed.head.weight
    assert out.weight.shape == (K, out.pooled.shape[1])
    assert out.gate is None
    sizes = [tuple(maps.shape[2:]) for maps in out.maps]
    assert sizes == sorted(set(sizes), reverse=True), "one stage for each resolution, from fine to coarse"
    assert len(observed.stages) == len(sizes) >= 4


def test_a_foreign_model_learns_through_its_maps(foreign):
    foreign.train().zero_grad()
    observed = observe(foreign)
    assert observed.training
    out = observed(pixels())
    CAMLoss()(out, one_hot(torch.tensor([0, 3]), K), State()).backward()
    gradient = next(m for m in foreign.modules() if isinstance(m, nn.Conv2d)).weight.grad
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_a_foreign_model_and_its_observed_form_share_their_state(foreign):
    observed = observe(foreign)
    theirs = dict(foreign.named_parameters()) | dict(foreign.named_buffers())
    ours = dict(observed.graph.named_parameters()) | dict(observed.graph.named_buffers())
    for name, tensor in ours.items():
        assert tensor is theirs[name]
    assert {name for name in theirs.keys() - ours.keys() if not name.startswith("aux")} == set()


class Wrapped(nn.Module):
    """A trunk that pools, a head of its own, a transformation of its own: as people write them."""

    class Standardise(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.full((3, 1, 1), 0.4))

        def forward(self, images):
            return images - self.mean

    class Pool(nn.Module):
        def forward(self, maps):
            return maps.mean((2, 3))

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, K)

        def forward(self, features):
            return self.linear(features)

    def __init__(self):
        super().__init__()
        self.before = self.Standardise()
        self.trunk = create("resnet8", K)
        self.trunk.avgpool, self.trunk.fc = self.Pool(), nn.Identity()
        self.head = self.Head()

    def forward(self, images):
        return self.head(self.trunk(self.before(images)))


@pytest.mark.parametrize(
    "build",
    [
        Wrapped,
        lambda: nn.Sequential(Wrapped.Standardise(), create("resnet8", K)),
        lambda: nn.Sequential(create("resnet8", K), nn.Identity(), nn.Flatten()),
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AvgPool2d(16), nn.Flatten(), nn.Linear(8, K)),
    ],
    ids=["own modules", "model in a model", "nothing after the classifier", "fixed window"],
)
def test_models_as_people_write_them(build, capsys):
    model = build().eval()
    out = observe(model)(pixels(size=32))
    assert torch.equal(out.logits, model(pixels(size=32)))
    bias = next(m.bias for m in model.modules() if isinstance(m, nn.Linear))
    torch.testing.assert_close(mean_cam(out) + bias, out.logits)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    model = create("resnet8", K).to(dtype).eval()
    out = observe(model)(pixels(size=32).to(dtype))
    assert out.logits.dtype == out.maps[-1].dtype == dtype
    assert torch.equal(out.logits, model(pixels(size=32).to(dtype)))


def test_a_model_on_the_meta_device_can_be_observed():
    with torch.device("meta"):
        observed = observe(torchvision.models.resnet18(num_classes=K))
        assert observed(torch.empty(2, 3, 64, 64)).maps[-1].shape == (2, 512, 2, 2)


def test_maps_of_a_resnet_are_its_stages_after_the_activation():
    model = create("resnet20", K).eval()
    observed, images = observe(model), pixels(size=32)
    out = observed(images)
    assert observed.stages == ("layer1.2", "layer2.2", "layer3.2")
    assert [tuple(maps.shape) for maps in out.maps] == [(2, 16, 32, 32), (2, 32, 16, 16), (2, 64, 8, 8)]
    maps = model.relu(model.bn1(model.conv1(images)))
    for found, layer in zip(out.maps, (model.layer1, model.layer2, model.layer3), strict=True):
        maps = layer(maps)
        assert torch.equal(found, maps)
        assert maps.min() == 0


def test_maps_of_a_densenet_include_its_functional_relu():
    model = torchvision.models.densenet121(num_classes=K).eval()
    with torch.no_grad():
        found, expected = observe(model)(pixels()).maps[-1], F.relu(model.features(pixels()))
    assert torch.equal(found, expected)
    assert found.min() == 0


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (("layer2", "layer3"), ("layer2.0", "layer3.0")),
        (("layer1.0",), ("layer1.0", "layer3.0")),
        (("conv1", "layer2"), ("conv1", "layer2.0", "layer3.0")),
        ((), ("layer3.0",)),
    ],
)
def test_stages_by_name(asked, found):
    model = create("resnet8", K).eval()
    observed, images = observe(model, stages=asked), pixels(size=32)
    seen = {}
    for name in found:
        model.get_submodule(name).register_forward_hook(lambda *call, name=name: seen.update({name: call[2].clone()}))
    out = observed(images)
    assert observed.stages == found
    for name, maps in zip(found, out.maps, strict=True):
        assert torch.equal(maps, seen[name])


@pytest.mark.parametrize("name", ["layer4", "layer1.0.conv1", "avgpool", "fc", "layer"])
def test_unknown_stages_are_answered_with_those_there_are(name):
    with pytest.raises(
        NotObservable, match=f"no stage '{name}'; it has conv1, bn1, relu, layer1.0, layer2.0, layer3.0$"
    ):
        observe(create("resnet8", K), stages=(name,))


class Functional(nn.Module):
    def __init__(self, call, features=8):
        super().__init__()
        self.conv, self.fc, self.call = nn.Conv2d(3, 8, 3), nn.Linear(features, K), call

    def forward(self, images):
        return self.call(self, self.conv(images))


class Branching(nn.Module):
    def forward(self, maps):
        if maps.shape[2] > 4:
            return maps.amax((2, 3))
        return maps.mean((2, 3))


class Tokens(nn.Module):
    """Patches as tokens behind a class token, a layer that mixes their channels, and some way to features."""

    def __init__(self, features, patch=56):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, patch, patch)
        self.token = nn.Parameter(torch.ones(1, 1, 8))
        self.norm, self.head, self.features = nn.LayerNorm(8), nn.Linear(8, K), features

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(tokens.shape[0], -1, -1), tokens], 1)
        return self.head(self.features(self.norm(tokens)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "vgg11",
            r"VGG does not average maps over all their positions, but makes its features by 'flatten' \(flatten\)",
        ),
        ("alexnet", r"AlexNet does not average maps .* by 'flatten' \(flatten\)"),
        ("vit_b_16", r"by 'getitem\w*' \(getitem\): .* class token, timm\.create_model\(…, global_pool='avg'\)"),
    ],
)
def test_models_that_average_no_maps_are_refused(name, message):
    with torch.device("meta"):
        model = getattr(torchvision.models, name)(weights=None)
    with pytest.raises(NotObservable, match=message):
        observe(model)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, K)),
            r"Sequential does not average maps over all their positions, but makes its features by '_0' \(Flatten\)",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, K)),
            r"makes its features by '_2' \(Flatten\): a class activation map is not defined for it$",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, K)),
            r"makes its features by '_1' \(AdaptiveMaxPool2d\)",
        ),
        (Functional(lambda net, maps: net.fc(maps.amax((2, 3)))), r"makes its features by 'amax' \(amax\)"),
        (
            Functional(lambda net, maps: net.fc(maps.mean((2, 3)) + maps.amax((2, 3)))),
            r"makes its features by 'add' \(add\)",
        ),
        (
            Functional(lambda net, maps: (net.fc(maps.mean((2, 3))), maps)),
            r"Functional does not end in logits \(N, K\) but in a tuple",
        ),
        (
            Functional(lambda net, maps: net.fc(maps.mean((2, 3)) if maps.sum() > 0 else maps.amax((2, 3)))),
            r"Functional cannot be traced symbolically at '.*if maps\.sum\(\) > 0 .*' \(test_observe\.py, line \d+\): "
            "symbolically traced variables cannot be used as inputs to control flow$",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 8, 3), Branching(), nn.Linear(8, K)),
            r"makes its features by '_1' \(Branching\): .*; Sequential cannot be traced symbolically at "
            r"'if maps\.shape\[2\] > 4:'",
        ),
        (
            Functional(lambda net, maps: net.fc(maps.mean((2, 3))), features=9),
            r"Functional runs on no square picture of 224, 32, .* pixels; at 224: .*\[9, 5\]",
        ),
        (
            Functional(lambda net, maps: net.fc(F.alpha_dropout(maps.mean((2, 3)), 0.5, net.training))),
            "Functional calls alpha_dropout with training as an argument, which tracing would freeze",
        ),
        (
            Tokens(lambda tokens: tokens.mean(1)),
            "Tokens averages 17 tokens, which are no square of positions: leave a class token out of the mean",
        ),
    ],
    ids=[
        "no maps",
        "2×2 pooling",
        "max",
        "functional max",
        "mean and max",
        "tuple",
        "branch",
        "branch inside",
        "does not run",
        "alpha dropout",
        "class token among the rest",
    ],
)
def test_what_stands_in_the_way_is_named(model, message, capsys):
    modes = [module.training for module in model.eval().modules()]
    with pytest.raises(NotObservable, match=message):
        observe(model)
    assert [module.training for module in model.modules()] == modes
    assert capsys.readouterr() == ("", "")


def test_observing_leaves_every_mode_as_it_was():
    model = create("resnet8", K)
    model.bn1.eval()
    modes = [module.training for module in model.modules()]
    observe(model)
    assert [module.training for module in model.modules()] == modes


def test_observed_and_model_change_mode_together():
    model = create("resnet8", K)
    observed = observe(model)
    for switch, expected in ((observed.eval, False), (observed.train, True)):
        switch()
        assert {m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {expected}


@pytest.mark.parametrize(
    ("call", "share"),
    [
        (lambda net, maps: net.fc(F.dropout(maps.mean((2, 3)), 0.8, net.training)), 0.8),
        (lambda net, maps: net.fc(F.dropout(maps.mean((2, 3)), p=0.3, training=net.training)), 0.3),
        (lambda net, maps: net.fc(F.dropout(maps.mean((2, 3)), training=net.training)), 0.5),
        (lambda net, maps: net.fc(F.dropout2d(maps, 0.6, net.training).mean((2, 3))), 0.6),
    ],
)
def test_functional_dropout_follows_train_and_eval(call, share):
    torch.manual_seed(0)
    model = Functional(call)
    observed = observe(model)
    with torch.no_grad():
        model.fc.weight.copy_(torch.eye(K, 8))
        model.fc.bias.zero_()
        images = pixels(400, size=4)
        for _ in range(2):
            dropped = (observed.train()(images).logits == 0).float().mean().item()
            assert dropped == pytest.approx(share, abs=0.05)
            assert torch.equal(observed.eval()(images).logits, model.eval()(images))


def test_drop_paths_of_blocks_follow_train_and_eval():
    """A block without convolution stays whole, or its stochastic depth would be traced in evaluation mode."""

    class Path(nn.Module):
        def forward(self, maps):
            return maps * 0 if self.training else maps

    observed = observe(nn.Sequential(nn.Conv2d(3, 8, 3), Path(), nn.ReLU(), Wrapped.Pool(), nn.Linear(8, K)))
    assert observed.train()(pixels()).maps[-1].abs().sum() == 0
    assert observed.eval()(pixels()).maps[-1].abs().sum() > 0


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
            "images have dtype torch.uint8, expected floating point: normalise",
        ),
        (
            torch.zeros(2, 1, 32, 32),
            r"images have shape \(2, 1, 32, 32\), expected \(N, 3, H, W\): .* for 3 channels",
        ),
        (torch.zeros(3, 32, 32), r"images have shape \(3, 32, 32\), expected \(N, 3, H, W\)"),
    ],
)
def test_images_that_do_not_fit(images, message):
    with pytest.raises(ValueError, match=message):
        observe(create("resnet8", K))(images)


def test_a_subclass_of_linear_may_be_the_classifier():
    model = create("resnet8", K, head="cosine").eval()
    observed, images = observe(model), pixels(size=32)
    out = observed(images)
    assert observed.head is model.fc
    assert out.weight is model.fc.weight
    assert torch.equal(out.logits, model(images))
    lengths = out.pooled.norm(dim=1, keepdim=True)
    torch.testing.assert_close(mean_cam(out) * 2 / lengths, out.logits)


BEHIND = {
    "1 × 1 convolution": lambda: [nn.Dropout(0.5), nn.Conv2d(12, K, 1), nn.Flatten()],
    "norm": lambda: [nn.GroupNorm(3, 12), nn.Flatten(), nn.Linear(12, K)],
    "layers": lambda: [nn.Flatten(), nn.Linear(12, 7), nn.Hardswish(), nn.Dropout(0.5), nn.Linear(7, K)],
    "activation": lambda: [nn.Flatten(), nn.Linear(12, K), nn.Sigmoid()],
    "convolutions": lambda: [nn.Conv2d(12, 7, 1), nn.ReLU(), nn.Conv2d(7, K, 1), nn.Flatten()],
}


@pytest.mark.parametrize("behind", BEHIND)
def test_what_stands_behind_the_average_may_be_more_than_a_linear_layer(behind):
    torch.manual_seed(0)
    average = [nn.Conv2d(3, 12, 3, 2), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)]
    model = nn.Sequential(*average, *BEHIND[behind]()).eval()
    observed, images = observe(model), pixels(size=32)
    out = observed(images)
    assert torch.equal(out.logits, model(images))
    assert out.pooled.shape == (2, 12)
    assert torch.equal(out.maps[-1], model[:2](images))
    torch.testing.assert_close(out.pooled, out.maps[-1].mean((2, 3)))
    assert torch.equal(observed.classify(out.pooled), out.logits)
    assert observed.num_classes == K
    if behind == "1 × 1 convolution":
        assert observed.head is model[4]
        torch.testing.assert_close(mean_cam(out) + model[4].bias, out.logits)
    else:
        assert out.weight is None
        assert observed.head is None
    by_maps, by_mean = torch.autograd.grad(out.logits[:, 1].sum(), (out.maps[-1], out.pooled), retain_graph=True)
    torch.testing.assert_close(by_maps.sum((2, 3)), by_mean)
    expected = torch.einsum("nc,nchw->nhw", by_mean, out.maps[-1])
    torch.testing.assert_close(class_map(out, one_hot(torch.tensor([1, 1]), K)), expected)


def test_a_mean_of_class_maps_has_the_identity_for_its_weight():
    torch.manual_seed(0)
    model = torchvision.models.squeezenet1_1(num_classes=K).eval()
    observed, images = observe(model), pixels()
    out = observed(images)
    assert torch.equal(out.logits, model(images))
    assert torch.equal(out.weight, torch.eye(K))
    assert out.maps[-1].shape[1] == K
    assert out.maps[-1].min() == 0, "the maps are those behind the activation, which works in place"
    torch.testing.assert_close(mean_cam(out), out.logits)
    assert observed.state_dict().keys() == {f"graph.{name}" for name in model.state_dict()}
    row = one_hot(torch.tensor([1, 3]), K)
    torch.testing.assert_close(class_map(out, row), torch.stack([out.maps[-1][0, 1], out.maps[-1][1, 3]]))
    assert observe(model.double())(images.double()).weight.dtype == torch.float64


@pytest.mark.parametrize("name", ["swin_t", "convnext_tiny"])
def test_gradients_reach_every_stage_whatever_its_layout(name):
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=K).eval()
    images = pixels(1, 64)
    out = observe(model)(images)
    assert [tuple(maps.shape[1:]) for maps in out.maps] == [(96, 16, 16), (192, 8, 8), (384, 4, 4), (768, 2, 2)]
    torch.testing.assert_close(out.logits, model(images))
    torch.testing.assert_close(out.maps[-1].mean((2, 3)), out.pooled)
    for gradient in torch.autograd.grad(out.logits[0, 0], out.maps):
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("size", [(224, 224), (112, 336)])
def test_tokens_become_maps_of_the_pictures_shape(size):
    torch.manual_seed(0)
    model = Tokens(lambda tokens: tokens[:, 1:].mean(1)).eval()
    images = torch.randn(2, 3, *size)
    out = observe(model)(images)
    assert out.maps[-1].shape == (2, 8, size[0] // 56, size[1] // 56)
    torch.testing.assert_close(out.maps[-1], model.norm(model.patches(images).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    torch.testing.assert_close(out.logits, model(images))
    torch.testing.assert_close(mean_cam(out) + model.head.bias, out.logits)
    (gradient,) = torch.autograd.grad(out.logits.sum(), out.maps[-1])
    torch.testing.assert_close(gradient.sum((2, 3)), model.head.weight.sum(0).expand(2, 8))


def test_tokens_that_are_no_grid_of_the_picture():
    with pytest.raises(ValueError, match=r"^15 tokens of a picture of 224 × 224 pixels are no grid of positions: pass"):
        tokens_as_maps(torch.zeros(1, 15, 8), torch.zeros(1, 3, 224, 224))


def test_dropout_in_front_of_the_average_is_part_of_the_maps():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Dropout2d(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, K))
    out = observe(model.train())(pixels(20, 8))
    torch.testing.assert_close(out.pooled, out.maps[-1].mean((2, 3)))
    assert (out.pooled == 0).any()


def test_dropout_behind_the_average_is_no_part_of_it():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, K))
    out = observe(model.train())(pixels(20, 8))
    torch.testing.assert_close(out.pooled, out.maps[-1].mean((2, 3)))


def test_pixels_may_become_channels_in_front_of_the_first_convolution():
    model = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 8, 3), Wrapped.Pool(), nn.Linear(8, K))
    assert observe(model)(pixels(size=32)).maps[-1].shape == (2, 8, 14, 14)


def test_grey_images():
    out = observe(create("resnet8", K, in_channels=1))(torch.randn(2, 1, 28, 28))
    assert out.maps[-1].shape == (2, 64, 7, 7)


def test_autocast_changes_the_maps_and_little_else():
    observed = observe(create("resnet8", K).eval())
    with torch.autocast("cpu", torch.bfloat16):
        half = observed(pixels(size=32))
    full = observed(pixels(size=32))
    assert half.logits.dtype == half.maps[-1].dtype == torch.bfloat16
    assert half.weight.dtype == torch.float32
    torch.testing.assert_close(half.logits.float(), full.logits, rtol=0.05, atol=0.05 * full.logits.abs().max().item())
    CAMLoss()(half, one_hot(torch.tensor([0, 3]), K), State()).backward()
    assert observed.graph.conv1.weight.grad.abs().sum() > 0


def test_a_copy_is_independent():
    observed = observe(create("resnet8", K).eval())
    twin, images = copy.deepcopy(observed), pixels(size=32)
    before = observed(images)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(observed(images).logits, before.logits)
    after = twin(images)
    assert after.weight is twin.head.weight
    assert after.logits.abs().sum() == 0


def test_a_reloaded_state_gives_the_same_output():
    first, second = (observe(create("resnet8", K).eval()) for _ in range(2))
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(pixels(size=32)).logits, first(pixels(size=32)).logits)


def test_distributed_data_parallel_gives_the_same_gradients(tmp_path):
    def gradients(observed, module):
        observed.zero_grad()
        out = module(pixels(size=32))
        loss = out.logits.square().mean() + CAMLoss()(out, one_hot(torch.tensor([0, 3]), K), State())
        loss.backward()
        return {name: parameter.grad.clone() for name, parameter in observed.named_parameters()}

    observed = observe(create("resnet8", K))
    expected = gradients(observed, observed)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = DistributedDataParallel(observed)
        for _ in range(2):
            found = gradients(observed, parallel)
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(found, expected)


class Inside(nn.Module):
    """A trunk of the user's own that ends in a gate."""

    def __init__(self):
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 32, 3, 2), Gate(32)

    def forward(self, images):
        return self.gate(self.conv(images).relu())


def with_gate(name, features, place):
    model = getattr(torchvision.models, name)(weights=None, num_classes=K)
    setattr(model, place, nn.Sequential(getattr(model, place), nn.ReLU(), Gate(features)))
    return model


@pytest.mark.parametrize(
    "build",
    [
        lambda: with_gate("densenet121", 1024, "features"),
        lambda: with_gate("mobilenet_v2", 1280, "features"),
        lambda: nn.Sequential(Inside(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, K)),
    ],
    ids=["in front of a function", "behind the features", "inside a module"],
)
def test_a_gate_is_found_in_a_foreign_model(build):
    torch.manual_seed(0)
    model = build().eval()
    found = []
    gate = next(module for module in model.modules() if isinstance(module, Gate))
    gate.attention.register_forward_hook(lambda *call: found.append(call[2]))
    observed = observe(model)
    out = observed(pixels())
    assert out.gate is found[-1]
    assert torch.equal(out.logits, model(pixels()))
    torch.testing.assert_close(mean_cam(out) + observed.head.bias, out.logits, rtol=1e-4, atol=1e-5)


def test_of_several_gates_the_last_is_shown():
    torch.manual_seed(0)
    model = create("resnet8", K, gate=True).eval()
    model.layer2 = nn.Sequential(model.layer2, Gate(32))
    observed = observe(model)
    out = observed(pixels(size=32))
    assert out.gate.shape == (2, 64)
    assert [tuple(maps.shape[1:]) for maps in out.maps] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    assert torch.equal(out.logits, model(pixels(size=32)))


def test_maps_of_a_named_stage_and_of_the_gate_behind_it():
    model = create("resnet8", K, gate=True).eval()
    out = observe(model, stages=("layer3",))(pixels(size=32))
    torch.testing.assert_close(out.maps[0] * out.gate[:, :, None, None], out.maps[1])


@pytest.mark.parametrize(
    ("down", "first"),
    [
        (lambda: nn.Conv2d(1, 1, 3, stride=2, padding=1, bias=False), 0),
        (lambda: nn.Conv2d(1, 1, 2, stride=2, bias=False), 1.5),
        (lambda: nn.MaxPool2d(2), 1.5),
        (lambda: nn.Conv2d(1, 1, 5, stride=2, padding=1, bias=False), 3),
    ],
    ids=["padded by half", "blocks", "pool", "padded by less than half"],
)
def test_a_bright_dot_shows_where_a_cell_looks(down, first):
    """The dot on the pixel of a cell lights this cell most, and the map laid over the picture is brightest there."""
    model = nn.Sequential(down(), nn.ReLU(), down(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    for part in (model[0], model[2]):
        if isinstance(part, nn.Conv2d):
            # Highest in the middle.
            k = torch.arange(part.kernel_size[0]) - (part.kernel_size[0] - 1) / 2
            part.weight.data[0, 0] = torch.exp(-k.square())[:, None] * torch.exp(-k.square())
    observed = observe(model)
    cells = observed.cells()
    assert cells == (first, 4)
    dot = torch.zeros(1, 1, 32, 32)
    y, x = math.floor(first + 4 * 3), math.floor(first + 4 * 5)
    dot[0, 0, y, x] = 1
    maps = observed(dot).maps[-1][:, 0].detach()
    assert divmod(maps.argmax().item(), maps.shape[2]) == (3, 5)
    laid = stretch(maps, (32, 32), cells)[0]
    assert laid[y, x] == laid.max()


@pytest.mark.parametrize("net", ["resnet18", "densenet121", "squeezenet1_1"])
def test_cells_follow_strides_and_paddings_through_every_layer(net):
    """Worked out by hand: each layer adds ((k - 1) / 2 - padding) times the step so far."""
    first = {"resnet18": 0, "densenet121": 14, "squeezenet1_1": 15}[net]
    found = observe(torchvision.models.get_model(net, weights=None)).cells()
    assert found.first == pytest.approx(first, abs=1)
    assert found.step == pytest.approx(16 if net == "squeezenet1_1" else 32, rel=0.02)


def test_cells_that_see_the_whole_picture_have_no_place():
    class Mixing(nn.Module):
        def forward(self, maps):
            return maps.cumsum(2)

    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), Mixing(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    with pytest.raises(
        NotObservable, match=r"where the cells of maps\[-1\] look cannot be told .*: pass camlib.maps.Cells"
    ):
        observe(model).cells()


def test_where_cells_look_does_not_depend_on_weights_and_changes_none():
    model = create("resnet8", num_classes=K, gate=True)
    before = copy.deepcopy(model.state_dict())
    observed = observe(model)
    assert [observed.cells(layer) for layer in range(3)] == [(0, 1), (0, 2), (0, 4)]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_where_cells_look_is_found_whichever_device_is_the_default():
    """A chapter's set-up makes the accelerator torch's default; "meta" stands for it and would refuse every value."""
    observed = observe(create("resnet8", num_classes=K))
    with torch.device("meta"):
        assert observed.cells() == (0, 4)
