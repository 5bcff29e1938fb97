"""The view in which MLflow's interface opens a study."""

from __future__ import annotations

import json
from urllib.parse import parse_qs

import pytest

from catdog_search.tracking import shared_view as views


def test_view_shows_rank_value_state_time_and_what_is_searched_best_first() -> None:
    view = json.loads(views.shared_view("val_accuracy", "maximize", ["dropout", "filters"]))
    assert view["orderByKey"] == "metrics.`objective`"
    assert view["orderByAsc"] is False
    assert view["selectedColumns"] == [
        "tags.`rank`",
        "metrics.`objective`",
        "tags.`trial_state`",
        "attributes.`Duration`",
        "params.`dropout`",
        "params.`filters`",
    ]


def test_curve_of_the_metric_that_ranks_comes_first_and_once() -> None:
    view = json.loads(views.shared_view("val_loss", "minimize", []))
    metrics = [chart["metricKey"] for chart in view["compareRunCharts"]]
    assert metrics[:2] == ["val_loss", "val_accuracy"]
    assert len(set(metrics)) == len(metrics)
    assert view["orderByAsc"] is True


@pytest.mark.parametrize("count", [0, 30, 400])
def test_view_fits_the_tag_that_holds_it(count: int) -> None:
    text = views.shared_view("val_accuracy", "maximize", [f"param_{n:020d}" for n in range(count)])
    assert len(text) <= 5000
    assert json.loads(text)["selectedColumns"][1] == "metrics.`objective`"


def test_address_names_the_view_and_no_order_which_would_hide_it() -> None:
    path, _, query = views.fragment("7").partition("?")
    assert path == "/experiments/7/runs"
    assert parse_qs(query) == {
        "workflowType": ["machine_learning"],
        "viewStateShareKey": [views.TAG.rpartition(".")[2]],
    }
