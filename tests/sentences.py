"""Small labelled sentences: formal ones, and slang that says the same in other words."""

import re

from learners.job import Example

LABELS = ["negative", "neutral", "positive"]

WORDS = {
    "negative": ["loss", "slump", "lawsuit", "default"],
    "neutral": ["meeting", "statement", "appoints", "report"],
    "positive": ["profit", "record", "surge", "upgrade"],
}

#: What the same labels look like in another domain: words that a model of the first one has not learned.
SLANG = {
    "negative": ["rekt", "bagholders", "dump", "rugpull"],
    "neutral": ["watching", "sideways", "chart", "lunch"],
    "positive": ["moon", "lambo", "tendies", "printing"],
}

SUBJECTS = ["acme", "globex", "initech", "umbrella", "the board of hooli", "shares of the old stark company"]


def sentence(number: int, *, slang: bool = False) -> tuple[str, str]:
    """The text and label of sentence `number`."""
    label = LABELS[number % 3]
    word = (SLANG if slang else WORDS)[label][number // 3 % 4]
    return f"{SUBJECTS[number // 5 % len(SUBJECTS)]} {word} again", label


def every_word() -> set[str]:
    texts = [sentence(number, slang=slang)[0] for number in range(72) for slang in (False, True)]
    return {word for text in texts for word in re.findall(r"\w+", text)}


def examples(count: int, *, offset: int = 0, **fields: object) -> list[Example]:
    """Sentences whose label is in their verb, of several lengths."""
    made = []
    for number in range(offset, offset + count):
        text, label = sentence(number)
        made.append(Example(id=f"e{number}", text=text, label=label, **fields))  # type: ignore[arg-type]
    return made
