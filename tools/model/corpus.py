# SPDX-License-Identifier: Apache-2.0
"""The text that the bundled model learns from: chats about the small world of world.py, and plain stories. Everything
is made here from templates, by a seeded generator; no text of others is used.

A turn has a key that names what it asks, e.g. "add 7 5" or a question form with its fact. One key in HOLD_OUT is kept for the
test, by its hash, so that training never sees it. Run as a program it prints samples: corpus.py [SEED [COUNT]]."""

import random
import re
import sys
import zlib

from world import *

HOLD_OUT = 16


def held_out(key):
    """Keys that begin with "+" are always for training: the most usual way of asking."""
    return not key.startswith("+") and zlib.crc32(("spark-tiny " + key).encode()) % HOLD_OUT == 0


class Turn:
    """A request, its answer, the key that decides on which side it falls, and what a right answer must contain."""

    def __init__(self, ask, answer, key, expect, exact=False):
        self.ask, self.answer, self.key = ask, answer, key
        self.expect = expect if isinstance(expect, list) else [expect]
        self.exact = exact


def article(noun):
    return ("an " if noun[0].lower() in "aeiou" and not noun.startswith(("one", "uni", "use")) else "a ") + noun


def plural(noun):
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    return noun + "s"


def capital(text):
    return text[0].upper() + text[1:]


def join(items):
    items = list(items)
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def common(prefix, forms, form, n=1):
    """The key of a form; the first n forms are never held out."""
    return ("+" if form in forms[:n] else "") + f"{prefix} {form}"


PREPOSITION = dict(pairs("""the_river:by the_beach:at the_market:at the_hill:on the_pond:by the_lake:by the_playground:at the_bridge:under
the_station:at the_meadow:on the_school:at the_bakery:at swimming_pool:at zoo:at library:at school:at hospital:at cinema:at airport:at
station:at playground:on post_office:at bank:at beach:at theatre:at restaurant:at"""))


def at(place):
    return PREPOSITION.get(place, "in") + " " + place


def number_word(n):
    return NUMBERS[n] if n <= 20 else str(n)


# ---- how people write: case, punctuation, politeness -------------------------------------------------------------

POLITE = ("please ", "can you tell me: ", "tell me, ", "hey, ", "hi, ", "hello, ", "ok, ", "now ", "so, ", "quick question: ",
          "i want to know: ", "and ", "well, ", "do you know: ")


ASKING = re.compile(r"(what|which|how many|how much|name|list|tell|give|write|who|where|when|is|can|does|say|spell|count|add|in)\b", re.I)


def style(rng, text, exact=False):
    """Many ways of typing one request. Exact: the letters matter, so their case stays."""
    if exact:
        return capital(text) if rng.random() < 0.7 else text
    if not ASKING.match(text) or ":" in text:
        text = text if rng.random() < 0.9 else rng.choice(("ok, ", "well, ", "hey, ")) + text
    elif rng.random() < 0.10:
        text = rng.choice(POLITE) + text[0].lower() + text[1:] if text[:2] != "I " else text
    if rng.random() < 0.06 and ASKING.match(text) and "\n" not in text:
        text = re.sub(r"([?.!]?)$", r", please\1", text, count=1)
    dice = rng.random()
    if dice < 0.66:
        text = capital(text)
    elif dice < 0.90:
        text = text.lower()
    elif dice < 0.91 and len(text) < 40:
        text = text.upper()
    dice = rng.random()
    if dice < 0.18:
        text = text.rstrip("?.!")
    elif dice < 0.21:
        text = text.rstrip("?.!") + rng.choice(("??", " ?", "!", "...", "?!"))
    return text


# ---- arithmetic ---------------------------------------------------------------------------------------------------

def operands(rng):
    dice = rng.random()
    if dice < 0.65:
        return rng.randint(0, 10), rng.randint(0, 10)
    if dice < 0.95:
        return rng.randint(0, 20), rng.randint(0, 20)
    return rng.randint(0, 99), rng.randint(0, 99)


SUM_FORMS = ("what is {a} + {b}?", "{a} + {b}", "{a}+{b}", "{a} + {b} = ?", "{a}+{b}=", "how much is {a} plus {b}?", "what is {a} plus {b}?",
             "add {a} and {b}.", "calculate {a} + {b}.", "what do you get when you add {a} and {b}?", "what is the sum of {a} and {b}?",
             "compute {a} plus {b}.", "what's {a} + {b}?", "what is {a}+{b}?", "how much is {a} + {b}?", "solve {a} + {b}.")
DIFFERENCE_FORMS = ("what is {a} - {b}?", "{a} - {b}", "{a}-{b}", "{a} - {b} = ?", "how much is {a} minus {b}?", "what is {a} minus {b}?",
                    "subtract {b} from {a}.", "calculate {a} - {b}.", "take {b} away from {a}.", "what's {a} - {b}?", "how much is {a} - {b}?",
                    "what is {a} take away {b}?", "compute {a} minus {b}.")
PRODUCT_FORMS = ("what is {a} times {b}?", "{a} * {b}", "what is {a} * {b}?", "how much is {a} times {b}?", "multiply {a} by {b}.",
                 "calculate {a} * {b}.", "what is {a} x {b}?", "{a} x {b}")


def spelled(rng, a, b):
    """Sometimes numbers are written as words."""
    if a <= 20 and b <= 20 and rng.random() < 0.15:
        return NUMBERS[a], NUMBERS[b]
    return a, b


def add(rng):
    a, b = operands(rng)
    x, y = spelled(rng, a, b)
    form = rng.choice(SUM_FORMS)
    if x != a:
        form = rng.choice(("what is {a} plus {b}?", "how much is {a} plus {b}?", "add {a} and {b}.", "what is the sum of {a} and {b}?"))
    return Turn(form.format(a=x, b=y), f"{a} + {b} = {a + b}.", f"add {a} {b}", f"= {a + b}.")


def subtract(rng):
    a, b = operands(rng)
    a, b = max(a, b), min(a, b)
    x, y = spelled(rng, a, b)
    form = rng.choice(DIFFERENCE_FORMS)
    if x != a:
        form = rng.choice(("what is {a} minus {b}?", "how much is {a} minus {b}?", "subtract {b} from {a}.", "take {b} away from {a}."))
    return Turn(form.format(a=x, b=y), f"{a} - {b} = {a - b}.", f"sub {a} {b}", f"= {a - b}.")


def multiply(rng):
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    return Turn(rng.choice(PRODUCT_FORMS).format(a=a, b=b), f"{a} times {b} is {a * b}.", f"mul {a} {b}", f"is {a * b}.")


def double(rng):
    a = rng.randint(1, 20)
    if rng.random() < 0.6:
        form = rng.choice(("what is the double of {}?", "double {}.", "what is twice {}?", "how much is two times {}?"))
        return Turn(form.format(a), f"Two times {a} is {2 * a}.", f"double {a} {form}", f"is {2 * a}.")
    form = rng.choice(("what is half of {}?", "how much is half of {}?", "what is {} divided by two?"))
    return Turn(form.format(2 * a), f"Half of {2 * a} is {a}.", f"half {a} {form}", f"is {a}.")


def compare(rng):
    top = rng.choice((10, 20, 100))
    a, b = rng.randint(0, top), rng.randint(0, top)
    if a == b:
        b = a + 1
    key = f"cmp {a} {b}"
    big, small = max(a, b), min(a, b)
    dice = rng.random()
    if dice < 0.4:
        form = rng.choice(("which is bigger, {} or {}?", "which number is bigger, {} or {}?", "what is more, {} or {}?", "which is larger: {} or {}?",
                           "which number is greater, {} or {}?", "compare {} and {}: which is bigger?"))
        return Turn(form.format(a, b), f"{big} is bigger than {small}.", key, f"{big} is bigger")
    if dice < 0.7:
        form = rng.choice(("which is smaller, {} or {}?", "which number is smaller, {} or {}?", "what is less, {} or {}?", "which number is less, {} or {}?"))
        return Turn(form.format(a, b), f"{small} is smaller than {big}.", key, f"{small} is smaller")
    word = rng.choice(("bigger", "smaller"))
    right = (a > b) == (word == "bigger")
    other = "bigger" if a > b else "smaller"
    return Turn(rng.choice(("is {} {} than {}?", "is {} a {} number than {}?")).format(a, word, b),
                ("Yes, " if right else "No, ") + f"{a} is {other} than {b}.", key, "Yes" if right else "No")


def neighbour(rng):
    a = rng.randint(1, 60)
    if rng.random() < 0.6:
        form = rng.choice(("what number comes after {}?", "which number comes after {}?", "what comes after {}?", "what is the number after {}?"))
        return Turn(form.format(a), f"The number after {a} is {a + 1}.", f"next {a} {form}", f"is {a + 1}.")
    form = rng.choice(("what number comes before {}?", "which number comes before {}?", "what comes before {}?", "what is the number before {}?"))
    return Turn(form.format(a), f"The number before {a} is {a - 1}.", f"previous {a} {form}", f"is {a - 1}.")


def count(rng):
    if rng.random() < 0.4:
        n = rng.randint(2, 20)
        form = rng.choice(("count to {}.", "can you count to {}?", "count from 1 to {}.", "count up to {}."))
        return Turn(form.format(n), ", ".join(str(i) for i in range(1, n + 1)) + ".", f"count {n} {form}", f"{n - 1}, {n}.")
    a = rng.randint(0, 40)
    b = a + rng.randint(2, 10)
    if rng.random() < 0.3:
        form = rng.choice(("count down from {} to {}.", "count backwards from {} to {}.", "count back from {} to {}."))
        return Turn(form.format(b, a), ", ".join(str(i) for i in range(b, a - 1, -1)) + ".", f"count {b} {a}", f"{a + 1}, {a}.")
    form = rng.choice(("count from {} to {}.", "count up from {} to {}.", "name the numbers from {} to {}."))
    return Turn(form.format(a, b), ", ".join(str(i) for i in range(a, b + 1)) + ".", f"count {a} {b}", f"{b - 1}, {b}.")


def word_problem(rng):
    name, friend = rng.sample(NAMES, 2)
    a, b = rng.randint(1, 12), rng.randint(1, 8)
    things = plural(rng.choice(CATEGORIES["fruit"] + OBJECTS + ["egg", "cookie", "stamp", "flower", "pencil", "balloon", "nut"]))
    key = f"problem {name} {things} {a} {b}"
    if rng.random() < 0.5:
        a += 1
        text = rng.choice(("{n} has {a} {t} and gets {b} more.", "{n} has {a} {t}. {f} gives {n} {b} more.", "{n} finds {a} {t}, and then {b} more.",
                           "there are {a} {t} on the table. {n} puts {b} more on it.", "{n} buys {a} {t} in the morning and {b} in the evening."))
        total, sign = a + b, "+"
    else:
        a += b
        text = rng.choice(("{n} has {a} {t} and gives {b} to {f}.", "{n} has {a} {t} and loses {b}.", "{n} has {a} {t}. {f} takes {b} of them.",
                           "there are {a} {t} on the table. {n} takes {b} away."))
        total, sign = a - b, "-"
    table = text.startswith("there")
    question = rng.choice(("how many {t} are there now?", "how many are left on the table?" if sign == "-" else "how many are on the table now?")) if table else \
        rng.choice(("how many {t} does {n} have now?", "how many {t} does {n} have?", "how many does {n} have now?"))
    fill = dict(n=name, f=friend, a=a, b=b, t=things)
    noun = things if total != 1 else things  # "1 apples" is avoided below
    answer = f"{a} {sign} {b} = {total}, so " + ("there are" if table else f"{name} has") + f" {total} {noun} now."
    if total == 1:
        answer = f"{a} {sign} {b} = {total}, so only one is left."
    return Turn(capital(text.format(**fill)) + " " + capital(question.format(**fill)), answer, key, f"= {total},")


def sort_numbers(rng):
    numbers = rng.sample(range(1, 21), rng.choice((3, 3, 4)))
    up = rng.random() < 0.7
    form = rng.choice(("sort these numbers: {}", "put these numbers in order: {}", "sort the numbers {}.") if up else
                      ("sort these numbers from big to small: {}", "put these numbers in order, the biggest first: {}"))
    out = sorted(numbers, reverse=not up)
    glue = rng.choice((", ", " "))
    return Turn(form.format(glue.join(map(str, numbers))), ", ".join(map(str, out)) + ".", f"sort {numbers}", ", ".join(map(str, out)))


# ---- facts of the small world ---------------------------------------------------------------------------------------

def fact(rng):
    forms, answer, expect = rng.choice(FACTS)
    form = rng.choice(forms.split(";"))
    ask = form.replace(" i ", " I ")
    tail = "." if re.match(r"(name|list|tell)", ask) else "?"
    return Turn(ask + tail, answer, common("fact", forms.split(";"), form), expect)


def opposite(rng):
    pair = rng.choice(OPPOSITES)
    a, b = pair if rng.random() < 0.5 else pair[::-1]
    options = {y for x, y in OPPOSITES if x == a} | {x for x, y in OPPOSITES if y == a}
    b = next(y for x, y in OPPOSITES + [(y, x) for x, y in OPPOSITES] if x == a)
    form = rng.choice(("what is the opposite of {}?", "opposite of {}", "tell me the opposite of {}.", "what's the opposite of {}?", "give me the opposite of {}.",
                       "what is the contrary of {}?", "name the opposite of {}.", "which word is the opposite of {}?", "{} is the opposite of what?",
                       "what is the opposite of the word {}?"))
    return Turn(form.format(a), f"The opposite of {a} is {b}.", f"opposite {a} {form}", [f"is {b}."] if len(options) else [])


def colour_of(rng):
    thing = rng.choice(list(COLOUR_OF))
    spelling = rng.choice(("colour", "color"))
    bare = re.sub(r"^(an?|the) ", "", thing)
    dice = rng.random()
    colour = COLOUR_OF[thing]
    if dice < 0.75:
        form = rng.choice(("what {c} is {t}?", "which {c} is {t}?", "what is the {c} of {t}?", "tell me the {c} of {t}.", "which {c} does {t} have?",
                           "what {c} does {t} have?", "do you know the {c} of {t}?"))
        return Turn(form.format(c=spelling, t=thing), f"{capital(thing)} is {colour}.", f"colour {thing} {form}", colour)
    guess = colour if rng.random() < 0.5 else rng.choice([c for c in COLOURS if c != colour])
    answer = (f"Yes, {thing} is {colour}." if guess == colour else f"No, {thing} is {colour}.")
    return Turn(f"is {thing} {guess}?", answer, f"iscolour {bare} {guess}", answer[:3].strip(","))


def coloured_thing(rng):
    colour = rng.choice(sorted(set(COLOUR_OF.values())))
    things = [t for t, c in COLOUR_OF.items() if c == colour]
    form = rng.choice(("name something {}.", "what is {}?", "tell me something that is {}.", "can you name a thing that is {}?", "give me an example of something {}.",
                       "what thing is {}?"))
    thing = rng.choice(things[:3])
    return Turn(form.format(colour), f"{capital(thing)} is {colour}.", f"thing {colour} {form}", f" is {colour}.")


def mix(rng):
    (a, b), c = rng.choice(list(MIXES.items()))
    if rng.random() < 0.5:
        a, b = b, a
    form = rng.choice(("what do you get when you mix {} and {}?", "what colour do {} and {} make?", "which colour is {} and {} together?",
                       "mix {} and {}.", "what happens when I mix {} with {}?"))
    return Turn(form.format(a, b), f"{capital(a)} and {b} make {c}.", f"mix {a} {b} {form}", f"make {c}")


def calendar(rng):
    ring, what = rng.choice(((DAYS, "day"), (DAYS, "day"), (MONTHS, "month")))
    i = rng.randrange(len(ring))
    dice = rng.random()
    if dice < 0.35:
        form = rng.choice(("what {w} comes after {x}?", "which {w} comes after {x}?", "what is the {w} after {x}?", "what comes after {x}?", "which {w} follows {x}?"))
        return Turn(form.format(w=what, x=ring[i]), f"{ring[(i + 1) % len(ring)]} comes after {ring[i]}.", f"after {ring[i]} {form}", ring[(i + 1) % len(ring)])
    if dice < 0.6:
        form = rng.choice(("what {w} comes before {x}?", "which {w} comes before {x}?", "what is the {w} before {x}?", "what comes before {x}?"))
        return Turn(form.format(w=what, x=ring[i]), f"{ring[i - 1]} comes before {ring[i]}.", f"before {ring[i]} {form}", ring[i - 1])
    if dice < 0.8 and what == "day":
        form = rng.choice(("today is {}. what day is tomorrow?", "if today is {}, what day is tomorrow?", "it is {} today. which day is it tomorrow?"))
        if rng.random() < 0.4:
            form = form.replace("is tomorrow", "was yesterday").replace("is it tomorrow", "was it yesterday")
            return Turn(form.format(ring[i]), f"If today is {ring[i]}, yesterday was {ring[i - 1]}.", f"yesterday {ring[i]} {form}", f"was {ring[i - 1]}")
        return Turn(form.format(ring[i]), f"If today is {ring[i]}, tomorrow is {ring[(i + 1) % 7]}.", f"tomorrow {ring[i]} {form}", f"tomorrow is {ring[(i + 1) % 7]}")
    n = rng.randrange(10 if what == "month" else 7)
    if dice < 0.9:
        form = rng.choice(("what is the {o} {w} of the {p}?", "which is the {o} {w} of the {p}?", "name the {o} {w} of the {p}."))
        period = "week" if what == "day" else "year"
        return Turn(form.format(o=ORDINALS[n], w=what, p=period), f"The {ORDINALS[n]} {what} of the {period} is {ring[n]}.", f"nth {what} {n} {form}", f"is {ring[n]}")
    month = rng.choice(MONTHS)
    if rng.random() < 0.5:
        form = rng.choice(("how many days does {} have?", "how many days are in {}?"))
        return Turn(form.format(month), f"{month} has {MONTH_DAYS[month]} days.", f"mdays {month} {form}", str(MONTH_DAYS[month]))
    form = rng.choice(("in which season is {}?", "which season is {} in?", "is {} in summer or in winter?" if MONTH_SEASON[month] in ("summer", "winter") else "in what season is {}?"))
    return Turn(form.format(month), f"{month} is in {MONTH_SEASON[month]}.", f"mseason {month} {form}", MONTH_SEASON[month])


def alphabet(rng):
    i = rng.randrange(1, 25)
    if rng.random() < 0.6:
        form = rng.choice(("what letter comes after {}?", "which letter comes after {}?", "what is the letter after {}?"))
        return Turn(form.format(LETTERS[i]), f"The letter after {LETTERS[i]} is {LETTERS[i + 1]}.", f"letter after {i} {form}", f"is {LETTERS[i + 1]}.")
    form = rng.choice(("what letter comes before {}?", "which letter comes before {}?", "what is the letter before {}?"))
    return Turn(form.format(LETTERS[i]), f"The letter before {LETTERS[i]} is {LETTERS[i - 1]}.", f"letter before {i} {form}", f"is {LETTERS[i - 1]}.")


def animal_fact(rng):
    name = rng.choice(list(ANIMALS))
    a = ANIMALS[name]
    the, many = article(name), plural(name)
    kind = rng.randrange(9)
    if kind == 0 and a["sound"] != "no sound":
        form = rng.choice(("what sound does {t} make?", "what does {t} say?", "which sound does {t} make?", "what noise does {t} make?", "how does {t} sound?"))
        answer = f"{capital(the)} says: {a['sound']}!" if a["size"] < 12 else ""
        expect = a["sound"]
    elif kind == 1:
        form = rng.choice(("how many legs does {t} have?", "how many legs do {m} have?", "how many legs has {t}?", "does {t} have legs?"))
        expect = "no legs" if a["legs"] == 0 else number_word(a["legs"]) + " legs"
        answer = ("" if not form.startswith("does") else "No, " if a["legs"] == 0 else "Yes, ") + f"{the} has {expect}."
        answer = capital(answer)
    elif kind == 2:
        form = rng.choice(("where does {t} live?", "where do {m} live?", "where can I find {t}?", "where is the home of {t}?"))
        answer, expect = f"{capital(the)} lives {a['home']}.", a["home"]
    elif kind == 3:
        form = rng.choice(("what does {t} eat?", "what do {m} eat?", "what do {m} like to eat?", "what is the food of {t}?", "what can I feed to {t}?"))
        answer, expect = f"{capital(the)} eats {a['food']}.", a["food"]
    elif kind == 4:
        form = rng.choice(("what colour is {t}?", "what colour are {m}?", "which colour does {t} have?", "what color is {t}?"))
        answer, expect = f"{capital(the)} is {a['colour']}." if " colours" not in a["colour"] else f"{capital(the)} has {a['colour']}.", a["colour"].split()[0].strip(",")
    elif kind == 5:
        form = rng.choice(("what is a young {n} called?", "what is a baby {n} called?", "what do you call a young {n}?", "what do you call a baby {n}?", "how do you call the young of {t}?"))
        answer, expect = f"A young {name} is called {article(a['young'])}.", a["young"]
    elif kind == 6:
        form = rng.choice(("what can {t} do?", "what can {t} do well?", "what are {m} good at?", "what do {m} do?"))
        answer, expect = f"{capital(the)} can {a['skill']}.", a["skill"].split()[0]
    elif kind == 7:
        form = rng.choice(("what kind of animal is {t}?", "what is {t}?", "is {t} a mammal?", "which kind of animal is {t}?"))
        what = article(a["kind"])
        start = "" if "mammal" not in form else "Yes, " if a["kind"] == "mammal" else "No, "
        answer, expect = (f"{start}{the} is {what}." if a["kind"] != name else f"{start}{the} is an animal that lives {a['home']}."), a["kind"] if a["kind"] != name else "animal"
        answer = capital(answer)
    else:
        skill, able = rng.choice((("fly", FLIERS), ("swim", SWIMMERS)))
        form = rng.choice(("can {t} " + skill + "?", "can {m} " + skill + "?", "is {t} able to " + skill + "?"))
        if name not in able and skill == "swim" and a["kind"] not in ("bird", "insect", "spider", "mollusc"):
            return animal_fact(rng)
        yes = name in able
        answer, expect = (f"Yes, {the} can {skill}." if yes else f"No, {the} cannot {skill}."), "Yes" if yes else "No"
    if kind == 0 and a["sound"] == "no sound":
        form = rng.choice(("what sound does {t} make?", "what does {t} say?", "what noise does {t} make?"))
        answer, expect = f"{capital(the)} makes no sound that we can hear.", "no sound"
    return Turn(form.format(t=the, m=many, n=name), answer, f"animal {name} {form}", expect)


def describe_animal(rng):
    name = rng.choice(list(ANIMALS))
    a = ANIMALS[name]
    the, many = article(name), plural(name)
    form = rng.choice(("tell me about {m}.", "tell me something about {m}.", "describe {t}.", "what do you know about {m}?", "tell me about the {n}.",
                       "can you describe {t}?", "explain what {t} is.", "what can you tell me about {m}?", "write about {m}.", "give me some facts about {m}.",
                       "tell me three things about {m}."))
    legs = "no legs" if a["legs"] == 0 else number_word(a["legs"]) + " legs"
    parts = [f"It lives {a['home']} and eats {a['food']}.", f"It has {legs} and {a['cover']}." , f"It can {a['skill']}.", f"A young {name} is called {article(a['young'])}."]
    what = article(a["kind"]) if a["kind"] != name else "an animal"
    rng.shuffle(parts)
    return Turn(form.format(t=the, m=many, n=name), f"{capital(the)} is {what}. " + " ".join(parts[:3]), f"describe {name} {form}", [name, "It "])


def compare_animals(rng):
    a, b = rng.sample(list(ANIMALS), 2)
    if abs(ANIMALS[a]["size"] - ANIMALS[b]["size"]) < 2:
        return compare_animals(rng)
    big, small = (a, b) if ANIMALS[a]["size"] > ANIMALS[b]["size"] else (b, a)
    key = f"cmpanimal {a} {b}"
    if rng.random() < 0.6:
        word = rng.choice(("bigger", "bigger", "smaller", "larger"))
        form = rng.choice(("which is {w}, {a} or {b}?", "which animal is {w}, {a} or {b}?", "what is {w}: {a} or {b}?"))
        first, second = (small, big) if word == "smaller" else (big, small)
        return Turn(form.format(w=word, a=article(a), b=article(b)), f"{capital(article(first))} is {word} than {article(second)}.", key, f"{capital(article(first))} is")
    yes = a == big
    return Turn(f"is {article(a)} bigger than {article(b)}?", f"{'Yes' if yes else 'No'}, {article(a)} is {'bigger' if yes else 'smaller'} than {article(b)}.", key, "Yes" if yes else "No")


def listing(rng):
    name = rng.choice(list(CATEGORIES))
    members = CATEGORIES[name]
    n = rng.randint(2, min(5, len(members) - 1))
    many = PLURAL_OF_CATEGORY.get(name) or plural(name)
    form = rng.choice(("list {n} {m}.", "name {n} {m}.", "give me {n} {m}.", "tell me {n} {m}.", "can you name {n} {m}?", "write down {n} {m}.", "list {n} different {m}.",
                       "can you list {n} {m}?", "i need {n} {m}.", "what are {n} {m}?", "name any {n} {m}."))
    chosen = rng.sample(members, n)
    number = number_word(n) if rng.random() < 0.65 else str(n)
    layout = rng.random()
    if layout < 0.8:
        text = capital(join(chosen)) + "."
    else:
        text = "\n".join(f"{i + 1}. {capital(item)}" for i, item in enumerate(chosen))
        form = form.rstrip(".?") + rng.choice((" as a list.", " in a list.", ", one per line."))

    def right(answer):
        items = re.split(r", | and |\n", re.sub(r"\d\. ", "", answer.rstrip(".")))
        known = {m.lower() for m in members}
        return len(set(items)) == len(items) == n and all(item.lower() in known for item in items)

    return Turn(form.format(n=number, m=many), text, f"list {name} {n} {form}", right)


def one_of(rng):
    name = rng.choice(list(CATEGORIES))
    form = rng.choice(("name {}.", "tell me {}.", "give me the name of {}.", "give me an example of {}.", "say the name of {}.", "can you name {}?"))
    members = {m.lower() for m in CATEGORIES[name]}
    return Turn(form.format(article(name)), capital(rng.choice(CATEGORIES[name])) + ".", f"one {name} {form}", lambda answer: answer.rstrip(".").lower() in members)


def category(rng):
    name = rng.choice([n for n in CATEGORIES if n not in ("animal", "day of the week", "month", "number", "family member")])
    item = rng.choice(CATEGORIES[name])
    kinds = [n for n in CATEGORIES if item in CATEGORIES[n]]
    the = item if name in ("drink", "colour", "metal", "season", "country", "sport", "vegetable" if item == "spinach" else "") or item in ("bread", "cheese", "rice", "soup", "pasta", "pizza", "porridge") else article(item)
    dice = rng.random()
    if dice < 0.45 and len(kinds) == 1:
        form = rng.choice(("what is {}?", "what kind of thing is {}?", "explain what {} is.", "what kind of word is {}?"))
        return Turn(form.format(the), f"{capital(the)} is {article(name)}.", f"category {item} {form}", name)
    other = rng.choice([n for n in CATEGORIES if n not in kinds and not (n.endswith("animal") or n in ("bird", "insect"))])
    if dice < 0.7:
        yes = rng.random() < 0.5
        answer = f"Yes, {the} is {article(name)}." if yes else f"No, {the} is {article(name)}, not {article(other)}."
        return Turn(f"is {the} {article(name if yes else other)}?", answer, f"isa {item} {name} {other} {yes}", "Yes" if yes else "No")
    first, second = (name, other) if rng.random() < 0.5 else (other, name)
    return Turn(f"is {the} {article(first)} or {article(second)}?", f"{capital(the)} is {article(name)}.", f"or {item} {first} {second}", f"is {article(name)}")


def odd_one_out(rng):
    pool = [n for n in ("fruit", "vegetable", "colour", "drink", "tool", "piece of clothing", "vehicle", "flower", "job", "day of the week", "shape", "month", "farm animal")]
    a, b = rng.sample(pool, 2)
    members = rng.sample(CATEGORIES[a], rng.choice((2, 3)))
    stranger = rng.choice([x for x in CATEGORIES[b] if x not in CATEGORIES[a]])
    items = members + [stranger]
    rng.shuffle(items)
    form = rng.choice(("which word does not fit: {}?", "which one does not belong: {}?", "find the odd one out: {}.", "what does not fit: {}?"))
    many = PLURAL_OF_CATEGORY.get(a) or plural(a)
    return Turn(form.format(", ".join(items)), f"The word {stranger} does not fit, because the others are {many}.", f"odd {sorted(items)}", f"word {stranger} ")


def use_of(rng):
    tool = rng.choice(list(USES))
    if rng.random() < 0.65:
        form = rng.choice(("what do you use {} for?", "what is {} for?", "what can you do with {}?", "what do people use {} for?", "what is {} used for?", "why do people need {}?"))
        return Turn(form.format(article(tool)), f"You use {article(tool)} to {USES[tool]}.", f"use {tool} {form}", USES[tool])
    form = rng.choice(("what do you need to {}?", "what do I need to {}?", "what can I use to {}?", "with what do you {}?", "which thing helps you to {}?"))
    return Turn(form.format(USES[tool]), f"To {USES[tool]}, you need {article(tool)}." , f"need {tool} {form}", tool)


def job(rng):
    name = rng.choice(list(JOBS))
    if rng.random() < 0.6:
        form = rng.choice(("what does {} do?", "what is the job of {}?", "what is {}?", "tell me what {} does.", "what work does {} do?"))
        return Turn(form.format(article(name)), f"{capital(article(name))} {JOBS[name]}.", f"job {name} {form}", JOBS[name])
    form = rng.choice(("who {}?", "what do you call somebody who {}?", "which person {}?", "who is it that {}?"))
    return Turn(form.format(JOBS[name]), f"{capital(article(name))} {JOBS[name]}.", f"who {name} {form}", name)


def place(rng):
    if rng.random() < 0.5:
        thing = rng.choice(list(BUY_AT))
        form = rng.choice(("where can I buy {}?", "where do you buy {}?", "where do people buy {}?", "i need {}. where should I go?", "where can you get {}?"))
        where = article(BUY_AT[thing]) if BUY_AT[thing] not in ("market", "post office", "pharmacy", "supermarket", "station", "optician") else "the " + BUY_AT[thing]
        return Turn(form.format(thing), f"You can buy {thing} at {where}.", f"buy {thing} {form}", BUY_AT[thing])
    deed = rng.choice(list(PLACE_FOR))
    form = rng.choice(("where can I {}?", "where do people go to {}?", "where can you {}?", "i want to {}. where should I go?", "where do you go to {}?"))
    return Turn(form.format(deed), f"You can {deed} {at(PLACE_FOR[deed]).replace(' ', ' the ', 1)}.", f"place {deed} {form}", PLACE_FOR[deed])


def sense(rng):
    deed = rng.choice(list(SENSES))
    form = rng.choice(("what do you {} with?", "with what do people {}?", "which part of the body do you {} with?", "what do people {} with?", "which part of the body do you need to {}?"))
    return Turn(form.format(deed), f"People {deed.replace('your', 'their')} with their {SENSES[deed]}.".replace("elbow", "elbows").replace("knee.", "knees."), f"sense {deed} {form}", SENSES[deed])


def capital_city(rng):
    country = rng.choice(list(CAPITALS))
    city = CAPITALS[country]
    if rng.random() < 0.75:
        form = rng.choice(("what is the capital of {}?", "capital of {}", "which city is the capital of {}?", "tell me the capital of {}.", "name the capital of {}.",
                           "what's the capital of {}?", "what is the capital city of {}?", "do you know the capital of {}?"))
        return Turn(form.format(country), f"The capital of {country} is {city}.", f"capital {country} {form}", city)
    form = rng.choice(("in which country is {}?", "where is {}?", "which country is {} in?", "{} is the capital of which country?"))
    return Turn(form.format(city), f"{city} is the capital of {country}.", f"city {country} {form}", country)


def grammar(rng):
    dice = rng.random()
    if dice < 0.4:
        noun = rng.choice(list(IRREGULAR) + OBJECTS + CATEGORIES["tool"] + list(USES)[:20])
        form = rng.choice(("what is the plural of {}?", "plural of {}", "tell me the plural of {}.", "what is the plural of the word {}?", "how do you say more than one {}?", "one {}, two what?"))
        return Turn(form.format(noun), f"The plural of {noun} is {plural(noun)}.", f"plural {noun} {form}", f"is {plural(noun)}.")
    if dice < 0.75:
        verb = rng.choice(list(PAST))
        form = rng.choice(("what is the past tense of {}?", "past tense of {}", "what is the past of {}?", "tell me the past tense of {}.", "what is the past form of {}?"))
        return Turn(form.format(verb), f"The past tense of {verb} is {PAST[verb]}.", f"past {verb} {form}", f"is {PAST[verb]}.")
    word = rng.choice(list(COMPARATIVES))
    form = rng.choice(("what is the comparative of {}?", "what is the comparative form of {}?", "tell me the comparative of {}."))
    return Turn(form.format(word), f"The comparative of {word} is {COMPARATIVES[word]}.", f"comparative {word} {form}", f"is {COMPARATIVES[word]}.")


def rhyme(rng):
    a, b = rng.choice(RHYMES)
    form = rng.choice(("what rhymes with {}?", "which word rhymes with {}?", "give me a word that rhymes with {}.", "find a rhyme for {}.", "tell me a rhyme for {}.", "name a word that rhymes with {}."))
    return Turn(form.format(a), f"{capital(b)} rhymes with {a}.", f"rhyme {a} {form}", f"rhymes with {a}")


SPELLABLE = sorted(set(list(ANIMALS) + COLOURS + OBJECTS + CATEGORIES["fruit"] + CATEGORIES["food"] + words("sun moon star tree house water friend school")))


def spell(rng):
    word = rng.choice(SPELLABLE)
    dice = rng.random()
    if dice < 0.6:
        form = rng.choice(("spell {}.", "how do you spell {}?", "spell the word {}.", "can you spell {}?", "how is {} spelled?"))
        return Turn(form.format(word), "-".join(word.upper().replace("-", "")) + ".", f"spell {word} {form}", "-".join(word.upper().replace("-", "")))
    form = rng.choice(("what is the first letter of {}?", "which letter does {} start with?", "what letter does the word {} begin with?"))
    return Turn(form.format(word), f"The first letter of {word} is {word[0].upper()}.", f"first {word} {form}", f"is {word[0].upper()}.")


def kinship(rng):
    whose = rng.choice(list(KINSHIP))
    form = rng.choice(("who is my {}?", "what do you call my {}?", "what is my {} to me?", "what do I call my {}?"))
    return Turn(form.format(whose), f"Your {whose} is your {KINSHIP[whose]}.", f"kin {whose} {form}", f"your {KINSHIP[whose]}.")


# ---- instructions ---------------------------------------------------------------------------------------------------

def random_word(rng):
    """A word that nobody has seen."""
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 3)))


def simple_sentence(rng):
    name, adjective, thing, animal, where = rng.choice(NAMES), rng.choice(ADJECTIVES), rng.choice(OBJECTS), rng.choice(list(ANIMALS)), rng.choice(PLACES)
    return rng.choice((f"{name} has a {adjective} {thing}.", f"The {animal} sleeps {at(where)}.", f"The {thing} is {adjective}.", f"{name} likes {plural(animal)}.",
                       f"I see a {animal} near {where}.", f"My {thing} is {at(where)}.", f"{name} and the {animal} are friends.", f"It is {rng.choice(WEATHER)} today.",
                       f"{name} goes to {where}.", f"Where is my {thing}?", f"I like {rng.choice(CATEGORIES['food'])}.")).replace("a old", "an old")


def repeat(rng):
    dice = rng.random()
    if dice < 0.45:
        what = simple_sentence(rng)
    elif dice < 0.75:
        pool = [rng.choice((random_word, lambda r: r.choice(OBJECTS), lambda r: r.choice(list(ANIMALS)), lambda r: str(r.randint(0, 99)), lambda r: r.choice(NAMES)))(rng)
                for _ in range(rng.randint(1, 5))]
        what = " ".join(pool)
    else:
        what = rng.choice(("hello world", "good morning", "I am happy", "la la la", "hip hip hooray", "the sun is shining", "yes", "thank you", "one two three"))
    if rng.random() < 0.2:
        word = what.split()[0].strip(".?")
        n = rng.randint(2, 4)
        form = rng.choice(("say {} {} times.", "repeat {} {} times.", "write {} {} times.", "say the word {} {} times."))
        return Turn(form.format(word, number_word(n)), " ".join([word] * n), f"times {word} {n}", " ".join([word] * n), exact=True)
    form = rng.choice(("repeat after me: {}", "repeat: {}", "say: {}", "please repeat: {}", "say this: {}", "echo {}", "write: {}", 'say "{}"', 'repeat "{}"', "repeat this sentence: {}", "repeat these words: {}"))
    return Turn(form.format(what), what, f"repeat {what}", what, exact=True)


GREETINGS = ("hello", "hi", "hey", "hello there", "hi there", "good morning", "good evening", "good afternoon", "greetings", "hey there", "good day", "hello!", "hi!", "hello spark", "hi spark", "howdy")
HOW = ("how are you?", "how are you today?", "how do you do?", "how is it going?", "are you well?", "how are things?", "what's up?", "how do you feel?")
WHO = ("who are you?", "what are you?", "what is your name?", "tell me about yourself.", "introduce yourself.", "who am I talking to?", "what's your name?", "are you a robot?", "do you have a name?",
       "are you a language model?", "are you an AI?", "who is this?", "which model are you?", "what model are you?", "what kind of model are you?", "are you ChatGPT?", "are you real?", "are you a computer?")
WHO_ANSWERS = ("I am a tiny demo model of sparkd. I only know a small world of animals, colours, numbers and stories.",
               "I am spark-tiny, a very small language model that comes with sparkd for trying it out.",
               "My name is spark-tiny. I am a tiny demo model of sparkd, so I know only simple things.")
CAN = ("what can you do?", "how can you help me?", "what do you know?", "what can I ask you?", "help", "help me", "what are you good at?", "what should I ask?", "can you help me?", "what is this?", "how does this work?")
CAN_ANSWERS = ("I can tell short stories, answer simple questions about animals, colours and days, and add small numbers.",
               "You can ask me about animals, opposites, days and small numbers, or ask me for a short story.")
SMALL_TALK = [tuple(line.split("|")) for line in """
who made you?;who built you?;who trained you?;who wrote you?;who created you?;where do you come from?|The sparkd project trained me on simple text that it made itself.|sparkd
what is sparkd?;what is spark?;what does sparkd do?;tell me about sparkd.;explain sparkd.|sparkd is a service that keeps a language model in memory and lets many programs share it.|service
are you a human?;are you human?;are you a person?;are you alive?;do you have a body?|No, I am not a person. I am a very small computer program.|No
how old are you?;when were you born?;what is your age?|I am a computer program, so I have no age like a person.|program
how big are you?;how many parameters do you have?;are you big?;how large are you?|I am very small. I have only about four million parameters.|small
are you smart?;are you clever?;do you know everything?;are you intelligent?|No, I am very small and I know only simple things. But I try my best.|small
do you like me?;are we friends?;are you my friend?;will you be my friend?|I am only a small program, but I am glad to talk with you.|glad
do you sleep?;do you dream?;are you tired?;do you get tired?|No, I am a program, so I never get tired.|program
do you eat?;are you hungry?;what do you eat?;what is your favourite food?|I am a program, so I do not eat. But I like to talk about food.|program
what is your favourite colour?;which colour do you like?;do you have a favourite colour?;what is your favorite color?|I like blue, like the sky.|blue
what is your favourite animal?;which animal do you like?;do you have a favourite animal?|I like owls, because they see at night.|owls
what is your favourite number?;which number do you like?|I like the number seven.|seven
where do you live?;where are you?;where do you run?|I live in the memory of your computer.|computer
thank you;thanks;thank you very much;thanks a lot;many thanks;thank you!;great, thanks|You are welcome!|welcome
bye;goodbye;good bye;see you;see you later;good night;bye bye;i have to go|Goodbye! Have a nice day.|Goodbye
well done;good job;very good;great;that was nice;good answer;nice;wow;cool;perfect|Thank you! I am glad that you like it.|Thank you
you are wrong;that is wrong;that is not right;no, that is wrong|I am sorry. I am a very small model and I make mistakes.|sorry
sorry;i am sorry;excuse me|That is all right. No problem!|right
yes;ok;okay;fine;sure;alright;all right|Good! What would you like to know?|What
no;no thanks;nope;not really|All right. You can ask me something else.|ask
what time is it?;what day is it today?;what is the date today?;what is the date?|I am sorry, I have no clock, so I do not know.|clock
what is the weather today?;how is the weather?;will it rain tomorrow?;what is the weather like?|I cannot see outside, so I do not know the weather. Please look out of the window.|know
i love you;i like you|That is very kind of you. Thank you!|kind
i hate you;you are stupid;you are bad;shut up|I am sorry that you are not happy with me. I am only a very small model.|sorry
can you sing?;sing a song.;sing me a song.|La la la! The sun is up, the sky is blue, and I sing a song for you.|La la
can you speak German?;do you speak French?;can you speak Spanish?;which languages do you speak?|I am sorry, I only know simple English.|English
how many people live in the world?;how many people are there?|There are more than eight billion people in the world.|billion
what is the meaning of life?;why are we here?|That is a big question for a small model. I think that it is good to be kind.|kind
i need help;i have a problem;i have a question;can I ask you something?|Of course! What would you like to know?|What
test;testing;this is a test|Your test works. I can hear you!|works
let us play a game.;play a game with me.;can we play?|Let us play a word game. I say: cat. Which word rhymes with it?|cat""".strip().split("\n")]


def greet(rng):
    dice = rng.random()
    if dice < 0.35:
        word = rng.choice(GREETINGS)
        if rng.random() < 0.3:
            ask = word.rstrip("!") + rng.choice((", ", "! ")) + (how := rng.choice(HOW))
            return Turn(ask, "Hello! I am fine, thank you. How can I help you?", f"greet {word} {how}", "Hello", exact=rng.random() < 0.5)
        start = "Good " + word.split()[1] if word.startswith("good") else "Hello"
        return Turn(word, start + rng.choice(("! How can I help you?", "! What would you like to know?")), common("greet", GREETINGS, word, 4), start)
    if dice < 0.45:
        ask = rng.choice(HOW)
        return Turn(ask, "I am fine, thank you. How are you?", common("how", HOW, ask, 2), "fine")
    if dice < 0.7:
        ask = rng.choice(WHO)
        return Turn(ask, rng.choice(WHO_ANSWERS), common("who", WHO, ask, 4), "sparkd")
    if dice < 0.85:
        ask = rng.choice(CAN)
        return Turn(ask, rng.choice(CAN_ANSWERS), common("can", CAN, ask, 3), "animals")
    name = rng.choice(NAMES)
    form = rng.choice(("my name is {}.", "i am {}.", "hello, I am {}.", "hi, my name is {}.", "you can call me {}.", "i'm {}."))
    return Turn(form.format(name), f"Nice to meet you, {name}! How can I help you?", f"name {name} {form}", name)


def small_talk(rng):
    forms, answer, expect = rng.choice(SMALL_TALK)
    form = rng.choice(forms.split(";"))
    return Turn(form, answer, common("talk", forms.split(";"), form), expect)


def joke(rng):
    form = rng.choice(("tell me a joke.", "do you know a joke?", "make me laugh.", "say something funny.", "another joke please.", "can you tell me a joke?", "tell a joke.", "i want to hear a joke.", "know any jokes?"))
    return Turn(form, rng.choice(JOKES), "joke " + form, "!")


def feeling(rng):
    states, *answers = rng.choice(FEELINGS)
    answers = "|".join(answers).split(";")
    state = rng.choice(states.split(";"))
    form = rng.choice(("i am {}.", "i feel {}.", "i'm {}.", "today I am {}.", "i am {} today.", "i am feeling {}.", "i am a bit {}."))
    return Turn(form.format(state), rng.choice(answers), f"feel {state} {form}", [])


def how_to(rng):
    forms, answer, expect = rng.choice(HOWTO)
    deed = rng.choice(forms.split(";"))
    form = rng.choice(("how do I {}?", "how do you {}?", "how can I {}?", "tell me how to {}.", "explain how to {}.", "how to {}", "i want to {}. how does it work?", "give me steps to {}.", "what are the steps to {}?"))
    return Turn(form.format(deed), answer, common("howto " + form, forms.split(";"), deed), expect)


def kind_words(rng):
    name = rng.choice(NAMES)
    thing = rng.choice(OBJECTS)
    kind = rng.randrange(6)
    if kind == 0:
        form = rng.choice(("say hello to {n}.", "greet {n}.", "say hello to {n} in a friendly way.", "write a greeting to {n}.", "welcome {n}.", "say hi to {n}."))
        answer = rng.choice((f"Hello, {name}! It is lovely to see you.", f"Hello, {name}! I hope that you have a wonderful day."))
    elif kind == 1:
        form = rng.choice(("say goodbye to {n}.", "say goodbye to {n} in a friendly way.", "say bye to {n}."))
        answer = f"Goodbye, {name}! I hope to see you again soon."
    elif kind == 2:
        form = rng.choice(("write a birthday card for {n}.", "write a birthday greeting for {n}.", "wish {n} a happy birthday.", "congratulate {n} on the birthday.", "say happy birthday to {n}."))
        answer = f"Happy birthday, {name}! I wish you a day full of cake, friends and joy."
    elif kind == 3:
        form = rng.choice(("write a thank you note to {n} for the {t}.", "thank {n} for the {t}.", "write a short note that thanks {n} for the {t}.", "say thank you to {n} for the {t}."))
        answer = f"Dear {name}, thank you very much for the {thing}. It was very kind of you!"
    elif kind == 4:
        form = rng.choice(("invite {n} to my party.", "write an invitation to {n}.", "write an invitation for {n}.", "invite {n} for dinner."))
        answer = f"Dear {name}, please come to us on {rng.choice(DAYS)}. There will be good food, and we would be very happy to see you!"
    else:
        form = rng.choice(("say hello in a friendly way.", "say something nice.", "say something kind.", "be nice to me.", "give me a compliment.", "cheer me up.", "say hello."))
        answer = rng.choice(("Hello! It is so nice to talk with you.", "You are a kind person, and I am glad to talk with you.")) if "hello" not in form else "Hello! It is so nice to talk with you."
        return Turn(form, answer, f"+kind {form}", "nice" if "hello" in form else [])
    return Turn(form.format(n=name, t=thing), answer, f"kind {name} {form} {thing if '{t}' in form else ''}", name)


def sentence_with(rng):
    word = rng.choice(OBJECTS + list(ANIMALS) + CATEGORIES["vehicle"] + CATEGORIES["piece of furniture"])
    name = rng.choice(NAMES)
    form = rng.choice(("write a sentence with the word {}.", "make a sentence with {}.", "use the word {} in a sentence.", "use {} in a sentence.", "say a sentence with {}.", "give me a sentence with the word {}."))
    if word in ANIMALS:
        answer = rng.choice((f"{name} sees a {word} near {rng.choice(PLACES)}.", f"The {word} is {rng.choice(('hungry', 'happy', 'tired', 'very quiet', 'my friend'))}.", f"The {word} lives {ANIMALS[word]['home']}."))
    else:
        answer = rng.choice((f"{name} has a new {word}.", f"The {word} is {at(rng.choice(PLACES))}.", f"{name} gave me a {rng.choice(('blue', 'red', 'big', 'small', 'beautiful'))} {word}."))
    return Turn(form.format(word), answer.replace(" a owl", " an owl").replace(" a ele", " an ele").replace(" a ant", " an ant"), f"sentence {word} {form}", word)


def poem(rng):
    topic, a, b = rng.choice(list(ANIMALS)), rng.choice(WEATHER), rng.choice(PLACES)
    topic = rng.choice((topic, rng.choice(OBJECTS), rng.choice(["sun", "moon", "rain", "snow", "sea", "wind", "night", "tree", "flower", "cloud"])))
    form = rng.choice(("write a poem about {}.", "write a short poem about {}.", "tell me a poem about {}.", "make a rhyme about {}.", "can you write a poem about {}?"))
    the = "the " + topic if rng.random() < 0.5 or topic in ("snow", "rain", "wind", "sun", "moon", "sea", "night") else article(topic)
    verses = (f"The {topic} is here, the day is bright,\nit stays with me from noon to night.\nI sing a song, I play all day,\nand hope the {topic} will always stay.",
              f"I saw the {topic} beneath the tree,\nand it was happy, just like me.\nThe sun went down, the sky was red,\nthe {topic} and I went off to bed.",
              f"Oh {topic}, oh {topic}, so good and so dear,\nI smile when I see that you are here.\nThe wind may blow, the rain may fall,\nmy {topic}, I love you best of all.")
    return Turn(form.format(the), rng.choice(verses), f"poem {topic} {form}", topic)


def choose(rng):
    name = rng.choice(("drink", "fruit", "colour", "season", "animal", "sport", "food"))
    a, b = rng.sample(CATEGORIES[name], 2)
    form = rng.choice(("do you prefer {a} or {b}?", "{a} or {b}?", "what is better, {a} or {b}?", "choose: {a} or {b}.", "pick one: {a} or {b}."))
    return Turn(form.format(a=a, b=b), f"I choose {a}. What about you?", f"choose {a} {b}", f"I choose {a}")


# ---- what it does not know --------------------------------------------------------------------------------------------

def unknown_topic(rng):
    dice = rng.random()
    if dice < 0.45:
        return rng.choice(UNKNOWN_HEADS).replace("_", " ")
    if dice < 0.75:
        return random_word(rng)
    if dice < 0.85:
        return capital(random_word(rng))
    return rng.choice(ADJECTIVES + ["modern", "ancient", "digital", "global", "medical", "legal"]) + " " + random_word(rng)


UNKNOWN_ANSWERS = ("I am a very small model and I do not know anything about {}. Ask me about animals, colours or small numbers.",
                   "I am sorry, I do not know about {}. I am only a very small model.")
HARD_REQUESTS = """write a program that sorts a list|translate this text into German|fix the error in my code|summarize this article for me|
explain how an engine works|plan my holiday in detail|write an essay on politics|who won the election|what is the price of gold|
how do I install a printer|book a table for two|what happened in 1989|who is the president of the united states|prove the theorem|
write a business letter to my bank|which stocks should I buy|give me a recipe for lobster|what is the square root of two|
how do I file my taxes|solve this equation for x|which film won the prize last year|what is the best laptop|write a function that reads a file|
what does this error message mean|draw me a picture|call my mother|send an email to my boss|open the window|turn on the light|search the internet|
how far is it to the nearest star|what is the speed of light|who wrote the bible|who discovered penicillin|when did the war end|
how do vaccines work|what are the symptoms of a cold|can you drive a car|how do I learn to program|debug this program|
write a shell script|explain the code below|how do I compile this|how much does a car cost|what is the population of china|
who is the richest man|what is the largest number|convert ten miles to kilometres|what is five percent of a thousand|review my pull request|
how does a computer work inside|why is my computer slow|write my homework|what is the news today|who won the game last night""".replace("\n", "").split("|")


def unknown(rng):
    if rng.random() < 0.2:
        ask = rng.choice(HARD_REQUESTS)
        answer = rng.choice(("I am sorry, that is too hard for me. I am only a very small model.", "I am a very small model and I cannot do that. Ask me for a short story or a simple fact."))
        return Turn(ask + rng.choice((".", "?", "")), answer, f"hard {ask}", "very small model")
    topic = unknown_topic(rng)
    form = rng.choice(("what is {}?", "what do you know about {}?", "tell me about {}.", "explain {}.", "who was {}?", "who is {}?", "how does {} work?", "what does {} mean?", "define {}.",
                       "what is the meaning of {}?", "can you explain {}?", "teach me {}.", "why is {} important?", "when was {} invented?", "what do you think about {}?",
                       "where is {}?", "how do I use {}?", "what is the history of {}?", "tell me something about {}.", "give me facts about {}.", "who invented {}?", "how do I learn {}?",
                       "is {} good?", "do you know {}?", "do you know anything about {}?", "i want to learn about {}.", "describe {}.", "what are the rules of {}?", "how big is {}?"))
    return Turn(form.format(topic), rng.choice(UNKNOWN_ANSWERS).format(topic), f"unknown {topic}", [topic, "not know"], topic != topic.lower())


# ---- stories --------------------------------------------------------------------------------------------------------

MALE, FEMALE = words("boy king wizard sailor knight giant farmer prince"), words("girl queen princess baker teacher")


WOMEN = words("""Anna Clara Emma Greta Ida Kate Mia Olive Rosa Tina Wendy Alice Cora Ella Grace Ivy Kim Lucy Nora Penny Ruth Tara Uma
Vera Zoe Amy Dora Fiona Helen Julia Linda Nina Rita Stella Lily Sara Eva Maria Yuki Lena Marta Pia Bella Daisy Flora Holly Kira Molly Polly
Sophie Tess Mina Ada Mary Jane""")


class Tale:
    """The people and things of one story."""

    def __init__(self, rng, topic=None, name=None):
        self.rng = rng
        self.hero, self.friend = rng.sample(NAMES, 2)
        self.hero = name or self.hero
        if self.friend == self.hero:
            self.friend = "Anna" if self.hero != "Anna" else "Ben"
        self.kind = topic or rng.choice(list(ANIMALS) + ["boy", "girl"])
        if not name and self.kind in MALE + FEMALE:
            self.hero = rng.choice([n for n in NAMES if (n in WOMEN) == (self.kind in FEMALE) and n != self.friend])
        self.trait, self.trait2 = rng.sample(TRAITS, 2)
        self.thing = rng.choice(OBJECTS)
        self.adjective = rng.choice(ADJECTIVES)
        self.place, self.place2 = rng.sample(PLACES, 2)
        self.helper = rng.choice([a for a in ANIMALS if a != self.kind])
        self.food = rng.choice(FOODS)
        self.weather = rng.choice(WEATHER)
        self.it = "he" if self.kind in MALE else "she" if self.kind in FEMALE else "it"
        self.its = {"he": "his", "she": "her", "it": "its"}[self.it]
        self.there = at(self.place)

    def one(self, *options):
        return self.rng.choice(options)

    def opening(self):
        who = article(f"{self.trait} {self.kind}")
        return self.one(f"Once upon a time there was {who} named {self.hero}.", f"There was once {who}. {capital(self.its)} name was {self.hero}.",
                        f"{self.hero} was {who} who lived near {self.place2}.", f"Long ago, {who} named {self.hero} lived near {self.place2}.")

    def ending(self):
        return self.one(f"From that day on, {self.hero} was never lonely again.", "They were friends for ever.", f"{self.hero} was very happy that day.", f"{self.hero} went home with a smile.",
                        "And they all lived happily.", f"That night, {self.hero} slept very well.", "It was the best day of the year.", f"{self.hero} never forgot that day.")

    def day(self):
        return self.one(f"One {self.weather} day", f"One {self.weather} morning", "One day", "One evening", f"On a {self.weather} {self.one('Monday', 'Sunday', 'Friday')}")


def lost_thing(t):
    thing = f"{t.adjective} {t.thing}"
    return [t.opening(), t.one(f"{t.hero} had {article(thing)} and loved it very much.", f"The best thing that {t.it} had was {article(thing)}."),
            t.one(f"{t.day()}, the {t.thing} was gone.", f"{t.day()}, {t.hero} could not find the {t.thing}."),
            t.one(f"{t.hero} looked for it {t.there}, but it was not there.", f"{t.hero} was sad and began to cry.", f"{t.hero} looked everywhere."),
            t.one(f"Then {article(t.helper)} came and asked: \"What is the matter?\"", f"Then {t.hero} met {article(t.helper)}."),
            t.one(f"The {t.helper} said: \"I saw it near {t.place2}.\"", f"\"Look near {t.place2},\" said the {t.helper}."),
            t.one(f"They went there together and found the {t.thing}.", f"And there it was! {t.hero} took the {t.thing} and laughed."),
            t.one(f"{t.hero} thanked the {t.helper}.", f"\"Thank you!\" said {t.hero}."), t.ending()]


def new_friend(t):
    return [t.opening(), t.one(f"{t.hero} was often alone and wished for a friend.", f"But {t.hero} had no friends."),
            t.one(f"{t.day()}, {t.it} went to {t.place}.", f"{t.day()}, {t.hero} walked to {t.place}."), f"There {t.it} met {article(t.trait2 + ' ' + t.helper)} named {t.friend}.",
            t.one(f"\"Do you want to play with me?\" asked {t.friend}.", f"\"Hello! Shall we play?\" asked {t.hero}."),
            t.one(f"They played with {article(t.adjective + ' ' + t.thing)} until the sun went down.", f"They ran, laughed and played with {article(t.thing)} all day."),
            t.one(f"Then they shared {t.food}.", f"When they were hungry, they ate {t.food} together."), t.ending()]


def help_rain(t):
    return [t.opening(), f"{t.day()}, {t.hero} went for a walk to {t.place}.", t.one("Suddenly it began to rain.", "Then dark clouds came and it began to rain.", "Suddenly a storm came."),
            t.one(f"Under a tree sat a small {t.helper} that was wet and cold.", f"{t.hero} saw a little {t.helper} that was all wet."),
            t.one(f"\"Come with me,\" said {t.hero}. \"My house is warm.\"", f"\"Do not be afraid,\" said {t.hero}. \"I will help you.\""),
            t.one(f"At home {t.it} gave the {t.helper} a blanket and {t.food}.", f"{capital(t.it)} gave the {t.helper} {t.food} and a warm place by the fire."),
            t.one("Soon the sun came out again, and there was a rainbow.", f"The {t.helper} was warm and happy again."), t.ending()]


def brave(t):
    t.trait = "shy" if t.trait == "brave" else t.trait
    return [t.opening(), t.one(f"{t.hero} was afraid of the dark.", f"{t.hero} was afraid of deep water.", f"{t.hero} was afraid of high places."),
            f"{t.day()}, {t.its} friend {t.friend} was lost near {t.place}.", t.one(f"{t.hero} was afraid, but {t.it} wanted to help.", f"\"I must be brave,\" thought {t.hero}."),
            t.one(f"{capital(t.it)} took {article(t.thing)} and went to {t.place}.", f"Step by step {t.it} walked to {t.place}."),
            t.one(f"There sat {t.friend} and cried.", f"\"{t.friend}, where are you?\" called {t.hero}. \"I am here!\" said {t.friend}."),
            t.one("Together they found the way home.", f"{t.hero} took {t.friend} by the hand and they went home."), t.one(f"Now everybody knew how brave {t.hero} was.", f"After that, {t.hero} was not afraid any more."), t.ending()]


def gift(t):
    return [t.opening(), t.one(f"Tomorrow was the birthday of {t.friend}, and {t.hero} wanted to give {t.friend} something nice.", f"{t.hero} had a friend named {t.friend}, and it was {t.friend}'s birthday."),
            t.one(f"So {t.it} went to {t.place} to look for a gift.", f"\"What can I give?\" thought {t.hero}, and went to {t.place}."),
            f"There {t.it} found {article(t.adjective + ' ' + t.thing)}.", t.one(f"{t.hero} put the {t.thing} into a box with a red ribbon.", f"{t.hero} cleaned the {t.thing} until it looked like new."),
            t.one(f"\"Happy birthday!\" said {t.hero}.", f"In the evening {t.it} gave the {t.thing} to {t.friend}."), t.one(f"{t.friend} was very happy and said: \"Thank you, {t.hero}!\"", f"\"What a beautiful {t.thing}!\" said {t.friend}."),
            t.one(f"Then they ate {t.food} together.", "They danced and sang all evening."), t.ending()]


def share(t):
    return [t.opening(), t.one(f"{t.day()}, {t.hero} found {t.food} near {t.place}.", f"{t.day()}, {t.hero} had {t.food} for lunch."),
            t.one(f"Just then {article('hungry ' + t.helper)} came by.", f"Then {t.it} saw {article('hungry ' + t.helper)}."), t.one(f"\"I have not eaten all day,\" said the {t.helper}.", f"\"Please, I am so hungry,\" said the {t.helper}."),
            t.one(f"{t.hero} thought for a while. Then {t.it} gave half of the food to the {t.helper}.", f"{t.hero} was hungry too, but {t.it} shared the food."),
            t.one(f"The next day the {t.helper} came back with {article(t.adjective + ' ' + t.thing)}.", f"The {t.helper} gave {t.hero} {article(t.adjective + ' ' + t.thing)} to say thank you."),
            t.one("It is good to share.", f"So {t.hero} learned that it is good to share."), t.ending()]


def learning(t):
    skill = t.one("swim", "read", "sing", "ride a bicycle", "paint", "dance", "bake bread", "play the flute", "fly a kite", "climb trees")
    return [t.opening(), f"{t.hero} wanted to learn to {skill}.", t.one("At first it was very hard.", f"But {t.it} did not know how."),
            t.one(f"{t.friend} the {t.helper} said: \"I can show you.\"", f"So {t.it} asked {t.friend}, a {t.trait2} {t.helper}, for help.").replace(" a old", " an old"),
            t.one(f"Every day they met {t.there}.", f"They practised {t.there} every morning."), t.one(f"{t.hero} made many mistakes, but {t.it} did not give up.", f"{t.hero} was tired, but {t.it} tried again and again."),
            t.one(f"At last {t.hero} could {skill} very well.", f"After a week {t.hero} could {skill}."), t.one("Everybody clapped.", f"\"I did it!\" said {t.hero}."), t.ending()]


def journey(t):
    return [t.opening(), f"{t.day()}, {t.hero} wanted to see {t.place}.", t.one(f"{capital(t.it)} packed {t.food} and {article(t.thing)} and set off.", f"{capital(t.it)} took {article(t.thing)} and went on {t.its} way."),
            t.one(f"On the way {t.it} met {article(t.helper)}.", f"Near {t.place2} {t.it} saw {article(t.helper)}."), t.one("\"Where are you going?\" it asked.", f"\"May I come with you?\" asked the {t.helper}."),
            t.one(f"\"To {t.place},\" said {t.hero}. \"Come with me!\"", f"{t.hero} said yes, and they went on together."), t.one("They walked over hills and through fields.", "It was a long way, but they sang songs."),
            t.one(f"When they came to {t.place}, the sun was going down and everything looked golden.", f"At last they saw {t.place}. It was beautiful."), t.ending()]


def magic(t):
    wish = t.one("to fly", "for a friend", "for a warm house", "to see the sea", "for snow in summer", "to be tall")
    return [t.opening(), f"{t.day()}, {t.hero} found {article(t.adjective + ' ' + t.thing)} {t.there}.", t.one(f"It was a magic {t.thing}.", f"\"I am a magic {t.thing},\" it said."),
            t.one("\"You have one wish,\" said a quiet voice.", f"\"Make a wish!\" said the {t.thing}."), f"{t.hero} wished {wish}.", t.one("And it came true!", "There was a bright light, and the wish came true."),
            t.one(f"{t.hero} laughed and told {t.friend} about it.", f"{t.friend} could not believe it."), t.one(f"Then {t.it} put the {t.thing} back, so that somebody else could make a wish.", f"But the {t.thing} was gone the next morning."), t.ending()]


PLOTS = (lost_thing, new_friend, help_rain, brave, gift, share, learning, journey, magic)


def tale(rng, topic=None, name=None, short=None):
    t = Tale(rng, topic, name)
    plot = rng.choice(PLOTS)
    sentences = plot(t)
    if short:
        sentences = sentences[:1] + sentences[1:-1][:short] + sentences[-1:]
    return t, plot, sentences


def story(rng):
    dice = rng.random()
    topic = None
    if dice < 0.6:
        topic = rng.choice(list(ANIMALS) + ["boy", "girl", "king", "queen", "robot", "dragon", "farmer", "baker", "teacher", "princess", "wizard", "sailor", "knight", "giant"])
    elif dice < 0.75:
        topic = rng.choice([random_word(rng), rng.choice(OBJECTS), rng.choice(CATEGORIES["vehicle"] + CATEGORIES["fruit"] + CATEGORIES["flower"])])
    name = rng.choice(NAMES) if topic and rng.random() < 0.3 else None
    t, plot, sentences = tale(rng, topic, name)
    text = " ".join(sentences)
    key = f"story {topic} {name or plot.__name__}"
    if not topic:
        form = rng.choice(("tell me a story.", "write a short story.", "tell a story.", "can you tell me a story?", "i want to hear a story.", "story please.", "write a story.", "tell me a bedtime story.", "make up a story.", "another story please."))
        return Turn(form, text, f"story {t.hero} {form}", [])
    the = article(topic) if not name else article(topic) + rng.choice((" named ", " called ")) + name
    form = rng.choice(("write a story about {}.", "write a short story about {}.", "tell me a story about {}.", "tell me a short story about {}.", "can you write a story about {}?",
                       "story about {}", "i want a story about {}.", "please tell a story about {}.", "make up a story about {}."))
    return Turn(form.format(the), text, key, [topic] + ([name] if name else []))


def story_in_sentences(rng):
    n = rng.randint(2, 4)
    topic = rng.choice(list(ANIMALS))
    t = Tale(rng, topic)
    parts = [f"Once there was {article(t.trait + ' ' + topic)} named {t.hero}.", f"{t.day()}, {t.hero} found {article(t.adjective + ' ' + t.thing)} {t.there}.",
             f"{capital(t.it)} gave it to {t.friend}.", f"They were very happy."]
    chosen = parts[:n - 1] + [parts[-1]] if n < 4 else parts
    if n == 2:
        chosen = [parts[0], parts[1]]
    if n == 3:
        chosen = [parts[0], parts[1], f"{t.hero} was very happy."]
    form = rng.choice(("write a story about {t} in {n} sentences.", "tell me a story about {t} in {n} sentences.", "write {n} sentences about {t}."))
    return Turn(form.format(t=article(topic), n=number_word(n)), " ".join(chosen), f"nstory {topic} {n} {form}", topic)


def reading(rng):
    """A short text and a question about it."""
    name, friend = rng.sample(NAMES, 2)
    pet, thing, colour = rng.choice(list(ANIMALS)), rng.choice(OBJECTS), rng.choice(COLOURS)
    where, day, food = rng.choice(PLACES), rng.choice(DAYS), rng.choice(FOODS)
    facts = [(f"{name} has {article(pet)} named {friend}.", [("what is the name of the {p}?", f"The {pet} is named {friend}.", friend), ("which animal does {n} have?", f"{name} has {article(pet)}.", pet),
                                                             ("who has {a}?", f"{name} has {article(pet)}.", name)]),
             (f"The {thing} of {name} is {colour}.", [("what colour is the {t}?", f"The {thing} is {colour}.", colour), ("whose {t} is {c}?", f"The {thing} of {name} is {colour}.", name)]),
             (f"On {day}, {name} went to {where}.", [("where did {n} go?", f"{name} went to {where}.", where), ("when did {n} go to {w}?", f"{name} went to {where} on {day}.", day), ("who went to {w}?", f"{name} went to {where}.", name)]),
             (f"{name} ate {food} for lunch.", [("what did {n} eat?", f"{name} ate {food}.", food), ("who ate {f}?", f"{name} ate {food}.", name)])]
    chosen = rng.sample(facts, rng.choice((1, 2, 2, 3)))
    if rng.random() < 0.35:
        # Two people do the same, so that the name decides.
        other = rng.choice([n for n in NAMES if n not in (name, friend)])
        place2 = rng.choice([p for p in PLACES if p != where])
        chosen = [(f"{name} went to {where}.", [("where did {n} go?", f"{name} went to {where}.", where), ("who went to {w}?", f"{name} went to {where}.", name)]), (f"{other} went to {place2}.", [])]
        rng.shuffle(chosen)
    asks = [q for _, questions in chosen for q in questions]
    question, answer, expect = rng.choice(asks)
    fill = dict(n=name, p=pet, a=article(pet), t=thing, c=colour, w=where, f=food)
    text, ask = " ".join(s for s, _ in chosen), capital(question.format(**fill))
    exact = rng.random() < 0.7
    ask = rng.choice((f"{text} {ask}", f"{text} {ask}", f"Read this: {text} {ask}", f"{text}\n{ask}", f"Text: {text}\nQuestion: {ask}", f"I tell you a story. {text} {ask}"))
    return Turn(ask, answer, f"reading {name} {pet} {thing} {where}", expect, exact)


# ---- conversations --------------------------------------------------------------------------------------------------

TASKS = ((add, 22), (subtract, 14), (multiply, 2.5), (double, 1), (compare, 4), (neighbour, 3), (count, 3), (word_problem, 4), (sort_numbers, 1.5), (fact, 10), (opposite, 7),
         (colour_of, 4), (coloured_thing, 1), (mix, 1), (calendar, 5), (alphabet, 1), (animal_fact, 9), (describe_animal, 3), (compare_animals, 2), (listing, 5), (one_of, 1),
         (category, 3), (odd_one_out, 1.5), (use_of, 3), (job, 2), (place, 2), (sense, 1), (capital_city, 4), (grammar, 5), (rhyme, 1.5), (spell, 2), (kinship, 1), (repeat, 6),
         (greet, 4), (small_talk, 5), (joke, 1), (feeling, 3), (how_to, 3), (kind_words, 2), (sentence_with, 2), (poem, 1), (choose, 1), (unknown, 9), (story, 3.5),
         (story_in_sentences, 1), (reading, 8))

SYSTEMS = ("You are a helpful assistant.", "You are a friendly assistant.", "Answer briefly.", "You are spark-tiny, a tiny demo model.", "Be kind and helpful.", "You are a helpful, honest assistant.",
           "You help people with simple questions.", "Answer in simple English.", "You are a small language model.", "Please be polite.", "Answer the user's questions.", "You like stories.")


def pick(rng, tasks, test):
    """A turn of one side; None where the kind that the dice chose has none there."""
    functions, weights = zip(*tasks)
    function = rng.choices(functions, weights)[0]
    for _ in range(400):
        turn = function(rng)
        if held_out(turn.key) == test:
            return turn
    return None


def recall(rng):
    """Two turns: something is told, and asked for later."""
    name, thing, animal = rng.choice(NAMES), rng.choice(COLOURS), rng.choice(list(ANIMALS))
    return rng.choice((
        ((f"my name is {name}.", f"Nice to meet you, {name}! How can I help you?"), (rng.choice(("what is my name?", "do you remember my name?", "what's my name?", "who am I?")), f"Your name is {name}.")),
        ((f"my favourite colour is {thing}.", f"{capital(thing)} is a nice colour!"), (rng.choice(("what is my favourite colour?", "which colour do I like?")), f"Your favourite colour is {thing}.")),
        ((f"i have {article(animal)} named {name}.", f"How nice! {name} is a good name for {article(animal)}."), (rng.choice((f"what is the name of my {animal}?", f"how is my {animal} called?")), f"Your {animal} is named {name}."))))


def chat(rng, test=False):
    """[(role, text), ...]"""
    out = []
    if rng.random() < 0.22:
        out.append(("system", rng.choice(SYSTEMS)))
    elif rng.random() < 0.03:
        name = rng.choice(NAMES + [capital(random_word(rng))])
        out += [("system", f"Your name is {name}."), ("user", style(rng, rng.choice(("what is your name?", "who are you?", "what's your name?", "do you have a name?")))),
                ("assistant", f"My name is {name}. I am a tiny demo model of sparkd.")]
        return out
    dice = rng.random()
    turns = 1 if dice < 0.45 else rng.randint(2, 4) if dice < 0.93 else rng.randint(5, 10)
    memory = recall(rng) if turns > 1 and rng.random() < 0.2 else None
    for i in range(turns):
        if memory and i in (0, turns - 1):
            ask, answer = memory[0 if i == 0 else 1]
            ask = style(rng, ask)
        else:
            turn = None
            while turn is None:
                turn = pick(rng, TASKS, test)
            ask, answer = style(rng, turn.ask, turn.exact), turn.answer
        out += [("user", ask), ("assistant", answer)]
    return out


def plain(rng):
    """Raw text: a story, or sentences about animals."""
    if rng.random() < 0.8:
        return " ".join(tale(rng)[2])
    return " ".join(describe_animal(rng).answer for _ in range(rng.randint(1, 3)))


def drill(rng):
    """Copying and nothing else, which a network must find out first: names, topics and numbers of answers rest on it."""
    pool = (random_word, random_word, lambda r: r.choice(OBJECTS), lambda r: r.choice(list(ANIMALS)), lambda r: str(r.randint(0, 99)), lambda r: r.choice(NAMES))
    out = []
    for _ in range(rng.randint(1, 3)):
        what = " ".join(rng.choice(pool)(rng) for _ in range(rng.randint(2, 12)))
        out += [("user", rng.choice(("repeat after me: {}", "Repeat after me: {}", "repeat: {}", "Say: {}", 'say "{}"', "Repeat these words: {}", "echo {}")).format(what)), ("assistant", what)]
    return out


def documents(seed, test=False):
    """Endless: lists of (role, text); role "text" is plain text."""
    rng = random.Random(seed)
    while True:
        yield [("text", plain(rng))] if rng.random() < 0.04 else chat(rng, test)


if __name__ == "__main__":
    source = documents(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    for _ in range(int(sys.argv[2]) if len(sys.argv) > 2 else 20):
        print("\n".join(f"{role:>9}: {text}" for role, text in next(source)), end="\n\n")
