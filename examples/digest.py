"""A digest of a long text: `flujo run examples/digest.py --input-file FILE_OR_FOLDER`.

The text is split into parts, the parts are summarised side by side, drafts are made of the summaries until a critic
is content with one, and the length of the text decides how the digest is laid out.

It needs no model and no key, because it quotes: a sentence ranks by how much it has in common with all others
(centroid-based extraction, Radev et al. 2004). A model may do any of the steps instead, and the types around it stay
the same: `python examples/digest.py --input-file FILE --model openai:gpt-4o --limit-usd 0.05` lets one summarise the
parts. What the limit does not pay for is quoted, and the same run goes on with a larger limit. `--base-url` is that of
any server that speaks as OpenAI's does, and `--model test` a model that needs no server, with a price as if it did.
"""

import asyncio
import json
import re
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from decimal import ROUND_UP, Context, Decimal
from functools import cache
from itertools import groupby
from math import log
from pathlib import Path
from textwrap import fill, wrap
from typing import Any, Literal, TypedDict

from pydantic import BaseModel, Field

from flujo import (
    Flujo,
    FlujoError,
    PipelineContext,
    PipelineResult,
    RefinementCheck,
    Step,
    make_agent_async,
    set_price,
    step,
)
from flujo.agents.prices import Price, find_price
from flujo.cli.exit_codes import ExitCode, exit_code_of
from flujo.cli.inputs import InputSource
from flujo.cli.reporting import report
from flujo.cli.running import run_stored
from flujo.cli.settings import apply_price_settings, read_run_settings
from flujo.cli.stores import make_folder, new_store
from flujo.cli.terminal import ResultStream, prepare_streams, say, say_error
from flujo.domain.money import ZERO, add_usd, format_usd
from flujo.domain.pipeline import BaseStep

PART_WORDS = 500
PARTS_AT_ONCE = 4
QUOTES_PER_PART = 6
MOST_DRAFTS = 8
SHORT_CHARACTERS, BRIEF_WORDS, DIGEST_WORDS = 250, 600, 400


class Part(BaseModel):
    """Some paragraphs of one chapter, each a list of sentences."""

    number: int
    chapter: str
    paragraphs: list[list[str]]


class Quote(BaseModel):
    """A sentence of the text, and its place: part, paragraph, and sentence in the paragraph."""

    text: str
    chapter: str
    place: tuple[int, int, int]


class Summary(BaseModel):
    """What is worth quoting of a part; an answer that says how much it took is charged to the run."""

    quotes: list[Quote]
    token_counts: int


class DraftRequest(TypedDict):
    """What `Step.refine_until` gives to the step that makes drafts."""

    original_input: list[Summary]
    feedback: str | None


class DigestContext(PipelineContext):
    """What the steps of a run share."""

    title: str = ""
    words: int = 0
    chapters: list[str] = Field(default_factory=list[str], description="Of each part, the chapter it is of.")
    drafts: int = 0
    struck: list[str] = Field(default_factory=list[str], description="What the critic does not want to see again.")


@step
async def split(text: str, context: DigestContext) -> list[Part]:
    """Cut a text into parts, none of which goes beyond its chapter."""
    context.title, chapters = read_chapters(text)
    context.words = len(WORD.findall(text))
    if len(text) <= SHORT_CHARACTERS:
        return []
    pieces = [(chapter, piece) for chapter, paragraphs in chapters for piece in portions(paragraphs)]
    context.chapters = [chapter for chapter, _ in pieces]
    return [Part(number=i, chapter=chapter, paragraphs=piece) for i, (chapter, piece) in enumerate(pieces)]


@step
async def summarise(part: Part) -> Summary:
    """Pick the sentences that say most about a part."""
    return await asyncio.to_thread(pick_quotes, part)


@step
async def compose(request: DraftRequest, context: DigestContext) -> list[Quote]:
    """Choose among the quotes of all summaries: the best ones, of many chapters, that do not say the same."""
    everything = {quote.text: quote for summary in request["original_input"] for quote in summary.quotes}
    candidates: list[Quote] = [quote for text, quote in everything.items() if text not in context.struck]
    ranks = {quote.text: score for quote, score in zip(candidates, rank(candidates), strict=True)}
    room = min(max(60, context.words // 5), DIGEST_WORDS)
    draft, per_chapter = list[Quote](), Counter[str]()
    while candidates and room > 0:
        best = max(candidates, key=lambda quote: ranks[quote.text] * 0.7 ** per_chapter[quote.chapter])
        draft.append(best)
        per_chapter[best.chapter] += 1
        room -= count_words(best.text)
        subject = terms(best.text)
        candidates = [quote for quote in candidates if overlap(terms(quote.text), subject) < 0.6]
    return sorted(draft, key=lambda quote: quote.place)


@step
async def criticise(draft: list[Quote], context: DigestContext) -> RefinementCheck:
    """Strike what nobody understands without the sentence before it, and what says the same as another sentence."""
    context.drafts += 1
    places, subjects = {quote.place for quote in draft}, [terms(quote.text) for quote in draft]
    unclear = [quote.text for quote in draft if leans(quote) and before(quote) not in places]
    repeated = [
        quote.text
        for i, quote in enumerate(draft)
        if any(overlap(subjects[i], subject) > 0.4 for subject in subjects[:i])
    ]
    context.struck = [*context.struck, *unclear, *repeated]
    if not unclear and not repeated:
        return RefinementCheck(is_complete=True)
    return RefinementCheck(
        is_complete=context.drafts == MOST_DRAFTS,  # a text that only repeats itself has a digest too
        feedback=f"unclear: {len(unclear)}, repeated: {len(repeated)}",
    )


def layout_of(draft: list[Quote], context: DigestContext) -> Literal["short", "brief", "long"]:
    """Decide how to lay the digest out."""
    if len(context.initial_prompt) <= SHORT_CHARACTERS:
        return "short"
    return "long" if draft and context.words > BRIEF_WORDS else "brief"


@step
async def repeat_text(draft: list[Quote], context: DigestContext) -> str:
    """Give back a text that is too short for a digest."""
    return context.initial_prompt.strip() or "There is nothing to read."


@step
async def write_paragraph(draft: list[Quote], context: DigestContext) -> str:
    """Lay the digest out as one paragraph."""
    return f"# {context.title}\n\n{prose(draft)}\n"


@step
async def write_chapters(draft: list[Quote], context: DigestContext) -> str:
    """Lay the digest out by chapters, with a paragraph for each part."""
    blocks, current = [f"# {context.title}"], context.title
    for (chapter, _), quotes in groupby(draft, key=lambda quote: (quote.chapter, quote.place[0])):
        if chapter not in ("", current):
            blocks.append(f"## {chapter}")
        blocks.append(prose(quotes))
        current = chapter
    return "\n\n".join(blocks) + "\n"


def digest_of(summaries: BaseStep[list[Part], list[Summary]]) -> Flujo[str, str]:
    """Return what makes a digest of the summaries of a text's parts, whoever makes those."""
    layouts = {"short": repeat_text, "brief": write_paragraph, "long": write_chapters}
    return Flujo(
        split
        >> summaries
        >> Step.refine_until("refine", compose, criticise, max_refinements=MOST_DRAFTS)
        >> Step.branch_on("lay out", layout_of, layouts),
        context_model=DigestContext,
        pipeline_name="digest",
    )


pipeline = digest_of(Step.map_over("summarise parts", summarise, max_concurrency=PARTS_AT_ONCE))


# How a text is read: headings, paragraphs and list items of Markdown and of plain text, without code and tables.

NO_PROSE = re.compile(r"\A---\n.*?\n---\n|^ *(```+|~~~+).{,5000}?^ *\1 *$|<!--.{,2000}?-->|^ *\|[^\n]*$", re.M | re.S)
UNDERLINED = re.compile(r"^(\S[^\n]*)\n(?:=+|-{3,}) *$", re.M)
CAPITALS = re.compile(r"(?<=\n\n) *((?:CHAPTER|Chapter) \S[^\n]{,60}|[A-Z][A-Z .,:'-]{3,60}) *(?=\n\n)")
MARKUP = re.compile(
    r"(`[^`\n]{,200}`)|!\[[^\]\n]{,200}\]\([^)\n]{,500}\)|\[([^\]\n]{,200})\]\([^)\n]{,500}\)"  # code, image, link
    r"|\*{2,3}|(?<!\w)_{1,3}(?=\w)|\b_{1,3}(?!\w)"  # emphasis
)
BLOB = re.compile(r"[!-~]{200,}")
HEADING = re.compile(r"(#{1,6})\s+(.*?)[\s#]*$")
ITEM = re.compile(r"\A(?:[-*+•]|\(?(?:\d+|[a-z])[.)])\s+")
END = re.compile(r"[.!?…][\"'\u2019\u201d»)\]`*_]*(?= )|[\u3002\uff01\uff1f।]+[\u201d」』]*")
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|\w+")
ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[A-Za-z]|\d{1,2}|e\.g|i\.e|etc|vs|cf|[MD]rs?|Ms|Prof|St|[Nn]o|[Ff]ig|al|approx|z\.B|bzw|ca)\Z"
)
LEANING = re.compile(
    r"\W*(?:it|its|this|that|these|those|they|them|their|he|she|his|her|such|but|however|so|then|also|and|or|thus|therefore|"
    r"otherwise|instead|both|n?either|another|because|here|there|nor|yet|es|er|sie|dies\w*|das|aber|il|elle|cela|mais|esto|pero)\b",
    re.IGNORECASE,
)
COMMON = re.compile(
    r"\b(?:about|after|also|been|before|being|both|could|does|each|every|from|have|here|into|itself|like|made|make|many|more|"
    r"most|much|must|only|other|over|same|should|some|such|than|that|their|them|then|there|these|they|this|those|under|very|"
    r"were|what|when|where|which|while|will|with|without|would|your)\b"
)
MOST_CHARACTERS = 400


def read_chapters(text: str) -> tuple[str, list[tuple[str, list[list[str]]]]]:
    """Return the title of a text and its chapters, which the highest level with several headings begins."""
    blocks = list(read_blocks(text))
    depths = [depth for depth, _ in blocks]
    filled = [i for i, depth in enumerate(depths[:-1]) if depth and not 0 < depths[i + 1] <= depth]
    levels = Counter(depths[i] for i in filled)
    top, level = min(levels, default=0), min((each for each in levels if levels[each] > 1), default=0)
    titles = [blocks[i][1] for i in filled if depths[i] == top == 1]
    chapters: list[tuple[str, list[list[str]]]] = [("", [])]
    for depth, content in blocks:
        if depth == 0:
            chapters[-1][1].append(list(split_sentences(content)))
        elif depth <= max(top, level):
            chapters.append((content, []))
    return titles[0] if len(titles) == 1 else "Digest", [chapter for chapter in chapters if chapter[1]]


def read_blocks(text: str) -> Iterator[tuple[int, str]]:
    """Give the headings of a text with their depth, and its paragraphs and list items with depth 0."""
    text = NO_PROSE.sub("", "\n".join(text.splitlines()))
    text = CAPITALS.sub(r"## \1", UNDERLINED.sub(r"# \1", text))
    text = BLOB.sub(" ", MARKUP.sub(r"\1\2", text))
    lines = list[str]()
    for line in [*map(str.strip, text.split("\n")), ""]:
        heading = HEADING.match(line)
        if lines and (heading or not line or ITEM.match(line)):
            yield 0, " ".join(" ".join(lines).split())
            lines.clear()
        if heading:
            yield len(heading[1]), heading[2].removeprefix("file: ")
        elif line:
            lines.append(ITEM.sub("", line.lstrip("> ")))


def split_sentences(text: str) -> Iterator[str]:
    """Cut a paragraph at the ends of its sentences, and where it does not end for long."""
    start = 0
    for end in END.finditer(text):
        goes_on = text[end.end() + 1 : end.end() + 2].islower()
        if not goes_on and not ABBREVIATION.search(text[max(start, end.start() - 10) : end.start()]):
            yield text[start : end.end()].strip()
            start = end.end()
    yield from wrap(text[start:].strip(), MOST_CHARACTERS)


def portions(paragraphs: Sequence[list[str]]) -> Iterator[list[list[str]]]:
    """Cut the paragraphs of a chapter into pieces of about the length of a part."""
    piece: list[list[str]] = []
    words = 0
    for sentences in paragraphs:
        piece.append([])
        for sentence in sentences:
            piece[-1].append(sentence)
            words += count_words(sentence)
            if words >= PART_WORDS:
                yield piece
                piece, words = [list[str]()], 0
    if words:
        yield piece


# How sentences are judged


def pick_quotes(part: Part) -> Summary:
    """Return the best sentences of a part."""
    quotes = [
        Quote(text=text, chapter=part.chapter, place=(part.number, i, j))
        for i, sentences in enumerate(part.paragraphs)
        for j, text in enumerate(sentences)
        if is_quotable(text)
    ]
    ranked = sorted(zip(rank(quotes), range(len(quotes)), strict=True), reverse=True)
    return Summary(
        quotes=[quotes[i] for _, i in ranked[:QUOTES_PER_PART]],
        token_counts=sum(count_words(text) for sentences in part.paragraphs for text in sentences),
    )


def rank(quotes: Sequence[Quote]) -> list[float]:
    """Return how much each sentence has in common with all of them; words that are everywhere count little."""
    subjects = [terms(quote.text) for quote in quotes]
    found = Counter(term for subject in subjects for term in subject)
    weights = {term: number * log((len(quotes) + 1) / number) ** 2 for term, number in found.items()}
    return [
        sum(weights[term] for term in subject)
        / max(len(subject), 8)
        * min(1.0, 20 / (len(subject) + 1))  # nobody quotes a sentence that goes on and on
        * (1.0 if quote.place[2] else 1.5)  # a paragraph begins with what it is about
        * (0.5 if leans(quote) else 1.0)
        * (1.0 if END.search(quote.text[-3:] + " ") else 0.5)
        for quote, subject in zip(quotes, subjects, strict=True)
    ]


@cache
def terms(text: str) -> frozenset[str]:
    """Return what a sentence is about: the beginnings of its longer words, each of which stands for all its forms."""
    words = WORD.findall(COMMON.sub(" ", text.lower()))
    return frozenset(word[:6] for word in words if len(word) > 3 or word > "\u3000")


def overlap(one: frozenset[str], other: frozenset[str]) -> float:
    """Return how much of the shorter of two subjects is in the longer one."""
    return len(one & other) / (min(len(one), len(other)) or 1)


def leans(quote: Quote) -> bool:
    """Return whether a sentence refers to the one before it."""
    return LEANING.match(quote.text) is not None


def before(quote: Quote) -> tuple[int, int, int]:
    """Return the place of the sentence before."""
    part, paragraph, sentence = quote.place
    return part, paragraph, sentence - 1


def is_quotable(text: str) -> bool:
    """Return whether a text reads as a sentence, and not as code, a list of names or the beginning of a list."""
    letters = sum(character.isalpha() or character == " " for character in text)
    return count_words(text) >= 5 and len(text) <= MOST_CHARACTERS and letters / len(text) > 0.85 and text[-1] != ":"


def count_words(text: str) -> int:
    """Return how many words there are, a character of Chinese or Japanese being one."""
    return len(WORD.findall(text))


def prose(quotes: Iterable[Quote]) -> str:
    """Return quotes as one paragraph of lines that fit a terminal."""
    text = " ".join(quote.text for quote in quotes) or "There are no sentences to quote."
    return fill(text.replace("。 ", "。"), 100, break_on_hyphens=False)


# How a model summarises the parts, within a limit

PROMPT = (
    "Summarise the text in at most four sentences, in its language. Each sentence has to be understood by itself, so "
    "begin none with a pronoun. Answer with nothing but the summary."
)
MOST_TOKENS = 200
TEST_MODEL = "test"


@step
async def read_part(part: Part) -> str:
    """Return the text of a part as a model gets it."""
    return text_of(part)


@step
async def take_summaries(answers: list[str], context: DigestContext) -> list[Summary]:
    """Let the sentences that a model gave for each part be what is quoted of it."""
    return [as_quotes(answer, number, context.chapters[number]) for number, answer in enumerate(answers)]


def text_of(part: Part) -> str:
    """Return the text of a part."""
    return "\n\n".join(" ".join(sentences) for sentences in part.paragraphs)


def as_quotes(answer: str, number: int, chapter: str) -> Summary:
    """Return the answer of a model for one part as quotes."""
    sentences = enumerate(split_sentences(" ".join(answer.split())))
    quotes = [Quote(text=text, chapter=chapter, place=(number, 0, j)) for j, text in sentences]
    return Summary(quotes=quotes, token_counts=0)


def digest_by(model: str, base_url: str | None) -> Flujo[str, str]:
    """Return what makes a digest with a model that summarises the parts."""
    agent = make_agent_async(model, PROMPT, base_url=base_url, max_tokens=MOST_TOKENS)
    body = read_part >> Step("ask", agent, max_retries=2)
    return digest_of(Step.map_over("summarise parts", body, max_concurrency=PARTS_AT_ONCE) >> take_summaries)


def digest_without_money(answers: Mapping[int, str]) -> Flujo[str, str]:
    """Return what makes a digest of what a model gave for some parts, and of quotes of the others."""

    @step
    async def summarise_or_take(part: Part) -> Summary:
        if (answer := answers.get(part.number)) is not None:
            return as_quotes(answer, part.number, part.chapter)
        return await asyncio.to_thread(pick_quotes, part)

    return digest_of(Step.map_over("summarise parts", summarise_or_take, max_concurrency=PARTS_AT_ONCE))


def answers_in(result: PipelineResult[Any]) -> dict[int, str]:
    """Return what the model gave before the run was stopped, by the number of the part."""
    items = result.step_history[1].step_history if len(result.step_history) > 1 else []
    return {number: item.output for number, item in enumerate(items) if item.success}


def most_cost(parts: Iterable[Part], price: Price | None) -> Decimal:
    """Return what summarising these parts costs at the most, if the model answers at once."""
    total = ZERO
    if price is None:
        return total
    for part in parts:
        sent = len(json.dumps(text_of(part), ensure_ascii=False).encode()) + len(PROMPT) + 1_000
        total = add_usd(total, price.bound(sent, MOST_TOKENS))
    return total


def rounded_up(amount: Decimal) -> Decimal:
    """Return an amount of dollars with two digits."""
    return Context(prec=2, rounding=ROUND_UP).plus(amount)


def main(arguments: Sequence[str]) -> int:
    """Run the command line, and return its exit code: 0 for a digest by the model, 3 if the limit stopped it."""
    parser = ArgumentParser(description="Digest a text; without a model by quoting it.")
    parser.add_argument("--input", metavar="TEXT", help="the text itself")
    parser.add_argument("--input-file", metavar="FILE", help="a file, a folder of text files, or - for stdin")
    parser.add_argument("--model", help="what summarises the parts, such as openai:gpt-4o, or test")
    parser.add_argument("--base-url", metavar="URL", help="where an OpenAI-compatible server is")
    parser.add_argument("--limit-usd", metavar="USD", help="the most US dollars that the run may use")
    parser.add_argument("--run-id", metavar="ID", help="the run that goes on, or the name of a new one")
    parser.add_argument("--state-db", metavar="PATH", help="the database that keeps the run")
    options = parser.parse_args(arguments)
    prepare_streams()
    try:
        return make_digest(options)
    except FlujoError as error:
        say_error(str(error))
        return exit_code_of(error)
    except KeyboardInterrupt as interrupt:
        say_error(str(interrupt) or "interrupted")
        return ExitCode.INTERRUPTED


def make_digest(options: Namespace) -> int:
    """Make a digest within the limit, and say what is missing if the limit stops it."""
    source = InputSource(options.input, options.input_file)
    source.check()
    settings = read_run_settings({"limit_usd": options.limit_usd, "state_db": options.state_db})
    set_price("test:test", input_usd_per_mtok=1, output_usd_per_mtok=4)
    apply_price_settings(Path.cwd())
    results = ResultStream(sys.stdout)
    with redirect_stdout(sys.stderr):
        runner = pipeline if options.model is None else digest_by(options.model, options.base_url)
        runner = runner.with_settings(usage_limits=settings.usage_limits(), state_backend=new_store(settings))
        runner.check()
        make_folder(settings)
        text = source.read(is_quiet=False)
        run_id = options.run_id or runner.new_identity()
        ended = run_stored(
            runner,
            run_id,
            lambda watched: watched.run_async(text, run_id=run_id),
            resume_command=command(options, run_id, options.limit_usd),
            is_quiet=False,
            write_chunk=None,
        )
        if ended.result.status == "stopped" and options.model is not None:
            larger = make_do(ended.result, text, options, results)
            ended = replace(ended, resume_command=command(options, run_id, larger))
    return report(ended, runner.pipeline, results, is_json=False)


def make_do(result: PipelineResult[Any], text: str, options: Namespace, results: ResultStream) -> str:
    """Print a digest of what there is, which costs nothing more; say what is missing, and return a limit for it."""
    parts: list[Part] = (result.step_history[0].output if result.step_history else None) or []
    answers = answers_in(result)
    results.write(digest_without_money(answers).run(text).output or "")
    missing = [part for part in parts if part.number not in answers]
    cost = rounded_up(most_cost(missing, price_of(options.model)))
    say(
        f"{len(answers)} of {len(parts)} parts are summarised, for {format_usd(result.total_cost)}; "
        f"the others are quoted, and cost at the most {format_usd(cost)} more"
    )
    return f"{rounded_up(add_usd(result.total_cost, cost)):f}"


def price_of(model: str | None) -> Price | None:
    """Return the price of a model, as it is named on the command line."""
    return find_price("test:test" if model == TEST_MODEL else model or "")


def command(options: Namespace, run_id: str, limit_usd: str | None) -> str:
    """Return the command that goes on with a run."""
    given = {
        "--input": options.input,
        "--input-file": options.input_file,
        "--model": options.model,
        "--base-url": options.base_url,
        "--state-db": options.state_db,
        "--run-id": run_id,
        "--limit-usd": limit_usd,
    }
    words = [word for name, value in given.items() if value is not None for word in (name, value)]
    return shlex.join([sys.executable, sys.argv[0], *words])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
