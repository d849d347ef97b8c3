"""`mlenv registry create|list|show|update`: a server's registries."""

from mlenv.cli.workspace import update_verb, verbs
from mlenv.core.scope import ScopeKind

create, list_all, show = verbs(ScopeKind.REGISTRY)
update = update_verb(ScopeKind.REGISTRY)
