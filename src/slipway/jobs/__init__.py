"""Long work: resumable pipelines, and services that run in the background."""

from slipway.jobs.pipeline import Pipeline, Stage, StageRecord
from slipway.jobs.services import (
    Service,
    running_service,
    service_status,
    start_service,
    stop_service,
)

__all__ = [
    "Pipeline",
    "Service",
    "Stage",
    "StageRecord",
    "running_service",
    "service_status",
    "start_service",
    "stop_service",
]
