"""`flujo run`: runs the workflow in a file on an input, and prints what came of it."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from flujo.application.runner import Flujo
from flujo.cli.exit_codes import ExitCode, WrongUsageError
from flujo.cli.inputs import InputSource, read_text_file
from flujo.cli.loading import LoadedFile, load_file
from flujo.cli.origin import Origin
from flujo.cli.parameters import FreeText
from flujo.cli.reporting import report
from flujo.cli.running import run_stored
from flujo.cli.settings import apply_price_settings, flags_only, read_run_settings
from flujo.cli.stores import make_folder, new_store, resume_command
from flujo.cli.terminal import ResultStream
from flujo.cli.typed_values import fields_of, input_for
from flujo.domain.models import UsageLimits
from flujo.exceptions import ConfigurationError, PipelineContextInitializationError, SerializationError


def run(
    file: str,
    /,
    *,
    input: FreeText | None = None,
    input_file: FreeText | None = None,
    context_model: str | None = None,
    context_data: str | None = None,
    context_file: str | None = None,
    run_id: str | None = None,
    limit_usd: Annotated[FreeText, Parameter(metavar="USD")] | None = None,
    limit_tokens: Annotated[FreeText, Parameter(metavar="N")] | None = None,
    state_db: Annotated[FreeText, Parameter(metavar="PATH")] | None = None,
    no_state: bool = False,
    json: bool = False,
    stream: bool = False,
) -> ExitCode:
    """Run the workflow in a Python file.

    The output goes to stdout: a string as it is, anything else as JSON.
    Progress, a table of the steps and everything that the workflow itself prints go to stderr.

    Without `--input` and `--input-file`, the input is read from stdin if something is piped there.
    If the first step takes anything but a string, the input is JSON.

    The run is kept in a database, `.flujo/runs.db` by default, so that `flujo resume` goes on with it after a crash,
    Ctrl-C, a limit or a question; a run with the `--run-id` of one that completed gives its stored result.

    Limits and the database may also stand in the `[run]` table of a `flujo.toml` in this folder or one above it
    (`limit_usd`, `limit_tokens`, `state_db`), or in the environment (`FLUJO_LIMIT_USD`, `FLUJO_LIMIT_TOKENS`,
    `FLUJO_STATE_DB`); flags win over the environment, and the environment over the file.

    Exit codes: **0** success, **1** the run failed, **2** wrong usage, input or file, **3** a limit stopped it,
    **4** it waits for a person, **130** interrupted.

    Args:
        file: A Python file, or FILE:NAME for one of its variables. Without a name: `pipeline`, or the only pipeline
            or Flujo there is.
        input: The input itself.
        input_file: A file with the input, a folder of text files, or - for stdin.
        context_model: The pydantic model in the file that is the run's context.
        context_data: Fields of the context, as a JSON object.
        context_file: A file with the fields of the context, as a JSON object.
        run_id: The identity of the run; a fresh one by default. A stored run of that identity goes on.
        limit_usd: The most US dollars that the run may use.
        limit_tokens: The most tokens that the run may use.
        state_db: The database that keeps the run.
        no_state: Keep the run nowhere, unless the Flujo in the file has a store of its own.
        json: Print the whole result as one JSON document; show no progress and no table.
        stream: Print the chunks of a streaming last step as they come.
    """
    if json and stream:
        raise WrongUsageError("--json and --stream are both given; give one of them")
    if state_db is not None and no_state:
        raise WrongUsageError("--state-db and --no-state are both given; give one of them")
    source = InputSource(input, input_file)
    source.check()
    context = _context_fields(context_data, context_file)
    flags = {"limit_usd": limit_usd, "limit_tokens": limit_tokens, "state_db": state_db}
    settings = read_run_settings(flags)
    apply_price_settings(Path.cwd())
    results = ResultStream(sys.stdout)
    with redirect_stdout(sys.stderr):  # stdout is for results, so what the user's code prints goes where progress is
        loaded = load_file(file)
        runner = _runner(loaded, context_model, context, settings.usage_limits())
        has_own_store = runner.state_backend is not None and settings.state_db is None
        is_kept_here = not no_state and not has_own_store
        if is_kept_here:
            is_optional = settings.state_db is None
            origin = Origin.of(loaded, context_model, flags_only(flags), is_store_optional=is_optional)
            runner = origin.prepared(runner, new_store(settings))
        _check(runner)
        data = input_for(runner.pipeline.steps[0], source.read(is_quiet=json))
        if is_kept_here:
            make_folder(settings)
        identity = run_id or runner.new_identity()
        try:
            ended = run_stored(
                runner,
                identity,
                lambda watched: watched.run_async(data, run_id=identity),
                resume_command=resume_command(identity, file=file if has_own_store else None, state_db=state_db),
                is_quiet=json,
                write_chunk=results.write if stream else None,
            )
        except PipelineContextInitializationError as error:
            raise WrongUsageError(f"{error} (here: --context-data or --context-file)") from error
        except SerializationError as error:
            if runner.budgets:
                raise
            raise SerializationError(f"{error}; or keep nothing, with --no-state") from error
    return report(ended, runner.pipeline, results, is_json=json)


def _check(runner: Flujo[Any, Any]) -> None:
    """Check a runner, and that its budgets are kept somewhere."""
    if runner.budgets and runner.state_backend is None:
        raise ConfigurationError(
            f"budget {runner.budgets[0].name!r} is kept in a store, and --no-state keeps nothing; leave --no-state "
            "out, or give the Flujo in the file a state_backend of its own"
        )
    runner.check()


def _context_fields(text: str | None, file: str | None) -> dict[str, Any]:
    if text is not None and file is not None:
        raise WrongUsageError("--context-data and --context-file are both given; give one of them")
    if file is not None:
        return fields_of(read_text_file(Path(file)), file)
    return {} if text is None else fields_of(text, "--context-data")


def _runner(
    loaded: LoadedFile, context_model: str | None, context: dict[str, Any], limits: UsageLimits | None
) -> Flujo[Any, Any]:
    """Return the file's own runner, or one for its pipeline, with what the command line says on top."""
    model = None if context_model is None else loaded.context_model(context_model)
    return loaded.runner.with_settings(context_model=model, initial_context_data=context, usage_limits=limits)
