"""The losses of the papers: each a term that takes (out, target, state) and returns a scalar."""

from camlib.losses.cam import CAMLoss, CrossEntropy, RandomClassCAMLoss, UniformCAMLoss
