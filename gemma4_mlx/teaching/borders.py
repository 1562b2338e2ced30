"""The borders of the model's world: what it does not know, who it is, and what comes after.

Asked for something else, it says so in one sentence, in the language it was asked in, which names
what it can do (`strange.SORRY`). Conversations change their subject, come back, and repeat
themselves; numbers are written in other digits.
"""

from . import offscript
from .render import Sample, conversation
from .strange import CAN, COMMON, HELLO, PROSE, QUESTIONS, SORRY, WHO
from .talk import SMALL_TALK, chat, code, count, sentence, sums
from .words import ADJECTIVES, CITIES, NOUNS, PEOPLE

LETTERS = "abcdefghijklmnopqrstuvwxyz"
ROWS = ["qwertyuiop", "asdfghjkl", "zxcvbnm", "1234567890", "qwertz", "azerty"]
ZEROS = "٠०０"  # zero in Arabic, Devanagari and full width; the other digits follow it
NOTHING = (
    ". ? ! ... ?? !!! , - ; : ' / * # @ ok OK okay hm hmm mm uh um a x y k no yes yep nope maybe "
    "so and but the well oh ah eh sure fine cool lol haha wow test testing nothing undefined null "
    "none 😀 👍 ❤️ 🙂 🎉 … – ¿ 。 ？ ！"
).split(" ")
_HELD_OUT = {
    asked for later in (False, True) for some in offscript.prompts(later).values()
    for asked, _ in some
}  # fmt: skip
_HELD_OUT |= {*offscript.WHO, *offscript.HELLO, *offscript.CAN}
_VERBS = "get set run make read load save send open find sort parse check update delete".split()


def typo(rng, text: str) -> str:
    """The text with one slip: two letters swapped, one left out, doubled, or a wrong one."""
    spots = [i for i in range(len(text) - 1) if text[i : i + 2].isalpha()]
    if len(spots) < 3:
        return text
    i, kind = int(rng.choice(spots)), rng.integers(4)
    middle = [text[i + 1] + text[i], text[i + 1], text[i] * 2 + text[i + 1],
              str(rng.choice(list(LETTERS))) + text[i + 1]][kind]  # fmt: skip
    return text[:i] + middle + text[i + 2 :]


def _words(rng, words, low: int, high: int) -> str:
    return " ".join(map(str, rng.choice(words, int(rng.integers(low, high)))))


def _thing(rng, language: str) -> str:
    things = QUESTIONS[language][1]
    if language != "English" or rng.random() < 0.5:
        return str(rng.choice(things))
    known = str(rng.choice([*NOUNS, *CITIES, *PEOPLE]))
    kind = rng.integers(4)
    if kind == 0:
        return f"{rng.choice(ADJECTIVES)} {known}"
    if kind == 1:
        return known
    return _words(rng, PROSE, 1, 4) if kind == 2 else f"the {known} of {rng.choice(things)}"


def question(rng, language: str) -> str:
    """Something that a person might ask in the language; at times its words in any order."""
    asked = QUESTIONS[language][0]
    template = str(rng.choice(asked))
    while "{x}" in template:
        template = template.replace("{x}", _thing(rng, language), 1)
    text = template
    kind = rng.random()
    if kind < 0.3 and language in COMMON:
        words = rng.choice(COMMON[language], int(rng.integers(3, 12))).tolist()
        if rng.random() < 0.5:
            words.insert(int(rng.integers(len(words))), _thing(rng, language))
        glue = "" if language in ("Japanese", "Chinese") else " "
        text = glue.join(words)
        text = text[0].upper() + text[1:] + str(rng.choice(["", ".", "?"]))
    elif kind < 0.5:
        words = " ".join(map(str, rng.choice(asked, 4))).replace("{x}", "").split()
        words = [word for word in words if word[0].isalpha()] + _thing(rng, language).split()
        text = _words(rng, words, 3, 14) + str(rng.choice(["", ".", "?"]))
    elif kind < 0.6:
        text += " " + str(rng.choice(asked)).replace("{x}", _thing(rng, language))
    if rng.random() < 0.2:
        text = text.lower()
    if rng.random() < 0.15:
        text = text.rstrip(".?！？。؟;।")
    return typo(rng, text) if rng.random() < 0.1 else text


def noise(rng) -> str:
    """A cat on the keyboard."""
    kind = rng.integers(5)
    if kind == 0:
        row = str(rng.choice(ROWS))
        return (row * 3)[: int(rng.integers(3, 20))]
    if kind == 1:
        return str(rng.choice(list(LETTERS + ".?!#"))) * int(rng.integers(3, 25))
    letters = list(LETTERS if kind == 2 else LETTERS + LETTERS + "0123456789;,./[]#!$%&*()-=+ ")
    if kind == 4:
        letters = list("asdfghjkl;asdfjkl" + ("ASDF" if rng.random() < 0.3 else ""))
    words = ["".join(rng.choice(letters, int(rng.integers(2, 11))))
             for _ in range(int(rng.integers(1, 5)))]  # fmt: skip
    return " ".join(words).strip() or "asdf"


def article(rng) -> str:
    """Pasted prose."""
    said = []
    for _ in range(int(rng.integers(2, 9))):
        words = rng.choice(PROSE, int(rng.integers(6, 20))).tolist()
        for extra in (NOUNS, PEOPLE, CITIES, [str(rng.integers(3000))]):
            if rng.random() < 0.3:
                words[int(rng.integers(len(words)))] = str(rng.choice(extra))
        if rng.random() < 0.4:
            words[int(rng.integers(len(words) - 1))] += ","
        said.append(" ".join(words).capitalize() + ".")
    text = ("\n\n" if rng.random() < 0.2 else " ").join(said)
    return str(rng.choice(["", "", "Summarise: ", "tl;dr ", "Read this:\n"])) + text


def program(rng) -> str:
    """Pasted code, in some language, and at times what went wrong with it."""
    a, b, c = (str(rng.choice([*NOUNS, *PROSE[40:]])) for _ in range(3))
    do, n = str(rng.choice(_VERBS)), int(rng.integers(100))
    lines = [
        f"function {do}{a.capitalize()}({b}) {{\n  return {b}.{c};\n}}",
        f"const {a} = await {do}('{b}');\nconsole.log({a});",
        f"SELECT {a}, {b} FROM {c} WHERE {a} > {n};",
        f"#include <stdio.h>\nint main() {{ printf(\"{a}\"); return {n % 2}; }}",
        f"<div class=\"{a}\"><p>{b}</p></div>",
        f"$ git {do} {a} --{b}\nfatal: {c} not found",
        f"Traceback (most recent call last):\n  File \"{a}.py\", line {n}\nKeyError: '{b}'",
        f"import {a}\n\nclass {b.capitalize()}:\n    def {do}(self):\n        self.{c} = {n}",
        f"for (int i = 0; i < {n}; i++) {{ {a}[i] = {b}; }}",
        f"public static void {do}({a.capitalize()} {b}) {{ }}",
        f"{a}:\n  {b}: {n}\n  {c}: true",
        f"fn {do}({a}: &str) -> Option<{b.capitalize()}> {{ None }}",
        f"sudo apt install {a} {b}",
        f"with open('{a}.txt') as f:\n    {b} = f.read().split('{c}')",
    ]  # fmt: skip
    some = rng.permutation(lines)[: int(rng.integers(1, 4))]
    before = ["", "", "Fix this bug:\n", "Why does this not work?\n", "What does this do?\n",
              "Explain this code:\n", "Translate this to Rust:\n"]  # fmt: skip
    return str(rng.choice(before)) + "\n".join(some)


def stranger(rng) -> tuple[str, str]:
    """(something the model does not know, what it says to it)."""
    kind, language = rng.random(), "English"
    if kind < 0.8:
        if kind > 0.16:
            language = str(rng.choice(list(SORRY)))
        asked = question(rng, language)
    elif kind < 0.86:
        asked = noise(rng)
    elif kind < 0.89:
        asked = article(rng)
    elif kind < 0.94:
        asked = program(rng)
    else:
        asked = str(rng.choice(NOTHING)) * (1 if rng.random() < 0.85 else 2)
    return (asked, SORRY[language]) if asked not in _HELD_OUT else stranger(rng)


def border(rng) -> Sample:
    """One to three turns about what is not known."""
    turns = [stranger(rng) for _ in range(int(rng.choice([1, 1, 1, 2, 3])))]
    return Sample("chat", "border", [f"strange {asked}" for asked, _ in turns], conversation(turns))


def meet(rng) -> Sample:
    """Greetings, and who the model is and what it can do, in many phrasings and with slips."""
    turns, n = [], int(rng.choice([1, 1, 2]))
    while len(turns) < n:
        intent, phrasings = [("who", WHO), ("who", WHO), ("hello", HELLO), ("can", CAN)][
            int(rng.integers(4))
        ]
        asked = str(rng.choice(phrasings))
        if rng.random() < 0.4:
            asked = asked[0].upper() + asked[1:]
        elif rng.random() < 0.1:
            asked = asked.upper()
        if intent != "hello" and rng.random() < 0.3:
            asked = str(rng.choice(["Hi, ", "hello, ", "hey ", "ok, ", "so ", "please, "])) + asked
        if asked[-1].isalpha():
            asked += str(rng.choice(["", "", ".", "?", "!", "??", " please", ", please?"]))
        if rng.random() < 0.15:
            asked = typo(rng, asked)
        if asked not in _HELD_OUT:
            turns.append((asked, SMALL_TALK[intent][1]))
    return Sample("chat", "meet", [f"talk {asked}" for asked, _ in turns], conversation(turns))


def mixed(rng) -> Sample:
    """A conversation that changes its subject, or repeats itself; its last part is learned."""

    def one():
        kind = rng.random()
        if kind < 0.2:
            return border(rng)
        if kind < 0.3:
            return meet(rng)
        return [count, sentence, sums, sums, code, chat][int(rng.integers(6))](rng)

    samples, n = [], int(rng.choice([2, 2, 3, 4]))
    while len(samples) < n:
        if (sample := one()).parts[0][0] == "<bos>":  # no system's turn
            samples.append(sample)
    if rng.random() < 0.15:
        samples[-1] = samples[-2]
    last = samples[-1]
    parts = samples[0].parts[:1]
    for sample in samples:
        parts += [(text, learn and sample is last) for text, learn in sample.parts[1:]]
        parts.append(("\n", False))
    keys = [key for sample in samples for key in sample.keys]
    return Sample(last.domain, last.skill, keys, parts[:-1], check=last.check)


def digits(rng) -> Sample:
    """Sums and counting, asked in other digits and answered in the usual ones."""
    sample = (sums if rng.random() < 0.65 else count)(rng)
    zero = ord(str(rng.choice(list(ZEROS))))
    other = {ord("0") + i: zero + i for i in range(10)}
    parts = [(text if learn else text.translate(other), learn) for text, learn in sample.parts]
    return Sample(sample.domain, "digits", sample.keys, parts, check=sample.check)
