"""Few-shot tests by Baseline++ (CAM-loss, §4.4, Table 6) against a loop over single episodes."""

import pickle

import pytest
import torch
from torch import nn

from camlib import observe
from camlib.data import Loader
from camlib.measure import few_shot
from camlib.measure.few_shot import FewShot, accuracies, episodes, fine_tune
from camlib.models import CosineHead, create

WAYS, SHOTS, QUERIES, FEATURES = 4, 3, 6, 10
LABELS = torch.arange(7).repeat_interleave(torch.tensor([9, 12, 30, 10, 9, 11, 20]))[
    torch.randperm(101, generator=torch.Generator().manual_seed(0))
]


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_an_episode_shows_some_classes_and_no_image_twice():
    support, query = episodes(LABELS, WAYS, SHOTS, QUERIES, 50, seed=1)
    assert support.shape == (50, WAYS * SHOTS)
    assert query.shape == (50, WAYS * QUERIES)
    for one, other in zip(support, query, strict=True):
        assert len({*one.tolist(), *other.tolist()}) == WAYS * (SHOTS + QUERIES)
        classes = LABELS[one].view(WAYS, SHOTS)
        assert (classes == classes[:, :1]).all(), "class after class"
        assert classes[:, 0].unique().numel() == WAYS
        assert torch.equal(LABELS[other].view(WAYS, QUERIES), classes[:, :1].expand(WAYS, QUERIES))


def test_every_class_and_every_image_is_drawn_about_as_often():
    support, query = episodes(LABELS, 2, 1, 4, 2000, seed=0)
    drawn = torch.bincount(torch.cat([support, query], 1).flatten(), minlength=len(LABELS))
    for label in range(7):
        own = drawn[label == LABELS]
        expected = 2000 * 2 / 7 * 5 / len(own)
        assert own.sum().item() == pytest.approx(2000 * 2 / 7 * 5, rel=0.1)
        assert own.min() > 0.7 * expected
        assert own.max() < 1.4 * expected


def test_episodes_depend_on_the_seed_alone():
    torch.manual_seed(0)
    first = episodes(LABELS, WAYS, SHOTS, QUERIES, 20, seed=1)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    second = episodes(LABELS, WAYS, SHOTS, QUERIES, 20, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    other = episodes(LABELS, WAYS, SHOTS, QUERIES, 20, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], other[0])
    more = episodes(LABELS, WAYS, SHOTS, QUERIES, 30, seed=1)
    assert all(torch.equal(a, b[:20]) for a, b in zip(first, more, strict=True))


def test_an_episode_may_take_all_images_of_a_class():
    support, query = episodes(LABELS, 7, 3, 6, 1, seed=0)
    assert {*support[0].tolist(), *query[0].tolist()} >= set(torch.nonzero(LABELS == 0).flatten().tolist())


def test_too_few_classes_or_images():
    with pytest.raises(ValueError, match="the images show 7 classes, an episode takes 8: ask for fewer ways"):
        episodes(LABELS, 8, 1, 1, 1, seed=0)
    message = "class 0 has 9 images, an episode takes 10, 4 to learn from and 6 to test on: ask for fewer, or test on"
    with pytest.raises(ValueError, match=message):
        episodes(LABELS, WAYS, 4, 6, 1, seed=0)


@pytest.mark.parametrize("shots", [1, 3], ids=["one whole batch an epoch", "three batches an epoch"])
def test_fine_tuning_equals_a_loop_over_episodes(shots):
    """Baseline++, one episode at a time with torch's own layer, loss and optimiser, in the same order."""
    count, images = 3, WAYS * shots
    support = uniform(count, images, FEATURES) - 0.2
    found = fine_tune(support, WAYS, seed=5)
    draw = torch.Generator().manual_seed(5)
    start = (torch.rand(count, WAYS, FEATURES, generator=draw, dtype=torch.float64) * 2 - 1) / FEATURES**0.5
    orders = torch.stack([torch.rand(count, images, generator=draw).argsort(1) for _ in range(100)])
    for e in range(count):
        head = CosineHead(FEATURES, WAYS).double()
        head.weight.data.copy_(start[e])
        sgd = torch.optim.SGD(head.parameters(), lr=0.01, momentum=0.9, dampening=0.9, weight_decay=0.001)
        for epoch in range(100):
            assert sorted(orders[epoch, e].tolist()) == list(range(images))
            for first in range(0, images, 4):
                batch = orders[epoch, e, first : first + 4]
                loss = nn.functional.cross_entropy(head(support[e, batch]), batch // shots)
                sgd.zero_grad()
                loss.backward()
                sgd.step()
        torch.testing.assert_close(found[e], head.weight.detach(), rtol=0, atol=1e-10)
        assert (found[e] - start[e]).abs().max() > 0.05
    assert not found.requires_grad


def test_one_step_by_hand():
    """The gradient of cross-entropy, momentum and decay written out for the first two updates of one episode."""
    x = uniform(1, 2, 3)
    ours = fine_tune(x, 2, seed=0)[0]
    draw = torch.Generator().manual_seed(0)
    w = ((torch.rand(1, 2, 3, generator=draw, dtype=torch.float64) * 2 - 1) / 3**0.5)[0].tolist()
    unit = [[v / sum(u * u for u in row) ** 0.5 for v in row] for row in x[0].tolist()]
    momentum = None
    for _ in range(100):
        gradient = [[0.001 * v for v in row] for row in w]
        for n in range(2):
            logits = [2 * sum(a * b for a, b in zip(row, unit[n], strict=True)) for row in w]
            exponents = [2.718281828459045**z for z in logits]
            for k in range(2):
                error = exponents[k] / sum(exponents) - (k == n)
                for c in range(3):
                    gradient[k][c] += error * 2 * unit[n][c] / 2  # the mean over two images
        if momentum is None:
            momentum = gradient
        else:
            momentum = [
                [0.9 * m + 0.1 * g for m, g in zip(*rows, strict=True)] for rows in zip(momentum, gradient, strict=True)
            ]
        w = [[v - 0.01 * m for v, m in zip(*rows, strict=True)] for rows in zip(w, momentum, strict=True)]
    torch.testing.assert_close(ours, torch.tensor(w, dtype=torch.float64))


def test_fine_tuning_draws_nothing_from_the_global_generator_and_works_without_gradients():
    support = uniform(2, 8, FEATURES)
    state = torch.get_rng_state()
    with torch.no_grad():
        found = fine_tune(support, WAYS, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(fine_tune(support, WAYS, seed=0), found)
    assert not torch.equal(fine_tune(support, WAYS, seed=1), found)


def test_classes_in_different_directions_are_told_apart():
    directions = torch.eye(FEATURES)[:WAYS]

    def features(images, seed):
        noise = 0.1 * uniform(5, WAYS * images, FEATURES, seed=seed).float()
        length = 1 + 50 * uniform(5, WAYS * images, 1, seed=seed + 1).float()
        return length * (directions.repeat_interleave(images, 0) + noise)

    found = accuracies(features(SHOTS, 0), features(QUERIES, 2), WAYS, seed=0)
    assert found.tolist() == [1.0] * 5
    swapped = features(QUERIES, 2).view(5, WAYS, QUERIES, FEATURES).flip(1).flatten(1, 2)
    assert accuracies(features(SHOTS, 0), swapped, WAYS, seed=0).tolist() == [0.0] * 5


def test_random_features_are_guessed():
    support, query = uniform(400, WAYS * SHOTS, FEATURES, seed=1), uniform(400, WAYS * QUERIES, FEATURES, seed=2)
    found = accuracies(support, query, WAYS, seed=0)
    assert found.shape == (400,)
    assert found.mean().item() == pytest.approx(1 / WAYS, abs=0.02)


def images_of(classes, each):
    """Pictures whose class is their colour, and a loader of them."""
    labels = torch.arange(classes).repeat(each)
    colours = torch.randint(0, 256, (classes, 3, 1, 1), generator=torch.Generator().manual_seed(2))
    noise = torch.randint(0, 30, (len(labels), 3, 16, 16), generator=torch.Generator().manual_seed(3))
    pixels = (colours[labels] * 7 // 8 + noise).to(torch.uint8)
    return labels, Loader(pixels, labels, classes, 7, mean=torch.full((3,), 0.5), std=torch.full((3,), 0.25))


def test_a_net_is_tested_on_its_pooled_features():
    labels, loader = images_of(6, 12)
    torch.manual_seed(0)
    model = create("resnet8", 9, head="cosine")
    found = FewShot(ways=WAYS, shots=(1, 2), queries=5, episodes=8)(model, loader)
    observed = observe(model).eval()
    with torch.no_grad():
        pooled = torch.cat([observed(images).pooled for images, _ in loader])
    assert list(found) == ["accuracy_1_shot", "half_width_1_shot", "accuracy_2_shot", "half_width_2_shot"]
    for shots in (1, 2):
        support, query = episodes(labels, WAYS, shots, 5, 8, seed=0)
        shares = accuracies(pooled[support], pooled[query], WAYS, seed=1).double().tolist()
        mean = sum(shares) / 8
        deviation = (sum((share - mean) ** 2 for share in shares) / 8) ** 0.5
        assert found[f"accuracy_{shots}_shot"] == pytest.approx(mean)
        assert found[f"half_width_{shots}_shot"] == pytest.approx(1.96 * deviation / 8**0.5)
        assert 0.5 < mean < 1
        assert deviation > 0


def test_a_test_leaves_net_and_generator_as_they_were():
    _, loader = images_of(4, 6)
    model = create("resnet8", 4).train()
    model.bn1.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    test = FewShot(ways=3, shots=(1,), queries=2, episodes=3)
    first = test(model, loader)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert test(observe(model), loader) == first


def test_precision_is_that_of_the_features(monkeypatch):
    _, loader = images_of(4, 6)
    kinds = []

    def watched(support, query, ways, seed):
        kinds.append((support, torch.is_autocast_enabled("cpu")))
        return accuracies(support, query, ways, seed)

    monkeypatch.setattr(few_shot, "accuracies", watched)
    model = create("resnet8", 4)
    for precision in ("float32", "bfloat16"):
        FewShot(ways=3, shots=(1,), queries=2, episodes=3)(model, loader, precision)
    (exact, _), (rounded, _) = kinds
    assert [mixed for _, mixed in kinds] == [False, False]
    assert exact.dtype == rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, rtol=0.1, atol=0.05)


def test_the_defaults_are_those_of_the_protocol_and_read_as_text():
    test = FewShot()
    assert repr(test) == "FewShot(ways=5, shots=(1, 5), queries=15, episodes=600)"
    assert pickle.loads(pickle.dumps(test)) == test


def test_a_readers_seed_changes_no_episode(monkeypatch):
    _, loader = images_of(6, 12)
    drawn = []
    monkeypatch.setattr(few_shot, "episodes", lambda *given, seed: drawn.append(episodes(*given, seed)) or drawn[-1])
    model = create("resnet8", 6)
    for seed in (1, 2):
        torch.manual_seed(seed)
        FewShot(ways=WAYS, shots=(1,), queries=5, episodes=3)(model, loader)
    for first, second in zip(*drawn, strict=True):
        assert torch.equal(first, second)
