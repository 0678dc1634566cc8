"""Arms: what a method asks of a training. An arm's name is the last part of a run's name; "+" joins several."""

from dataclasses import replace

from camlib import losses, objective, regularize
from camlib.lab.experiment import CLASSES, FEATURES, Call, Experiment, Terms, Weight, call
from camlib.losses.cc import FORMS
from camlib.names import lookup


def _cam(term=losses.CAMLoss, *, t: int = 20, c: float = 3.0, **arguments) -> dict:
    """CAM-loss, Eq. 6 with Eq. 7's t and c."""
    return {"terms": {"cam": (call(objective.step_at, start=t, value=c), call(term, **arguments))}}


def _icasc(term=losses.ICASC, weight: Weight = 1.0, **arguments) -> dict:
    """ICASC, Eq. 6: all weights are 1, from the first epoch on."""
    return {"terms": {"icasc": (weight, call(term, **arguments))}}


def _cc(weight: Weight = 1.0, **arguments) -> dict:
    return {"terms": {"cc": (weight, call(losses.CCLoss, **arguments))}, "gate": True}


def _margin(term, **arguments) -> dict:
    """A loss that takes the place of cross-entropy."""
    return {"terms": {"ce": (1.0, call(term, **arguments))}}


def _beside(name: str, weight: Weight, term: Call, **more) -> dict:
    """A loss that goes beside cross-entropy."""
    return {"terms": {name: (weight, term)}} | more


def _distill(name: str | None = None, weight: float = 1.0, term: Call | None = None) -> dict:
    """CAM-loss, Eq. 12 with β = 0.5; `camlib.lab.runs` says whose net the teacher is."""
    terms: Terms = {"ce": (0.5, call(losses.CrossEntropy)), "kd": (0.5, call(losses.KD))}
    return {"terms": terms | ({name: (weight, term)} if name else {})}


# Each changes fields of an experiment: `terms` are added, or take the place of those of the same name, `augment` and
# `regularize` are added, anything else takes the place of what is there.
ARMS: dict[str, dict] = {
    "ce": {},
    # CAM-loss, its schedules (CAM-loss, Figure 3) and its controls, which are in no paper.
    "cam": _cam(),
    **{f"cam_t{t}_c{c}": _cam(t=t, c=float(c)) for t, c in ((0, 1), (10, 1), (20, 1), (30, 1), (40, 1), (60, 1))},
    **{f"cam_t{t}_c{c}": _cam(t=t, c=float(c)) for t, c in ((80, 1), (20, 2), (20, 4), (20, 5))},
    "cam_adaptive": {
        "terms": {"cam": (call(objective.after_accuracy, threshold=0.5, value=3.0), call(losses.CAMLoss))}
    },
    "cam_detached": _cam(detach_cam=True),
    "cam_detached_c1": _cam(c=1.0, detach_cam=True),
    "caam_detached": _cam(detach_caam=True),
    # The guide is the CAM of a trained net, which `camlib.lab.runs` names.
    "still_guide": _beside("ccm", call(objective.step_at, start=20, value=3.0), call(losses.CCM)),
    "random_class": _cam(losses.RandomClassCAMLoss),
    "uniform": _cam(losses.UniformCAMLoss),
    # What CAM-loss, Tables 3 and 4 compare it with.
    "center": _beside("center", 0.003, call(losses.CenterLoss, num_classes=CLASSES, features=FEATURES)),
    "l_softmax": _margin(losses.LSoftmax) | {"head": "no_bias"},
    "sm_softmax": _margin(losses.SMSoftmax, margin=0.3),  # no margin is published: ours
    # k = 100 on ImageNet; of the 100 classes of CIFAR-100 that would be all.
    "negative_cam": _beside("negative_cam", 0.07, call(losses.NegativeCAM, form="mse", k=10).at_quick(k=3)),
    "negative_cam_kd": _beside("negative_cam", 0.005, call(losses.NegativeCAM, form="kd", k=10).at_quick(k=3)),
    "negative_cam_k100": _beside("negative_cam", 0.07, call(losses.NegativeCAM, form="mse", k=100).at_quick(k=3)),
    "negative_cam_kd_k100": _beside("negative_cam", 0.005, call(losses.NegativeCAM, form="kd", k=100).at_quick(k=3)),
    # ICASC, its ablation (ICASC, Table 3), and controls that are in no paper.
    "icasc": _icasc(),
    "icasc_grad_cam": _icasc(attention="grad_cam"),
    "icasc_random_confuser": _icasc(losses.RandomConfuserICASC),
    # On Scenes, where class k has the ground k modulo 5: the class that shares it.
    "icasc_same_ground": _icasc(losses.FixedConfuserICASC, confusers=(5, 6, 7, 8, 9, 0, 1, 2, 3, 4)),
    "icasc_masked": _icasc(mask_total=True),
    "icasc_late": _icasc(weight=call(objective.step_at, start=80, value=1.0)),
    "icasc_unscaled": _icasc(scale=False),
    "icasc_inner": _icasc(separate=(-2,), consistent=False),
    "icasc_inner_consistent": _icasc(separate=(-2,)),
    "icasc_last": _icasc(separate=(-1,), consistent=False),
    "icasc_last_consistent": _icasc(separate=(-1,)),
    "icasc_separate": _icasc(consistent=False),
    "icasc_consistent": _icasc(separate=()),
    **{f"icasc_weight_{weight}": _icasc(weight=weight) for weight in (0.03, 0.1, 0.3)},
    # CC-Loss, its gate and its readings; λ (CC-Loss, Table 3).
    "gate": {"gate": True},
    "cc": _cc(),
    # With a sixteenth of ResNet-8's 64 channels in the gate's layer in between, as the first reading had it.
    "gate_narrow": {"gate": True, "gate_units": 4},
    "cc_narrow": _cc() | {"gate_units": 4},
    "triplet": _beside("triplet", 1.0, call(losses.GateTriplet), gate=True),
    **{f"cc_{form}": _cc(form=form) for form in FORMS if form != "ratio"},
    **{f"cc_lambda_{weight}": _cc(weight) for weight in (0.02, 0.1, 0.5, 1.5, 2.0)},
    "cc_late": _cc(call(objective.step_at, start=80, value=1.0)),
    # What CC-Loss, Table 1 compares it with.
    "focal": _margin(losses.FocalLoss),
    "a_softmax": _margin(losses.ASoftmax) | {"head": "no_bias"},
    "mc": _beside("mc", 1.0, call(losses.MCLoss), channels_per_class=3),
    "ical": _beside("ical", 5.0, call(losses.ICAL), head="no_bias"),
    "fical": _beside("fical", 5.0, call(losses.FICAL, num_classes=CLASSES), head="no_bias"),
    # Distillation (CAM-loss, Table 7).
    "kd": _distill(),
    "at": _distill("at", 10.0, call(losses.AT)),
    "ccm": _distill("ccm", 1.0, call(losses.CCM)),
    # Regularisers (CAM-loss, Table 2).
    "cutout": {"augment": ("cutout",)},
    "mixup": {"augment": ("mixup",)},
    "cutmix": {"augment": ("cutmix",)},
    "cutmix_always": {"augment": ("cutmix_always",)},
    "manifold_mixup": {"mix": call(regularize.ManifoldMixup)},
    "stochastic_depth": {"regularize": (call(regularize.stochastic_depth),)},
    "drop_block": {"regularize": (call(regularize.drop_block),)},
    "shake_drop": {"regularize": (call(regularize.shake_drop),)},
    "dropout": {"regularize": (call(regularize.dropout),)},
}


def with_arm(experiment: Experiment, arm: str) -> Experiment:
    """What an arm makes of an experiment.

    Args:
        experiment: of cross-entropy alone, or of the loss for several labels.
        arm: names of `ARMS`, joined by "+".

    Raises:
        UnknownName: there is no such arm.
    """
    for name in arm.split("+"):
        changes = lookup(ARMS, name, "arm")
        added = {"terms": experiment.terms | changes.get("terms", {})}
        for several in ("augment", "regularize"):
            added[several] = getattr(experiment, several) + changes.get(several, ())
        experiment = replace(experiment, **(changes | added))
    return experiment
