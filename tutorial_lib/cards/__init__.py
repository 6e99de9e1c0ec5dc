"""The exercises of the series, as data: one module a notebook."""

from . import attention, noising, sampling, training

EXERCISES = {card.number: card for module in (attention, noising, training, sampling) for card in module.EXERCISES}
