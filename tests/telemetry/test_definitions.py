"""The definitions of metrics: complete, well named, and the same as what is exposed and what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from curtaild.grid.broker_link import BrokerState
from curtaild.telemetry import metrics
from curtaild.telemetry.metrics import METRICS, Kind, Metric
from curtaild.telemetry.reference import STATUS_KEYS, page
from curtaild.telemetry.status_json import link_json, to_json
from telemetry.exposed import exposed
from telemetry.sites import THE_STATUS, at_work

ROOT = Path(__file__).parents[2]


def test_every_definition_is_in_a_section_and_has_a_name_of_its_own() -> None:
    defined = [value for value in vars(metrics).values() if isinstance(value, Metric)]
    assert set(defined) == set(METRICS)
    assert len({metric.name for metric in METRICS}) == len(METRICS)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_carry_prefix_unit_and_type_and_the_help_is_plain(metric: Metric) -> None:
    assert re.fullmatch(r"curtaild_[a-z]+(_[a-z]+)*", metric.name)
    assert metric.name.endswith("_total") is (metric.kind is Kind.COUNTER)
    assert bool(metric.buckets) is (metric.kind is Kind.HISTOGRAM)
    assert metric.help.endswith(".")
    # Our own lines write the help unescaped, and in OpenMetrics a quote would have to be escaped.
    assert not set(metric.help) & {"\\", "\n", '"', "|"}


def test_all_that_is_defined_is_exposed_and_all_that_is_exposed_is_defined() -> None:
    families = {family.name: family for family in exposed(at_work()).families if family.name.startswith("curtaild_")}
    parsed = {metric.name.removesuffix("_total"): metric for metric in METRICS}
    assert families.keys() == parsed.keys()
    for name, family in families.items():
        metric = parsed[name]
        assert (family.type, family.documentation) == (metric.kind.value, metric.help)
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert labels == set(metric.labels), f"{name} has no sample or other labels"


def test_the_committed_page_is_the_generated_one() -> None:
    assert (ROOT / "docs/metrics.md").read_text() == page(), (
        "run `python -m curtaild.telemetry.reference > docs/metrics.md`"
    )


def test_the_page_names_every_key_of_the_status() -> None:
    link = BrokerState("native", "mqtt://127.0.0.1:1883", True, 0.0, 0, 0, {}, 0, None, True)
    status = to_json(THE_STATUS, links=[link_json(link, 1.0)])
    parts = (status, *(status[key][0] for key in ("links", "feeders", "devices")))
    for (_, keys), body in zip(STATUS_KEYS, parts, strict=True):
        assert [key for key, _ in keys] == list(body)
