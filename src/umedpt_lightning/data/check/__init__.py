"""Every sample of every task, looked at before a GPU is: problems, and what the data are like."""

from umedpt_lightning.data.check.problems import Problem
from umedpt_lightning.data.check.run import Report, check

__all__ = ["Problem", "Report", "check"]
