"""Logging that goes on where it was broken off: what MLflow has already, and what is half there."""

from collections.abc import Collection

from reports.experiment import Experiment
from reports.run_content import Series
from reports.tracking import ERROR_TAG


def unsent(
    experiment: Experiment, run_id: str, series: Series
) -> dict[str, list[tuple[int, float]]]:
    """Returns the points that the run has not: a point sent twice would be drawn twice."""
    history = experiment.client.get_metric_history
    there = {name: {point.step for point in history(run_id, name)} for name in series}
    return {
        name: [(step, value) for step, value in held if step not in there[name]]
        for name, held in series.items()
    }


def take_back(experiment: Experiment, run_id: str) -> None:
    """Takes the reason of a failure off a run that is finished after all."""
    if ERROR_TAG in experiment.client.get_run(run_id).data.tags:
        experiment.client.delete_tag(run_id, ERROR_TAG)


def drop_half_written(experiment: Experiment, sweep_id: str, whole: Collection[str]) -> int:
    """Returns how many children of the sweep it deleted: those that are not known to be whole.

    Views average over what they find, so half a run beside its repetition would count twice.

    Args:
        experiment: Where they are.
        sweep_id: The parent run.
        whole: Ids of the children to keep.
    """
    mine = f"tags.`mlflow.parentRunId` = '{sweep_id}'"
    dropped = 0
    while True:
        found = experiment.client.search_runs([experiment.id], mine, max_results=1000)
        half = [run.info.run_id for run in found if run.info.run_id not in whole]
        for run_id in half:
            experiment.client.delete_run(run_id)
        dropped += len(half)
        if not half or len(found) < 1000:
            return dropped
