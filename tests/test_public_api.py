"""What users import from `flujo` is there, sorted, described and typed."""

import importlib.metadata
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import flujo

_VOCABULARY = {
    "steps": """
        Step StepConfig step adapter_step Pipeline ValidationReport MergeStrategy BranchFailureStrategy
        RefinementCheck
    """,
    "judging": """
        AgentProcessors ValidationPlugin PluginOutcome Validator ValidationResult BaseValidator validator
    """,
    "context and resources": "PipelineContext HumanInteraction AppResources",
    "running": """
        Flujo PipelineResult StepResult Waiting UsageLimits UsageLimitExceededError
    """,
    "hooks": """
        PreRunPayload PostRunPayload PreStepPayload PostStepPayload OnStepFailurePayload OnPausePayload
    """,
    "caches": "ICacheBackend InMemoryCache",
    "errors": """
        FlujoError ConfigurationError SettingsError MissingAgentError TypeMismatchError ContextInheritanceError
        PipelineContextInitializationError InfiniteRedirectError InfiniteFallbackError ImproperStepInvocationError
        PausedException PipelineAbortSignal NonRetryableError StateError AnswerRejectedError SerializationError
    """,
    "the core": "ExecutionFrame ExecutorCore StepExecutor",
    "testing tools": """
        StubAgent DummyPlugin FailingStreamAgent gather_result override_agent assert_pipeline_result
        assert_context_updated assert_validator_failed ManualClock FailingCache
    """,
}
_NAMES = [name for names in _VOCABULARY.values() for name in names.split()]


@pytest.mark.parametrize("name", _NAMES)
def test_the_vocabulary_is_importable_from_flujo(name: str) -> None:
    """Every name that users know is exported."""
    assert hasattr(flujo, name)
    assert name in flujo.__all__


def test_exports_are_sorted_and_there() -> None:
    """`__all__` is sorted as a reader looks for a name, has nothing twice, and nothing that is not there."""
    assert flujo.__all__ == sorted(set(flujo.__all__))
    assert all(hasattr(flujo, name) for name in flujo.__all__)


def test_a_star_import_gives_the_exports() -> None:
    """`from flujo import *` gives what is exported, and nothing else."""
    namespace: dict[str, object] = {}

    exec("from flujo import *", namespace)

    assert set(namespace) - {"__builtins__"} == set(flujo.__all__)


@pytest.mark.parametrize("name", flujo.__all__)
def test_every_export_is_described(name: str) -> None:
    """A class or function says in one sentence what it is, in words of its own."""
    value = getattr(flujo, name)
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return
    first_line = (inspect.getdoc(value) or "").partition("\n")[0]

    assert first_line.rstrip().endswith((".", "?"))
    assert not first_line.startswith(f"{name}(")


def _undescribed(value: type) -> list[str]:
    return [
        name
        for name, member in vars(value).items()
        if not name.startswith("_")
        and (inspect.isroutine(member) or isinstance(member, property | classmethod | staticmethod))
        and not inspect.getdoc(getattr(value, name))
    ]


@pytest.mark.parametrize("name", [name for name in flujo.__all__ if inspect.isclass(getattr(flujo, name))])
def test_every_public_method_is_described(name: str) -> None:
    """`help` of an exported class has a sentence for each of its own methods and properties."""
    assert _undescribed(getattr(flujo, name)) == []


def test_flujo_says_that_it_is_typed() -> None:
    """Type checkers read flujo's annotations."""
    assert (Path(flujo.__file__).parent / "py.typed").is_file()


def test_the_package_is_what_is_imported() -> None:
    """The installed package has a version, and pytest finds its plugin."""
    plugins = {point.name: point.value for point in importlib.metadata.entry_points(group="pytest11")}

    assert importlib.metadata.version("flujo").count(".") >= 1
    assert plugins["flujo"] == "flujo.testing.plugin"


def test_importing_flujo_says_nothing() -> None:
    """`import flujo` prints nothing, warns of nothing and needs no pytest."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import flujo, sys; assert 'pytest' not in sys.modules"],
        check=False,
        capture_output=True,
        text=True,
    )

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
