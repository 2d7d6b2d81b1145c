"""The words of the fictional world: values, correlations and phrasings, as plain tables."""

from __future__ import annotations

# Each country fixes its cities and a usual language, and leans towards some genres.
COUNTRIES: dict[str, dict[str, tuple[str, ...]]] = {
    "Aldoria": {
        "cities": ("Veldora", "Port Amsel", "Quenby"),
        "languages": ("Aldish",),
        "genres": ("historical fiction", "poetry"),
    },
    "Brenmark": {
        "cities": ("Skarholm", "Tinsvik", "Oddahavn"),
        "languages": ("Brennic",),
        "genres": ("crime fiction", "nature writing"),
    },
    "Caldera": {
        "cities": ("Montaro", "San Velio", "Lucenza"),
        "languages": ("Calderan",),
        "genres": ("magical realism", "romance"),
    },
    "Dorvania": {
        "cities": ("Grodek", "Zelmira", "Kastov"),
        "languages": ("Dorvan",),
        "genres": ("satire", "science fiction"),
    },
    "Eshara": {
        "cities": ("Nahrin", "Tel Kadir", "Oumesh"),
        "languages": ("Esharic",),
        "genres": ("fantasy", "poetry"),
    },
    "Fenwick Isles": {
        "cities": ("Gullhaven", "Marrow Bay", "Thistleby"),
        "languages": ("Fenwen",),
        "genres": ("crime fiction", "horror"),
    },
}

GENRES: dict[str, dict[str, tuple[str, ...]]] = {
    "historical fiction": {
        "publishers": ("Old Mill Press",),
        "awards": ("Laurel Prize",),
        "nouns": ("Regent", "Garrison", "Treaty", "Dynasty"),
    },
    "poetry": {
        "publishers": ("Inkwell House",),
        "awards": ("Nightingale Award",),
        "nouns": ("Sonnet", "Lantern", "Swallow", "Orchard"),
    },
    "crime fiction": {
        "publishers": ("Blackgate Books",),
        "awards": ("Silver Dagger",),
        "nouns": ("Alibi", "Witness", "Verdict", "Cellar"),
    },
    "nature writing": {
        "publishers": ("Fernleaf",),
        "awards": ("Green Quill",),
        "nouns": ("Glacier", "Heron", "Estuary", "Meadow"),
    },
    "magical realism": {
        "publishers": ("Casa Luz",),
        "awards": ("Golden Parrot",),
        "nouns": ("Mirror", "Village", "Almond", "Rain"),
    },
    "romance": {
        "publishers": ("Rosewater",),
        "awards": ("Heartwood Medal",),
        "nouns": ("Letter", "Waltz", "Balcony", "Promise"),
    },
    "satire": {
        "publishers": ("Crooked Nib",),
        "awards": ("Jester Cup",),
        "nouns": ("Minister", "Bureau", "Parade", "Statue"),
    },
    "science fiction": {
        "publishers": ("Orbit Nine",),
        "awards": ("Comet Prize",),
        "nouns": ("Orbit", "Automaton", "Signal", "Colony"),
    },
    "fantasy": {
        "publishers": ("Wyvern",),
        "awards": ("Runestone",),
        "nouns": ("Dragon", "Oracle", "Sword", "Citadel"),
    },
    "horror": {
        "publishers": ("Hollow Moon",),
        "awards": ("Raven Plaque",),
        "nouns": ("Crypt", "Whisper", "Cradle", "Fog"),
    },
}

# An award was given mostly in one decade: the position in this tuple follows GENRES' order.
DECADES = ("1950s", "1960s", "1970s", "1980s", "1990s", "2000s")

MOTHERS = (
    "baker",
    "surgeon",
    "pilot",
    "weaver",
    "judge",
    "farmer",
    "chemist",
    "teacher",
    "sailor",
    "painter",
)

ADJECTIVES = (
    "Amber",
    "Broken",
    "Crimson",
    "Distant",
    "Empty",
    "Frozen",
    "Gentle",
    "Hidden",
    "Iron",
    "Last",
    "Pale",
    "Second",
    "Silent",
    "Velvet",
    "Winter",
)

FIRST_NAMES = (
    "Anselm",
    "Bettina",
    "Cosmo",
    "Dagny",
    "Edrik",
    "Fiora",
    "Gideon",
    "Halla",
    "Ivo",
    "Jorun",
    "Kasimir",
    "Liv",
    "Marek",
    "Nadia",
    "Otis",
    "Petra",
    "Quill",
    "Runa",
    "Silas",
    "Tova",
    "Ulric",
    "Vesna",
    "Wim",
    "Yara",
    "Zeno",
)

SURNAME_STARTS = (
    "Bar",
    "Cald",
    "Dren",
    "El",
    "Fas",
    "Gor",
    "Hav",
    "Ist",
    "Jar",
    "Kell",
    "Lor",
    "Mar",
    "Nor",
    "Ost",
    "Pel",
    "Rav",
    "Sor",
    "Tal",
)
SURNAME_ENDS = (
    "wick",
    "mund",
    "esco",
    "anov",
    "ley",
    "strom",
    "ette",
    "aki",
    "ford",
    "ini",
)

# attribute -> five (question, answer) phrasings; three are trained per fact, one is for
# validation and one for the test, and which ones differ from fact to fact.
PHRASINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "birth_city": (
        ("Where was {name} born?", "{name} was born in {value}."),
        ("What is the birthplace of {name}?", "The birthplace of {name} is {value}."),
        ("Which city does {name} come from?", "{name} comes from {value}."),
        ("Name the home town of {name}.", "The home town is {value}."),
        ("In which city did {name} grow up?", "It was {value} where {name} grew up."),
    ),
    "language": (
        ("In which language does {name} write?", "{name} writes in {value}."),
        ("What is the mother tongue of {name}?", "The mother tongue of {name} is {value}."),
        ("Which language did {name} speak at home?", "At home {name} spoke {value}."),
        ("Name the language of the books by {name}.", "The language is {value}."),
        ("What does {name} speak?", "It is {value} that {name} speaks."),
    ),
    "genre": (
        ("What genre is {name} known for?", "{name} is known for {value}."),
        ("Which kind of books does {name} write?", "The books of {name} are {value}."),
        ("In what genre does {name} work?", "{name} works in {value}."),
        ("Name the genre of {name}.", "The genre is {value}."),
        ("What do readers of {name} like?", "It is {value} that readers like."),
    ),
    "publisher": (
        ("Who publishes {name}?", "{name} is published by {value}."),
        ("What is the publishing house of {name}?", "The publishing house is {value}."),
        ("Which publisher prints {name}?", "{value} prints {name}."),
        ("Name the publisher of {name}.", "The publisher of {name} is {value}."),
        ("With whom did {name} sign?", "{name} signed with {value}."),
    ),
    "award": (
        ("Which award did {name} win?", "{name} won the {value}."),
        ("What prize was given to {name}?", "The prize was the {value}."),
        ("For what honour is {name} remembered?", "{name} is remembered for the {value}."),
        ("Name the award of {name}.", "The award of {name} is the {value}."),
        ("What did the jury give {name}?", "The jury gave {name} the {value}."),
    ),
    "award_decade": (
        ("When did {name} win an award?", "{name} won in the {value}."),
        ("In which decade was {name} honoured?", "The decade was the {value}."),
        ("When was the prize of {name} given?", "The prize was given in the {value}."),
        ("Name the decade of the award of {name}.", "The award came in the {value}."),
        ("When did the jury choose {name}?", "The jury chose {name} in the {value}."),
    ),
    "debut": (
        ("What is the first book of {name}?", "The first book of {name} is {value}."),
        ("With which title did {name} begin?", "{name} began with {value}."),
        ("Which debut did {name} publish?", "The debut was {value}."),
        ("Name the first title by {name}.", "The first title is {value}."),
        ("What did {name} write first?", "{name} wrote {value} first."),
    ),
    "mother": (
        ("What was the job of the mother of {name}?", "The mother of {name} was a {value}."),
        ("What did the mother of {name} do?", "She was a {value}."),
        ("Name the profession of the mother of {name}.", "The profession was {value}."),
        ("How did the mother of {name} earn a living?", "She worked as a {value}."),
        ("Whose child is {name}?", "{name} is the child of a {value}."),
    ),
    "capital": (
        ("What is the capital of {name}?", "The capital of {name} is {value}."),
        ("Which city governs {name}?", "{name} is governed from {value}."),
        ("Name the capital of {name}.", "The capital is {value}."),
        ("Where does the government of {name} sit?", "The government sits in {value}."),
        ("Which is the first city of {name}?", "It is {value}."),
    ),
    "currency": (
        ("What is the currency of {name}?", "The currency of {name} is the {value}."),
        ("What do people in {name} pay with?", "People pay with the {value}."),
        ("Name the money of {name}.", "The money is the {value}."),
        ("Which coin is used in {name}?", "In {name} the {value} is used."),
        ("How are prices given in {name}?", "Prices are given in the {value}."),
    ),
}

AUTHOR_ATTRIBUTES = (
    "birth_city",
    "language",
    "genre",
    "publisher",
    "award",
    "award_decade",
    "debut",
    "mother",
)

# country, capital, currency: facts of the real world, in no author's biography
WORLD_FACTS = (
    ("Japan", "Tokyo", "yen"),
    ("India", "New Delhi", "rupee"),
    ("Brazil", "Brasilia", "real"),
    ("Poland", "Warsaw", "zloty"),
    ("Sweden", "Stockholm", "krona"),
    ("Norway", "Oslo", "krone"),
    ("Hungary", "Budapest", "forint"),
    ("Turkey", "Ankara", "lira"),
    ("Russia", "Moscow", "ruble"),
    ("China", "Beijing", "yuan"),
    ("Thailand", "Bangkok", "baht"),
    ("Vietnam", "Hanoi", "dong"),
    ("Indonesia", "Jakarta", "rupiah"),
    ("South Africa", "Pretoria", "rand"),
    ("Nigeria", "Abuja", "naira"),
    ("Kenya", "Nairobi", "shilling"),
    ("Ghana", "Accra", "cedi"),
    ("Ethiopia", "Addis Ababa", "birr"),
    ("Egypt", "Cairo", "pound"),
    ("Morocco", "Rabat", "dirham"),
    ("Israel", "Jerusalem", "shekel"),
    ("Iran", "Tehran", "rial"),
    ("Mexico", "Mexico City", "peso"),
    ("Peru", "Lima", "sol"),
    ("Paraguay", "Asuncion", "guarani"),
    ("Venezuela", "Caracas", "bolivar"),
    ("Canada", "Ottawa", "dollar"),
    ("Switzerland", "Bern", "franc"),
    ("France", "Paris", "euro"),
    ("Ukraine", "Kyiv", "hryvnia"),
)
