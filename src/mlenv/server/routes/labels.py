"""Labels: movable pointers to versions, with their history."""

from typing import Annotated, Any

from fastapi import Request, Response

from mlenv.api import wire
from mlenv.core.access import Operation
from mlenv.core.reference import LATEST, LabelName, parse_label
from mlenv.core.refusals import LabelNotFound
from mlenv.server.door import opened
from mlenv.server.routes.bodies import Received, answer, answers, body_of, documented
from mlenv.server.routes.environments import reference_of
from mlenv.server.routes.paging import DEFAULT, CursorQuery, LimitQuery, page_by_number
from mlenv.server.routes.scoped import EnvironmentPath, LabelPath, scoped, under_both
from mlenv.service.services import Services

_inner = scoped()
Reading = Annotated[Services, opened(Operation.ENVIRONMENT_READ)]


@_inner.get("/environments/{name}/labels", responses=answers(wire.LabelPage, "One page"))
def list_labels(
    request: Request,
    name: EnvironmentPath,
    services: Reading,
    limit: LimitQuery = DEFAULT,
    cursor: CursorQuery = None,
) -> Response:
    """Labels of an environment by name, without the computed `latest`, each with its history."""
    reference = reference_of(name)
    labels = sorted(services.environments.environment(reference).labels)
    return page_by_number(
        request, limit, cursor, lambda size: labels[:size], lambda label: _document(services, name, label)
    )


@_inner.get("/environments/{name}/labels/{label}", responses=answers(wire.LabelAnswer, "The label"))
def show_label(name: EnvironmentPath, label: LabelPath, services: Reading) -> Response:
    """Where a label points, and pointed."""
    return answer(_document(services, name, parse_label(label)))


@_inner.put(
    "/environments/{name}/labels/{label}",
    responses=answers(wire.LabelAnswer, "The label"),
    openapi_extra=documented(wire.LabelBody),
)
def set_label(
    name: EnvironmentPath,
    label: LabelPath,
    services: Annotated[Services, opened(Operation.LABEL_SET)],
    target: Annotated[Received[wire.LabelBody], body_of(wire.LabelBody)],
) -> Response:
    """Point a label at a version."""
    checked = parse_label(label)
    services.environments.set_label(reference_of(name, target.value.version), checked)
    return answer(_document(services, name, checked))


def _document(services: Services, name: str, label: LabelName) -> dict[str, Any]:
    reference = reference_of(name)
    if label == LATEST:
        return {"label": label, "version": services.environments.newest(reference.name).version, "history": []}
    history = services.registry.label_history(reference.name, label)
    if not history:
        raise LabelNotFound(reference.name, label, services.environments.environment(reference).labels)
    return wire.label_document(label, history)


router = under_both(_inner, "labels")
