import pytest
import torch

from camlib.names import UnknownName
from camlib.precision import mixed_precision


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_products_are_computed_in_the_precision_that_was_named(precision):
    with mixed_precision(torch.device("cpu"), precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == getattr(torch, precision)


def test_float32_switches_mixed_precision_off():
    with mixed_precision(torch.device("cpu"), "bfloat16"), mixed_precision(torch.device("cpu"), "float32"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_an_unknown_precision_is_answered_with_those_there_are():
    with pytest.raises(UnknownName, match=r"no precision is called 'fp16'.* bfloat16"):
        mixed_precision(torch.device("cpu"), "fp16")
