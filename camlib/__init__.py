"""Training image classifiers where to look: CAM-loss, ICASC and CC-Loss, taught and reproduced."""

from camlib import data, losses, maps, measure, models
from camlib.measure import evaluate
from camlib.objective import Objective, State, after_accuracy, step_at
from camlib.observe import NotObservable, Observed, Output, observe
from camlib.target import one_hot
from camlib.train import Result, Schedule, fit
