"""Regularisers against their papers' formulas, as loops in float64 (CAM-loss, Table 2)."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth, drop_block2d

from camlib.losses import CAMLoss
from camlib.models import create, residual_blocks
from camlib.objective import State
from camlib.observe import observe
from camlib.regularize import DropBlock, ManifoldMixup, ShakeDrop, drop_block, shake_drop, stochastic_depth

K = 5
KINDS = {stochastic_depth: (StochasticDepth, 0.5), shake_drop: (ShakeDrop, 0.5), drop_block: (DropBlock, 0.1)}
regularizers = pytest.mark.parametrize("regularize", KINDS)


def normal(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


# What fills the slots


@regularizers
@pytest.mark.parametrize("name", ["resnet20", "wrn16_2"])
def test_probabilities_rise_linearly_to_the_last_block(regularize, name):
    kind, default = KINDS[regularize]
    for last, settings in ((default, {}), (0.3, {"last": 0.3})):
        model = create(name, K)
        blocks, keys = residual_blocks(model), list(model.state_dict())
        regularize(model, **settings)
        for number, block in enumerate(blocks, 1):
            assert type(block.residual_drop) is kind
            assert block.residual_drop.p == pytest.approx(number / len(blocks) * last)
        assert list(model.state_dict()) == keys


@regularizers
def test_a_net_without_residual_blocks_is_refused(regularize):
    with pytest.raises(ValueError, match="VGG has no residual blocks to regularise: choose a residual net"):
        regularize(create("vgg16_bn", K))


@regularizers
@pytest.mark.parametrize("training", [True, False])
def test_they_begin_in_the_mode_of_their_block(regularize, training):
    model = create("resnet20", K).train(training)
    regularize(model, 0.5)
    assert {block.residual_drop.training for block in residual_blocks(model)} == {training}


@regularizers
@pytest.mark.parametrize("last", [-0.1, 1.5, float("nan")])
def test_what_is_no_probability_is_refused(regularize, last):
    with pytest.raises(ValueError, match=f"last is {last}, expected a probability between 0 and 1"):
        regularize(create("resnet8", K), last)


@regularizers
def test_a_second_regulariser_is_refused(regularize):
    model = create("resnet8", K)
    shake_drop(model)
    with pytest.raises(ValueError, match=r"already have ShakeDrop\(p=0.16\d*\): one regulariser fits"):
        regularize(model)


@pytest.mark.parametrize("block_size", [0, 4, -1])
def test_blocks_without_a_centre_are_refused(block_size):
    with pytest.raises(ValueError, match=f"block_size is {block_size}, expected an odd number"):
        drop_block(create("resnet8", K), block_size=block_size)


@regularizers
def test_they_follow_train_and_eval_of_an_observed_net(regularize):
    model, images = create("resnet8", K).double().eval(), normal(4, 3, 16, 16)
    plain = observe(model)(images).logits
    regularize(model, 0.5)
    observed = observe(model)
    for module in observed.modules():
        module.training = False
    assert torch.equal(observed(images).logits, plain) is (regularize is not shake_drop)
    for block in residual_blocks(observed):
        block.residual_drop.train()
    torch.manual_seed(0)
    first, second = observed(images).logits, observed(images).logits
    torch.manual_seed(0)
    assert torch.equal(observed(images).logits, first)
    assert not torch.equal(first, second)
    assert not torch.equal(first, plain)


@regularizers
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_they_keep_type_and_layout(regularize, dtype):
    model = create("resnet8", K)
    regularize(model)
    maps = normal(4, 16, 8, 8, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
    out = residual_blocks(model.train())[-1].residual_drop(maps)
    (gradient,) = torch.autograd.grad(out.sum(), maps)
    assert out.dtype == gradient.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert gradient.isfinite().all()


@regularizers
def test_a_checkpointed_block_is_computed_again_with_the_same_draws(regularize):
    model = create("resnet8", K).double()
    regularize(model, 0.9)
    block = residual_blocks(model)[-1]
    gradients = []
    for run in (block, lambda maps: checkpoint(block, maps, use_reentrant=False)):
        maps = normal(8, 32, 8, 8).requires_grad_()
        torch.manual_seed(3)
        gradients += torch.autograd.grad(run(maps).square().sum(), maps)
    torch.testing.assert_close(*gradients)


@regularizers
def test_gradients_of_maps_are_the_same_each_time(regularize):
    model = create("resnet8", K).double().train()
    regularize(model, 0.9)
    out, target = observe(model)(normal(4, 3, 16, 16)), torch.eye(K)[:4].double()
    first, second = (torch.autograd.grad((out.logits * target).sum(), out.maps, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    (out.logits.logsumexp(1).mean() + CAMLoss()(out, target, State())).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_stochastic_depth_drops_branches_of_single_images():
    model = create("resnet8", K).train()
    stochastic_depth(model, 0.6)
    for number, block in enumerate(residual_blocks(model), 1):
        kept = 1 - 0.6 * number / 3
        out = block.residual_drop(torch.ones(4000, 2, 1, 3))
        assert all(torch.equal(image, image[:1, :1, :1].expand_as(image)) for image in out)
        values = out[:, 0, 0, 0]
        assert sorted(set(values.tolist())) == pytest.approx([0, 1 / kept])
        assert (values > 0).double().mean().item() == pytest.approx(kept, abs=0.04)
        assert values.mean().item() == pytest.approx(1, abs=0.08), "the expectation of evaluation"


def shaken(p, seed, shape=(6, 2, 3, 1)):
    """Maps, what ShakeDrop makes of them, the gradient that arrives and the one it passes on."""
    maps, arriving = normal(*shape).requires_grad_(), normal(*shape, seed=1)
    torch.manual_seed(seed)
    out = ShakeDrop(p)(maps)
    (passed,) = torch.autograd.grad(out, maps, arriving)
    return maps.detach(), out.detach(), arriving, passed


def factor(after, before):
    """The number that every entry of an image was multiplied by."""
    ratios = [a / b for a, b in zip(after.flatten().tolist(), before.flatten().tolist(), strict=True)]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))
    return ratios[0]


def test_shake_drop_multiplies_forward_and_backward_by_different_numbers():
    p, alphas, betas, whole = 0.7, [], [], 0
    for seed in range(300):
        maps, out, arriving, passed = shaken(p, seed)
        forward = [factor(after, before) for after, before in zip(out, maps, strict=True)]
        backward = [factor(after, before) for after, before in zip(passed, arriving, strict=True)]
        if forward == [1] * 6:  # b = 1: b + α - bα = 1 for every α, and for every β alike
            assert backward == [1] * 6
            whole += 1
        else:  # b = 0 for the whole batch: the factors are α and β
            alphas += forward
            betas += backward
    assert whole / 300 == pytest.approx(1 - p, abs=0.08)
    assert len(set(alphas)) == len(alphas), "one α for each image"
    assert len(set(betas)) == len(betas), "one β for each image"
    for draws, low, high in ((alphas, -1, 1), (betas, 0, 1)):
        assert low <= min(draws) < low + 0.02
        assert high - 0.02 < max(draws) <= high
        mean = sum(draws) / len(draws)
        assert mean == pytest.approx((low + high) / 2, abs=0.06)
        variance = sum((draw - mean) ** 2 for draw in draws) / len(draws)
        assert variance == pytest.approx((high - low) ** 2 / 12, rel=0.1)
    assert torch.corrcoef(torch.tensor([alphas, betas]))[0, 1].abs() < 0.1


@pytest.mark.parametrize(("p", "whole"), [(0.0, True), (1.0, False)])
def test_shake_drop_at_its_limits(p, whole):
    for seed in range(20):
        maps, out, arriving, passed = shaken(p, seed)
        assert torch.equal(out, maps) is whole
        assert torch.equal(passed, arriving) is whole


@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 1.0])
def test_shake_drop_evaluates_by_the_expectation(p):
    maps = normal(5, 3, 2, 2).requires_grad_()
    out = ShakeDrop(p).eval()(maps)
    for after, before in zip(out.flatten().tolist(), maps.flatten().tolist(), strict=True):
        assert after == pytest.approx((1 - p) * before)
    (passed,) = torch.autograd.grad(out.sum(), maps)
    torch.testing.assert_close(passed, torch.full_like(maps, 1 - p))
    torch.manual_seed(0)
    drop = ShakeDrop(p)
    mean = sum(drop(torch.ones(50, 1, 1, 1)).mean().item() for _ in range(1000)) / 1000
    assert mean == pytest.approx(1 - p, abs=0.05)


def test_shake_drop_of_one_image():
    maps, out, arriving, passed = shaken(1.0, 0, (1, 2, 2, 2))
    assert -1 <= factor(out, maps) <= 1
    assert 0 <= factor(passed, arriving) <= 1


def test_drop_block_is_that_of_torchvision():
    maps, drop = normal(4, 3, 9, 7), DropBlock(0.2, 3)
    torch.manual_seed(0)
    found = drop(maps)
    torch.manual_seed(0)
    assert torch.equal(found, drop_block2d(maps, 0.2, 3))
    assert torch.equal(drop.eval()(maps), maps)


@pytest.mark.parametrize(
    ("size", "fits"), [((9, 8), 5), ((4, 4), 3), ((4, 7), 3), ((2, 2), 1), ((1, 1), 1), ((3, 8), 3)]
)
def test_blocks_are_dropped_whole_and_shrink_with_the_map(size, fits):
    height, width = size
    torch.manual_seed(0)
    out = DropBlock(0.2, 5)(torch.ones(40, 50, height, width))
    dropped = out == 0
    assert dropped.float().mean().item() == pytest.approx(0.2, abs=0.04)
    assert out.mean().item() == pytest.approx(1, abs=1e-4)
    for channel in dropped.flatten(0, 1)[:200]:
        squares = torch.zeros_like(channel)
        for y in range(height - fits + 1):
            for x in range(width - fits + 1):
                if channel[y : y + fits, x : x + fits].all():
                    squares[y : y + fits, x : x + fits] = True
        assert torch.equal(squares, channel)


def test_drop_block_in_float16_counts_beyond_its_range():
    torch.manual_seed(0)
    out = DropBlock(0.1, 5)(torch.ones(16, 64, 16, 16, dtype=torch.float16))
    assert out.numel() > 65504
    assert out.float().mean().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (ShakeDrop(0.25), "ShakeDrop(p=0.25)"),
        (DropBlock(0.1, 5), "DropBlock(p=0.1, block_size=5, inplace=False)"),
        (ManifoldMixup(), "ManifoldMixup(alpha=2.0)"),
        (ManifoldMixup(alpha=1.0), "ManifoldMixup(alpha=1.0)"),
    ],
)
def test_what_a_record_keeps_of_them(module, text):
    assert repr(module) == text


# Manifold Mixup


class Functions(nn.Module):
    """Stages that a function made, and one module that is called for two of them."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(channels, 4, 3, 2, 1) for channels in (3, 4, 4))
        self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(4, K)

    def forward(self, images):
        maps = self.relu(self.conv3(torch.tanh(self.conv2(self.relu(self.conv1(images))))))
        return self.fc(maps.mean((2, 3)))

    def parts(self):
        return [
            lambda images: self.relu(self.conv1(images)),
            lambda maps: torch.tanh(self.conv2(maps)),
            lambda maps: self.relu(self.conv3(maps)),
        ]


def parts_of_a_resnet(model):
    return [
        lambda images: model.layer1(model.relu(model.bn1(model.conv1(images)))),
        model.layer2,
        lambda maps: model.layer4(model.layer3(maps)) if hasattr(model, "layer4") else model.layer3(maps),
    ]


def parts_of_an_imagenet_resnet(model):
    return [
        lambda images: model.relu(model.bn1(model.conv1(images))),
        lambda maps: model.layer1(model.maxpool(maps)),
        lambda maps: model.layer4(model.layer3(model.layer2(maps))),
    ]


NETS = {
    "three stages": (lambda: create("resnet8", K), parts_of_a_resnet, 8),
    "four stages": (lambda: create("resnet18_cifar", K), parts_of_a_resnet, 16),
    "torchvision's": (lambda: create("resnet18", K), parts_of_an_imagenet_resnet, 64),
    "functions": (Functions, Functions.parts, 16),
}


def mixed(rows, share, order):
    return torch.stack([share * rows[n] + (1 - share) * rows[other] for n, other in enumerate(order)])


def read(rows):
    """Share and order behind the mixed rows of a target that was an identity matrix; share 1 if nothing moved."""
    order = [next((k for k in range(len(rows)) if k != n and rows[n, k] > 0), n) for n in range(len(rows))]
    return min(rows[n, n].item() for n in range(len(rows))), order


@pytest.mark.parametrize(("build", "parts", "size"), NETS.values(), ids=NETS)
def test_manifold_mixup_is_mixing_by_hand(build, parts, size):
    torch.manual_seed(0)
    model = build().double().train()
    observed, images, target = observe(model), normal(4, 3, size, size), torch.eye(4, K, dtype=torch.float64)
    places = []
    for seed in range(12):
        torch.manual_seed(seed)
        out, rows = ManifoldMixup()(observed, images, target)
        share, order = read(rows)
        if share == 1:
            continue
        torch.testing.assert_close(rows, mixed(target, share, order))
        for place in range(3):
            maps, stages = images, []
            for number, part in enumerate(parts(model)):
                maps = part(mixed(maps, share, order) if number == place else maps)
                stages.append(maps)
            if torch.allclose(observed.head(maps.mean((2, 3))), out.logits, rtol=1e-9):
                places.append(place)
                torch.testing.assert_close(out.maps[-1], maps)
                torch.testing.assert_close(out.pooled, maps.mean((2, 3)))
                if place > 0:
                    torch.testing.assert_close(out.maps[place - 1], mixed(stages[place - 1], share, order))
    assert len(places) >= 10, "one place for each seed, less those where nothing moved"
    assert set(places) == {0, 1, 2}


def small_net():
    """Three 1×1 convolutions that pass a map on, so that its value tells where and how much was mixed."""
    convolutions = [nn.Conv2d(1, 1, 1, stride=2, bias=False) for _ in range(3)]
    for convolution in convolutions:
        nn.init.ones_(convolution.weight)
    # Squaring after each stage makes the place of the mixing visible.
    return nn.Sequential(
        convolutions[0], Square(), convolutions[1], Square(), convolutions[2], Square(), Pool(), nn.Linear(1, 2)
    )


class Square(nn.Module):
    def forward(self, maps):
        return maps**2


class Pool(nn.Module):
    def forward(self, maps):
        return maps.mean((2, 3))


def test_draws_of_manifold_mixup():
    """λ ~ Beta(2, 2), mean 1/2 and variance 1/20; each place in a third of all calls."""
    observed, target = observe(small_net().double().train()), torch.eye(2, dtype=torch.float64)
    images = torch.tensor([1.0, 2.0], dtype=torch.float64)[:, None, None, None].expand(2, 1, 16, 16)
    torch.manual_seed(0)
    shares, places = [], []
    for _ in range(1500):
        out, rows = ManifoldMixup(alpha=2.0)(observed, images, target)
        share = rows[0, 0].item()
        if share == 1:
            continue
        shares.append(share)
        # Squared thrice the images give 1 and 256; mixed at a place, by the powers reached there.
        values = [(share * 1 + (1 - share) * 2**power) ** (8 / power) for power in (1, 2, 4)]
        errors = [abs(out.maps[-1][0, 0, 0, 0].item() - value) / value for value in values]
        places.append(errors.index(min(errors)))
        assert min(errors) < 1e-9
    assert len(shares) / 1500 == pytest.approx(0.5, abs=0.05), "two images stay in order half the time"
    mean = sum(shares) / len(shares)
    assert mean == pytest.approx(0.5, abs=0.03)
    assert sum((share - mean) ** 2 for share in shares) / len(shares) == pytest.approx(1 / 20, rel=0.15)
    for place in range(3):
        assert places.count(place) / len(places) == pytest.approx(1 / 3, abs=0.06)


def test_seeds_repeat_manifold_mixup():
    observed, images, target = observe(create("resnet8", K).train()), normal(6, 3, 8, 8).float(), torch.eye(6, K)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        out, rows = ManifoldMixup()(observed, images, target)
        runs.append((out.logits, rows))
    for i in range(2):
        assert torch.equal(runs[0][i], runs[1][i])
        assert not torch.equal(runs[0][i], runs[2][i])


def test_evaluation_mixes_nothing():
    observed, images, target = observe(create("resnet8", K).eval()), normal(4, 3, 8, 8).float(), torch.eye(4, K)
    state = torch.get_rng_state()
    out, rows = ManifoldMixup()(observed, images, target)
    assert rows is target
    assert torch.equal(out.logits, observed(images).logits)
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_is_left_behind_in_the_net():
    model = create("resnet8", K).double().train()
    observed, images = observe(model), normal(4, 3, 8, 8)
    before = observed(images).logits
    for seed in range(6):
        torch.manual_seed(seed)
        ManifoldMixup()(observed, images, torch.eye(4, K, dtype=torch.float64))
    assert torch.equal(observed(images).logits, before)


@pytest.mark.parametrize("seed", range(6))
def test_every_weight_learns_through_manifold_mixup(seed):
    model = create("resnet8", K).train()
    torch.manual_seed(seed)
    with torch.autocast("cpu", torch.bfloat16):
        out, rows = ManifoldMixup()(observe(model), normal(4, 3, 16, 16).float(), torch.eye(4, K))
    assert out.maps[-1].dtype == torch.bfloat16
    assert rows.dtype == torch.float32
    (-(out.logits.float().log_softmax(1) * rows).sum() + CAMLoss()(out, rows, State())).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_a_single_image_is_mixed_with_itself():
    observed, images, target = observe(create("resnet8", K).double().train()), normal(1, 3, 16, 16), torch.eye(1, K)
    for seed in range(6):
        torch.manual_seed(seed)
        out, rows = ManifoldMixup()(observed, images, target)
        torch.testing.assert_close(out.logits, observed(images).logits)
        torch.testing.assert_close(rows, target)


@pytest.mark.parametrize("alpha", [0, -1.0, float("nan")])
def test_alpha_is_above_0(alpha):
    with pytest.raises(ValueError, match=f"alpha is {alpha}, expected more than 0"):
        ManifoldMixup(alpha)


def test_too_few_stages():
    observed = observe(create("resnet8", K), stages=("layer2",))
    with pytest.raises(
        ValueError, match=r"two stages before the last, but the stages are layer2.0, layer3.0: pass obs"
    ):
        ManifoldMixup()(observed, normal(2, 3, 8, 8).float(), torch.eye(2, K))


def test_target_that_does_not_fit():
    with pytest.raises(ValueError, match=r"target has shape \(3, 5\), expected \(2, 5\)"):
        ManifoldMixup()(observe(create("resnet8", K)), normal(2, 3, 8, 8).float(), torch.eye(3, K))
