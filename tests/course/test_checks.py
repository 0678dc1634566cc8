"""What hidden tests see of a submission: plain numbers, and nothing that deceives."""

import numpy as np
import pytest
import torch

from course import checks


def read(**names):
    return checks.reader(names)


def test_numbers_come_from_whatever_holds_them():
    for held in ([1, 2], (1.0, 2.0), np.array([1, 2]), torch.tensor([1.0, 2.0]), [torch.tensor(1), torch.tensor(2)]):
        _, number, _ = read(x=held)
        checks.same(number("x"), [1, 2])


@pytest.mark.parametrize("held", ["text", {"a": "b"}, [[1], [1, 2]], [None]])
def test_what_holds_no_numbers_is_said(held):
    _, number, _ = read(x=held)
    with pytest.raises(AssertionError, match="x holds no numbers"):
        number("x")


class Equal(list):
    def __eq__(self, other):
        return True

    __hash__ = None


@pytest.mark.parametrize("held", [Equal(), [Equal()], {"a": Equal()}, object(), lambda: 1])
def test_objects_that_could_claim_to_be_equal_are_no_answers(held):
    call, _, value = checks.reader({"x": held, "f": lambda: held})
    with pytest.raises(AssertionError, match="expected plain"):
        value("x")
    with pytest.raises(AssertionError, match="expected plain"):
        call("f")


def test_what_is_missing_is_said():
    call, number, _ = read(x=None)
    for ask in (lambda: call("f"), lambda: number("x")):
        with pytest.raises(AssertionError, match="is not defined"):
            ask()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, ValueError, RecursionError])
def test_whatever_an_answer_raises_fails_one_test_only(error):
    def f():
        raise error("now")

    call, _, _ = read(f=f)
    with pytest.raises(AssertionError, match=error.__name__):
        call("f")


def test_an_endless_answer_is_stopped(monkeypatch):
    monkeypatch.setattr(checks, "TEST_SECONDS", 0.2)

    def f():
        while True:
            try:
                sum(range(1000))
            except Exception:
                continue

    call, _, _ = read(f=f)
    with pytest.raises(AssertionError, match="Timeout"):
        call("f")


def test_same_is_about_values_and_shapes():
    checks.same(1.00001, 1)
    for wrong in (1.01, float("nan"), [1.0], torch.ones(1, 1)):
        with pytest.raises(AssertionError):
            checks.same(wrong, 1)


def test_what_an_answer_did_to_torch_is_undone():
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    call, _, _ = read(f=lambda: torch.ones(1))
    assert call("f").dtype == torch.float32
    assert torch.is_grad_enabled()


def test_changes_in_place_are_seen():
    a = torch.ones(2)
    checks.unchanged((a.clone(),), (a,))
    with pytest.raises(AssertionError, match="changed in place"):
        checks.unchanged((a.clone(),), (a.zero_(),))
