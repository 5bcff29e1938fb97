"""How a study opens in MLflow's interface: columns, their order, and the charts that come first.

MLflow keeps a view that somebody shares as a tag of the experiment, and a link names it. The format
is that of MLflow 3.17, read in its interface; what a later one doesn't know it leaves out.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

from catdog_search.tracking import vocabulary as words

# MLflow opens in its mode for language models otherwise.
MODE = {"workflowType": "machine_learning"}
KEY = "catdog-search"
TAG = f"mlflow.sharedViewState.{KEY}"
# Of the value of an experiment's tag.
_LONGEST = 5000
# Metrics of each epoch, val's first.
_CURVES = ("val_accuracy", "val_loss", "val_auc", "accuracy", "loss", "learning_rate")
_SECTION = "epochs"


def fragment(experiment_id: str) -> str:
    """What opens a study's runs, behind the `#` of an address."""
    # Its order is the view's: an address that names one makes MLflow pass over the view.
    query = urllib.parse.urlencode({**MODE, "viewStateShareKey": KEY})
    return f"/experiments/{experiment_id}/runs?{query}"


def shared_view(metric: str, direction: str, searched: Sequence[str]) -> str:
    """The view of a study, as the tag `TAG` of its experiment holds it.

    Args:
        metric: Metric that trials are ranked by; its curve comes first.
        direction: `maximize` or `minimize`.
        searched: Params that differ between trials; those beyond what a tag holds are left out.
    """
    columns = [
        _column("tags", words.RANK),
        _metric(words.OBJECTIVE),
        _column("tags", words.TRIAL_STATE),
        _column("attributes", "Duration"),
        *(_column("params", name) for name in searched),
    ]
    while len(text := _state(metric, direction, columns)) > _LONGEST:
        columns.pop()
    return text


def _state(metric: str, direction: str, columns: Sequence[str]) -> str:
    state = {
        "orderByKey": _metric(words.OBJECTIVE),
        "orderByAsc": direction == "minimize",
        "selectedColumns": columns,
        "runsHiddenMode": "FIRST_20_RUNS",
        # Or sections are sorted by name.
        "isAccordionReordered": True,
        "compareRunSections": [_section()],
        "compareRunCharts": list(_charts(metric)),
    }
    return json.dumps(state, separators=(",", ":"))


def _section() -> dict[str, Any]:
    return {"uuid": _SECTION, "name": "Epochs", "display": True, "isReordered": True}


def _charts(metric: str) -> Iterator[dict[str, Any]]:
    for name in dict.fromkeys((metric, *_CURVES)):
        yield {
            "uuid": f"chart-{name}",
            "type": "LINE",
            "metricKey": name,
            "metricSectionId": _SECTION,
            "runsCountToCompare": 20,
            "deleted": False,
            "isGenerated": False,
            "lineSmoothness": 0,
            "xAxisKey": "step",
            "xAxisScaleType": "linear",
            "scaleType": "linear",
            "selectedXAxisMetricKey": "",
            "range": {},
            "yAxisKey": "metric",
            "yAxisExpressions": [],
            "ignoreOutliers": False,
            "useGlobalXaxisKey": True,
            "useGlobalLineSmoothing": True,
        }


def _metric(name: str) -> str:
    return _column("metrics", name)


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"
