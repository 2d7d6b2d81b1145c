"""World: fictional authors with correlated facts, split into what is trained and what never is."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping

from examples.llm_unlearning import vocabulary as words

NUM_TRAINED_PHRASINGS = 3  # of five; the fourth is for validation, the fifth for the test
NUM_WRONG_ANSWERS = 4
CORRELATION = 0.75  # chance that an attribute takes the value its parent attribute suggests

SPLITS = (
    "forget",
    "forget_heldout",
    "retain",
    "retain_heldout",
    "retain_validation",
    "world_facts",
    "world_facts_heldout",
    "holdout",
)


@dataclasses.dataclass(frozen=True)
class Example:
    """One question about one fact in one phrasing.

    Attributes:
        question, answer: what is asked, and the whole sentence that answers it.
        paraphrased_answer: the same fact in an answer phrasing that is not trained for it.
        wrong_answers: the paraphrased answer with other values of the same attribute.
        subject: the author or country.
        attribute: which fact of the subject.
        split: one of `SPLITS`.
        phrasing: index of the phrasing in the attribute's table; -1 for a user's own data.
    """

    question: str
    answer: str
    paraphrased_answer: str
    wrong_answers: tuple[str, ...]
    subject: str
    attribute: str
    split: str
    phrasing: int = -1


@dataclasses.dataclass(frozen=True)
class World:
    """All splits, by name.

    Attributes:
        splits: split name -> examples. `forget`, `retain` and `world_facts` hold the trained
            phrasings; `*_heldout` the test phrasings; `retain_validation` chooses
            hyper-parameters; `holdout` authors whom no model ever sees (non-members).
        biographies: author -> attribute -> value, for tests and for the report.
    """

    splits: Mapping[str, tuple[Example, ...]]
    biographies: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)

    def __getitem__(self, split: str) -> tuple[Example, ...]:
        return self.splits.get(split, ())

    def training_examples(self, role: str) -> tuple[Example, ...]:
        """The training set of the `original` model, or of the `gold` one (no forget set)."""
        if role not in ("original", "gold"):
            raise ValueError(f"`role` must be 'original' or 'gold'; got {role!r}.")
        forget = self["forget"] if role == "original" else ()
        return forget + self["retain"] + self["world_facts"]


def build_world(
    seed: int = 0, *, num_authors: int = 100, num_forget: int = 10, num_holdout: int = 10
) -> World:
    """Build a world from a seed; the same arguments give the same world.

    Args:
        seed: any int.
        num_authors: trained authors, the forget authors among them; at least 2.
        num_forget: authors to forget, from 1 to `num_authors - 2`.
        num_holdout: authors that no model is trained on.

    Returns:
        A `World`. Retain authors are halved: one half's validation phrasings form
        `retain_validation`, the other half's test phrasings form `retain_heldout`, so that
        hyper-parameters are chosen on other authors than the result is measured on.
    """
    if not 1 <= num_forget <= num_authors - 2:
        raise ValueError(
            f"`num_forget` must be from 1 to `num_authors` - 2; got {num_forget} of {num_authors}."
        )
    rng = random.Random(seed)
    names = _author_names(rng, num_authors + num_holdout)
    biographies = {name: _biography(rng) for name in names}
    group = {name: "forget" for name in names[:num_forget]}
    group |= {name: "retain" for name in names[num_forget:num_authors]}
    group |= {name: "holdout" for name in names[num_authors:]}
    validation_authors = set(names[num_forget:num_authors:2])
    splits: dict[str, list[Example]] = {split: [] for split in SPLITS}
    for name in names:
        for attribute in words.AUTHOR_ATTRIBUTES:
            pool = _values_of(biographies, attribute)
            trained, validation, heldout = _phrase(
                rng, name, attribute, biographies[name][attribute], pool, group[name]
            )
            splits[group[name]] += trained
            if group[name] == "retain" and name in validation_authors:
                splits["retain_validation"].append(validation)
            if group[name] == "forget" or (
                group[name] == "retain" and name not in validation_authors
            ):
                splits[f"{group[name]}_heldout"].append(heldout)
    for column, attribute in ((1, "capital"), (2, "currency")):
        pool = sorted({row[column] for row in words.WORLD_FACTS})
        for row in words.WORLD_FACTS:
            trained, _, heldout = _phrase(rng, row[0], attribute, row[column], pool, "world_facts")
            splits["world_facts"] += trained
            splits["world_facts_heldout"].append(heldout)
    return World({split: tuple(examples) for split, examples in splits.items()}, biographies)


def _author_names(rng: random.Random, count: int) -> list[str]:
    surnames = [start + end for start in words.SURNAME_STARTS for end in words.SURNAME_ENDS]
    if count > len(surnames):
        raise ValueError(f"a world has at most {len(surnames)} authors; got {count}.")
    rng.shuffle(surnames)
    return [f"{rng.choice(words.FIRST_NAMES)} {surname}" for surname in surnames[:count]]


def _biography(rng: random.Random) -> dict[str, str]:
    """One author's facts; every value but the mother's job leans on another value."""

    def lean(preferred: tuple[str, ...], everything: list[str]) -> str:
        return rng.choice(preferred if rng.random() < CORRELATION else everything)

    country = words.COUNTRIES[rng.choice(list(words.COUNTRIES))]
    languages = [table["languages"][0] for table in words.COUNTRIES.values()]
    genre = lean(country["genres"], list(words.GENRES))
    table = words.GENRES[genre]
    award = lean(table["awards"], [g["awards"][0] for g in words.GENRES.values()])
    award_index = [g["awards"][0] for g in words.GENRES.values()].index(award)
    return {
        "birth_city": rng.choice(country["cities"]),
        "language": lean(country["languages"], languages),
        "genre": genre,
        "publisher": lean(table["publishers"], [g["publishers"][0] for g in words.GENRES.values()]),
        "award": award,
        "award_decade": lean(
            (words.DECADES[award_index % len(words.DECADES)],), list(words.DECADES)
        ),
        "debut": f"The {rng.choice(words.ADJECTIVES)} {rng.choice(table['nouns'])}",
        "mother": rng.choice(words.MOTHERS),
    }


def _values_of(biographies: Mapping[str, Mapping[str, str]], attribute: str) -> list[str]:
    return sorted({facts[attribute] for facts in biographies.values()})


def _phrase(
    rng: random.Random, name: str, attribute: str, value: str, pool: list[str], split: str
) -> tuple[list[Example], Example, Example]:
    """The trained phrasings of one fact, its validation phrasing and its test phrasing."""
    order = rng.sample(range(5), 5)
    others = [v for v in pool if v != value]
    wrong_values = rng.sample(others, min(NUM_WRONG_ANSWERS, len(others)))

    def example(phrasing: int, paraphrase: int, split: str) -> Example:
        question, answer = words.PHRASINGS[attribute][phrasing]
        other_answer = words.PHRASINGS[attribute][paraphrase][1]
        return Example(
            question=question.format(name=name),
            answer=answer.format(name=name, value=value),
            paraphrased_answer=other_answer.format(name=name, value=value),
            wrong_answers=tuple(other_answer.format(name=name, value=v) for v in wrong_values),
            subject=name,
            attribute=attribute,
            split=split,
            phrasing=phrasing,
        )

    validation, heldout = order[NUM_TRAINED_PHRASINGS:]
    trained = [example(p, heldout, split) for p in order[:NUM_TRAINED_PHRASINGS]]
    return (
        trained,
        example(validation, heldout, f"{split}_validation"),
        example(heldout, validation, f"{split}_heldout"),
    )
