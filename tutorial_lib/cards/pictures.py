"""The exercises of notebook 06: more pixels, more channels, and where linear attention pays."""

from __future__ import annotations

from ..exercises import Exercise

EXERCISES: tuple[Exercise, ...] = ()
