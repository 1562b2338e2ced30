"""Tool use: declarations in the system turn, the right call, and an answer from its result."""

import re

from .recall import filler
from .render import Sample, call, conversation, declaration, response
from .talk import SMALL_TALK, chat, small_talk, sums, two_step
from .words import ADJECTIVES, CITIES, NOUNS, PEOPLE, SYLLABLES, TOOL_VERBS

_WEATHER = ["sunny", "cloudy", "rainy", "windy", "snowy", "stormy"]
_LANGS = ["French", "German", "Spanish", "Italian", "Greek", "Turkish"]


def invented_word(rng) -> str:
    """A word nobody has seen: two or three syllables."""
    return "".join(rng.choice(SYLLABLES, int(rng.integers(2, 4))))


def _number(rng, top=60) -> int:
    return int(rng.integers(1, top))


def _known(rng):
    """A well-known kind of tool: (tool, request, arguments, result, answer)."""
    city, person, noun = rng.choice(CITIES), rng.choice(PEOPLE), rng.choice(NOUNS)
    n, m = _number(rng), _number(rng)
    kind = rng.integers(10)
    if kind == 0:
        sky, t = rng.choice(_WEATHER), _number(rng, 40)
        return (
            (
                "get_weather",
                "Get the current weather for a city.",
                {"city": ("STRING", "City name")},
            ),
            rng.choice(
                [
                    f"What is the weather in {city}?",
                    f"Weather in {city}?",
                    f"How is the weather in {city} today?",
                    f"Is it cold in {city}?",
                ]
            ),
            {"city": city},
            {"sky": sky, "temperature": t},
            f"It is {sky} in {city}, {t} degrees.",
        )
    if kind == 1:
        return (
            ("set_alarm", "Set an alarm.", {"hour": ("INTEGER", "Hour of the day")}),
            rng.choice(
                [
                    f"Wake me at {n % 24}.",
                    f"Set an alarm for {n % 24}.",
                    f"Alarm at {n % 24}, please.",
                ]
            ),
            {"hour": n % 24},
            "done",
            f"The alarm is set for {n % 24}.",
        )
    if kind == 2:
        return (
            (
                "send_message",
                "Send a message to a person.",
                {"text": ("STRING", "What to say"), "to": ("STRING", "Who gets it")},
            ),
            rng.choice(
                [
                    f"Tell {person} that the {noun} is ready.",
                    f"Write to {person}: the {noun} is ready.",
                ]
            ),
            {"text": f"the {noun} is ready", "to": person},
            "sent",
            f"I told {person} that the {noun} is ready.",
        )
    if kind == 3:
        sign, r = [("+", n + m), ("*", n * m)][int(rng.integers(2))]
        return (
            ("calculate", "Do exact arithmetic.", {"expression": ("STRING", "What to compute")}),
            rng.choice([f"Calculate {n} {sign} {m}.", f"Compute {n} {sign} {m} exactly."]),
            {"expression": f"{n} {sign} {m}"},
            r,
            f"{n} {sign} {m} = {r}",
        )
    if kind == 4:
        return (
            (
                "get_stock",
                "How many of an item are in the shop.",
                {"item": ("STRING", "Item name")},
            ),
            rng.choice([f"How many units of {noun} are in the shop?", f"Do we have any {noun}?"]),
            {"item": noun},
            n,
            f"There are {n} of {noun} in the shop.",
        )
    if kind == 5:
        lang = rng.choice(_LANGS)
        word = invented_word(rng)
        return (
            (
                "translate",
                "Translate a word.",
                {"language": ("STRING", "Target language"), "word": ("STRING", "The word")},
            ),
            rng.choice([f"Translate {noun} to {lang}.", f"What is {noun} in {lang}?"]),
            {"language": lang, "word": noun},
            word,
            f"In {lang} it is {word}.",
        )
    if kind == 6:
        colour = rng.choice(["red", "green", "blue", "white", "yellow", "pink", "purple"])
        return (
            (
                "set_light",
                "Set the colour of a lamp.",
                {"color": ("STRING", "New colour"), "room": ("STRING", "Which room")},
            ),
            rng.choice([f"Make the {noun} lamp {colour}.", f"Turn the {noun} lamp {colour}."]),
            {"color": colour, "room": noun},
            "ok",
            f"The {noun} lamp is {colour} now.",
        )
    if kind == 7:
        return (
            (
                "order",
                "Order some of an item.",
                {"count": ("INTEGER", "How many"), "item": ("STRING", "Item name")},
            ),
            rng.choice([f"Order {n} units of {noun}.", f"Order {noun}, {n} of it, please."]),
            {"count": n, "item": noun},
            "ordered",
            f"I ordered {n} of {noun}.",
        )
    if kind == 8:
        return (
            ("get_age", "How old a person is.", {"name": ("STRING", "The person")}),
            rng.choice([f"How old is {person}?", f"What is the age of {person}?"]),
            {"name": person},
            n,
            f"{person} is {n} years old.",
        )
    return (
        (
            "get_distance",
            "Distance between two cities.",
            {"from": ("STRING", "Start"), "to": ("STRING", "End")},
        ),
        rng.choice(
            [
                f"How far is {city} from {(other := rng.choice(CITIES))}?",
                f"How many miles is {city} from {other}?",
            ]
        ),
        {"from": other, "to": city},
        n * 10,
        f"{city} is {n * 10} miles from {other}.",
    )


def _invented(rng):
    """A tool with an invented name that the request mentions by its noun."""
    verb, noun = rng.choice(TOOL_VERBS), rng.choice(NOUNS)
    second = invented_word(rng) if rng.random() < 0.5 else rng.choice(NOUNS)
    name = f"{verb}_{noun}_{second}" if rng.random() < 0.5 else f"{verb}_{second}"
    what = name.split("_", 1)[1].replace("_", " ")
    number = rng.random() < 0.4
    value = (
        _number(rng, 1000)
        if number
        else (invented_word(rng) if rng.random() < 0.4 else rng.choice(NOUNS + ADJECTIVES))
    )
    parameter = rng.choice(["id", "name", "value", "key", "kind", "code"])
    result = _number(rng, 1000) if rng.random() < 0.5 else invented_word(rng)
    return (
        (
            name,
            f"{str(verb).capitalize()} the {what}.",
            {parameter: ("INTEGER" if number else "STRING", f"The {parameter}")},
        ),
        rng.choice(
            [
                f"{str(verb).capitalize()} the {what} for {value}.",
                f"Please {verb} the {what} with {parameter} {value}.",
                f"Use {name} with {value}.",
            ]
        ),
        {parameter: value},
        result,
        f"The {what} says {result}.",
    )


def _plain(value):
    """numpy scalars to Python's own."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return value.item() if hasattr(value, "item") else value


def _draw(rng):
    tool, request, arguments, result, answer = (
        _invented(rng) if rng.random() < 0.45 else _known(rng)
    )
    name, description, parameters = tool
    tool = {"name": str(name), "description": description, "parameters": parameters}
    return tool, str(request), _plain(arguments), _plain(result), answer


def _spoken(tool, arguments, result, answer, thinking=False):
    """(the call, the model's turn: call, result, answer).

    With thinking on the template opens a thought behind a result: the model says in it what the
    result is, and closes it before it answers.
    """
    wanted = call(tool["name"], arguments)
    told = response(tool["name"], result)
    if thinking:
        values = result.values() if isinstance(result, dict) else [result]
        told += "<|channel>thought\n"
        answer = f"The result is {', '.join(map(str, values))}.\n<channel|>{answer}"
    return wanted, [(wanted + "<|tool_response>", True), (told, False), (answer, True)]


def _copies(parts, drawn) -> list[tuple[int, int, int, int, int]]:
    """Where the learned calls' names, parameters and values come from (Sample.copies).

    The first part holds the declarations; right before each call stands its request.
    """
    found = []
    head, drawn = parts[0][0], iter(drawn)
    for part, (text, learn) in enumerate(parts):
        if not text.startswith("<|tool_call>"):
            continue
        tool, _, arguments, *_ = next(drawn)
        if not learn:
            continue
        request, name = parts[part - 1][0], tool["name"]
        declared = head.index(f"declaration:{name}{{")
        where = declared + len("declaration:")
        found.append((part, text.index(name), 0, where, len(name)))
        for parameter, value in arguments.items():
            to = re.search(rf"[{{,]{parameter}:", text).start() + 1
            where = head.index(f"{parameter}:{{", head.index("properties:{", declared))
            found.append((part, to, 0, where, len(parameter)))
            value = str(value)
            said = re.search(rf"(?<!\w){re.escape(value)}(?!\w)", request)
            to = text.index(value, to + len(parameter))
            if said:
                found.append((part, to, part - 1, said.start(), len(value)))
    return found


def _retold(parts, result) -> list[tuple[int, int, int, int, int]]:
    """Where the values of the last result stand in the thought and in the answer behind it."""
    part = len(parts) - 1
    told, said = parts[part - 1][0], parts[part][0]
    found = []
    for key, value in (result if isinstance(result, dict) else {"value": result}).items():
        value = str(value)
        where = told.index(value, re.search(rf"[{{,]{key}:", told).end())
        for again in re.finditer(rf"(?<!\w){re.escape(value)}(?!\w)", said):
            found.append((part, again.start(), part - 1, where, len(value)))
    return found


def tools(rng, count=None) -> Sample:
    """One to three tools declared; one is called; its result is told."""
    count = int(rng.choice([1, 2, 2, 3])) if count is None else count
    drawn = tool, request, arguments, result, answer = _draw(rng)
    declared = [tool]
    for _ in range(20):
        if len(declared) == count:
            break
        other = _draw(rng)[0]
        if other["name"] not in [t["name"] for t in declared]:
            declared.append(other)
    declared = [declared[i] for i in rng.permutation(len(declared))]
    wanted, spoken = _spoken(tool, arguments, result, answer)
    system = rng.choice(["", "", "You are a helpful assistant."])
    # Either the call is what is judged, or the answer; training always learns both.
    parts = conversation([(request, spoken)], system, declared)
    return Sample(
        "tools",
        "tool call",
        [f"tool {wanted}"],
        parts,
        copies=_copies(parts, [drawn]),
        check={"call": wanted, "name": tool["name"], "arguments": arguments, "result": result},
    )


def toolbox(rng) -> Sample:
    """Practice: two to four tools, and each of them called in turn.

    Only training sees it: declarations are long, and here they teach several calls.
    """
    drawn = {}
    for _ in range(int(rng.integers(2, 5))):
        one = _draw(rng)
        drawn.setdefault(one[0]["name"], one)
    drawn = list(drawn.values())
    declared = [drawn[i][0] for i in rng.permutation(len(drawn))]
    keys, turns = [], []
    for tool, request, arguments, result, answer in drawn:
        wanted, spoken = _spoken(tool, arguments, result, answer)
        keys.append(f"tool {wanted}")
        turns.append((request, spoken))
    parts = conversation(turns, "", declared)
    return Sample("tools", "toolbox", keys, parts, copies=_copies(parts, drawn))


def considered(rng) -> Sample:
    """Thinking on: a tool is called, and its result is thought about before the answer.

    At times another call and its answer came earlier; thoughts of earlier turns are not kept.
    """
    drawn = [_draw(rng)]
    if rng.random() < 0.3 and (earlier := _draw(rng))[0]["name"] != drawn[0][0]["name"]:
        drawn.insert(0, earlier)
    declared = [one[0] for one in drawn]
    if rng.random() < 0.5 and (other := _draw(rng)[0])["name"] not in [t["name"] for t in declared]:
        declared.append(other)
    declared = [declared[i] for i in rng.permutation(len(declared))]
    keys, turns = [], []
    for number, (tool, request, arguments, result, answer) in enumerate(drawn, 1):
        wanted, spoken = _spoken(tool, arguments, result, answer, number == len(drawn))
        keys.append(f"tool {wanted}")
        turns.append((request, spoken))
    system = rng.choice(["", "", "You are a helpful assistant."])
    parts = conversation(turns, system, declared, thinking=True, learn_from=len(turns) - 1)
    copies = _copies(parts, drawn) + _retold(parts, drawn[-1][3])
    return Sample("tools", "considered", keys, parts, copies=copies)


_SMALL = "the a is not no and in of for at after did has this call user degrees".split()
_BARE = {
    "now": ("The time.", "What time is it?"),
    "get_time": ("Get the time.", "What time is it?"),
    "get_date": ("Get the date of today.", "What is the date?"),
    "get_news": ("Get the news.", "What is in the news?"),
    "roll_dice": ("Roll a die.", "Roll a die."),
    "ping": ("Ask whether the server is there.", "Is the server there?"),
}
_ERRORS = ["RuntimeError", "ValueError", "KeyError", "TimeoutError", "OSError"]


def _phrase(rng) -> str:
    """Some words in no order that means anything, a number and an invented one among them."""
    words = [
        rng.choice(_SMALL) if rng.random() < 0.4 else rng.choice([*NOUNS, *ADJECTIVES])
        for _ in range(int(rng.integers(2, 7)))
    ]
    for other in (str(_number(rng, 100)), invented_word(rng)):
        if rng.random() < 0.4:
            words[int(rng.integers(len(words)))] = other
    return " ".join(words)


def _bare(rng):
    """A tool without parameters: (tool, request, arguments)."""
    if rng.random() < 0.6:
        name = str(rng.choice(list(_BARE)))
        about, request = _BARE[name]
    else:
        verb, noun = rng.choice(TOOL_VERBS), rng.choice(NOUNS)
        name, about = f"{verb}_{noun}", f"{str(verb).capitalize()} the {noun}."
        request = rng.choice([about, f"Please {verb} the {noun}.", f"Use {name}."])
    return {"name": name, "description": about, "parameters": {}}, str(request), {}


def worded(rng) -> Sample:
    """A tool answers in words of its own, or fails, and is told as it is. Some take nothing."""
    tool, request, arguments, *_ = drawn = list(_bare(rng) if rng.random() < 0.25 else _draw(rng))
    declared = [tool]
    if rng.random() < 0.5 and (other := _draw(rng)[0])["name"] != tool["name"]:
        declared.append(other)
    declared = [declared[i] for i in rng.permutation(len(declared))]
    said = _phrase(rng)
    if rng.random() < 0.5:
        if rng.random() < 0.6:
            said = f"{rng.choice(_ERRORS)}: {said}"
        result, answer = {"error": said}, f"It failed: {said}."
    else:
        result, answer = said, f"It says: {said}."
    drawn[3:] = [result, answer]
    thinking = bool(rng.random() < 0.5)
    wanted, spoken = _spoken(tool, arguments, result, answer, thinking)
    parts = conversation([(request, spoken)], "", declared, thinking)
    copies = _copies(parts, [drawn]) + _retold(parts, result)
    key = f"tool {wanted}" if arguments else f"tool {wanted} {said}"
    return Sample("tools", "worded", [key], parts, copies=copies)


def unneeded(rng) -> Sample:
    """Tools are declared, and what is asked needs none."""
    sample = [chat, sums, two_step][int(rng.integers(3))](rng)
    declared = {t["name"]: t for t in (_draw(rng)[0] for _ in range(int(rng.integers(1, 4))))}
    for asked_for in ("calculate", "get_weather"):  # sums and small talk about the weather
        declared.pop(asked_for, None)
    said = "".join(map(declaration, declared.values()))
    (head, _), *rest = sample.parts
    if "<|turn>system" not in head:
        think = "<|think|>\n" if rng.random() < 0.3 else ""
        head += f"<|turn>system\n{think}<turn|>\n"
    head = head.replace("<turn|>", f"{said}<turn|>")
    parts = [(head, False), *rest]
    return Sample(sample.domain, "unneeded", sample.keys, parts, check=sample.check)


def _opening(rng) -> tuple[str, list[tuple[str, bool]]]:
    """An opening that is not learned: small talk, or a text of any length and a word about it."""
    if rng.random() < 0.5:
        user, answer = small_talk(rng)
    else:
        said = " ".join(filler(rng) for _ in range(int(rng.geometric(0.12))))
        user, answer = said[:1200], rng.choice(["Yes.", "I see.", "Fine.", "What a day!", "Good."])
    return user, [(str(answer), False)]


def amid(rng) -> Sample:
    """A tool is used in the midst of talk that needs none, or not for the first time.

    Only training sees it. What was said before says nothing about whether a tool is wanted, thanks
    for an answer are not another request, and what was asked for earlier is not what is asked now.
    """
    tool, request, arguments, result, answer = drawn = _draw(rng)
    declared = [tool]
    if rng.random() < 0.4 and (other := _draw(rng)[0])["name"] != tool["name"]:
        declared.append(other)
    declared = [declared[i] for i in rng.permutation(len(declared))]
    thinking, after = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
    turns = [_opening(rng) for _ in range(int(rng.choice([0, 1, 1, 2, 3])))]
    # Thoughts of earlier turns are not kept.
    before = [one for one in (_draw(rng) for _ in range(40)) if one[0]["name"] == tool["name"]]
    before = [one for one in before if one[2] != arguments][: int(rng.integers(3))]
    keys = [f"talk {user}" for user, _ in turns]
    for _, asked, given, *rest in before:
        wanted, spoken = _spoken(tool, given, *rest)
        keys.append(f"tool {wanted}")
        turns.append((asked, [(text, False) for text, _ in spoken]))
    wanted, spoken = _spoken(tool, arguments, result, answer, thinking and not after)
    turns.append((request, spoken))
    keys.append(f"tool {wanted}")
    if after:
        user, reply = small_talk(rng)
        while reply == SMALL_TALK["weather"][1]:
            user, reply = small_talk(rng)
        keys.append(f"talk {user}")
        turns.append((user, reply))
    # With thinking on, what stands before the last turn was not written as it stands there.
    learn_from = len(turns) - 1 if thinking else 0
    parts = conversation(turns, "", declared, thinking, learn_from)
    copies = _copies(parts, [*before, drawn])
    if not after:
        copies += _retold(parts, result)
    return Sample("tools", "amid", keys, parts, copies=copies)
