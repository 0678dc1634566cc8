"""The losses of the papers: each a term that takes (out, target, state) and returns a scalar."""

from camlib.losses.baselines import (
    FICAL,
    ICAL,
    AMSoftmax,
    ASoftmax,
    CenterLoss,
    CrossEntropy,
    FocalLoss,
    LSoftmax,
    MCLoss,
    MultiLabelSoftMargin,
    NegativeCAM,
    SMSoftmax,
)
from camlib.losses.cam import CAMLoss, RandomClassCAMLoss, UniformCAMLoss
from camlib.losses.cc import CCLoss, GateTriplet
from camlib.losses.distill import AT, CCM, KD
from camlib.losses.icasc import (
    ICASC,
    AttentionConsistency,
    AttentionSeparation,
    FixedConfuserICASC,
    RandomConfuserICASC,
)
