"""`--query`: JMESPath over what would be printed."""

from typing import Any

from mlenv.cli.command import UsageError


class InvalidQuery(UsageError):
    """The expression is not JMESPath, or does not fit the data."""

    def __init__(self, expression: str, why: str) -> None:
        super().__init__(f"--query {expression!r}: {why}", "see jmespath.org for its grammar")
        self.expression = expression


class Query:
    """A JMESPath expression. Raises `InvalidQuery` if it is none."""

    def __init__(self, expression: str) -> None:
        from jmespath import compile
        from jmespath.exceptions import JMESPathError

        self._expression = expression
        try:
            self._compiled = compile(expression)
        except JMESPathError as error:
            raise InvalidQuery(expression, " ".join(str(error).split())) from error

    def search(self, document: Any) -> Any:
        """What the expression finds; None if nothing. Raises `InvalidQuery` where a function gets a wrong type."""
        from jmespath.exceptions import JMESPathError

        try:
            return self._compiled.search(document)
        except JMESPathError as error:
            raise InvalidQuery(self._expression, " ".join(str(error).split())) from error
