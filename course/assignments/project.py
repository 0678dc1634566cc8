"""Project: one row, replicated

A plan, a prediction that is frozen before the runs, ten runs, and a written verdict.
"""

MINUTES = 600
TEACHES = "what it takes to replicate a row of a table so that the result could have gone against you"
BY_PEOPLE = {"why": 4, "log": 2, "verdict": 5, "limits": 3}
CAMLIB = ("camlib.one_hot",)
REFUSED = ("ttest_rel", "ttest_1samp", "ttest_ind", "bootstrap", "permutation_test", "wilcoxon", "DescrStatsW")

# %% draw
v.choices = rng.sample(
    [
        ("cam-scenes/resnet8", "ce", "cam"),
        ("cam-scenes/resnet8", "random_class", "cam"),
        ("cam-scenes/resnet8", "uniform", "cam"),
        ("icasc-scenes/resnet8", "ce", "icasc"),
        ("icasc-scenes/resnet8", "random_confuser", "icasc"),
        ("cc-table-2/scenes_resnet8", "gate", "cc"),
    ],
    3,
)
v.seeds = sorted(rng.sample(range(1000, 10000), 5))
v.row, v.baseline, v.method = v.choices[0]
v.listing = "\n".join(f"- `{row}`, baseline `{baseline}`, method `{method}`" for row, baseline, method in v.choices)
# Made up for the model solution: a clear gain, beside seeds that differ much.
base = [round(rng.uniform(84, 90), 2) for _ in range(5)]
steps = [round(1.2 + x, 2) for x in rng.sample([-0.2, -0.1, 0.0, 0.1, 0.2], 5)]
v.base_runs = dict(zip(v.seeds, base, strict=True))
v.method_runs = {seed: round(value + step, 2) for seed, value, step in zip(v.seeds, base, steps, strict=True)}

# %% [markdown]
# # Project: one row, replicated
#
# **What you need.** The first three assignments, and about ten hours over two weeks, of which the machine works by itself for one.
# There are ten runs of some minutes each on one processor core; a GPU is not needed.
#
# **How it works.** Write into the cells that begin with `# ANSWER`, leave that line as it is, and write over the cells of words.
# Hand in this notebook, under any name.
# Six points are given by tests that see whether your numbers hang together, fourteen by people who read what you wrote.
#
# **What is not allowed.** Ready-made tests (`ttest_rel` and their like) are not: the interval is for you to write.
# A cell that uses them, reads or writes files, or imports anything but PyTorch, NumPy, SciPy, pandas, Matplotlib and Python's mathematics is not run when your work is graded; lines that begin with `!` or `%` are left out.
#
# **Your section** chooses among these comparisons:
#
# {v.listing}
#
# and runs each arm with the seeds {v.seeds}, no others, at the preset `paper`.

# %% given
import hashlib
import json


def freeze(plan):
    """Twelve characters that stand for a plan: change anything in it, and they change."""
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:12]


choices = v.choices  # (row, baseline, method)
seeds = v.seeds

# %% [markdown]
# ## 1 The plan (2 points)
#
# Write the plan *before the first run*, print `freeze(plan)`, and post the twelve characters where your teacher told you to, with the date.
# Once they are posted the plan is not changed any more.
# `predicted_gain` is what you expect, in percentage points of test accuracy at the last epoch, positive if the method is better; it is not 0.
# `because` and `would_change_my_mind` are a sentence each.

# %% answer plan
# BEGIN plan = {
# BEGIN     "row": None,
# BEGIN     "baseline": None,
# BEGIN     "method": None,
# BEGIN     "preset": None,
# BEGIN     "seeds": None,
# BEGIN     "predicted_gain": None,
# BEGIN     "because": "",
# BEGIN     "would_change_my_mind": "",
# BEGIN }
plan = {
    "row": v.row,
    "baseline": v.baseline,
    "method": v.method,
    "preset": "paper",
    "seeds": v.seeds,
    "predicted_gain": 0.8,
    "because": "In the test the ground says nothing, so a net that is drawn to the object should lose less there.",
    "would_change_my_mind": "An interval that lies below half a point, or one on the other side of zero.",
}
# END

# %% show
print(freeze(plan))

# %% answer frozen
# BEGIN frozen = None  # the twelve characters that you posted, between quotation marks
frozen = freeze(plan)
# END

# %% check
assert frozen == freeze(plan), "the plan is not the one that you posted"
print("The plan is the one that you posted.")

# %% [markdown]
# Why do you expect this gain, and why could you be wrong? At most 150 words.

# %% [markdown] words why
# The paper finds a gain on photographs; on Scenes class and ground go together in training and not in the test, which is the situation the loss is made for, so I expect a gain of somewhat less than a point.
# I could be wrong because the net is small and already right on most images, because the loss begins late in a short training, or because any regularisation would do as much.

# %% [markdown]
# ## 2 The runs (1 point)
#
# Each run is one command, in a terminal or, on Colab, in a cell that begins with `!`:
#
# ```
# python -m camlib run ROW/COLUMN --preset paper --seed SEED
# ```
#
# ROW/COLUMN is for example `{v.row}/{v.baseline}` or `{v.row}/{v.method}`.
# A run that is interrupted goes on when the same command is given again.
# The last lines say the test accuracy; write it down in per cent, with both decimals.

# %% answer runs
# BEGIN runs = {"baseline": {}, "method": {}}  # {seed: test accuracy in per cent} for each arm
runs = {"baseline": v.base_runs, "method": v.method_runs}
# END

# %% check
assert set(runs["baseline"]) == set(runs["method"]) == set(seeds), "five runs of each arm, with your section's seeds"
print("Ten runs.")

# %% [markdown]
# Paste what the ten commands printed, and say on which machine and from which commit they ran.

# %% [markdown] words log
# (Ten blocks of output, each with its cell, preset, seed, device and test accuracy; the commit, as `python -m camlib doctor` or the first line of a chapter prints it.)

# %% [markdown]
# ## 3 The verdict (3 points)
#
# `result` holds the mean gain over the five pairs, its 95 % interval by Student's t (`low`, `high`), all in percentage points, the `label`, and whether your prediction lies within the interval.
# The label is `"within noise"` if the interval holds 0, `"supports"` if it lies on the side of 0 that you predicted, and `"contradicts"` if it lies on the other.

# %% answer result
# BEGIN result = {"gain": None, "low": None, "high": None, "label": None, "prediction_inside": None}
import numpy as np
from scipy import stats

gains = np.array([runs["method"][seed] - runs["baseline"][seed] for seed in seeds])
half = stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / len(gains) ** 0.5
low, high = gains.mean() - half, gains.mean() + half
if low <= 0 <= high:
    label = "within noise"
else:
    label = "supports" if (low > 0) == (plan["predicted_gain"] > 0) else "contradicts"
result = {
    "gain": float(gains.mean()),
    "low": float(low),
    "high": float(high),
    "label": label,
    "prediction_inside": bool(low <= plan["predicted_gain"] <= high),
}
# END

# %% check
assert result["low"] < result["gain"] < result["high"], "the mean lies inside of its interval"
print(result)

# %% [markdown]
# Write the verdict as it would stand in the book: what was compared, on what, how many pairs, the gain with its interval, the label, and how it stands to the paper's claim and to your prediction. At most 200 words.

# %% [markdown] words verdict
# (The model depends on the runs. It names both arms, the net, the data and the preset; says "over five paired seeds"; gives the gain and the interval in points; uses the label of the rule and no stronger word; says what the paper claims and on which data; says whether the prediction was met and what follows for the reason given in the plan.)

# %% [markdown]
# What does this result not show? Name at least two limits, and the next run that you would make. At most 150 words.

# %% [markdown] words limits
# One small net and generated pictures: nothing is said about photographs or deep nets.
# Five pairs find only differences that are large against the spread between pairs.
# Without a control the gain could come from any pull on the maps; the next run would be the same loss with a guide that points nowhere.

# %% tests
import hashlib
import json


def checked_plan(value):
    plan = value("plan")
    assert type(plan) is dict, "plan is not a dict"
    chosen = (plan.get("row"), plan.get("baseline"), plan.get("method"))
    assert chosen in v.choices, f"{chosen} is not among the section's comparisons"
    assert plan.get("preset") == "paper", f"the preset is {plan.get('preset')!r}"
    assert sorted(plan.get("seeds") or []) == v.seeds, "the seeds are not the section's"
    return plan


def prediction(value):
    predicted = value("plan").get("predicted_gain")
    assert type(predicted) in (int, float) and 0 < abs(predicted) < 50, f"predicted_gain is {predicted!r}"
    return predicted


def checked_gains(value):
    runs = value("runs")
    assert type(runs) is dict and set(runs) == {"baseline", "method"}, "runs does not hold the two arms"
    for arm, found in runs.items():
        assert type(found) is dict and sorted(found) == v.seeds, f"{arm} has the seeds {sorted(found)}"
        assert all(type(x) in (int, float) and 1 < x <= 100 for x in found.values()), f"{arm} is not in per cent"
        assert len(set(found.values())) > 1, f"all runs of {arm} are the same"
    return [runs["method"][seed] - runs["baseline"][seed] for seed in v.seeds]


def right_interval(gains):
    middle = sum(gains) / 5
    deviation = (sum((x - middle) ** 2 for x in gains) / 4) ** 0.5
    return middle, 2.7764 * deviation / 5**0.5  # Student's t with 4 degrees of freedom, from a table


def near(found, expected, what):
    assert type(found) in (int, float), f"{what} is {found!r}"
    assert abs(found - expected) <= 0.006 + 0.002 * abs(expected), f"{what} is {found:.4g}, not {expected:.4g}"


# %% test plan 1 one of the section's comparisons, its seeds, a prediction and its reasons
plan = checked_plan(value)
prediction(value)
for key in ("because", "would_change_my_mind"):
    assert len(str(plan.get(key, "")).split()) >= 6, f"{key} is no sentence"

# %% test frozen 1 the plan is the one that was posted
plan, frozen = value("plan"), value("frozen")
assert plan.get("row") is not None, "the plan is blank"
expected = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:12]
assert frozen == expected, f"frozen is {frozen!r}, the plan's characters are {expected}"

# %% test runs 1 both arms, the section's seeds, in per cent
checked_gains(value)

# %% test result 1 the mean gain over the pairs
near(value("result").get("gain"), right_interval(checked_gains(value))[0], "the gain")

# %% test result 1 the interval
middle, half = right_interval(checked_gains(value))
near(value("result").get("low"), middle - half, "low")
near(value("result").get("high"), middle + half, "high")

# %% test result 1 the label, and whether the prediction was met
middle, half = right_interval(checked_gains(value))
predicted, found = prediction(value), value("result")
side = "supports" if middle * predicted > 0 else "contradicts"
expected = "within noise" if abs(middle) <= half else side
assert found.get("label") == expected, f"the label is {found.get('label')!r}"
inside = abs(predicted - middle) <= half
assert found.get("prediction_inside") is inside, f"prediction_inside is {found.get('prediction_inside')!r}"

# %% wrong runs 2 four pairs in place of five
runs = {"baseline": v.base_runs, "method": v.method_runs}
runs = {arm: dict(list(found.items())[:4]) for arm, found in runs.items()}
seeds = seeds[:4]

# %% wrong runs 2 a share in place of per cent
runs = {"baseline": v.base_runs, "method": v.method_runs}
runs = {arm: {seed: x / 100 for seed, x in found.items()} for arm, found in runs.items()}

# %% wrong runs 2 the book's seeds
runs = {"baseline": dict(enumerate(v.base_runs.values())), "method": dict(enumerate(v.method_runs.values()))}
seeds = [0, 1, 2, 3, 4]

# %% wrong frozen 5 a plan that was changed after it was posted
frozen = freeze(plan)
plan = plan | {"predicted_gain": -1.2}

# %% wrong plan 4 no prediction
plan = {
    "row": v.row,
    "baseline": v.baseline,
    "method": v.method,
    "preset": "paper",
    "seeds": v.seeds,
    "predicted_gain": 0,
    "because": "In the test the ground says nothing, so a net that is drawn to the object should lose less there.",
    "would_change_my_mind": "An interval that lies below half a point, or one on the other side of zero.",
}

# %% wrong frozen 5 characters made up
frozen = "0123456789ab"

# %% wrong result 5 the normal quantile
import numpy as np

gains = np.array([runs["method"][seed] - runs["baseline"][seed] for seed in seeds])
half = 1.96 * gains.std(ddof=1) / len(gains) ** 0.5
result = {
    "gain": float(gains.mean()),
    "low": float(gains.mean() - half),
    "high": float(gains.mean() + half),
    "label": "supports",
    "prediction_inside": False,
}

# %% wrong result 4 unpaired: the two means and their spread
import numpy as np
from scipy import stats

a, b = (np.array(list(runs[arm].values())) for arm in ("baseline", "method"))
gain, half = b.mean() - a.mean(), stats.t.ppf(0.975, 8) * ((a.var(ddof=1) + b.var(ddof=1)) / 5) ** 0.5
result = {
    "gain": float(gain),
    "low": float(gain - half),
    "high": float(gain + half),
    "label": "within noise" if abs(gain) <= half else "supports",
    "prediction_inside": True,
}

# %% wrong result 3 the sign turned
import numpy as np
from scipy import stats

gains = np.array([runs["baseline"][seed] - runs["method"][seed] for seed in seeds])
half = stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / len(gains) ** 0.5
result = {
    "gain": float(gains.mean()),
    "low": float(gains.mean() - half),
    "high": float(gains.mean() + half),
    "label": "contradicts",
    "prediction_inside": False,
}

# %% wrong result 5 a label that the interval does not bear
import numpy as np
from scipy import stats

gains = np.array([runs["method"][seed] - runs["baseline"][seed] for seed in seeds])
half = stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / len(gains) ** 0.5
result = {
    "gain": float(gains.mean()),
    "low": float(gains.mean() - half),
    "high": float(gains.mean() + half),
    "label": "reproduced",
    "prediction_inside": False,
}

# %% [markdown] rubric
# ## What people grade (14 points)
#
# | Part | Points | Full points | Half |
# |---|---|---|---|
# | Why this gain | 4 | a mechanism, a size and a way to be wrong, written before the runs (compare the date of the post with the log) | a mechanism without a size, or no way to be wrong |
# | The log | 2 | ten outputs with seeds, machine and commit; they agree with `runs` | some are missing, or the commit is |
# | The verdict | 5 | arms, net, data, preset, pairs, gain with interval and label; the label's word and no stronger one; the paper's claim and the prediction stand beside it | a stronger word than the interval bears, or the prediction is passed over |
# | Limits and next run | 3 | two limits that are real here, and a next run that could tell two explanations apart | general remarks ("more data") |
#
# A result against the prediction, or within noise, loses nothing: the points are for how it was reached.
# A plan that was posted after the first run gets no points for *Why this gain*.
