"""Every family of classifiers in torchvision and timm under `observe`: one small member each, without weights.

    python tests/oracles/backbones.py            try all of them and write data/backbones.json
    python tests/oracles/backbones.py NAME…      try these families again

For each that is observed: the logits are the model's own, maps average to the pooled features, and one step through
DistributedDataParallel with all losses that its output allows gives every parameter a finite gradient or none.
"""

import json
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import timm
import torch
import torchvision
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from camlib.losses import AT, CCM, ICASC, KD, AttentionSeparation, CAMLoss, CenterLoss, FocalLoss, NegativeCAM
from camlib.objective import State
from camlib.observe import NotObservable, observe
from camlib.target import one_hot

FILE = Path(__file__).resolve().parents[2] / "data/backbones.json"
K = 5


def entries():
    return json.loads(FILE.read_text("utf8"))["nets"]


def build(entry):
    torch.manual_seed(0)
    if entry["library"] == "torchvision":
        options = {"init_weights": False} if entry["net"] in ("googlenet", "inception_v3") else {}
        model = torchvision.models.get_model(entry["net"], weights=None, num_classes=K, **options)
        return model, 299 if entry["net"] == "inception_v3" else 224
    model = timm.create_model(entry["net"], num_classes=K, **entry.get("options", {}))
    return model, model.default_cfg["input_size"][-1]


def look_at(entry):
    """What is observed of a net, or why it is refused.

    Raises:
        AssertionError: it is observed, and something is wrong with it.
    """
    model, size = build(entry)
    try:
        observed = observe(model.eval())
    except NotObservable as error:
        return {"observed": False, "why": str(error)}
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out, expected = observed(images), model(images)
    torch.testing.assert_close(out.logits, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out.maps[-1].mean((2, 3)), out.pooled, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(observed.classify(out.pooled), out.logits, rtol=1e-5, atol=1e-6)
    if isinstance(observed.head, nn.Linear | nn.Conv2d):
        bias = 0 if observed.head.bias is None else observed.head.bias
        torch.testing.assert_close(out.pooled @ out.weight.T + bias, out.logits, rtol=1e-3, atol=1e-4)
    check_gradients(observed, images)
    channels, height, width = out.maps[-1].shape[1:]
    classifier = "several layers" if out.weight is None else "linear" if observed.head else "class maps"
    return {"observed": True, "maps": f"{channels} × {height} × {width}", "classifier": classifier}


def check_gradients(observed, images):
    """One step in evaluation mode, so that batch normalisation of two images does not divide by nothing."""
    parallel = DistributedDataParallel(observed)
    out = parallel(images)
    target, state = one_hot(torch.tensor([0, 3]), K), State(teacher=type(out)(*(detached(part) for part in out)))
    terms = [CAMLoss(), CAMLoss(attention="grad_cam"), CAMLoss(attention="grad_cam_pp"), FocalLoss(), KD()]
    terms += [ICASC() if len(out.maps) > 1 else AttentionSeparation(), AT("original")]
    terms += [CenterLoss(K, out.pooled.shape[1])]
    if out.weight is not None:
        terms += [NegativeCAM(k=2), AT(), CCM()]
    sum(term(out, target, state) for term in terms).backward()
    gradients = [parameter.grad for parameter in observed.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert sum(gradient.abs().sum() for gradient in gradients) > 0


def detached(part):
    if isinstance(part, tuple):
        return tuple(map(detached, part))
    return part if part is None else part.detach()


def main(families):
    warnings.simplefilter("ignore")
    found = json.loads(FILE.read_text("utf8"))
    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        for entry in found["nets"]:
            if not families or entry["family"] in families:
                for key in ("observed", "why", "maps", "classifier"):
                    entry.pop(key, None)
                entry.update(look_at(entry))
                print(entry, flush=True)
                found["made_with"] = {name: version(name).split("+")[0] for name in ("torch", "torchvision", "timm")}
                write(found)
        torch.distributed.destroy_process_group()


def write(found):
    lines = ",\n".join(f"  {json.dumps(entry, ensure_ascii=False)}" for entry in found["nets"])
    part = FILE.with_suffix(".part")
    part.write_text(f'{{"made_with": {json.dumps(found["made_with"])},\n "nets": [\n{lines}\n]}}\n', "utf8")
    part.replace(FILE)


if __name__ == "__main__":
    main(sys.argv[1:])
