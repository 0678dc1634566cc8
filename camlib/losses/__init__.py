"""The losses of the papers: each a term that takes (out, target, state) and returns a scalar."""

from camlib.losses.baselines import AMSoftmax, ASoftmax, CenterLoss, FocalLoss, LSoftmax, NegativeCAM, SMSoftmax
from camlib.losses.cam import CAMLoss, CrossEntropy, RandomClassCAMLoss, UniformCAMLoss
from camlib.losses.cc import FICAL, ICAL, CCLoss, MCLoss
from camlib.losses.distill import AT, CCM, KD
from camlib.losses.icasc import (
    ICASC,
    AttentionConsistency,
    AttentionSeparation,
    MultiLabelSoftMargin,
    RandomConfuserICASC,
)
