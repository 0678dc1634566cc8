"""One loop, free of methods: any observed model, any objective."""

from camlib.train.loop import NotFiniteError, Result, ResumeError, fit
from camlib.train.schedule import Schedule
