"""Every net of `camlib.models`: size, shapes, maps (CAM-loss, Eq. 1), start, and the slots of its residual blocks."""

import pytest
import torch
from torch import nn

from camlib.models import NETS, create, residual_blocks
from camlib.models.densenet import DenseNet
from camlib.models.preresnet import bottleneck, preresnet
from camlib.models.pyramidnet import PyramidBlock, PyramidNet
from camlib.models.resnext import resnext
from camlib.models.vgg import VGG
from camlib.models.wrn import wrn
from camlib.observe import observe

PARAMETERS = {  # with 100 and with 10 classes, as the papers and METHODS count them
    "resnet20": (278_324, 272_474),
    "resnet56": (861_620, 855_770),
    "resnet110": (1_736_564, 1_730_714),
    "preresnet164": (1_726_388, 1_703_258),
    "wrn16_2": (703_284, 691_674),
    "wrn16_4": (2_772_020, 2_748_890),
    "wrn28_2": (1_479_220, 1_467_610),
    "wrn28_4": (5_872_180, 5_849_050),
    "wrn28_10": (36_536_884, 36_479_194),
    "resnext29_8x64d": (34_518_948, 34_426_698),
    "densenet_bc_190_40": (25_821_620, 25_624_430),
    "pyramidnet200_a240": (26_844_952, 26_752_702),
    "vgg16_bn": (14_774_436, 14_728_266),
    "vgg19_bn": (20_086_692, 20_040_522),
    "resnet18_cifar": (11_220_132, 11_173_962),
    "vgg8_slim": (116_084, 110_234),
    "resnet18_slim": (182_252, 176_402),
}

CIFAR_MAPS = [(16, 32), (32, 16), (64, 8)]  # channels and size of each stage at 32 pixels
MAPS = {
    **{f"resnet{depth}": CIFAR_MAPS for depth in (8, 20, 32, 44, 56, 110)},
    "preresnet164": [(64, 32), (128, 16), (256, 8)],
    "wrn16_2": [(32, 32), (64, 16), (128, 8)],
    "wrn16_4": [(64, 32), (128, 16), (256, 8)],
    "wrn28_2": [(32, 32), (64, 16), (128, 8)],
    "wrn28_4": [(64, 32), (128, 16), (256, 8)],
    "wrn28_10": [(160, 32), (320, 16), (640, 8)],
    "resnext29_8x64d": [(256, 32), (512, 16), (1024, 8)],
    "densenet_bc_190_40": [(1320, 32), (1900, 16), (2190, 8)],
    "pyramidnet200_a240": [(384, 32), (704, 16), (1024, 8)],
    "vgg16_bn": [(64, 32), (128, 16), (256, 8), (512, 4), (512, 2)],
    "vgg19_bn": [(64, 32), (128, 16), (256, 8), (512, 4), (512, 2)],
    "resnet18_cifar": [(64, 32), (128, 16), (256, 8), (512, 4)],
    "vgg8_slim": [(16, 32), (32, 16), (64, 8)],
    "resnet18_slim": [(8, 32), (16, 16), (32, 8), (64, 4)],
}
IMAGENET_MAPS = {  # at 224 pixels
    "resnet18": [(64, 112), (64, 56), (128, 28), (256, 14), (512, 7)],
    "resnet50": [(64, 112), (256, 56), (512, 28), (1024, 14), (2048, 7)],
    "resnet101": [(64, 112), (256, 56), (512, 28), (1024, 14), (2048, 7)],
    "resnext50_32x4d": [(64, 112), (256, 56), (512, 28), (1024, 14), (2048, 7)],
    "resnext101_32x8d": [(64, 112), (256, 56), (512, 28), (1024, 14), (2048, 7)],
}

K = 5
FAMILIES = {  # one quick net of each
    "resnet": lambda **options: create("resnet8", K, **options),
    "resnet18_cifar": lambda **options: create("resnet18_cifar", K, **options),
    "preresnet": lambda **options: preresnet(20, K, **options),
    "wrn": lambda **options: wrn(16, 2, K, **options),
    "resnext": lambda **options: resnext(20, 4, 16, K, **options),
    "densenet": lambda **options: DenseNet(3, 12, K, **options),
    "pyramidnet": lambda **options: PyramidNet(2, 24, K, **options),
    "vgg": lambda **options: VGG(16, K, **options),
    "imagenet": lambda **options: create("resnet18", K, **options),
}
RESIDUAL = [name for name in FAMILIES if name not in ("densenet", "vgg", "imagenet")]


def pixels(count=4, channels=3, size=32):
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "counts"), PARAMETERS.items())
def test_parameter_counts(name, counts):
    with torch.device("meta"):
        found = tuple(sum(p.numel() for p in create(name, classes).parameters()) for classes in (100, 10))
    assert found == counts


@pytest.mark.parametrize("depth", [8, 20, 32, 44, 56, 110])
def test_depth_is_the_number_of_convolutions_and_the_classifier(depth):
    with torch.device("meta"):
        model = create(f"resnet{depth}", 10)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(layers) + 1 == depth


@pytest.mark.parametrize("name", NETS)
def test_grey_images_and_another_head(name):
    with torch.device("meta"):
        model = create(name, 7, in_channels=1, head="no_bias")
        logits = model.eval()(torch.empty(2, 1, 28, 28))
    assert logits.shape == (2, 7)
    assert model.fc.bias is None


@pytest.mark.parametrize("name", NETS)
def test_shapes_of_maps(name):
    expected, size = (MAPS[name], 32) if name in MAPS else (IMAGENET_MAPS[name], 224)
    with torch.device("meta"):
        out = observe(create(name, 7).eval())(torch.empty(2, 3, size, size))
    assert [tuple(maps.shape) for maps in out.maps] == [(2, channels, size, size) for channels, size in expected]
    assert out.logits.shape == (2, 7)


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request):
    """A net whose BatchNorm has statistics of a real batch, and affine parameters other than 1 and 0."""
    torch.manual_seed(0)
    model = FAMILIES[request.param]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    with torch.no_grad():
        model.train()(pixels(8, size=64))
    return model


@pytest.mark.parametrize("training", [True, False])
def test_the_last_maps_explain_the_logits(trained, training):
    model = trained.train(training)
    with torch.no_grad():
        out, expected = observe(model)(pixels(size=64)), model(pixels(size=64))
    torch.testing.assert_close(out.logits, expected)
    maps = out.maps[-1]
    assert maps.min() == 0, "what is pooled comes behind a ReLU"
    assert 0 < (maps > 0).float().mean() < 1
    cam = torch.einsum("ik,nkyx->niyx", out.weight, maps)
    explained = expected - model.fc.bias
    assert explained.std() > 1e-2
    torch.testing.assert_close(cam.mean((2, 3)), explained, rtol=1e-4, atol=1e-5)


def test_no_stage_writes_over_the_maps_of_another(trained):
    """Activations in place would change maps that `observe` has already handed out."""
    model = trained.eval()
    seen = {}
    observed = observe(model)
    for name in observed.stages:
        model.get_submodule(name).register_forward_hook(lambda *call, name=name: seen.update({name: call[2].clone()}))
    out = observed(pixels(size=64))
    for name, maps in zip(observed.stages, out.maps, strict=True):
        assert torch.equal(maps, seen[name]), name


def test_gradients_of_logits_by_every_stage(trained):
    out = observe(trained.train())(pixels(size=64))
    gradients = torch.autograd.grad(out.logits[:, 0].sum(), out.maps, retain_graph=True)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    expected = trained.fc.weight[0] / out.maps[-1][0, 0].numel()
    torch.testing.assert_close(gradients[-1].mean((0, 2, 3)), expected)
    out.logits.sum().backward()
    first = next(module for module in trained.modules() if isinstance(module, nn.Conv2d))
    assert first.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", RESIDUAL)
def test_a_slot_holds_the_residual_branch_of_its_block(name):
    class Slot(nn.Module):
        def forward(self, residual):
            order.append(self)
            return 0 * residual

    torch.manual_seed(0)
    model, order = FAMILIES[name](), []
    blocks = residual_blocks(observe(model))
    assert blocks == residual_blocks(model)
    for block in blocks:
        block.residual_drop = Slot()
    inputs = {}
    for block in blocks:
        block.register_forward_hook(lambda block, given, result: inputs.update({block: (*given, result)}))
    model.eval()(pixels())
    assert order == [block.residual_drop for block in blocks], "from input to output"
    same = [block for block in blocks if inputs[block][0].shape == inputs[block][1].shape]
    assert same or name == "pyramidnet"
    for block in same:
        torch.testing.assert_close(*inputs[block])


def test_the_shortcut_of_a_pyramid_is_its_pooled_input_and_zeros():
    model = PyramidNet(2, 24, K).eval()
    for block in residual_blocks(model):
        block.residual_drop = nn.Dropout(1.0).train()
    maps = pixels(2, 16)
    for block in residual_blocks(model):
        result = block(maps)
        old = maps.shape[1]
        stride = maps.shape[2] // result.shape[2]
        means = maps.unflatten(2, (-1, stride)).unflatten(4, (-1, stride)).mean((3, 5))
        torch.testing.assert_close(result[:, :old], means)
        assert result[:, old:].abs().sum() == 0
        maps = result
    assert maps.shape == (2, 4 * (16 + 24), 8, 8)


def parts_of(block):
    """A block's convolutions and batch normalisations, in order, and the latter with statistics of their own."""
    convolutions, norms = ([m for m in block.modules() if isinstance(m, kind)] for kind in (nn.Conv2d, nn.BatchNorm2d))
    for norm in norms:
        norm.running_mean.normal_()
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return convolutions, norms


@pytest.mark.parametrize(("in_channels", "stride"), [(16, 1), (16, 2), (24, 1)])
def test_a_block_of_a_pyramid_has_two_relus_between_its_convolutions(in_channels, stride):
    """Han et al. 2017, Figure 6(d): none before the first convolution, none behind the last or the addition."""
    torch.manual_seed(0)
    block = PyramidBlock(in_channels, 24, stride).eval()
    (first, middle, last), (before, second, third, behind) = parts_of(block)
    maps = pixels(2, in_channels, 8)
    residual = last(third(middle(second(first(before(maps))).relu())).relu())
    shortcut = nn.functional.pad(block.pool(maps), (0, 0, 0, 0, 0, 24 - in_channels))
    torch.testing.assert_close(block(maps.clone()), behind(residual) + shortcut)


@pytest.mark.parametrize(("in_channels", "stride"), [(16, 1), (16, 2), (24, 1)])
def test_a_shortcut_that_changes_the_shape_starts_behind_the_first_activation(in_channels, stride):
    """He et al. 2016; where the shape stays the maps go by as they are."""
    torch.manual_seed(0)
    block = bottleneck(in_channels, 24, stride).eval()
    convolutions, (before, second, third) = parts_of(block)
    first, middle, last = (m for m in convolutions if m is not block.shortcut)
    maps = pixels(2, in_channels, 8)
    active = before(maps).relu()
    residual = last(third(middle(second(first(active)).relu())).relu())
    shortcut = maps if (in_channels, stride) == (24, 1) else block.shortcut(active)
    torch.testing.assert_close(block(maps.clone()), residual + shortcut)


@pytest.mark.parametrize("name", ["densenet_bc_190_40", "vgg16_bn", "resnet50"])
def test_nets_without_slots(name):
    with torch.device("meta"):
        assert residual_blocks(create(name, 10)) == []


@pytest.mark.parametrize("name", FAMILIES)
def test_convolutions_start_as_he_has_it(name):
    torch.manual_seed(0)
    for module in FAMILIES[name]().modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() >= 1000:
            expected = (2 / (module.kernel_size[0] ** 2 * module.out_channels)) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.1)
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, nn.BatchNorm2d):
            assert module.weight.unique().tolist() == [1.0]
            assert module.bias.unique().tolist() == [0.0]


def test_a_seed_gives_the_same_net():
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in create("resnet8", 10).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("name", ["resnet56", "preresnet164", "wrn28_2", "resnet18_cifar", "vgg16_bn", "resnet18"])
def test_activations_neither_vanish_nor_explode_at_the_start(name):
    torch.manual_seed(0)
    with torch.no_grad():
        logits = create(name, 10)(pixels(16))
    assert 0.1 < logits.std() < 10


def test_an_unknown_net_is_answered_with_the_nearest():
    with pytest.raises(KeyError, match="no net is called 'resnet65'; the nearest: resnet56"):
        create("resnet65", 10)


def test_an_unknown_head_is_answered_with_the_nearest():
    with pytest.raises(KeyError, match="no head is called 'cosinus'; the nearest: cosine"):
        create("resnet8", 10, head="cosinus")
