"""The last layer of a net: from pooled features (N, C) to logits (N, K)."""

import torch.nn.functional as F
from torch import Tensor, nn

from camlib.models.layers import Head


class CosineHead(nn.Linear):
    """Classifier of Baseline++ (Chen et al. 2019): 2 · W x / ‖x‖, without bias.

    The features x are normalised, the rows of W are not: their norms are learnt, as they are under the weight
    normalisation of the authors' code. The mean of a class activation map made with this weight is the logit
    times ‖x‖ / 2, that is the class evidence up to a factor, positive and one for all classes of an image.

    Args:
        features: C, the length of x.
        num_classes: K, the number of logits.
    """

    def __init__(self, features: int, num_classes: int):
        super().__init__(features, num_classes)
        self.bias = None
        self.scale = 2.0

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, K) of features (N, C)."""
        # The gradient at features of length 0 would be infinite without a bound, the authors' 1e-5.
        return self.scale * F.linear(F.normalize(features, dim=1, eps=1e-5), self.weight)


def no_bias(features: int, num_classes: int) -> nn.Linear:
    """A linear layer without bias, which margin losses ask for."""
    head = nn.Linear(features, num_classes)
    head.bias = None
    return head


# Each draws as many random numbers as a linear layer with a bias, so that one seed gives nets that differ in their
# heads the same weights elsewhere.
HEADS: dict[str, Head] = {"linear": nn.Linear, "no_bias": no_bias, "cosine": CosineHead}
