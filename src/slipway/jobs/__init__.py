"""Long work: runs with their index and queue, resumable pipelines, background services."""

from slipway.jobs.compare import Comparison, compare
from slipway.jobs.control import ask_to_stop, queue_again
from slipway.jobs.details import Details, details
from slipway.jobs.follow import events_after
from slipway.jobs.pipeline import Pipeline, Stage, StageRecord
from slipway.jobs.queue import Queue, QueueItem
from slipway.jobs.runs import Heir, Run, Runs, registering
from slipway.jobs.services import (
    Service,
    running_service,
    service_status,
    start_service,
    stop_service,
)
from slipway.jobs.states import RunState
from slipway.jobs.summary import RunSummary

__all__ = [
    "Comparison",
    "Details",
    "Heir",
    "Pipeline",
    "Queue",
    "QueueItem",
    "Run",
    "RunState",
    "RunSummary",
    "Runs",
    "Service",
    "Stage",
    "StageRecord",
    "ask_to_stop",
    "compare",
    "details",
    "events_after",
    "queue_again",
    "registering",
    "running_service",
    "service_status",
    "start_service",
    "stop_service",
]
