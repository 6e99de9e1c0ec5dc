"""The exercises of the series, as data: one module a notebook."""

from . import attention, guidance, noising, pictures, sampling, scaling, training

MODULES = (attention, noising, training, sampling, guidance, pictures, scaling)  # in the order of the notebooks
EXERCISES = {card.number: card for module in MODULES for card in module.EXERCISES}
