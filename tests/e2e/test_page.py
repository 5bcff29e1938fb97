"""The page in a real browser: a person's way, and every way that can go wrong."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from opened import Opened, photo
from playwright.sync_api import FilePayload, Locator, Page, Route, expect
from stand_in import Reply, StandIn

RED, BLUE = (230, 20, 20), (20, 20, 230)
GREY, WHITE = (120, 120, 130), (255, 255, 255)
Visit = Callable[..., Opened]


def file(name: str, content: bytes, kind: str = "image/png") -> FilePayload:
    return {"name": name, "mimeType": kind, "buffer": content}


def choose(page: Page, *files: FilePayload) -> None:
    page.set_input_files("#choose", list(files))


def drop(page: Page, *paths: Path) -> None:
    """Let files and folders fall, as a person's mouse does."""
    session = page.context.new_cdp_session(page)
    page.evaluate("scrollTo(0, 0)")
    box = page.locator("#drop").bounding_box()
    assert box is not None
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + 20}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "data": data, **at})


def written(folder: Path, *files: FilePayload) -> list[Path]:
    """The same files on disk."""
    paths = [folder / each["name"] for each in files]
    for path, each in zip(paths, files, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(each["buffer"])
    return paths


def test_model_of_drawn_pictures_says_so(visit: Visit, service: str) -> None:
    opened = visit(service)
    notice = opened.page.get_by_text("This model learned from drawn pictures.")
    expect(opened.page.get_by_text("test photos")).to_be_visible()
    expect(notice).to_be_hidden()

    def drawn(route: Route) -> None:
        route.fulfill(json={**route.fetch().json(), "is_drawn": True})

    opened.page.route("**/model", drawn)
    opened.page.reload()
    expect(notice).to_be_visible()
    expect(opened.page.get_by_text("drawn test pictures")).to_be_visible()


def card(page: Page, name: str) -> Locator:
    return page.get_by_role("listitem").filter(has=page.get_by_text(name, exact=True))


def answered(page: Page, name: str, heading: str) -> Locator:
    """The card of a photo, once it has an answer."""
    found = card(page, name)
    expect(found.get_by_role("heading")).to_have_text(heading)
    return found


def settled(page: Page) -> None:
    expect(page.locator("[aria-busy=true]")).to_have_count(0)
    expect(page.locator("#about")).to_be_visible()


def check_for_all(page: Page) -> None:
    """No violation that axe-core knows, and nothing wider than the screen."""
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    width, visible = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= visible


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_person_drops_photos_and_reads_answers_and_a_map(
    visit: Visit, service: str, tmp_path: Path, shots: Path, size: str, scheme: str
) -> None:
    page = visit(service, size, scheme, faults=True).page
    expect(page).to_have_title("Cat or dog?")
    expect(page.get_by_role("heading", level=1)).to_have_text("Cat or dog?")
    check_for_all(page)
    page.screenshot(path=shots / f"empty-{size}-{scheme}.png")

    files = [
        file("rex.png", photo(*RED)),
        file("tom.png", photo(*BLUE)),
        file("fog.png", photo(*GREY)),
        file("snow.png", photo(*WHITE)),
        file("notes.pdf", b"%PDF-1.7", "application/pdf"),
    ]
    drop(page, *written(tmp_path, *files))
    rex = answered(page, "rex.png", "Dog")
    expect(rex).to_contain_text("Almost certainly (99.8%)")
    answered(page, "tom.png", "Cat")
    answered(page, "fog.png", "Not sure")
    expect(answered(page, "snow.png", "Neither")).to_contain_text("Neither cat nor dog.")
    expect(answered(page, "notes.pdf", "No answer")).to_contain_text("This file can’t be used")

    rex.get_by_role("button", name="Show heat map").click()
    expect(rex.locator(".map")).to_be_visible()
    expect(rex).to_contain_text("The map isn’t an outline of anything")
    expect(rex).to_contain_text(
        "Hiding the warmest spot, in the middle, takes “dog” from 99.8% to "
    )
    settled(page)
    check_for_all(page)
    # In two steps: a screenshot of a whole page has Chromium forget that it is a phone.
    page.screenshot(path=shots / f"answers-{size}-{scheme}.png")
    page.screenshot(path=shots / f"whole-{size}-{scheme}.png", full_page=True)


def test_map_lies_on_what_decides(visit: Visit, service: str) -> None:
    page = visit(service).page
    choose(page, file("rex.png", photo(*RED)))
    rex = answered(page, "rex.png", "Dog")
    rex.get_by_role("button", name="Show heat map").click()
    expect(rex.locator(".map")).to_be_visible()
    map_ = rex.locator(".map")
    corner, middle = map_.evaluate(
        """(map) => {
          const {width, height} = map;
          const {data} = map.getContext("2d").getImageData(0, 0, width, height);
          const at = (share) => Math.floor(share * height) * width + Math.floor(share * width);
          return [0.03, 0.7].map((share) => data[4 * at(share) + 3]);
        }"""
    )
    # The grey corner says nothing; what is red does.
    assert corner < 60
    assert middle > 120
    photo_, laid = (rex.locator(name).bounding_box() for name in (".photo", ".map"))
    assert photo_ == pytest.approx(laid, abs=0.5)
    rex.get_by_role("button", name="Hide heat map").click()
    expect(map_).to_be_hidden()


def test_model_is_described_with_its_test_number(visit: Visit, service: str) -> None:
    about = visit(service).page.get_by_role("contentinfo")
    for text in (
        "pets, version 3, registered 2026-11-26; file ",
        "20,000 photos of cats and dogs; data set 295f901fa0e2.",
        "97.1% right on 3,600 test photos (95% interval 96.5% to 97.6%)",
        "looked at twice when it was promoted",
        "about 1% or less of the answers it gives are wrong",
    ):
        expect(about).to_contain_text(text)


def test_answers_differ_by_more_than_colour(visit: Visit, service: str) -> None:
    page = visit(service).page
    colours = {"dog": RED, "unsure": GREY, "neither": WHITE}
    choose(page, *(file(f"{name}.png", photo(*colour)) for name, colour in colours.items()))
    settled(page)
    looks = [
        card(page, f"{name}.png").evaluate(
            """(node) => [getComputedStyle(node).borderTopStyle,
                getComputedStyle(node.querySelector(".sign"), "::before").content,
                node.querySelector("h3").innerText]"""
        )
        for name in colours
    ]
    assert looks == [
        ["solid", '"✓"', "Dog"],
        ["dashed", '"?"', "Not sure"],
        ["dotted", '"∅"', "Neither"],
    ]
    expect(card(page, "neither.png").locator(".bar")).to_be_hidden()


def test_keyboard_alone_is_enough(visit: Visit, service: str) -> None:
    page = visit(service).page
    files = [file("rex.png", photo(*RED)), file("tom.png", photo(*BLUE))]
    # Not `expect_file_chooser`: a key can reach Chromium before it knows that a test chooses.
    page.on("filechooser", lambda chooser: chooser.set_files(files))
    expect(page.locator("#about")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.locator("#choose")).to_be_focused()
    page.keyboard.press("Enter")
    answered(page, "tom.png", "Cat")
    settled(page)
    passed = []
    for _ in range(5):
        page.keyboard.press("Tab")
        passed.append(
            page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.id")
        )
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert page.evaluate(outline) == "solid", passed
    assert passed == [
        "clear",
        "Show heat map: rex.png",
        "Remove rex.png",
        "Show heat map: tom.png",
        "Remove tom.png",
    ]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(card(page, "tom.png").locator(".map")).to_be_visible()
    assert page.evaluate("document.activeElement.ariaLabel") == "Hide heat map: tom.png"
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.get_by_role("listitem").filter(visible=True)).to_have_count(1)
    assert page.evaluate("document.activeElement.innerText").startswith("Dog")


def test_focus_on_a_hidden_input_is_seen_on_its_label(visit: Visit, service: str) -> None:
    page = visit(service).page
    page.keyboard.press("Tab")
    label = page.locator("label[for=choose]")
    assert label.evaluate("(node) => getComputedStyle(node).outlineStyle") == "solid"


def test_answers_are_announced(visit: Visit, service: str) -> None:
    page = visit(service).page
    said = page.get_by_role("status")
    choose(page, file("rex.png", photo(*RED)))
    expect(said).to_have_text("rex.png: Dog, Almost certainly (99.8%).")
    choose(page, *(file(f"{i}.png", photo(*(RED, BLUE, GREY)[i % 3])) for i in range(6)))
    expect(said).to_have_text(re.compile(r"^\d photos: .*\d (cat|dog|not sure)"))


def test_fifty_photos_come_a_few_at_a_time(visit: Visit, stand_in: StandIn) -> None:
    page = visit(stand_in.url).page
    stand_in.delay = 0.05
    choose(page, *(file(f"{i}.png", photo(*RED)) for i in range(50)))
    expect(page.locator("[data-state=answered]")).to_have_count(50, timeout=60_000)
    assert stand_in.most_at_once == 2
    assert stand_in.seen.count("/predict") == 50
    expect(page.locator("#progress")).to_have_text("50 photos")
    page.get_by_role("button", name="Clear all").click()
    expect(page.locator("#answers")).to_be_hidden()
    watched = page.evaluate("watched")
    assert watched["made"] == watched["revoked"] > 0


def test_photo_that_is_removed_is_not_asked_about(visit: Visit, stand_in: StandIn) -> None:
    page = visit(stand_in.url).page
    stand_in.delay = 1.0
    choose(page, *(file(f"{i}.png", photo(*RED)) for i in range(6)))
    page.get_by_role("button", name="Clear all").click()
    stand_in.delay = 0.0
    choose(page, file("rex.png", photo(*RED)))
    answered(page, "rex.png", "Dog")
    assert stand_in.seen.count("/predict") <= 3


def test_more_than_a_page_can_hold_is_said(visit: Visit, stand_in: StandIn) -> None:
    page = visit(stand_in.url).page
    stand_in.delay = 5
    choose(page, *(file(f"{i}.png", b"x") for i in range(201)))
    expect(page.get_by_role("alert")).to_contain_text("Took the first 200 of 201 photos")
    expect(page.locator(".card")).to_have_count(200)
    page.get_by_role("button", name="Clear all").click()


def test_pasted_photo_is_answered(visit: Visit, service: str) -> None:
    page = visit(service).page
    page.evaluate(
        """(content) => {
          const clipboardData = new DataTransfer();
          const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
          clipboardData.items.add(new File([bytes], "image.png", {type: "image/png"}));
          const options = {clipboardData, bubbles: true, cancelable: true};
          document.dispatchEvent(new ClipboardEvent("paste", options));
        }""",
        base64.b64encode(photo(*BLUE)).decode("ascii"),
    )
    answered(page, "image.png", "Cat")


def test_dropped_folder_is_walked(visit: Visit, service: str, tmp_path: Path) -> None:
    names = ("pets/dogs/rex.png", "pets/tom.png", "pets/.hidden/no.png")
    written(tmp_path, *(file(name, photo(*RED)) for name in names))
    page = visit(service).page
    drop(page, tmp_path / "pets", *written(tmp_path, file("fog.png", photo(*GREY))))
    settled(page)
    assert sorted(page.locator(".name").all_inner_texts()) == ["fog.png", "rex.png", "tom.png"]


def test_dropped_text_is_not_a_photo(visit: Visit, service: str) -> None:
    page = visit(service).page
    drop(page)
    expect(page.get_by_role("alert")).to_contain_text("There were no files in that")


def test_file_that_changed_or_is_empty_is_said(
    visit: Visit, stand_in: StandIn, tmp_path: Path
) -> None:
    page = visit(stand_in.url, faults=True).page
    stand_in.delay = 0.5
    names = ("0.png", "1.png", "late.png", "empty.png")
    paths = written(tmp_path, *(file(name, photo(*RED)) for name in names))
    paths[-1].write_bytes(b"")
    drop(page, *paths)
    paths[2].unlink()
    expect(answered(page, "late.png", "No answer")).to_contain_text(
        "may have been moved or changed"
    )
    expect(answered(page, "empty.png", "No answer")).to_contain_text("This file is empty.")
    assert stand_in.seen.count("/predict") == 2


def test_photo_can_be_taken_on_a_phone(visit: Visit, service: str) -> None:
    phone = visit(service, "phone").page
    expect(phone.locator("label[for=take]")).to_be_visible()
    assert phone.locator("#take").get_attribute("capture") == "environment"
    phone.set_input_files("#take", [file("now.png", photo(*RED))])
    answered(phone, "now.png", "Dog")
    expect(visit(service).page.locator("label[for=take]")).to_be_hidden()


def test_photo_that_the_browser_cannot_show_is_answered(visit: Visit, service: str) -> None:
    page = visit(service).page
    choose(page, file("scan.tif", photo(*RED, kind="TIFF"), "image/tiff"))
    scan = answered(page, "scan.tif", "Dog")
    expect(scan).to_contain_text("Your browser can’t show this kind of file")
    scan.get_by_role("button", name="Show heat map").click()
    expect(scan.locator(".map")).to_be_visible()
    check_for_all(page)


@pytest.mark.parametrize(
    ("reply", "sentence", "again"),
    [
        (
            Reply(413, {"error": "at most 20 MB"}),
            "larger than the service takes (at most 20 MB).",
            False,
        ),
        (Reply(415), "This file can’t be used: told to.", False),
        (Reply(422, {"error": "corrupt: x"}), "This file can’t be used: corrupt: x.", False),
        (Reply(400), "The service refused this request (told to).", False),
        (Reply(500), "Something went wrong inside the service. If it stays so, tell", True),
        (Reply(502, {}), "Something went wrong inside the service.", True),
        (Reply(503), "No model is ready to answer yet.", True),
        (Reply(504), "The service took too long to answer.", True),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Reply) else None,
)
def test_refusal_is_one_plain_sentence(
    visit: Visit, stand_in: StandIn, reply: Reply, sentence: str, again: bool
) -> None:
    page = visit(stand_in.url, faults=True).page
    stand_in.replies["/predict"].append(reply)
    choose(page, file("rex.png", photo(*RED)))
    expect(answered(page, "rex.png", "No answer").locator(".problem")).to_contain_text(sentence)
    check_for_all(page)
    button = page.get_by_role("button", name="Try again: rex.png")
    expect(button).to_have_count(int(again))
    if again:
        button.click()
        answered(page, "rex.png", "Dog")


def test_row_with_an_error_is_said(visit: Visit, stand_in: StandIn) -> None:
    page = visit(stand_in.url).page
    row = {"name": None, "error": "truncated: 10 of 20 bytes"}
    said = {"model": {"name": None, "version": None, "digest": "0" * 64}, "photos": [row]}
    stand_in.replies["/predict"].append(Reply(200, said))
    choose(page, file("rex.png", photo(*RED)))
    expect(answered(page, "rex.png", "No answer")).to_contain_text("used: truncated: 10 of 20")


def test_busy_service_is_waited_for(visit: Visit, stand_in: StandIn) -> None:
    page = visit(stand_in.url, faults=True).page
    busy = Reply(429, headers={"Retry-After": "2"})
    stand_in.replies["/predict"].extend([busy, busy])
    choose(page, *(file(f"{i}.png", photo(*RED)) for i in range(4)))
    expect(
        page.get_by_text("The service is busy; trying again in 2 seconds.").first
    ).to_be_visible()
    # None is sent while it asks for patience.
    page.wait_for_timeout(1000)
    assert stand_in.seen.count("/predict") == 2
    expect(page.locator("[data-state=answered]")).to_have_count(4)
    assert stand_in.seen.count("/predict") == 6


def test_service_that_stays_busy_is_given_up(visit: Visit, stand_in: StandIn) -> None:
    page = visit(stand_in.url, faults=True).page
    page.clock.install()
    stand_in.replies["/predict"].extend([Reply(429, headers={"Retry-After": "1"})] * 8)
    choose(page, file("rex.png", photo(*RED)))
    for tries in range(1, 8):
        expect(page.get_by_text("trying again in 1 second.")).to_be_visible()
        assert stand_in.seen.count("/predict") == tries
        page.clock.fast_forward(1500)
        page.clock.run_for(10)
    expect(answered(page, "rex.png", "No answer")).to_contain_text("too busy right now")
    assert stand_in.seen.count("/predict") == 8


def test_token_is_asked_for_and_kept_in_memory(visit: Visit, stand_in: StandIn) -> None:
    stand_in.token = "open sesame"
    page = visit(stand_in.url, faults=True).page
    field = page.get_by_label("This service asks for an access token.")
    expect(field).to_be_focused()
    check_for_all(page)
    choose(page, file("rex.png", photo(*RED)))
    field.fill("wrong")
    field.press("Enter")
    other = page.get_by_label("That token wasn’t accepted. Please try another one.")
    expect(other).to_be_focused()
    other.fill("open sesame")
    page.get_by_role("button", name="Continue").click()
    answered(page, "rex.png", "Dog")
    expect(field).to_be_hidden()
    expect(page.locator("#about")).to_be_visible()
    kept = "[localStorage.length, sessionStorage.length, document.cookie, location.search]"
    assert page.evaluate(kept) == [0, 0, "", ""]


def test_lost_network_is_said_and_mended(visit: Visit, stand_in: StandIn) -> None:
    page = visit(stand_in.url, faults=True).page
    expect(page.locator("#about")).to_be_visible()
    page.context.set_offline(True)
    choose(page, *(file(f"{i}.png", photo(*RED)) for i in range(3)))
    expect(page.locator("[data-state=failed]")).to_have_count(3)
    expect(card(page, "0.png")).to_contain_text(
        "The service can’t be reached; check your connection."
    )
    page.context.set_offline(False)
    page.get_by_role("button", name="Try 3 again").click()
    expect(page.locator("[data-state=answered]")).to_have_count(3)


def test_map_that_fails_can_be_asked_for_again(visit: Visit, stand_in: StandIn) -> None:
    page = visit(stand_in.url, faults=True).page
    stand_in.replies["/explain"].append(Reply(504))
    choose(page, file("rex.png", photo(*RED)))
    rex = answered(page, "rex.png", "Dog")
    rex.get_by_role("button", name="Show heat map").click()
    expect(rex).to_contain_text("The service took too long to answer.")
    rex.get_by_role("button", name="Show heat map").click()
    expect(rex.locator(".map")).to_be_visible()
    expect(rex.locator(".problem")).to_be_hidden()


def test_model_that_comes_later_is_described(visit: Visit, stand_in: StandIn) -> None:
    stand_in.replies["/model"].append(Reply(503))
    page = visit(stand_in.url, faults=True).page
    expect(page.get_by_role("contentinfo")).to_contain_text("No model is ready to answer yet.")
    expect(page.locator("#about")).to_be_visible(timeout=15_000)


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"test": None}, "Unknown: the file carries no test result"),
        ({"neither_above": None}, "It can’t tell when a photo shows neither"),
        ({"not_sure": None}, "It never says “not sure”."),
        ({"trained_on": None, "dataset_digest": None}, "The file doesn’t say."),
        ({"name": None, "version": None}, "A file that no registry names"),
    ],
)
def test_what_a_model_does_not_say_is_said(
    visit: Visit, stand_in: StandIn, facts: dict[str, Any], text: str
) -> None:
    stand_in.replies["/model"].append(Reply(200, {**stand_in.facts(), **facts}))
    about = visit(stand_in.url).page.get_by_role("contentinfo")
    expect(about).to_contain_text(text)


def test_new_champion_is_described_and_older_answers_say_whose_they_are(
    visit: Visit, stand_in: StandIn
) -> None:
    page = visit(stand_in.url).page
    choose(page, file("old.png", photo(*RED)))
    old = answered(page, "old.png", "Dog")
    expect(old.locator(".by")).to_be_hidden()
    stand_in.swap(version=4)
    choose(page, file("new.png", photo(*RED)))
    answered(page, "new.png", "Dog")
    expect(page.get_by_role("contentinfo")).to_contain_text("pets, version 4")
    expect(old.locator(".by")).to_have_text("Answered by: pets, version 3.")
    expect(card(page, "new.png").locator(".by")).to_be_hidden()


def test_names_of_others_are_text(visit: Visit, service: str) -> None:
    page = visit(service).page
    name = "<img src=x onerror=alert(1)>&amp;\u202egnp.png"
    choose(page, file(name, photo(*RED)))
    answered(page, name, "Dog")
    assert page.locator("img").count() == 0


def test_nothing_moves_for_those_who_ask_for_that(visit: Visit, stand_in: StandIn) -> None:
    stand_in.delay = 2
    page = visit(stand_in.url, reduced_motion="reduce").page
    choose(page, file("rex.png", photo(*RED)))
    expect(page.locator("[data-state=asking]")).to_be_visible()
    moving = "document.getAnimations().length"
    assert page.evaluate(moving) == 0
    answered(page, "rex.png", "Dog")
    assert page.evaluate(moving) == 0
