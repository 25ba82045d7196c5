"""Kinds of drift, by what is to be done about them."""

from typing import Literal

#: `input`: texts are unlike those before, which may or may not matter. `label mix`: labels are as frequent as they were
#: not. `concept`: errors rise where texts did not move.
Kind = Literal["input", "label mix", "concept"]

#: What an alarm calls the evidence that is no configured detector's, and the signal that it watches.
CONFORMAL, EVERYTHING = "conformal", "all"
