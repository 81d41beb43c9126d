"""The doctor: looks for faults in the runs of a suite that would make a plausible Dataset wrong."""

from dde.doctor.examination import CHECKS, examine

__all__ = ["CHECKS", "examine"]
