"""What is sent to ask for a build."""

from typing import Annotated, Final

from pydantic import Field

from mlenv.api.wire import Wire
from mlenv.api.wire_records import LockOptionsBody
from mlenv.api.wire_spec import PlatformBody
from mlenv.core.layer import Compression

#: As `mlenv.service.builds` has it.
FIRST_PRIORITY: Final = 1
LAST_PRIORITY: Final = 100
DEFAULT_PRIORITY: Final = 50


class BuildBody(Wire):
    """Which image of a version is wanted, and how the version is locked if it is not yet."""

    platform: PlatformBody | None = Field(
        None, description="Left out, it is the first one that the version names, or else Linux on amd64."
    )
    compression: Annotated[Compression, Field(strict=False)] = Compression.GZIP
    options: LockOptionsBody | None = None
    priority: Annotated[int, Field(ge=FIRST_PRIORITY, le=LAST_PRIORITY)] = Field(
        DEFAULT_PRIORITY, description="Those with smaller numbers are built first."
    )
