"""What the hidden tests stand on. `course.autograder` writes this file at the head of each of them.

A test sees the student's names only through `call`, `number` and `value`, which take nothing but plain numbers,
tensors and containers: an object that claims to equal everything is no answer.
"""

import contextlib
import signal

import numpy as np
import torch

TEST_SECONDS = 10  # of processor time, for one call of a function of the student's
PLAIN = (bool, int, float, str, type(None))


class Timeout(BaseException):
    """No `Exception`, so that an answer which catches those does not swallow it."""


@contextlib.contextmanager
def limited(name):
    def stop(number, frame):
        raise Timeout(f"stopped after {TEST_SECONDS} seconds")

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, TEST_SECONDS, 1)
    try:
        yield
    except BaseException as error:  # also what would end the grading, not only this test
        raise AssertionError(f"{name} raised {type(error).__name__}: {error}") from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def fresh():
    """What an answer may have changed for everyone: back to the beginning."""
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.manual_seed(0)


def plain(value, name):
    """The value, of types that cannot deceive a comparison."""
    if type(value) in (torch.Tensor, torch.nn.Parameter):
        return value
    if type(value) is np.ndarray or isinstance(value, np.generic):
        return value.tolist()
    if type(value) is dict:
        return {plain(key, name): plain(part, name) for key, part in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(plain(part, name) for part in value)
    if type(value) in PLAIN:
        return value
    raise AssertionError(f"{name} is a {type(value).__name__}, expected plain numbers, tensors, lists or dicts")


def reader(env):
    """`call`, `number` and `value` for the names that a submission has defined."""

    def value(name):
        fresh()
        assert env.get(name) is not None, f"{name} is not defined"
        return plain(env[name], name)

    def call(name, *arguments):
        fresh()
        function = env.get(name)
        assert callable(function), f"{name} is not defined"
        with limited(name):
            return plain(function(*arguments), f"what {name} returned")

    def number(name):
        return tensor(value(name), name)

    return call, number, value


def tensor(value, name="the answer"):
    if isinstance(value, list | tuple) and any(isinstance(part, torch.Tensor) for part in value):
        value = [part.tolist() if isinstance(part, torch.Tensor) else part for part in value]
    try:
        return torch.as_tensor(value).detach().double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise AssertionError(f"{name} holds no numbers ({type(error).__name__})") from None


def same(got, expected, name="the answer"):
    """Assert equality up to rounding in single precision."""
    got, expected = tensor(got, name), tensor(expected)
    assert got.shape == expected.shape, f"{name} has shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
    assert got.isfinite().all(), f"{name} is not finite"
    gap = (got - expected).abs()
    assert (gap <= 1e-4 + 1e-3 * expected.abs()).all(), f"{name} is off by up to {gap.max():.4g}"


def unchanged(before, after):
    for old, new in zip(before, after, strict=True):
        assert old.equal(new), "an argument was changed in place"
