"""The exercises of notebook 07: several processes, one run."""

from __future__ import annotations

from ..exercises import Exercise

EXERCISES: tuple[Exercise, ...] = ()
