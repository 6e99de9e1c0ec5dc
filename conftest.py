"""Settings that nbval needs before the first kernel starts."""

import os

os.environ.pop("MPLBACKEND", None)  # kernels inherit it, and "Agg" would swallow every figure


def pytest_configure(config):
    if hasattr(config.option, "nbval_sanitize_with"):  # nbval looks for it in the current directory: make it absolute
        config.option.nbval_sanitize_with = str(config.rootpath / "tests" / "nbval_sanitize.cfg")
