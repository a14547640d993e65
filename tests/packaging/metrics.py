"""What a server tells Prometheus, and what of it a query asks for."""

import re

import promql_parser
from promql_parser import AggModifierType, AggregateExpr, BinaryExpr, VectorSelector

# What Prometheus itself adds: whether a scrape worked, and where each series comes from.
OF_PROMETHEUS = {"up": set()}
ADDED_LABELS = {"job", "instance"}

# What Grafana puts in the place of its variables.
_VARIABLES = {"$__rate_interval": "1m", "$job": "toggled", "$instance": ".*"}


def exported(text: str) -> dict[str, set[str]]:
    """The metrics of an exposition, by name, and the labels that each has. A histogram is its three series."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, labels = re.match(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ", line).groups()
            found.setdefault(name, set()).update(re.findall(r'(\w+)="(?:[^"\\]|\\.)*"', labels or ""))
    return found


def asked(expression: str) -> tuple[dict[str, set[str]], set[str]]:
    """The metrics that a query names with the labels that it selects each by, and the labels that it groups by."""
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
    assert metrics, f"it asks for nothing: {expression}"
    return metrics, labels


def unknown(expression: str, known: dict[str, set[str]]) -> list[str]:
    """What a query asks for and nobody tells: a metric, a label of one, or a label of none."""
    known = {**known, **OF_PROMETHEUS}
    metrics, grouped = asked(expression)
    missing = [name for name in metrics if name not in known]
    for name, labels in metrics.items():
        missing += [f"{name}{{{label}}}" for label in labels - known.get(name, labels) - ADDED_LABELS]
    there = set().union(ADDED_LABELS, *(known.get(name, grouped) for name in metrics))
    return missing + [f"by {label}" for label in grouped - there]
