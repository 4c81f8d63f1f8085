"""The Grafana dashboard asks for metrics that there are, by labels that they have."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from aioapiqueue.integrations.prometheus import PrometheusObserver
from tests.helpers import introspect

METRICS = introspect.metrics()

DASHBOARD = json.loads((Path(__file__).parents[2] / "docs" / "grafana.json").read_text())
OBSERVING = (Path(__file__).parents[2] / "docs" / "observing.md").read_text()
QUERIES = [
    (panel["title"], target["expr"], target["legendFormat"])
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
]


def sample_names():
    """Return the name of each sample that is exported, and its labels."""
    found = {}
    labels = {f"aioapiqueue_{metric.name.replace('.', '_')}": ["queue", *metric.attributes]
              for metric in METRICS}  # fmt: skip
    for family in PrometheusObserver(CollectorRegistry()).describe():
        own = labels[family.name.removesuffix("_seconds")]
        endings = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
        for ending in endings[family.type]:
            found[family.name + ending] = {*own, "le"} if ending == "_bucket" else {*own}
    return found


@pytest.mark.parametrize(("title", "query", "legend"), QUERIES)
def test_queries_name_what_is_exported(title, query, legend):
    """Each metric in a query exists, and has the labels that it is chosen, summed and named by."""
    exported = sample_names()
    names = re.findall(r"aioapiqueue_\w+", query)
    assert names, title
    for name in names:
        assert name in exported, f"{title}: {name}"
        labels = set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", query))
        for group in re.findall(r"\b(?:by|without)\s*\(([^)]+)\)", query):
            labels |= set(group.split(", "))
        labels |= set(re.findall(r"\{\{(\w+)\}\}", legend))
        assert labels <= exported[name], f"{title}: {labels - exported[name]}"


@pytest.mark.parametrize(("title", "query", "legend"), QUERIES)
def test_queries_use_functions_as_meant(title, query, legend):
    """Rates are of counters or buckets, quantiles of buckets, and parentheses are closed."""
    assert query.count("(") == query.count(")"), title
    assert query.count("{") == query.count("}")
    for name in re.findall(r"(?:rate|increase)\((\w+)", query):
        assert name.endswith(("_total", "_bucket")), title
    for name in re.findall(r"deriv\((\w+)", query):
        assert name == "aioapiqueue_cost", title  # a sum that may fall
    if "histogram_quantile" in query:
        assert re.search(r"sum by \(le\b[^)]*\) \(rate\(\w+_bucket\{", query), title
    # Over the instances of a program, each of which exports all of a shared budget.
    assert ("max by" if "aioapiqueue_budget" in query else "sum") in query, title
    results = set(re.findall(r'result!?="(\w+)"', query))
    assert results <= {"released", "cancelled", "timed_out", "refused"}
    assert "[$__" in query or not re.search(r"\b(rate|increase|deriv)\(", query)
    assert legend


def test_variables_are_what_queries_use():
    """The queue is chosen from a metric that there is."""
    names = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"])))
    assert {one for one in used if not one.startswith("__")} == set(names)
    query = names["queue"]["query"]
    metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", query).groups()
    assert label in sample_names()[metric]


def test_each_metric_is_shown_or_documented():
    """Of each there is a row in the docs, and of most a panel."""
    queries = " ".join(query for _, query, _ in QUERIES)
    names = [f"aioapiqueue_{metric.name.replace('.', '_')}" for metric in METRICS]
    assert sum(name in queries for name in names) >= 14
    section = OBSERVING.partition("\n## Metrics\n")[2].partition("\n## ")[0]
    rows = " ".join(line for line in section.splitlines() if line.startswith(("- `", "  ")))
    for metric in METRICS:
        assert f"`{metric.name}`" in rows


def test_panels_do_not_overlap():
    """They fill a grid of 24 columns, each place once."""
    places = set()
    for panel in DASHBOARD["panels"]:
        grid = panel["gridPos"]
        own = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"])
               for y in range(grid["y"], grid["y"] + grid["h"])}  # fmt: skip
        assert not own & places, panel["title"]
        assert max(x for x, _ in own) < 24
        places |= own
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
