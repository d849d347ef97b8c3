"""Jobs in Azure's words: what a client sends becomes a `JobRequest`, and a `Job` what it is answered."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from mlenv.core.jobs import Job, JobRequest, JobStatus
from mlenv.core.reference import Reference
from mlenv.errors import InvalidInput

#: ISO 8601 durations of days and less, which is what clients send as limits.
_DURATION: Final = re.compile(
    r"P(?:(?P<days>\d{1,4})D)?(?:T(?:(?P<hours>\d{1,6})H)?(?:(?P<minutes>\d{1,7})M)?(?:(?P<seconds>\d{1,8}(?:\.\d+)?)S)?)?"
)
_CODE: Final = re.compile(r"(?:.*/codes/(?P<name>[^/]+)/versions/(?P<version>[^/]+)|(?P<short>[^/:]+):(?P<of>[^/:]+))")
#: Properties of a job that the server alone decides.
_OWN: Final = frozenset({"status", "services", "startTime", "endTime", "error"})


class UnusableJob(InvalidInput):
    """A job that can't be run here, or makes no sense."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}")
        self.where = where


def to_request(name: str, properties: Mapping[str, Any], *, requested_by: str) -> tuple[JobRequest, Reference, bool]:
    """
    A job as a client sends it: what it does, which environment it needs, and whether it is archived.

    Raises:
        UnusableJob: It is of another kind than `Command`, or asks for what is not done here.
        InvalidReference, InvalidName: The environment's id is none.
    """
    kind = properties.get("jobType")
    if kind != "Command":
        known = "missing" if kind is None else repr(kind)[:100]
        raise UnusableJob("properties.jobType", f"only command jobs can be run here, and this is {known}")
    _refuse_what_is_not_done(properties)
    environment = Reference.parse(_text(properties, "environmentId", needed=True) or "")
    request = JobRequest(
        name=name,
        command=_text(properties, "command", needed=True) or "",
        environment="",
        namespace="",
        code=_code(_text(properties, "codeId")),
        inputs=_inputs(_mapping(properties, "inputs")),
        outputs=_outputs(_mapping(properties, "outputs")),
        variables=_texts(properties, "environmentVariables"),
        timeout=_timeout(_mapping(properties, "limits")),
        experiment=_text(properties, "experimentName") or "Default",
        display_name=_text(properties, "displayName"),
        description=_text(properties, "description"),
        tags=_texts(properties, "tags"),
        properties=_texts(properties, "properties"),
        sent={key: value for key, value in properties.items() if key not in _OWN and value is not None},
        requested_by=requested_by,
    )
    return request, environment, _archived(properties)


def to_document(job: Job, *, id: str, studio: str) -> dict[str, Any]:
    """
    A job as its client is answered.

    Args:
        id: The job's ARM id.
        studio: Where people can look at it.
    """
    request = job.request
    # `outputs.default` would have the client read logs from a storage account.
    outputs = {key: value for key, value in (request.sent.get("outputs") or {}).items() if key != "default"}
    properties: dict[str, Any] = {
        **request.sent,
        "jobType": "Command",
        "status": job.status.value,
        "experimentName": request.experiment,
        "displayName": request.display_name or job.name,
        "description": request.description,
        "tags": dict(request.tags),
        "properties": dict(request.properties),
        "inputs": request.sent.get("inputs") or {},
        "outputs": outputs,
        "environmentVariables": dict(request.variables),
        "isArchived": job.archived,
        "services": {"Studio": {"jobServiceType": "Studio", "endpoint": studio}},
    }
    return {
        "id": id,
        "name": job.name,
        "type": "Microsoft.MachineLearningServices/workspaces/jobs",
        "properties": properties,
        "systemData": system_data(job.created_at, job.modified_at, request.requested_by),
    }


def to_run(job: Job) -> dict[str, Any]:
    """A job as the run history has it."""
    return {
        "runId": job.name,
        "rootRunId": job.name,
        "experimentName": job.request.experiment,
        "displayName": job.request.display_name or job.name,
        "description": job.request.description,
        "status": job.status.value,
        "createdUtc": job.created_at.isoformat(),
        "startTimeUtc": _time(job.run.started_at),
        "endTimeUtc": _time(job.run.ended_at),
        "hidden": job.archived,
        "tags": dict(job.request.tags),
        "properties": dict(job.request.properties),
        "runType": "azureml.scriptrun",
    }


def to_details(job: Job, *, log: str) -> dict[str, Any]:
    """
    What `stream` looks at again and again.

    Args:
        log: Where the log can be read, without a token.
    """
    details: dict[str, Any] = {
        "runId": job.name,
        "target": "local",
        "status": job.status.value,
        "startTimeUtc": _time(job.run.started_at),
        "endTimeUtc": _time(job.run.ended_at),
        "properties": dict(job.request.properties),
        "warnings": [],
        # Before anything is written there is nothing to read.
        "logFiles": {} if job.run.started_at is None else {"user_logs/std_log.txt": log},
    }
    if job.status is JobStatus.FAILED:
        message = job.run.error or "the job failed; see its log"
        details["error"] = {"error": {"code": "UserError", "message": message}}
    return details


def system_data(created: datetime, modified: datetime, who: str = "") -> dict[str, Any]:
    """Azure's `systemData`. Both times have a zone."""
    return {
        "createdAt": created.isoformat(),
        "createdBy": who,
        "createdByType": "User",
        "lastModifiedAt": modified.isoformat(),
        "lastModifiedBy": who,
        "lastModifiedByType": "User",
    }


def _refuse_what_is_not_done(properties: Mapping[str, Any]) -> None:
    if properties.get("distribution"):
        raise UnusableJob("properties.distribution", "jobs run on one machine here, in one process")
    instances = _mapping(properties, "resources").get("instanceCount")
    if instances not in {None, 0, 1}:
        raise UnusableJob("properties.resources.instanceCount", f"jobs run on one machine here, not on {instances!r}")


def _inputs(inputs: Mapping[str, Any]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name, given in inputs.items():
        where = f"properties.inputs.{name[:100]}"
        if given is None:
            found[name] = None
            continue
        if not isinstance(given, dict):
            raise UnusableJob(where, "it is no object")
        kind = given.get("jobInputType")
        if str(kind).lower() != "literal":
            raise UnusableJob(where, f"only literal inputs can be used here, and this is {str(kind)[:40]!r}")
        value = given.get("value")
        if value is not None and not isinstance(value, str | int | float):
            raise UnusableJob(where, "its value is neither text nor a number")
        found[name] = None if value is None else str(value)
    return found


def _outputs(outputs: Mapping[str, Any]) -> tuple[str, ...]:
    names = []
    for name, given in outputs.items():
        where = f"properties.outputs.{name[:100]}"
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", name):
            raise UnusableJob(where, "the name of an output has letters, digits and `_` only")
        if isinstance(given, dict) and given.get("uri") and name != "default":
            raise UnusableJob(where, "outputs are kept by the server here; leave the path out")
        names.append(name)
    return tuple(names)


def _timeout(limits: Mapping[str, Any]) -> float | None:
    text = limits.get("timeout")
    if text is None:
        return None
    match = _DURATION.fullmatch(text) if isinstance(text, str) and text not in {"P", "PT"} else None
    if match is None:
        raise UnusableJob(
            "properties.limits.timeout", f"not a duration of days, hours, minutes or seconds: {text!r:.100}"
        )
    days, hours, minutes, seconds = (float(part or 0) for part in match.group("days", "hours", "minutes", "seconds"))
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if total <= 0:
        raise UnusableJob("properties.limits.timeout", "it is no time at all")
    return total


def _code(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    match = _CODE.fullmatch(text.removeprefix("azureml:"))
    if match is None:
        raise UnusableJob("properties.codeId", f"not the id of a code asset: {text[:200]!r}")
    return (match["name"], match["version"]) if match["name"] else (match["short"], match["of"])


def _archived(properties: Mapping[str, Any]) -> bool:
    archived = properties.get("isArchived")
    if archived is not None and not isinstance(archived, bool):
        raise UnusableJob("properties.isArchived", "it is neither true nor false")
    return bool(archived)


def _text(properties: Mapping[str, Any], key: str, *, needed: bool = False) -> str | None:
    value = properties.get(key)
    if value is None and not needed:
        return None
    if not isinstance(value, str):
        raise UnusableJob(f"properties.{key}", "it is missing" if value is None else "it is not text")
    return value or None


def _mapping(properties: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = properties.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UnusableJob(f"properties.{key}", "it is no object")
    return value


def _texts(properties: Mapping[str, Any], key: str) -> dict[str, str]:
    """Text by text. Numbers and null become text, as clients send some of them."""
    found = {}
    for name, value in _mapping(properties, key).items():
        if isinstance(value, dict | list):
            raise UnusableJob(f"properties.{key}.{name[:100]}", "it is not text")
        found[name] = "" if value is None else str(value)
    return found


def _time(time: datetime | None) -> str | None:
    return time.isoformat() if time else None
