import pytest
import torch

from camlib.target import check_single_label, check_target, one_hot


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_one_hot(dtype):
    labels = [2, 0, 3, 3]
    found = one_hot(torch.tensor(labels, dtype=dtype), 5)
    assert found.dtype == torch.float32
    assert found.tolist() == [[float(k == label) for k in range(5)] for label in labels]


def test_one_hot_of_no_labels():
    assert one_hot(torch.zeros(0, dtype=torch.int64), 3).shape == (0, 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 100, 3]), r"label 100 is outside 0 … 99: check num_classes=100 or the labels"),
        (torch.tensor([0, -1, 100]), r"label -1 is outside 0 … 99"),
        (
            torch.tensor([[0], [1]]),
            r"labels have shape \(2, 1\) and dtype torch.int64, expected integers of shape \(N,\)",
        ),
        (torch.tensor([0.0, 1.0]), r"dtype torch.float32, expected integers"),
        (torch.tensor([True, False]), r"dtype torch.bool, expected integers"),
    ],
)
def test_one_hot_refuses(labels, message):
    with pytest.raises(ValueError, match=message):
        one_hot(labels, 100)


def test_check_target_says_how_to_make_one():
    with pytest.raises(ValueError, match="target has shape") as error:
        check_target(torch.zeros(128, dtype=torch.int64), 128, 100)
    assert str(error.value) == ("target has shape (128,), expected (128, 100): pass camlib.one_hot(labels, 100)")
    with pytest.raises(ValueError, match=r"dtype torch.int64, expected floating-point rows: pass target.float\(\)"):
        check_target(torch.zeros(2, 3, dtype=torch.int64), 2, 3)
    check_target(torch.zeros(2, 3), 2, 3)


@pytest.mark.parametrize("row", [[0.3, 0.7, 0], [1, 1, 0], [0, 0, 0], [1, 0.5, -0.5], [0.5, 0, 0], [2, -1, 0]])
def test_single_label_refuses_other_rows(row):
    """And names the first of them: the three before it pass."""
    with pytest.raises(ValueError, match="CenterLoss needs one class per image, but row 3 of the target is mixed"):
        check_single_label(torch.cat([torch.eye(3), torch.tensor([row, row], dtype=torch.float32)]), "CenterLoss")
