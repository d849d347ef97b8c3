"""From rattler's explanation to a failure that says whose line is to blame, and what edit would do."""

from mlenv.core.redact import redact
from mlenv.errors import MlenvError
from mlenv.resolve.conda_channels import ChannelTable
from mlenv.resolve.conda_excluded import conflict, excluded
from mlenv.resolve.conda_explanation import CondaExplanation
from mlenv.resolve.conda_inquiry import Inquiry
from mlenv.resolve.conda_missing import missing
from mlenv.resolve.conda_process import CondaCrashed, CondaProcess, Refused
from mlenv.resolve.conda_request import Plan
from mlenv.resolve.conda_unreachable import unreachable
from mlenv.resolve.failures import InvalidRequirement, ResolutionFailed, VersionConflict


class Diagnosis:
    """
    Finds out why there was no solution, by reading what rattler says, asking channels, and trying edits.

    Args:
        process: Where it was tried, with the same channels.
        plan: What was tried.
        table: The settings' channels.
        offline: Whether channels could not be asked.
    """

    def __init__(self, process: CondaProcess, plan: Plan, table: ChannelTable, *, offline: bool) -> None:
        self._process, self._plan, self._table, self._offline = process, plan, table, offline

    def failure(self, refused: Refused) -> MlenvError:
        """The failure to raise for what rattler said. Raises `CondaTimeout`, `CondaCrashed`."""
        if refused.kind == "GatewayError":
            return unreachable(self._plan.channels, refused.text)
        if refused.kind != "SolverError":
            return self._unread(refused) or CondaCrashed(f"failed: {redact(refused.text)[:500]}", refused.kind)
        told = CondaExplanation(refused.text)
        detail = redact(told.detail)
        inquiry = Inquiry(self._process, self._plan, self._table, detail=detail, offline=self._offline)
        try:
            if found := _found(inquiry, told):
                return found
        except Refused as unanswered:
            if unanswered.kind == "GatewayError":
                return unreachable(self._plan.channels, unanswered.text)
        lines = [each.line for each in self._plan.asked if not each.seed]
        start = f"{lines[0]}: " if len(lines) == 1 else ""
        return VersionConflict(f"{start}these conda packages have no solution", lines=lines, detail=detail)

    def _unread(self, refused: Refused) -> MlenvError | None:
        """A line that rattler can't read, though it looked sound: each is tried alone."""
        if refused.kind != "InvalidMatchSpecError":
            return None
        for each in self._plan.asked:
            try:
                self._process.ask("spell", specs=[each.text])
            except Refused as error:
                return InvalidRequirement(each.line, redact(error.text.splitlines()[0])[:300])
        return None


def _found(inquiry: Inquiry, told: CondaExplanation) -> ResolutionFailed | None:
    """(1) What is not there, or not for this target; (2) what exclude each other; (3) what does not count."""
    for way in told.missing:
        if found := missing(inquiry, way):
            return found
    if told.clash is not None:
        return conflict(inquiry, *told.clash)
    return excluded(inquiry, told.excluded) if told.excluded else None
