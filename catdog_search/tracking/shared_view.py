"""How a study opens in MLflow's interface: columns, their order, and the charts that come first.

MLflow keeps a shared view as a tag of the experiment, which a link names. The format is that of
MLflow 3.17, read from the source of its interface; a later version ignores what it doesn't know.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

from catdog_search.tracking import vocabulary as words

# Otherwise MLflow opens in its mode for language models.
MODE = {"workflowType": "machine_learning"}
KEY = "catdog-search"
TAG = f"mlflow.sharedViewState.{KEY}"
# Maximum length of the value of an experiment's tag.
_LONGEST = 5000
# Metrics of each epoch, those of val first.
_CURVES = ("val_accuracy", "val_loss", "val_auc", "accuracy", "loss", "learning_rate")
_SECTION = "epochs"


def fragment(experiment_id: str) -> str:
    """Fragment of a URL, after the `#`, that opens a study's runs."""
    # The view sets the order: if the URL sets one, MLflow ignores the view.
    query = urllib.parse.urlencode({**MODE, "viewStateShareKey": KEY})
    return f"/experiments/{experiment_id}/runs?{query}"


def shared_view(metric: str, direction: str, searched: Sequence[str]) -> str:
    """The view of a study, as the tag `TAG` of its experiment holds it.

    Args:
        metric: Metric that trials are ranked by; its curve comes first.
        direction: `maximize` or `minimize`.
        searched: Params that differ between trials; those that don't fit into a tag are left out.
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
        # Otherwise sections are sorted by name.
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
