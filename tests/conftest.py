"""Two workers for each core, each in a network of its own. Properties are tried on the same examples by everybody, in
their own time; `--hypothesis-profile=default` looks for others. And under CI a skipped test is a failed one: what was
not tried is not known to work.

`CI=true` says that everything a test may want has been installed. A skip remains a skip there only where no
installation could help: the hardware or the host's own rights are missing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest
from hypothesis import settings

from network_of_its_own import can_have_one, enter_one

EXCUSES = (
    "needs real hardware",
    "this root may not mount",  # a container that may not nest others
    "no tmpfs can be mounted here",
)

settings.load_profile("ci")  # Hypothesis's own: no chance, no deadline

LONGEST_FIRST = (
    "tests/site/test_hostile_devices.py",
    "tests/demo/test_demo.py",
    "tests/core/test_invariants.py",
    "tests/site/",
    "tests/systemd/",
    "tests/grid/",
    "tests/openadr/",
)
"""So that no worker begins a long file when the others are done."""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Emulated miners take fixed ports on 127.x addresses: where workers cannot be kept apart there is only one. A real
    device is in the host's own network."""
    is_real = config.getoption("--device", default=None) is not None
    return 0 if is_real or not can_have_one() else min(4, 2 * (os.cpu_count() or 1))  # half of them wait for something


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)  # programs started here are to heed Ctrl-C
    if hasattr(config, "workerinput"):
        enter_one()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((n for n, path in enumerate(LONGEST_FIRST) if item.nodeid.startswith(path)), len(LONGEST_FIRST))

    items.sort(key=place)


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
