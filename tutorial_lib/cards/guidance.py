"""The exercises of notebook 05: guidance, solvers at equal cost, editing."""

from __future__ import annotations

from ..exercises import Exercise

EXERCISES: tuple[Exercise, ...] = ()
