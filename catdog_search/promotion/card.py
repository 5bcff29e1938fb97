"""The model card: what anybody who relies on the model has to know, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from catdog_search.markup import as_markdown
from catdog_search.text import in_a_line, printable
from catdog_search.tracking.vocabulary import CARD_FILE

# Maximum number of characters that MLflow keeps of a version's description.
LONGEST = 5000
_MORE = f"\n\nThe rest of the card: {CARD_FILE} of the version's source run.\n"


_VERDICTS = {"off": "not asked", "open": "not looked at"}


def write(facts: Mapping[str, Any]) -> str:
    """Write the card of a promotion.

    Args:
        facts: Findings, as `promotion.json` keeps them.
    """
    sections = (
        ("Purpose", _purpose(facts)),
        ("Numbers", _numbers(facts)),
        ("Gates", _gates(facts)),
        ("How it was chosen", _choice(facts)),
        ("How sure it is", _sureness(facts)),
        ("What is neither", _neither(facts)),
        ("Confusion and hardest photos", _mistakes(facts)),
        ("Data", _data(facts)),
        ("Training", _training(facts)),
        ("Figures", _figures(facts)),
        ("Limits of use", _limits(facts)),
        ("Environment", _environment(facts)),
    )
    lines = [f"# {_text(facts['model'])}: {_says(facts)}", ""]
    for title, content in sections:
        lines += [f"## {title}", "", *content, ""]
    return "\n".join(lines).rstrip() + "\n"


def in_short(card: str) -> str:
    """As much of a card as MLflow keeps with a version, in whole sections."""
    if len(card) <= LONGEST:
        return card
    end = card.rfind("\n## ", 0, LONGEST - len(_MORE))
    return card[: max(end, 0)].rstrip() + _MORE


def _text(text: object) -> str:
    """Untrusted text, as one line that Markdown shows literally."""
    return as_markdown(printable(str(text)))


def _says(facts: Mapping[str, Any]) -> str:
    names = [_text(name) for name in facts["class_names"]]
    return f"{' or '.join(names)}, from study {_text(facts['study'])}"


def _table(rows: Sequence[Sequence[object]]) -> list[str]:
    lines = ["| " + " | ".join(_text(cell) for cell in row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def _purpose(facts: Mapping[str, Any]) -> Iterator[str]:
    first, second = (_text(name) for name in facts["class_names"])
    yield (
        f"Tells photos of {first} from photos of {second}. It takes uint8 RGB photos of any size "
        f"(batch, height, width, 3), resizes them to {facts['image_size']} x "
        f"{facts['image_size']} itself, and says the probability of {second} (batch, 1)."
    )
    yield ""
    yield f"The study's purpose: {_text(in_a_line(facts['purpose']))}"


def _numbers(facts: Mapping[str, Any]) -> Iterator[str]:
    test, val = facts["test"], facts["val"]
    rows: list[tuple[object, ...]] = [("split", "photos", "accuracy", "95 %", "looks")]
    interval = _interval(val["interval"])
    rows.append(("val, which chose", val["n"], f"{val['accuracy']:.4f}", interval, "many"))
    if test is not None:
        interval = _interval(test["interval"])
        rows.append(
            ("test", test["n"], f"{test['accuracy']:.4f}", interval, len(facts["looks"]["known"]))
        )
    yield from _table(rows)
    yield ""
    if test is None:
        yield "Test was not looked at."
        return
    others = ", ".join(f"{name} {value:.4f}" for name, value in test["scores"].items())
    yield f"On test too: {others}."
    yield ""
    yield f"Looks, as of {facts['at']}: {_text(facts['looks']['text'])}."


def _interval(found: Sequence[float]) -> str:
    return f"{found[0]:.4f} to {found[1]:.4f}"


def _gates(facts: Mapping[str, Any]) -> Iterator[str]:
    rows: list[tuple[object, ...]] = [("gate", "", "found and asked")]
    rows += [
        (gate["name"], _VERDICTS.get(gate["verdict"], gate["verdict"]), gate["text"])
        for gate in facts["gates"]
    ]
    yield from _table(rows)


def _choice(facts: Mapping[str, Any]) -> Iterator[str]:
    chosen = facts["choice"]
    yield f"What goes on: **{chosen['form']}**{_of_trials(chosen)}."
    if chosen["finalists"]:
        yield ""
        rows: list[tuple[object, ...]] = [
            ("finalist", "seeds on val", "mean", "million multiply-adds", "")
        ]
        for each in chosen["finalists"]:
            said = ", ".join(f"{value:.4f}" for value in each["values"])
            mark = "chosen" if each["name"] == chosen["name"] else ""
            mark = mark or ("a tie" if each["name"] in chosen["ties"] else "")
            millions = f"{each['operations'] / 1e6:.0f}" if each["operations"] else "not counted"
            rows.append((each["name"], said, f"{each['mean']:.4f}", millions, mark))
        yield from _table(rows)
    yield ""
    noise = chosen["noise"]
    said = "is not known: nothing was trained on two seeds" if noise is None else f"is {noise:.4f}"
    yield f"One seed's noise (standard deviation) {said}."
    for name, value in chosen["together"].items():
        if value is not None:
            single = chosen["single"]
            yield f"The seeds together, as {name}: {value:.4f}; the median seed {single:.4f}."


def _of_trials(chosen: Mapping[str, Any]) -> str:
    numbers = ", ".join(map(str, chosen["trials"]))
    return f", trial{'s' if len(chosen['trials']) > 1 else ''} {numbers} of {chosen['trained_in']}"


def _sureness(facts: Mapping[str, Any]) -> Iterator[str]:
    fitted, names = facts["calibration"], facts["class_names"]
    yield (
        f"Fitted on {fitted['n']} photos of {facts['fitted_on']}, "
        + (
            "which nothing was trained on or chosen by."
            if facts["guaranteed"]
            else "which also chose: none of it is guaranteed."
        )
    )
    yield ""
    yield from _table(
        [
            ("", "before", "after"),
            ("temperature", "1", f"{fitted['temperature']:.3f}"),
            ("calibration error", f"{fitted['error_before']:.4f}", f"{fitted['error_after']:.4f}"),
            ("Brier score", f"{fitted['brier_before']:.4f}", f"{fitted['brier_after']:.4f}"),
        ]
    )
    yield ""
    yield (
        f"The answer is {_text(names[1])} above {facts['threshold']:.4f}, else {_text(names[0])}."
    )
    yield _band(facts)


def _band(facts: Mapping[str, Any]) -> str:
    band, rate, found = facts["band"], facts["error_rate"], facts["covered"]
    if band is None:
        least, n = facts["least_answered"], facts["calibration"]["n"]
        why = f"of the surest {least}, none may be wrong"
        if n < least:
            why = f"that takes {least} photos without an error, and there are {n}"
        return (
            f'No band of "not sure" keeps the error of what is answered at most {rate:.2%} with '
            f"95 % on these photos ({why}), so every photo is answered."
        )
    said = (
        f'Between {band["low"]:.4f} and {band["high"]:.4f} it is "not sure": it answers '
        f"{band['coverage']:.1%} of the photos, {band['wrong']} of {band['answered']} wrongly; at "
        f"most {band['upper']:.2%} with 95 %, where {rate:.2%} is asked."
    )
    if found is not None:
        low, high = found["interval"]
        said += (
            f" On test as found: {found['coverage']:.1%} answered, {found['error']:.2%} of those "
            f"wrongly ({low:.2%} to {high:.2%})."
        )
    return said


def _neither(facts: Mapping[str, Any]) -> Iterator[str]:
    unlike = facts["neither"]
    yield ("A second model beside it, `data/neither.keras`, scores how unlike train a photo is.")
    yield _unlike(unlike)
    yield ""
    rows: list[tuple[object, ...]] = [("drawn for this", "area under ROC", "flagged")]
    for kind, each in unlike["kinds"].items():
        rows.append((kind, f"{each['auc']:.3f}", f"{each['flagged']:.0%}"))
    yield from _table(rows)


def _unlike(unlike: Mapping[str, Any]) -> str:
    if unlike["threshold"] is None:
        return "The photos that it was fitted on are too few to say above what a photo is neither."
    on_test = "" if unlike["on_test"] is None else f", and {unlike['on_test']:.1%} of test's"
    return (
        f"Above {unlike['threshold']:.4g} a photo is taken for neither class: at most 1 % of the "
        f"photos that it was fitted on lie above it{on_test}."
    )


def _mistakes(facts: Mapping[str, Any]) -> Iterator[str]:
    test, names = facts["test"], facts["class_names"]
    if test is None:
        yield "Test was not looked at."
        return
    rows: list[tuple[object, ...]] = [("", *(f"predicted {name}" for name in names))]
    rows += [(f"true {name}", *row) for name, row in zip(names, test["confusion"], strict=True)]
    yield from _table(rows)
    yield ""
    if not test["hardest"]:
        yield "It is wrong about no photo of test."
        return
    n = len(test["hardest"])
    yield f"The {'photo' if n == 1 else f'{n} photos'} of test that it is most wrong about:"
    yield ""
    for each in test["hardest"]:
        yield (
            f"- {_text(each['key'])}: {_text(each['label'])}, taken for "
            f"{_text(each['answer'])} with {each['probability']:.3f}"
        )


def _data(facts: Mapping[str, Any]) -> Iterator[str]:
    data = facts["data"]
    yield f"{_text(data['said'])}; dataset digest `{data['digest']}`."
    yield ""
    classes = facts["class_names"]
    rows: list[tuple[object, ...]] = [("split", *classes)]
    rows += [(split, *(n[name] for name in classes)) for split, n in data["counts"].items()]
    yield from _table(rows)


def _training(facts: Mapping[str, Any]) -> Iterator[str]:
    chosen = facts["choice"]
    yield f"Family {_text(facts['family'])}; weights to begin with: {_weights(facts)}."
    yield ""
    rows: list[tuple[object, ...]] = [("param", "value")]
    rows += sorted(chosen["params"].items())
    yield from _table(rows)


def _weights(facts: Mapping[str, Any]) -> str:
    weights = facts["weights"]
    if weights is None:
        return "none, it began at random"
    licence = "of what licence, the file doesn't say"
    if weights == "imagenet":
        licence = (
            "those of `keras.applications`, under the MIT licence of Kaiming He et al., learned "
            "from ImageNet, whose photos are for non-commercial research"
        )
    return f"{_text(weights)}, {licence}"


def _figures(facts: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "With the run of this promotion in MLflow: gates, seeds against noise, reliability before "
        "and after, risk against coverage, the score of what is neither."
    )
    runs = ", ".join(f"`{run_id}`" for run_id in facts["choice"]["runs"])
    yield f"Learning curves, confusion and the most wrong photos of val: runs {runs}."


def _limits(facts: Mapping[str, Any]) -> Iterator[str]:
    first, second = (_text(name) for name in facts["class_names"])
    yield f"- It knows {first} and {second} alone, one in a photo, as large as in the data above."
    yield (
        "- Its numbers hold for photos from where these come from; on others it may be worse, and "
        "no number here says by how much."
    )
    yield "- The score of what is neither is no guard against pictures made to fool it."
    if facts["data"]["kind"] == "synthetic":
        yield "- It learned from drawn pictures, and says nothing of use about photos."


def _environment(facts: Mapping[str, Any]) -> Iterator[str]:
    for name, version in sorted(facts["environment"].items()):
        yield f"- {_text(name)}: {_text(version)}"
