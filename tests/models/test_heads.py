"""The classifiers of `camlib.models.heads`, CosineHead by plain loops."""

import math

import torch

from camlib.models import HEADS, CosineHead

N, C, K = 3, 7, 4


def draw():
    torch.manual_seed(0)
    return CosineHead(C, K).double(), torch.randn(N, C, dtype=torch.float64)


def test_cosine_head_by_hand():
    head, features = draw()
    logits = head(features)
    assert logits.shape == (N, K)
    for n in range(N):
        length = math.sqrt(sum(features[n, c].item() ** 2 for c in range(C)))
        for k in range(K):
            product = sum(features[n, c].item() * head.weight[k, c].item() for c in range(C))
            torch.testing.assert_close(logits[n, k].item(), 2 * product / length)


def test_cosine_head_ignores_the_length_of_features_and_learns_that_of_its_rows():
    head, features = draw()
    torch.testing.assert_close(head(7.5 * features), head(features))
    before = head(features)
    with torch.no_grad():
        head.weight[1] *= 3
    torch.testing.assert_close(head(features)[:, 1], 3 * before[:, 1])


def test_cosine_head_has_the_gradient_of_its_formula():
    head, features = draw()
    weight = head.weight.detach().requires_grad_()

    def logits(features, weight):
        return torch.func.functional_call(head, {"weight": weight}, (features,))

    assert torch.autograd.gradcheck(logits, (features.requires_grad_(), weight))


def test_features_of_length_zero_have_finite_gradients():
    head, _ = draw()
    features = torch.zeros(N, C, dtype=torch.float64, requires_grad=True)
    head(features).sum().backward()
    assert features.grad.isfinite().all()
    assert features.grad.abs().max() < 1e6


def test_heads_by_name():
    made = {name: head(C, K) for name, head in HEADS.items()}
    assert {name: type(head) for name, head in made.items()} == {
        "linear": torch.nn.Linear,
        "no_bias": torch.nn.Linear,
        "cosine": CosineHead,
    }
    assert {name for name, head in made.items() if head.bias is not None} == {"linear"}
    assert all(head.weight.shape == (K, C) for head in made.values())
