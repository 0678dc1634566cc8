import pytest
import torch

from camlib.models import NETS, create

PARAMETERS = {  # with 100 and with 10 classes, as the papers and METHODS count them
    "resnet20": (278_324, 272_474),
    "resnet56": (861_620, 855_770),
    "resnet110": (1_736_564, 1_730_714),
}


@pytest.mark.parametrize(("name", "counts"), PARAMETERS.items())
def test_parameter_counts(name, counts):
    with torch.device("meta"):
        found = tuple(sum(p.numel() for p in create(name, classes).parameters()) for classes in (100, 10))
    assert found == counts


@pytest.mark.parametrize("name", NETS)
def test_depth_is_the_number_of_convolutions_and_the_classifier(name):
    with torch.device("meta"):
        model = create(name, 10)
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(layers) + 1 == int(name.removeprefix("resnet"))


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 28)])
def test_logits(name, channels, size):
    with torch.device("meta"):
        logits = create(name, 7, in_channels=channels)(torch.empty(2, channels, size, size))
    assert logits.shape == (2, 7)


def test_stages_have_16_32_and_64_channels_at_strides_1_2_and_4():
    model = create("resnet20", 10)
    maps = model.relu(model.bn1(model.conv1(torch.randn(1, 3, 32, 32))))
    shapes = []
    for layer in (model.layer1, model.layer2, model.layer3):
        maps = layer(maps)
        shapes.append(tuple(maps.shape[1:]))
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_a_seed_gives_the_same_net():
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in create("resnet8", 10).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_activations_neither_vanish_nor_explode_at_the_start():
    torch.manual_seed(0)
    with torch.no_grad():
        logits = create("resnet56", 10)(torch.randn(16, 3, 32, 32))
    assert 0.1 < logits.std() < 10


def test_an_unknown_net_is_answered_with_the_nearest():
    with pytest.raises(KeyError, match="no net is called 'resnet65'; the nearest: resnet56"):
        create("resnet65", 10)
