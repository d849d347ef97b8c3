"""`mlenv registry create|list|show`: a server's registries."""

from mlenv.cli.workspace import verbs
from mlenv.core.scope import ScopeKind

create, list_all, show = verbs(ScopeKind.REGISTRY)
