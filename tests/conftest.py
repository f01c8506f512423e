"""Under CI a skipped test is a failed one: what was not tried is not known to work.

`CI=true` says that everything a test may want has been installed. A skip remains a skip there only where no
installation could help: the hardware or the host's own rights are missing.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

EXCUSES = (
    "needs real hardware",
    "this root may not mount",  # a container that may not nest others
    "no tmpfs can be mounted here",
)

if os.environ.get("CI", "").lower() in ("1", "true"):

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.skipped and not hasattr(report, "wasxfail"):
            _fail_without_excuse(report)
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        report = yield
        if report.skipped:
            _fail_without_excuse(report)
        return report


def _fail_without_excuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(excuse in reason for excuse in EXCUSES):
        report.outcome = "failed"
        report.longrepr = f"skipped under CI: {reason.removeprefix('Skipped: ')}"
