"""Settings that nbval needs before the first kernel starts."""

import os

import pytest

os.environ.pop("MPLBACKEND", None)  # kernels inherit it, and "Agg" would swallow every figure


def pytest_configure(config):
    if hasattr(config.option, "nbval_sanitize_with"):  # nbval looks for it in the current directory: make it absolute
        config.option.nbval_sanitize_with = str(config.rootpath / "tests" / "nbval_sanitize.cfg")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A cell beyond its time limit fails, and so do all after it.

    nbval interrupts it, takes it for good if it ends politely, as our training does, and then expects failures.
    """
    report = yield
    if call.when == "call" and getattr(item.parent, "timed_out", False):
        report.outcome = "failed"
        vars(report).pop("wasxfail", None)
        report.longrepr = report.longrepr or "This cell, or one before it, was stopped at the time limit."
    return report
