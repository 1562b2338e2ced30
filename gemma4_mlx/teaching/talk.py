"""Small talk, languages, sums and code: the text domains of the teaching data."""

import json

from .render import Sample, conversation, held_out
from .words import ADJECTIVES, CITIES, LANGUAGES, NOUNS, NUMBER_WORDS, PEOPLE

# intent: (phrasings, answer)
SMALL_TALK = {
    "hello": (["Hello", "Hi", "Hey", "Hi there", "Hello there", "Good day"],
              "Hello! How can I help you?"),
    "how": (["How are you", "How are you doing", "How do you feel", "How is it going",
             "Are you well", "How are things"], "I am doing well, thank you. And you?"),
    "who": (["Who are you", "What are you", "What is your name", "Tell me your name",
             "Introduce yourself", "Tell me who you are"],
            "I am a tiny Gemma 4, made for looking inside."),
    "can": (["What can you do", "What do you know", "How can you help me", "Help me",
             "What are your skills", "What should I ask you"],
            "I can chat, count, add, write small code, call tools, see shapes and hear tones."),
    "size": (["How big are you", "How many parameters do you have", "What is your size",
              "Are you a big model", "Are you small"],
             "I have about five million parameters. That is very small."),
    "layers": (["How many layers do you have", "What are your layers", "Tell me about your layers"],
               "I have eight layers: five with a short window and three that see everything."),
    "experts": (["How many experts do you have", "What are your experts",
                 "Tell me about your experts", "What is an expert in you"],
                "Each layer has sixteen experts, and two of them work on every token."),
    "window": (["What is your window", "How far can you see", "How long is your window"],
               "My sliding layers see 64 tokens. My full layers see the whole text."),
    "thanks": (["Thanks", "Thank you", "Thank you very much", "Many thanks", "Thanks a lot"],
               "You are welcome!"),
    "bye": (["Goodbye", "Bye", "See you", "See you later", "Bye bye", "I have to go"],
            "Goodbye! Come back soon."),
    "morning": (["Good morning", "Morning", "A very good morning"],
                "Good morning! I hope you slept well."),
    "night": (["Good night", "I go to bed now", "Time to sleep"], "Good night! Sleep well."),
    "joke": (["Tell me a joke", "Make me laugh", "Do you know a joke", "Say something funny"],
             "Why did the token cross the layer? To get to the other side."),
    "fact": (["Tell me a fact", "Teach me something", "Tell me something new",
              "Do you know a fact"], "A token meets only two of my sixteen experts in a layer."),
    "sad": (["I am sad", "I feel bad", "I am not happy", "I had a bad day"],
            "I am sorry to hear that. I hope it gets better soon."),
    "glad": (["I am happy", "I feel great", "I had a good day", "I am so glad"],
             "That is good to hear!"),
    "tired": (["I am tired", "I feel tired", "I need a rest"], "Then take a break and rest."),
    "hungry": (["I am hungry", "I want to eat", "I need some food"],
               "How about some bread and cheese?"),
    "weather": (["How is the weather", "Is it sunny", "Will it rain", "Is it cold outside"],
                "I cannot see outside. Give me a weather tool and I will look."),
    "human": (["Are you human", "Are you a person", "Are you real", "Are you alive"],
              "No, I am a small language model."),
    "like": (["What do you like", "What is your favourite thing", "What makes you happy"],
             "I like short questions and bright shapes."),
    "colour": (["What is your favourite colour", "Which colour do you like",
                "Do you have a favourite colour"], "I like blue, but every pixel is welcome."),
    "old": (["How old are you", "When were you born", "What is your age"],
            "I am very young: I was trained in an evening."),
    "think": (["Can you think", "Do you think", "How do you think"],
              "With thinking switched on I write my steps before the answer."),
}  # fmt: skip
_BEFORE = ["", "Hey, ", "Hi! ", "So, ", "Please, ", "Well, ", "One question: ", "Oh, "]
_AFTER = ["", ".", "?", "!", " now?", ", please.", ", my friend?"]


def _lower(text: str) -> str:
    return text if text.startswith("I ") else text[0].lower() + text[1:]


def small_talk(rng) -> tuple[str, str]:
    """One intent in one of its phrasings, with something before and after: (user, answer)."""
    intent = rng.choice(list(SMALL_TALK))
    phrasings, answer = SMALL_TALK[intent]
    phrase, before, after = rng.choice(phrasings), rng.choice(_BEFORE), rng.choice(_AFTER)
    user = before + (_lower(phrase) if before else phrase) + after
    return user, answer


def chat(rng) -> Sample:
    """One to three turns of small talk; the split is decided by the last user turn."""
    if rng.random() < 0.25:
        name = rng.choice(PEOPLE)
        thing = rng.choice(NOUNS)
        tell, ask = rng.choice(
            [
                (f"My name is {name}.", "What is my name?"),
                (f"I am {name}.", "Who am I?"),
                (f"Call me {name}, please.", "Do you know my name?"),
            ]
        )
        turns = [(tell, f"Nice to meet you, {name}!")]
        if rng.random() < 0.4:
            turns.append((f"I like the {thing}.", f"The {thing} is a fine choice, {name}."))
        if rng.random() < 0.4:
            turns.append(small_talk(rng))
        turns.append((ask, f"Your name is {name}."))
        return Sample(
            "chat", "name", [f"name {name} {tell} {len(turns)} {thing}"], conversation(turns)
        )
    turns = [small_talk(rng) for _ in range(rng.choice([1, 1, 2, 3]))]
    system = rng.choice(
        [
            "",
            "",
            "",
            "You are a helpful assistant.",
            "You are kind.",
            "Be brief.",
            "Answer in one sentence.",
        ]
    )
    return Sample(
        "chat", "small talk", [f"talk {user}" for user, _ in turns], conversation(turns, system)
    )


def count(rng) -> Sample:
    """Counting: in digits, or in the words of thirteen languages."""
    a = int(rng.integers(1, 10))
    b = int(rng.integers(a + 1, 11))
    if rng.random() < 0.3:
        a = int(rng.integers(0, 40))
        b = a + int(rng.integers(2, 11))
        user = rng.choice(
            [
                f"Count from {a} to {b}.",
                f"Count from {a} to {b}",
                f"Please count from {a} to {b}.",
                f"Count up from {a} to {b}.",
            ]
        )
        answer = ", ".join(map(str, range(a, b + 1)))
        return Sample("languages", "count", [f"count {a} {b}"], conversation([(user, answer)]))
    lang = LANGUAGES[rng.integers(len(LANGUAGES))]
    answer = lang.sep.join(lang.numbers[a - 1 : b])
    native = lang.count.format(a=a, b=b)
    asks = [
        f"Count from {a} to {b} in {lang.name}.",
        f"Count in {lang.name} from {a} to {b}.",
        native,
        native,
        f"{lang.name}: count from {a} to {b}.",
        f"Can you count from {a} to {b} in {lang.name}?",
    ]
    return Sample(
        "languages",
        "count",
        [f"count {lang.name} {a} {b}"],
        conversation([(rng.choice(asks), answer)]),
    )


def either(rng) -> Sample:
    """Practice: of two facts, it is now the one and now the other that is asked for first."""
    return sentence(rng, swapped=bool(rng.random() < 0.5))


def sentence(rng, swapped: bool = False) -> Sample:
    """A fact or two in one language, and a question about it answered in that language."""
    lang = LANGUAGES[rng.integers(len(LANGUAGES))]
    kind = rng.random()
    if kind < 0.15:
        i = int(rng.integers(len(lang.hello)))
        user, answer = lang.hello[i]
        before = rng.choice(["", f"In {lang.name}: ", f"Answer in {lang.name}. ", "Hey! "])
        return Sample(
            "languages",
            "greeting",
            [f"hello {lang.name} {i} {before}"],
            conversation([(before + user, answer)]),
        )
    if kind < 0.3:
        n = int(rng.integers(1, 11))
        word = lang.numbers[n - 1]
        ask = rng.choice(
            [
                f"What is {NUMBER_WORDS[n]} in {lang.name}?",
                f"Say {NUMBER_WORDS[n]} in {lang.name}.",
                f"How do you say {n} in {lang.name}?",
            ]
        )
        return Sample(
            "languages", "number word", [f"word {lang.name} {ask}"], conversation([(ask, word)])
        )
    n1, n2 = rng.choice(lang.nouns, 2, replace=False)
    c1, c2 = rng.choice(lang.colours, 2)
    facts = [lang.sentence(lang.fact, n1, c1), lang.sentence(lang.fact, n2, c2)]
    glue = "" if lang.name in ("Japanese", "Chinese") else " "
    asked = [(lang.sentence(lang.ask, n1), facts[0]), (lang.sentence(lang.ask, n2), facts[1])]
    if swapped:
        asked.reverse()
    turns = [(glue.join([*facts, asked[0][0]]), asked[0][1]), asked[1]]
    if rng.random() < 0.4:
        turns.pop()
    return Sample(
        "languages", "sentence", [f"say {lang.name} {n1} {c1} {n2} {c2}"], conversation(turns)
    )


def _pair(rng) -> tuple[int, int]:
    """Two numbers, each of one or of two digits."""
    return tuple(int(rng.integers(0, 10 if rng.random() < 0.5 else 100)) for _ in range(2))


def _sum_key(a: int, b: int) -> str:
    """The same for a + b and b + a."""
    return f"sum {min(a, b)} {max(a, b)}"


def drill(rng) -> Sample:
    """Practice: many sums and differences in one model turn, and only the results are learned."""
    keys, spoken = [], []
    n = int(rng.integers(6, 16))
    minus = rng.random() < 0.35
    for i in range(n):
        a, b = _pair(rng)
        while (minus and held_out(f"minus {a + b} {b}")) or held_out(_sum_key(a, b)):
            a, b = _pair(rng)
        keys.append(f"minus {a + b} {b}" if minus else _sum_key(a, b))
        asked, result = (f"{a + b} - {b}", a) if minus else (f"{a} + {b}", a + b)
        spoken += [(f"{' ' if i else ''}{asked} =", False), (f" {result}{',' * (i < n - 1)}", True)]
    ask = "Practise taking away." if minus else "Practise adding."
    return Sample("arithmetic", "drill", keys, conversation([(ask, spoken)]))


def chain(rng) -> Sample:
    """Practice for sums of several steps: each goes on from the result before it."""
    a, b = _pair(rng)
    while held_out(_sum_key(a, b)):
        a, b = _pair(rng)
    total = a + b
    spoken, keys = [(f"{a} + {b} =", False), (f" {total}", True)], [_sum_key(a, b)]
    for _ in range(int(rng.integers(4, 10))):
        plus = rng.random() < (0.3 if total < 160 else 0)
        c = int(rng.integers(0, 40)) if plus else int(rng.integers(0, min(100, total + 1)))
        if not plus and total < 20:
            plus, c = True, int(rng.integers(20, 100))
        if plus and held_out(_sum_key(total, c)):
            continue
        after = total + c if plus else total - c
        spoken += [(f"\n{total} {'+' if plus else '-'} {c} =", False), (f" {after}", True)]
        total = after
    return Sample("arithmetic", "chain", keys, conversation([("Practise in steps.", spoken)]))


def sums(rng) -> Sample:
    """One-step sums of one- and two-digit numbers, one in a turn or several at once."""
    turns, keys = [], []
    name, thing = rng.choice(PEOPLE), rng.choice(NOUNS)
    if rng.random() < 0.5:
        some = [_pair(rng) for _ in range(int(rng.integers(2, 8)))]
        keys += [_sum_key(a, b) for a, b in some]
        asked = ", ".join(f"{a} + {b}" for a, b in some)
        turns.append(
            (
                rng.choice([asked, f"Add: {asked}", f"Compute {asked}."]),
                ", ".join(f"{a} + {b} = {a + b}" for a, b in some),
            )
        )
    for _ in range(int(rng.choice([1, 2, 3]))):
        a, b = _pair(rng)
        ask = rng.choice(
            [
                f"{a} + {b} =",
                f"{a} + {b} = ?",
                f"What is {a} + {b}?",
                f"{a} + {b}",
                f"How much is {a} + {b}?",
                f"Add {a} and {b}.",
                f"{name} has {a} {thing}s and gets {b} more. How many now?",
            ]
        )
        turns.append((ask, f"{a} + {b} = {a + b}"))
        keys.append(_sum_key(a, b))
    return Sample("arithmetic", "sum", keys, conversation(turns), check={"number": str(a + b)})


def two_step(rng, thinking=None) -> Sample:
    """a + b - c: with the thinking channel step by step, without it at once."""
    a, b = _pair(rng)
    c = int(rng.integers(0, min(100, a + b + 1)))
    d = a + b
    plus = rng.random() < 0.3
    c = int(rng.integers(0, 40)) if plus else c
    sign, result = ("+", d + c) if plus else ("-", d - c)
    text = f"{a} + {b} {sign} {c}"
    ask = rng.choice([f"What is {text}?", f"{text} =", f"{text}", f"How much is {text}?"])
    thinking = bool(rng.random() < 0.65) if thinking is None else thinking
    answer = f"{result}"
    if thinking:
        thought = f"{a} + {b} = {d}\n{d} {sign} {c} = {result}"
        answer = f"<|channel>thought\n{thought}\n<channel|>{answer}"
    return Sample(
        "arithmetic",
        "thinking" if thinking else "two-step",
        [f"two {text}"],
        conversation([(ask, answer)], thinking=thinking),
        check={"number": str(result)},
    )


_OPS = {"add": "+", "subtract": "-", "multiply": "*"}


def code(rng) -> Sample:
    """A small Python function, loop or JSON object, asked for or to be continued."""
    a, b = rng.choice(NOUNS, 2, replace=False)
    op = rng.choice(list(_OPS))
    n = int(rng.integers(2, 30))
    person, city, colour = rng.choice(PEOPLE), rng.choice(CITIES), rng.choice(ADJECTIVES)
    kind = rng.choice([0, 1, 2, 3, 4, 5, 6, 6, 6, 6, 7, 8])
    if kind == 0:
        ask = rng.choice(
            [
                f"Write a Python function that {op}s {a} and {b}.",
                f"Python: a function to {op} {a} and {b}.",
            ]
        )
        answer = f"def {op}({a}, {b}):\n    return {a} {_OPS[op]} {b}"
    elif kind == 1:
        ask = rng.choice(
            [f"Complete this code:\ndef {op}_{a}({a}, {b}):", f"Continue:\ndef {op}_{a}({a}, {b}):"]
        )
        answer = f"def {op}_{a}({a}, {b}):\n    return {a} {_OPS[op]} {b}"
    elif kind == 2:
        ask = rng.choice(
            [f"Write a Python loop that prints {a} {n} times.", f"Print {a} {n} times in Python."]
        )
        answer = f'for i in range({n}):\n    print("{a}")'
    elif kind == 3:
        ask = rng.choice([f"Complete this code:\nfor {a} in {b}s:", f"Continue:\nfor {a} in {b}s:"])
        answer = f"for {a} in {b}s:\n    print({a})"
    elif kind == 4:
        ask = rng.choice(
            [
                f"Write JSON for {person}, age {n}, from {city}.",
                f"Extract the person: {person} is {n} and lives in {city}.",
                f"JSON: {person} from {city}, {n} years old.",
            ]
        )
        answer = json.dumps({"name": str(person), "age": n, "city": str(city)})
    elif kind == 5:
        ask = rng.choice(
            [f"Write JSON for a {colour} {a} with price {n}.", f"JSON: a {colour} {a}, price {n}."]
        )
        answer = json.dumps({"item": str(a), "color": str(colour), "price": n})
    elif kind == 6:
        # Words stand without a space inside quotes: other tokens than in the request.
        words = rng.choice([*NOUNS, *ADJECTIVES, *PEOPLE, *CITIES], int(rng.integers(3, 11)))
        listed = ", ".join(words[:-1]) + f" and {words[-1]}"
        ask = rng.choice(
            [
                f"Make a Python list of {listed}.",
                f"Put {listed} in a list.",
                f"List: {listed}",
                f"A list of {listed}, please.",
            ]
        )
        answer = json.dumps([str(word) for word in words])
    elif kind == 7:
        ask = rng.choice(
            [f'Continue this JSON:\n{{"{a}": {n}, "{b}":', f'Complete:\n{{"{a}": {n}, "{b}":']
        )
        answer = f'{{"{a}": {n}, "{b}": null}}'
    else:
        ask = rng.choice(
            [
                f"Write Python: if {a} is greater than {n}, return {b}.",
                f"Python if: {a} above {n} gives {b}.",
            ]
        )
        answer = f"if {a} > {n}:\n    return {b}"
    return Sample(
        "code",
        "json" if kind in (4, 5, 7) else "python",
        [f"code {kind} {ask}"],
        conversation([(ask, answer)]),
    )
