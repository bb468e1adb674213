"""Where a run comes from: the file, the variable and the flags it was started with, stored with the run.

So `flujo resume RUN` needs no more than the run, and a limit that was given as a flag still holds.
"""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from flujo.application.runner import Flujo
from flujo.cli.exit_codes import WrongUsageError
from flujo.cli.loading import LoadedFile
from flujo.cli.settings import RunSettings
from flujo.cli.stores import resume_command, shown_path
from flujo.state.backend import StateBackend
from flujo.state.records import RunRecord
from flujo.utils.narrowing import is_dict


class Origin(BaseModel):
    """Where a run comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Path
    """The file of the workflow, whole."""
    name: str | None = None
    """The variable that was named; `None` if the file was to choose."""
    context_model: str | None = None
    """The context model that was named."""
    limit_usd: Decimal | None = None
    """The limit that was given as a flag."""
    limit_tokens: int | None = None
    """The limit that was given as a flag."""
    is_store_optional: bool = False
    """Whether nobody has asked for the store, so that a value that cannot be stored is no error."""

    @classmethod
    def of(cls, loaded: LoadedFile, context_model: str | None, flags: RunSettings, *, is_store_optional: bool) -> Self:
        """Return where a run of a file comes from."""
        return cls(
            is_store_optional=is_store_optional,
            file=loaded.path.resolve(),
            name=loaded.name,
            context_model=context_model,
            limit_usd=flags.limit_usd,
            limit_tokens=flags.limit_tokens,
        )

    @classmethod
    def read(cls, record: RunRecord) -> Self | None:
        """Return where a stored run comes from; `None` if it was not started by the command line."""
        try:
            start: object = json.loads(record.start)
            return cls.model_validate(start["origin"]) if is_dict(start) and "origin" in start else None
        except (ValueError, ValidationError):  # what is damaged is found when the run is opened
            return None

    @property
    def limit_flags(self) -> dict[str, str]:
        """The limits that were given as flags."""
        given = {"limit_usd": self.limit_usd, "limit_tokens": self.limit_tokens}
        return {name: str(limit) for name, limit in given.items() if limit is not None}

    def target(self, run_id: str) -> str:
        """Return the file and the variable, as a command takes them.

        Raises:
            WrongUsageError: The file is gone.
        """
        file = str(shown_path(self.file))
        if not self.file.is_file():
            raise WrongUsageError(
                f"the file of run {run_id!r} is gone: {file}; name where the workflow is now, as in "
                f"{resume_command(run_id, file='FILE:NAME')}"
            )
        return file if self.name is None else f"{file}:{self.name}"

    def prepared(self, runner: Flujo[Any, Any], store: StateBackend | None) -> Flujo[Any, Any]:
        """Return a runner that keeps its runs in a store, if there is one, and says that they come from here."""
        origin = self.model_dump(mode="json", exclude_none=True)
        return runner.with_settings(state_backend=store, origin=origin, is_store_optional=self.is_store_optional)
