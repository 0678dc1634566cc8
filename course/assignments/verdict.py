"""An honest verdict from records

Paired differences, the t interval, the label, and what a normal quantile would have said.
"""

MINUTES = 120
TEACHES = "how paired runs become a verdict, and how two small slips in the arithmetic turn noise into a finding"
BY_PEOPLE = {"lesson": 1}
CAMLIB = ("camlib.one_hot",)
REFUSED = ("ttest_rel", "ttest_1samp", "bootstrap", "permutation_test", "wilcoxon", "DescrStatsW")

# %% draw
import statistics

v.baseline = rng.choice(["ce", "gate", "uniform", "random_class", "focal"])
v.methods = rng.sample(["cam", "icasc", "cc", "ccm", "negative_cam", "center"], 3)
v.metric = rng.choice(["test_error", "test_accuracy", "top1_error", "top1_accuracy"])
v.percent = rng.choice([True, False])
v.better_is = "less" if v.metric.endswith("error") else "more"
v.unit = "per cent" if v.percent else "a share of 1"
v.claim_side = rng.choice(["better", "worse"])
v.side = 1 if v.claim_side == "better" else -1
sign = -1 if v.metric.endswith("error") else 1  # of a gain, in the metric
scale = 1 if v.percent else 100  # points for each unit of the metric
v.factor = sign * scale
v.wrong_factor = sign * (100 if v.percent else 1)
v.best = 0 if sign == -1 else -1  # of a sorted list


def shaped(n, mean, ratio):
    """n gains in points with a given mean, the mean being `ratio` times the standard error."""
    raw = [rng.gauss(0, 1) for _ in range(n)]
    middle, spread = statistics.mean(raw), statistics.stdev(raw)
    return [mean + (x - middle) / spread * abs(mean) / ratio * n**0.5 for x in raw]


# One comparison lies between the shortcuts and the t interval, one is clear, one has too few pairs.
direction = v.side
kinds = rng.sample(["noise", "clear", "few"], 3)
v.truth = {}
v.runs = []
seeds = rng.sample(range(100), 8)
base = {seed: rng.uniform(30, 40) for seed in seeds}  # points of error or accuracy; far apart, so pairing matters
for spare in range(2):  # seeds that only the baseline has
    base[100 + spare] = rng.uniform(30, 40)


def record(arm, seed, points, best_bonus=0.0, epochs=6):
    """A run: its last epoch is `points`; an epoch in the middle is better by `best_bonus`."""
    path = [points + sign * (best_bonus if epoch == 3 else -6 / (epoch + 1)) for epoch in range(epochs - 1)] + [points]
    return arm, seed, [round(x / scale, 2 if v.percent else 4) for x in path]


v.runs += [record(v.baseline, seed, points, best_bonus=0.3) for seed, points in base.items()]
for method, kind in zip(v.methods, kinds, strict=True):
    if kind == "noise":
        gains = shaped(5, direction * rng.uniform(0.6, 1.1), 2.62)
        v.truth[method] = "within noise"
    elif kind == "clear":
        clear = rng.choice([1, -1])
        gains = shaped(6, clear * rng.uniform(2.0, 3.0), 16)
        v.truth[method] = "supports" if clear == direction else "contradicts"
    else:
        gains = shaped(3, direction * rng.uniform(3.0, 4.0), 30)
        v.truth[method] = "too few seeds"
    for seed, gain in zip(seeds, gains, strict=False):
        # In the noisy comparison the method's best epochs are far better than its last ones.
        bonus = 0.3 + (direction * 4 if kind == "noise" else 0)
        v.runs.append(record(method, seed, base[seed] + sign * gain, best_bonus=bonus))
    if kind == "clear":
        # A run that broke off: its last epoch so far is no result.
        v.runs.append(record(method, seeds[7], base[seeds[7]] - sign * clear * 25, epochs=4))
rng.shuffle(v.runs)

# %% [markdown]
# # An honest verdict from records
#
# **What you need.** The book's page *Claims ledger*, the idea of a confidence interval, and about two hours. No training.
#
# **How it works.** Write into the cells that begin with `# ANSWER` and leave that line as it is.
# After each answer stands a cell that checks something you can see; the hidden tests check more, and they give the points.
# You may add cells of your own.
# Hand in this notebook, under any name, after *Restart and run all*.
#
# **What is not allowed.** `scipy.stats.t` is yours to use, its ready-made tests (`ttest_rel`, `ttest_1samp`, `bootstrap` and their like) are not: the interval is for you to write.
# A cell that uses them, reads or writes files, or imports anything but PyTorch, NumPy, SciPy, pandas, Matplotlib and Python's mathematics is not run when your work is graded.
#
# **In your section** the baseline is `{v.baseline}`, the number that counts is `{v.metric}`, stored as {v.unit}, and {v.better_is} of it is better.
# The numbers were drawn for you, shaped like records and made for teaching; nobody trained these nets.

# %% given
runs = v.runs
records = [
    {
        "arm": arm,
        "seed": seed,
        "epochs_asked": 6,
        "epochs_done": len(values),
        "history": [{"epoch": epoch, v.metric: value} for epoch, value in enumerate(values)],
    }
    for arm, seed, values in runs
]
print(len(records), "runs; one of them:")
print(records[0])

# %% [markdown]
# Each record is one run: its arm (the method that trained it), its seed, how many epochs it was to run and how many it did, and a history with one entry per epoch.
#
# ## The rule
#
# - A run counts by its **last** epoch, never by its best one, and only if it ran all its epochs.
# - Two arms are compared by **pairs**: runs with the same seed start from the same weights and see the same batches. A seed that only one arm has is left out.
# - The **gain** of a pair is how much better the method is than the baseline, in percentage points, positive if the method is better.
# - With fewer than 5 pairs the label is `"too few seeds"`.
# - Otherwise look at the 95 % interval of the mean gain by Student's t: mean ± t · s / √n, where s is the standard deviation of a sample (divide by n − 1) and t has n − 1 degrees of freedom.
# - If the interval holds 0, the label is `"within noise"`.
# - The claim here is that the method is **{v.claim_side}** than the baseline. An interval on that side of 0 `"supports"` it, one on the other side `"contradicts"` it.
#
# ## 1 Gains (4 points)
#
# `gains(records, method)` returns `{seed: gain}` for every pair of runs of `method` and of the baseline `{v.baseline}`.


# %% answer gains
def gains(records, method):
    """{seed: gain of the method over the baseline in percentage points}."""
    # BEGIN raise NotImplementedError("write gains")
    last = {(r["arm"], r["seed"]): r["history"][-1][v.metric] for r in records if r["epochs_done"] == r["epochs_asked"]}
    return {
        seed: v.factor * (value - last[v.baseline, seed])
        for (arm, seed), value in last.items()
        if arm == method and (v.baseline, seed) in last
    }
    # END


# %% check
for method in v.methods:
    assert all(seed in {record["seed"] for record in records} for seed in gains(records, method)), (
        "seeds of the records"
    )
    print(method, "has", len(gains(records, method)), "pairs")

# %% [markdown]
# ## 2 The interval (2 points)
#
# `interval(values)` takes a list of at least two numbers and returns the 95 % interval of their mean by Student's t, `(low, high)`.


# %% answer interval
def interval(values):
    """The 95 % interval of the mean by Student's t, (low, high)."""
    # BEGIN raise NotImplementedError("write interval")
    import numpy as np
    from scipy import stats

    values = np.asarray(values, dtype=float)
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return values.mean() - half, values.mean() + half
    # END


# %% check
low, high = interval([1.0, 2.0, 3.0, 4.0, 5.0])
assert low < 3 < high, "the mean lies inside"
print("The mean lies inside.")

# %% [markdown]
# ## 3 The label (2 points)
#
# `label(values)` takes the list of gains and returns one of `"too few seeds"`, `"within noise"`, `"supports"` and `"contradicts"`.
# The claim is the one of your section: the method is {v.claim_side}.


# %% answer label
def label(values):
    """What the gains say about the claim."""
    # BEGIN raise NotImplementedError("write label")
    if len(values) < 5:
        return "too few seeds"
    low, high = interval(values)
    if low <= 0 <= high:
        return "within noise"
    return "supports" if v.side * low > 0 else "contradicts"
    # END


# %% check
assert label([0.1, 0.2]) in ("too few seeds", "within noise", "supports", "contradicts"), "one of the four labels"
print("One of the four labels.")

# %% [markdown]
# ## 4 Your section's verdicts (1 point)
#
# `verdicts` holds the label for each of the three methods.

# %% answer verdicts
# BEGIN verdicts = None  # {method: label}
verdicts = {method: label(list(gains(records, method).values())) for method in v.methods}
# END

# %% check
assert verdicts is not None and set(verdicts) == set(v.methods), "one label for each method"
print(verdicts)

# %% [markdown]
# ## 5 The lesson (1 point, graded by people)
#
# Now judge the three comparisons once more, in a cell of your own, with two slips that are easily made: the normal quantile 1.96 in place of t, and the standard deviation of a population (divide by n) in place of a sample's.
# Which verdict changes?
# Write one sentence, with the method's name and the two half-widths, that says what happened and which of the two verdicts you would publish.

# %% [markdown] words lesson
# For the method whose label is "within noise", the half-width by 1.96 and division by n is about 1.8 standard errors where Student's t asks for 2.8 with five pairs, so the wrong interval leaves out 0 and claims an effect that five pairs cannot show; I would publish "within noise".

# %% [markdown]
# ## Where real records are
#
# The records of the runs that were made for the book lie beside the package, one line of JSON for each run, and the command line shows them and their verdicts.
# This cell changes nothing; `python -m camlib list` names the tables.

# %% show
import subprocess
import sys

print(subprocess.run([sys.executable, "-m", "camlib", "list"], capture_output=True, text=True).stdout)

# %% [markdown]
# You are done: *Restart and run all*, look whether every check passes, and hand in the notebook.


# %% tests
def run(arm, seed, points, best=None, done=6):
    """A record whose last epoch is `points`; `best`, if given, is reached in the middle."""
    path = [points - 20 * direction + direction * 4 * epoch for epoch in range(done)]
    path[-1] = points
    if best is not None:
        path[2] = best
    history = [{"epoch": e, v.metric: x / scale} for e, x in enumerate(path)]
    return {"arm": arm, "seed": seed, "epochs_done": done, "epochs_asked": 6, "history": history}


direction = 1 if v.better_is == "more" else -1  # of the metric, where it is better
scale = 1 if v.percent else 100
baseline, method = v.baseline, v.methods[0]
values = [41.5, 36.25, 44.0, 39.75, 33.5, 48.25]
steps = [1.5, -0.75, 2.25, 0.5, 3.0, -1.25]  # in the metric


def compare(found, expected, signed):
    """By seed; without the signs where another test looks at them."""
    assert type(found) is dict, "gains does not return a dict"
    assert set(found) == set(expected), f"the seeds are {sorted(found)}, expected {sorted(expected)}"
    for seed, gain in expected.items():
        got = float(found[seed])
        gap = abs(got - gain) if signed else abs(abs(got) - abs(gain))
        assert gap < 1e-3, f"the gain of seed {seed} is {got:.4g}, expected {gain:.4g}"


# %% test gains 1 pairs by seed, in whatever order the runs come
base = [run(baseline, seed, value) for seed, value in enumerate(values)]
mine = [run(method, seed, value + step) for seed, (value, step) in enumerate(zip(values, steps, strict=True))]
other = [run("another", seed, 50.0) for seed in range(6)]
shuffled = [mine[3], base[5], other[0], mine[0], base[1], mine[5], base[0], mine[2], base[4], other[3], base[2]]
shuffled += [mine[4], base[3], mine[1]]
compare(call("gains", shuffled, method), dict(enumerate(steps)), signed=False)

# %% test gains 1 positive where the method is better
base = [run(baseline, seed, value) for seed, value in enumerate(values)]
mine = [run(method, seed, value + step) for seed, (value, step) in enumerate(zip(values, steps, strict=True))]
compare(call("gains", base + mine, method), {s: direction * step for s, step in enumerate(steps)}, signed=True)

# %% test gains 1 the last epoch, not the best
base = [run(baseline, seed, value, best=value + 7 * direction) for seed, value in enumerate(values)]
mine = [
    run(method, seed, value + step, best=value + step + (9 + seed) * direction)
    for seed, (value, step) in enumerate(zip(values, steps, strict=True))
]
compare(call("gains", base + mine, method), dict(enumerate(steps)), signed=False)

# %% test gains 1 without seeds of one arm, and without runs that broke off
base = [run(baseline, seed, value, done=4 if seed == 0 else 6) for seed, value in enumerate(values)]
mine = [
    run(method, seed + 1, value + step, done=4 if seed == 2 else 6)
    for seed, (value, step) in enumerate(zip(values, steps, strict=True))
]
expected = {s: values[s - 1] + steps[s - 1] - values[s] for s in (1, 2, 4, 5)}
compare(call("gains", base + mine, method), expected, signed=False)

# %% test interval 1 its middle is the mean
for numbers in ([1.0, 2.5, 2.0, 4.0, 7.5], [-3.0, -1.0, 0.5, -2.0, -4.0, -0.25, -6.0]):
    found = tensor(call("interval", list(numbers)))
    assert found.shape == (2,), "interval does not return (low, high)"
    assert found[0] < found[1], "low is not below high"
    same(found.mean(), sum(numbers) / len(numbers))

# %% test interval 1 its half-width is Student's
# Quantiles of Student's t at 97.5 %, from a table, by degrees of freedom.
for numbers, quantile in (([1.0, 2.5, 2.0, 4.0, 7.5], 2.7764), ([-3.0, -1.0, 0.5, -2.0, -4.0, -0.25, -6.0], 2.4469)):
    low, high = tensor(call("interval", list(numbers)))
    middle, n = sum(numbers) / len(numbers), len(numbers)
    deviation = (sum((x - middle) ** 2 for x in numbers) / (n - 1)) ** 0.5
    same((high - low) / 2, quantile * deviation / n**0.5)

# %% test label 1 supports, contradicts, within noise
side = v.side
assert call("label", [side * x for x in (5.0, 5.1, 4.9, 5.2, 4.8)]) == "supports", "a clear gain on the claimed side"
assert call("label", [side * x for x in (-5.0, -5.1, -4.9, -5.2, -4.8, -5.3)]) == "contradicts", (
    "a clear one against it"
)
assert call("label", [side * x for x in (0.1, -2.0, 2.5, -1.5, 1.0, 0.2)]) == "within noise", "an interval around 0"

# %% test label 1 too few seeds
assert call("label", [5.0, 5.1, 4.9, 5.2]) == "too few seeds", "four pairs"
assert call("label", [5.0]) == "too few seeds", "one pair"
assert call("label", [5.0, 5.1, 4.9, 5.2, 5.0]) != "too few seeds", "five pairs are enough"

# %% test verdicts 1 the three verdicts of the section
found = value("verdicts")
assert found == v.truth, f"not {found}"


# %% wrong gains 7 the best epoch in place of the last
def gains(records, method):
    last = {
        (r["arm"], r["seed"]): sorted(entry[v.metric] for entry in r["history"])[v.best]
        for r in records
        if r["epochs_done"] == r["epochs_asked"]
    }
    return {
        seed: v.factor * (value - last[v.baseline, seed])
        for (arm, seed), value in last.items()
        if arm == method and (v.baseline, seed) in last
    }


# %% wrong gains 6 unpaired: in the order of the file
def gains(records, method):
    done = [r for r in records if r["epochs_done"] == r["epochs_asked"]]
    base = [r["history"][-1][v.metric] for r in done if r["arm"] == v.baseline]
    mine = [(r["seed"], r["history"][-1][v.metric]) for r in done if r["arm"] == method]
    return {seed: v.factor * (value - other) for (seed, value), other in zip(mine, base)}


# %% wrong gains 7 the sign turned
def gains(records, method):
    last = {(r["arm"], r["seed"]): r["history"][-1][v.metric] for r in records if r["epochs_done"] == r["epochs_asked"]}
    return {
        seed: -v.factor * (value - last[v.baseline, seed])
        for (arm, seed), value in last.items()
        if arm == method and (v.baseline, seed) in last
    }


# %% wrong gains 5 a hundred times too large or too small
def gains(records, method):
    last = {(r["arm"], r["seed"]): r["history"][-1][v.metric] for r in records if r["epochs_done"] == r["epochs_asked"]}
    return {
        seed: v.wrong_factor * (value - last[v.baseline, seed])
        for (arm, seed), value in last.items()
        if arm == method and (v.baseline, seed) in last
    }


# %% wrong gains 7 runs that broke off are counted
def gains(records, method):
    last = {(r["arm"], r["seed"]): r["history"][-1][v.metric] for r in records}
    return {
        seed: v.factor * (value - last[v.baseline, seed])
        for (arm, seed), value in last.items()
        if arm == method and (v.baseline, seed) in last
    }


# %% wrong interval 7 the normal quantile
def interval(values):
    import numpy as np

    half = 1.96 * np.std(values, ddof=1) / len(values) ** 0.5
    return np.mean(values) - half, np.mean(values) + half


# %% wrong interval 7 the population's deviation
def interval(values):
    import numpy as np
    from scipy import stats

    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values) / len(values) ** 0.5
    return np.mean(values) - half, np.mean(values) + half


# %% wrong interval 7 both slips
def interval(values):
    import numpy as np

    half = 1.96 * np.std(values) / len(values) ** 0.5
    return np.mean(values) - half, np.mean(values) + half


# %% wrong interval 8 the root of n forgotten
def interval(values):
    import numpy as np
    from scipy import stats

    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1)
    return np.mean(values) - half, np.mean(values) + half


# %% wrong interval 7 the quantile of one side
def interval(values):
    import numpy as np
    from scipy import stats

    half = stats.t.ppf(0.95, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return np.mean(values) - half, np.mean(values) + half


# %% wrong interval 4 a ready-made test
def interval(values):
    from scipy import stats

    found = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    return found.low, found.high


# %% wrong label 7 few seeds judged like many
def label(values):
    low, high = interval(values) if len(values) > 1 else (values[0], values[0])
    if low <= 0 <= high:
        return "within noise"
    return "supports" if v.side * low > 0 else "contradicts"


# %% wrong label 7 the claim turned round
def label(values):
    if len(values) < 5:
        return "too few seeds"
    low, high = interval(values)
    if low <= 0 <= high:
        return "within noise"
    return "contradicts" if v.side * low > 0 else "supports"


# %% [markdown] rubric
# ## The sentence (1 point)
#
# It names the method whose verdict changes, gives both half-widths in points, and says that "within noise" is the one to publish.
# Half a point if the method is right and a half-width is missing or miscalculated.
# No point for "the difference is not significant" without the comparison of the two ways to count.
