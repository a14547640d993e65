"""The metrics that a server exports, and the metrics that a query uses."""

import re

import promql_parser
from promql_parser import AggModifierType, AggregateExpr, BinaryExpr, VectorSelector

# Added by Prometheus itself: the result of each scrape, and the source of each series.
PROMETHEUS_METRICS = {"up": set()}
ADDED_LABELS = {"job", "instance"}

# Values for Grafana's variables.
_VARIABLES = {"$__rate_interval": "1m", "$job": "toggled", "$instance": ".*"}


def exported(text: str) -> dict[str, set[str]]:
    """The labels of each metric in the text format. A histogram counts as three metrics."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, labels = re.match(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ", line).groups()
            found.setdefault(name, set()).update(re.findall(r'(\w+)="(?:[^"\\]|\\.)*"', labels or ""))
    return found


def queried(expression: str) -> tuple[dict[str, set[str]], set[str]]:
    """The metrics of a query with the labels that select them, and the labels that it groups by."""
    for variable, value in _VARIABLES.items():
        expression = expression.replace(variable, value)
    metrics: dict[str, set[str]] = {}
    labels: set[str] = set()

    def visit(node):
        if isinstance(node, VectorSelector):
            metrics.setdefault(node.name, set()).update(matcher.name for matcher in node.matchers.matchers)
        if isinstance(node, AggregateExpr) and node.modifier and node.modifier.type == AggModifierType.By:
            labels.update(node.modifier.labels)
        if isinstance(node, BinaryExpr) and node.modifier and node.modifier.matching:
            labels.update(node.modifier.matching.labels)

    promql_parser.walk(promql_parser.parse(expression), visit)
    assert metrics, f"the query has no metric: {expression}"
    return metrics, labels


def unknown(expression: str, known: dict[str, set[str]]) -> list[str]:
    """Metrics and labels that a query uses and that are not exported."""
    known = {**known, **PROMETHEUS_METRICS}
    metrics, grouped = queried(expression)
    missing = [name for name in metrics if name not in known]
    for name, labels in metrics.items():
        missing += [f"{name}{{{label}}}" for label in labels - known.get(name, labels) - ADDED_LABELS]
    there = set().union(ADDED_LABELS, *(known.get(name, grouped) for name in metrics))
    return missing + [f"by {label}" for label in grouped - there]
