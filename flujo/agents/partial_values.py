"""Values of structured answers while they come.

Imported only once an agent of pydantic-ai is run, because pydantic-ai takes a second to import.
"""

import logging
from collections.abc import AsyncIterator
from typing import Any

from pydantic import ValidationError
from pydantic_ai.exceptions import ModelRetry, ToolRetryError, UnexpectedModelBehavior
from pydantic_ai.result import AgentStream

_log = logging.getLogger("flujo.agents")

_NOT_YET = (ValidationError, ModelRetry, ToolRetryError, UnexpectedModelBehavior)
"""What validation raises while too little of a value has come, or if a model calls a tool first."""


async def partial_values(answer: AgentStream[Any, Any]) -> AsyncIterator[Any]:
    """Yield the value of an answer as far as it has come, whenever it has changed.

    Whether the whole answer is valid is left to the agent, which asks the model again if it is not.
    """
    seen: Any = None
    async for response in answer.stream_response(debounce_by=None):
        try:
            value = await answer.validate_response_output(response, allow_partial=True)
        except _NOT_YET as error:
            _log.debug("too little of a value has come yet: %s", type(error).__name__)
            continue
        if value != seen:
            seen = value
            yield value
