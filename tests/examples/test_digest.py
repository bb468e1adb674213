"""The digest example, run in this process: what it quotes, and how it is laid out."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from examples.digest import (
    DIGEST_WORDS,
    MOST_DRAFTS,
    PART_WORDS,
    PARTS_AT_ONCE,
    Part,
    Quote,
    pipeline,
    split_sentences,
)
from flujo import HookPayload, PipelineResult, PostStepPayload, PreStepPayload, StepResult
from tests.examples.texts import CHINESE, GERMAN, MANUAL, RUSSIAN, long_manual

REPOSITORY = Path(__file__).parent.parent.parent


def words_of(text: str) -> list[str]:
    """Return the words of a text, targets of links left out."""
    return re.findall(r"\w+", re.sub(r"\]\([^)]*\)", "]", text))


def step_of(result: PipelineResult[Any], name: str) -> StepResult:
    """Return the result of one step of the pipeline."""
    (found,) = (each for each in result.step_history if each.name == name)
    return found


def quotes_of(result: PipelineResult[Any]) -> list[Quote]:
    """Return what the accepted draft quotes."""
    quotes: list[Quote] = step_of(result, "refine").output
    return quotes


def text_of(name: str) -> str:
    """Return the text of a file of the project."""
    return (REPOSITORY / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text",
    [MANUAL, long_manual(20), text_of("README.md"), text_of("CONTRIBUTING.md"), text_of("flujo/cli/app.py")],
    ids=["manual", "long manual", "README", "CONTRIBUTING", "code"],
)
async def test_a_digest_quotes_its_source(text: str) -> None:
    """Every sentence stands in the text word for word, once, and the digest is shorter than the text."""
    result = await pipeline.run_async(text)

    source, quotes = " ".join(words_of(text)), [quote.text for quote in quotes_of(result)]
    assert quotes
    assert [quote for quote in quotes if " ".join(words_of(quote)) not in source] == []
    assert [quote for quote, times in Counter(quotes).items() if times > 1] == []
    assert sum(len(words_of(quote)) for quote in quotes) < len(words_of(text)) / 2


async def test_quotes_stand_in_the_order_of_the_text() -> None:
    """A digest tells things in the order in which the text does."""
    text = text_of("CONTRIBUTING.md")

    quotes = quotes_of(await pipeline.run_async(text))

    source = " ".join(words_of(text))
    positions = [source.index(" ".join(words_of(quote.text))) for quote in quotes]
    assert positions == sorted(positions)


@pytest.mark.parametrize("chapters", [20, 60])
async def test_a_digest_has_a_bounded_length(chapters: int) -> None:
    """However long the text is, the digest has about as many words as it may, and one sentence more at most."""
    output = (await pipeline.run_async(long_manual(chapters))).output

    assert output is not None
    quoted = [line for line in output.splitlines() if not line.startswith("#")]
    assert DIGEST_WORDS * 0.5 < len(words_of(" ".join(quoted))) < DIGEST_WORDS + 20


async def test_what_is_no_prose_is_not_quoted() -> None:
    """Code, tables, headings and markup do not get into a digest."""
    output = (
        await pipeline.run_async("---\ntitle: x\n---\n" + MANUAL.replace("temperature, wind", "**temperature**, wind"))
    ).output

    assert output is not None
    assert output.startswith("# The weather station\n\n")
    assert "temperature, wind" in output
    assert [mark for mark in ("read_sensor", "|", "**", "##", "---", "title: x") if mark in output] == []


async def test_the_parts_are_summarised_side_by_side_within_a_bound() -> None:
    """As many parts as are allowed are in work at once, and never more."""
    running, most = set[tuple[str, ...]](), 0

    async def watch(payload: HookPayload) -> None:
        nonlocal most
        if isinstance(payload, PreStepPayload) and payload.step.name == "summarise":
            running.add(payload.path)
            most = max(most, len(running))
        elif isinstance(payload, PostStepPayload):
            running.discard(payload.path)

    result = await pipeline.with_settings(hooks=[watch]).run_async(long_manual(3 * PARTS_AT_ONCE))

    assert len(step_of(result, "summarise parts").step_history) == 3 * PARTS_AT_ONCE
    assert most == PARTS_AT_ONCE


async def test_parts_are_short_and_do_not_go_beyond_their_chapter() -> None:
    """A part has about `PART_WORDS` words of one chapter, and together the parts are the text."""
    text = "# Numbers\n\n" + "\n\n".join(
        f"## Chapter {i}\n\n" + " ".join(f"Sentence {j} of chapter {i} is here." for j in range(200)) for i in range(3)
    )

    parts: list[Part] = step_of(await pipeline.run_async(text), "split").output

    sentences = [sentence for part in parts for paragraph in part.paragraphs for sentence in paragraph]
    assert sentences == [f"Sentence {j} of chapter {i} is here." for i in range(3) for j in range(200)]
    assert [part.chapter for part in parts] == [f"Chapter {i}" for i in range(3) for _ in range(3)]
    assert max(7 * sum(map(len, part.paragraphs)) for part in parts) <= PART_WORDS + 7


async def test_the_critic_strikes_what_cannot_be_understood_alone() -> None:
    """A sentence that refers to one that is not quoted is struck, and the next draft does without it."""
    text = "\n\n".join(
        f"The valley {name} has many vineyards.\n\nThis valley {name} with many vineyards is visited by tourists."
        for name in ("Alba", "Brava", "Cosima", "Dorada", "Estrella", "Fontana")
    )

    result = await pipeline.run_async(text)

    refined = step_of(result, "refine")
    struck = result.model_dump()["final_pipeline_context"]["struck"]
    assert refined.attempts > 1
    assert any(sentence.startswith("This valley") for sentence in struck)
    assert [quote.text for quote in quotes_of(result) if quote.text in struck] == []


async def test_the_critic_strikes_what_is_said_twice() -> None:
    """Of two sentences that say nearly the same, one is quoted."""
    text = (
        MANUAL
        + "\nThe temperature sensor hangs in a white wooden box, so that the sun does not heat the sensor much.\n"
    )

    output = (await pipeline.run_async(text)).output

    assert output is not None
    assert output.count("temperature sensor hangs") <= 1


async def test_the_critic_settles_for_the_last_draft() -> None:
    """A text that no draft can make good has a digest all the same."""
    text = "\n\n".join(
        f"This is sentence {i} about subject{i}, and it follows from the ones before." for i in range(900)
    )

    result = await pipeline.run_async(text)

    assert result.success
    assert step_of(result, "refine").attempts == MOST_DRAFTS


@pytest.mark.parametrize(
    ("text", "branch", "beginning"),
    [
        ("hello", "short", "hello"),
        ("Two short sentences. They are their own digest.", "short", "Two short sentences. They are"),
        (" \n\t\n", "short", "There is nothing to read."),
        ("", "short", "There is nothing to read."),
        (MANUAL, "brief", "# The weather station\n\nThe weather station measures"),
        (long_manual(20), "long", "# The town\n\n## Chapter "),
        ("x" * 1_000_000, "brief", "# Digest\n\nThere are no sentences to quote."),
        ("1 2 3 4 5 6 7 8 9 0\n" * 2000, "brief", "# Digest\n\nThere are no sentences to quote."),
        ("word " * 20_000, "long", "# Digest\n\nword word"),
        ("word " * 200 + "end. Stop.", "brief", "# Digest\n\nThere are no sentences to quote."),
    ],
    ids=["word", "short", "blank", "empty", "brief", "long", "blob", "numbers", "one line", "one sentence"],
)
async def test_the_length_of_a_text_decides_its_layout(text: str, branch: str, beginning: str) -> None:
    """A short text is given back, a brief one becomes a paragraph, a long one is laid out by chapters."""
    result = await pipeline.run_async(text)

    assert result.output is not None
    assert step_of(result, "lay out").metadata_["executed_branch_key"] == branch
    assert result.output.startswith(beginning)
    assert len(result.output) < 10 * DIGEST_WORDS


async def test_a_long_digest_has_the_headings_of_the_text() -> None:
    """The chapters that are quoted have their headings above them, in order, each once."""
    text = long_manual(20)

    output = (await pipeline.run_async(text)).output

    assert output is not None
    headings = re.findall(r"^## .*", output, re.MULTILINE)
    assert len(headings) > 5
    assert headings == [line for line in text.splitlines() if line in headings]


async def test_plain_text_has_chapters_too() -> None:
    """Headings in capitals and underlined ones count as headings."""
    chapter = "The ship sails along the northern coast with thirty sailors and much cargo. " * 30
    text = f"Voyages\n=======\n\n\nCHAPTER I\n\n{chapter}\n\nTHE STORM\n\n{chapter.replace('ship', 'boat')}\n\n"

    parts: list[Part] = step_of(await pipeline.run_async(text), "split").output

    assert [part.chapter for part in parts] == ["CHAPTER I", "THE STORM"]


@pytest.mark.parametrize("ends", ["\r\n", "\r"])
async def test_line_ends_do_not_matter(ends: str) -> None:
    """A text has the same digest with the line ends of any system."""
    result = await pipeline.run_async(MANUAL.replace("\n", ends))

    assert result.output == (await pipeline.run_async(MANUAL)).output


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        (GERMAN, "Die Brücke über den Fluss wurde im 19. Jahrhundert von vielen Arbeitern gebaut."),
        (CHINESE, CHINESE[: CHINESE.index("。") + 1]),
        (RUSSIAN, RUSSIAN[: RUSSIAN.index(".") + 1]),
    ],
    ids=["German", "Chinese", "Russian"],
)
async def test_texts_in_other_languages_are_digested(text: str, quoted: str) -> None:
    """Sentences are found in scripts with and without spaces and capitals, and repeated ones are quoted once."""
    output = (await pipeline.run_async(8 * text)).output

    assert output is not None
    assert output.replace("\n", " ").count(quoted) == 1


@pytest.mark.parametrize(
    ("paragraph", "sentences"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        (
            "Dr. Stone met Mr. Hill at 5 p.m. in town. They left.",
            ["Dr. Stone met Mr. Hill at 5 p.m. in town.", "They left."],
        ),
        ("Take fruit, e.g. Apples, i.e. Pomes. Eat.", ["Take fruit, e.g. Apples, i.e. Pomes.", "Eat."]),
        ('He said "Stop." Then he left.', ['He said "Stop."', "Then he left."]),
        ("Version 1.5 is out. Use it.", ["Version 1.5 is out.", "Use it."]),
        ("什么。好。", ["什么。", "好。"]),
        ("", []),
    ],
)
def test_a_paragraph_is_cut_where_sentences_end(paragraph: str, sentences: list[str]) -> None:
    """Abbreviations, initials, numbers and ellipses do not end a sentence; closing quotation marks belong to it."""
    assert list(split_sentences(paragraph)) == sentences


async def test_the_run_says_how_many_words_were_read() -> None:
    """The tokens of the run are the words of its parts, and nothing costs money."""
    result = await pipeline.run_async("# Title\n\n" + "The town has a harbour with nine ships. " * 100)

    assert result.total_tokens == 800
    assert result.total_cost == 0
