"""Margin losses against pytorch-metric-learning, which keeps the classifier's weight in the loss, transposed."""

import pytest
import torch
from pytorch_metric_learning.losses import CosFaceLoss, LargeMarginSoftmaxLoss, SphereFaceLoss

from camlib.losses import AMSoftmax, ASoftmax, LSoftmax
from camlib.objective import State
from camlib.observe import Output
from camlib.target import one_hot

N, C, K = 64, 8, 5


@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        *((LSoftmax, LargeMarginSoftmaxLoss, {"margin": margin}) for margin in (1, 2, 3, 4)),
        *((ASoftmax, SphereFaceLoss, {"margin": margin}) for margin in (1, 2, 3, 4)),
        (AMSoftmax, CosFaceLoss, {"scale": 30, "margin": 0.35}),
    ],
)
@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # its, of SciPy on tensors
def test_margin_losses(ours, theirs, settings):
    """Loss and gradients; without lambda, which it does not have."""
    torch.manual_seed(0)
    weight = torch.randn(K, C, dtype=torch.float64, requires_grad=True)
    features = torch.randn(N, C, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(K, (N,))
    own = ours(**settings).eval()
    if isinstance(own, LSoftmax):
        own.gamma, own.lambda_min = 1.0, 0.0
        own.steps.fill_(10**15)
    loss = own(Output(features @ weight.T, (), features, weight), one_hot(labels, K).double(), State())

    other = theirs(num_classes=K, embedding_size=C, **settings)
    other.W.data = weight.detach().T.clone()
    twin = features.detach().clone().requires_grad_()
    expected = other(twin, labels)

    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(features.grad, twin.grad, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(weight.grad, other.W.grad.T, rtol=1e-6, atol=1e-9)
