"""From a similarity to a probability of same origin, and to a bound for a false-positive rate.

`engine.calibration.collect` makes one of a collection; it needs pictures and a model.
"""

from engine.calibration.fitting import fit
from engine.calibration.leaving_out import left_out
from engine.calibration.model import Calibration

__all__ = ["Calibration", "fit", "left_out"]
