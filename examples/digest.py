"""A digest of a long text: `flujo run examples/digest.py --input-file FILE_OR_FOLDER`.

The text is split into parts, the parts are summarised side by side, drafts are made of the summaries until a critic
is content with one, and the length of the text decides how the digest is laid out.

It needs no model and no key, because it quotes: a sentence ranks by how much it has in common with all others
(centroid-based extraction, Radev et al. 2004). A model may do any of the steps instead: a flujo agent is a function
or an object with `async def run(self, data)`, and the types around it stay the same.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import groupby
from math import log
from textwrap import fill, wrap
from typing import Literal, TypedDict

from pydantic import BaseModel, Field

from flujo import Flujo, PipelineContext, RefinementCheck, Step, step

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
    drafts: int = 0
    struck: list[str] = Field(default_factory=list[str], description="What the critic does not want to see again.")


@step
async def split(text: str, context: DigestContext) -> list[Part]:
    """Cut a text into parts, none of which goes beyond its chapter."""
    context.title, chapters = read_chapters(text)
    context.words = len(WORD.findall(text))
    pieces = [(chapter, piece) for chapter, paragraphs in chapters for piece in portions(paragraphs)]
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


pipeline = Flujo(
    split
    >> Step.map_over("summarise parts", summarise, max_concurrency=PARTS_AT_ONCE)
    >> Step.refine_until("refine", compose, criticise, max_refinements=MOST_DRAFTS)
    >> Step.branch_on("lay out", layout_of, {"short": repeat_text, "brief": write_paragraph, "long": write_chapters}),
    context_model=DigestContext,
)


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
