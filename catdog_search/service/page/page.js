// Photos in, answers out: what the page at / does. Nothing is asked of any other host.

const AT_ONCE = 2; // requests; the service's queue is for everybody
const MOST_AT_ONCE = 200; // photos of one drop; folders of thousands are the command line's
const MOST_TRIES = 8; // at a service that is busy
const LONGEST_WAIT = 60; // seconds that one 429 may ask for
const PATIENCE = 90_000; // ms for one answer
const POLL = 5_000; // ms until a model that isn't there is asked for again
const [SMALLEST, THUMBNAIL] = [320, 720]; // pixels of a thumbnail's longer side
const FEW = 3; // answers at a time that are told one by one

const $ = (id) => document.getElementById(id);

// ---------------------------------------------------------------- words

/** A share as people say it; never 0% or 100%, which no model can know. */
function percent(share) {
  if (share > 0.999) return "over 99.9%";
  if (share < 0.001) return "under 0.1%";
  return `${(share * 100).toFixed(share > 0.99 || share < 0.01 ? 1 : 0)}%`;
}

const CONFIDENCE = [
  [0.99, "almost certainly"],
  [0.95, "very likely"],
  [0.8, "likely"],
  [0.65, "more likely than not"],
  [0, "only just"],
];
const confidence = (p) => CONFIDENCE.find(([least]) => p >= least)[1];
const upper = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const inTitle = (text) => `${upper(text)}?`;
const many = (n, one, more = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : more}`;
const madeBy = ({ name, version, digest }) =>
  name ? `${name}, version ${version ?? "unknown"}` : `A file that no registry names (${digest.slice(0, 12)})`;

/** Heading, detail and reason of an answer. */
function told(row) {
  const names = Object.keys(row.probabilities);
  const p = percent(row.probability);
  if (row.verdict === "neither") {
    return {
      heading: "Neither",
      detail: `Neither ${names.join(" nor ")}.`,
      why: "This is unlike the photos the model learned from, so it doesn’t guess.",
    };
  }
  if (row.verdict === "not sure") {
    return {
      heading: "Not sure",
      detail: `Leaning towards ${row.label} (${p}).`,
      why: "That’s too close to call: answers like this are wrong too often.",
    };
  }
  return { heading: upper(row.label), detail: `${upper(confidence(row.probability))} (${p})`, why: "" };
}

/** What a heat map is, and what it isn't. */
function meaning(row, found, isShown) {
  if (!found.range) {
    return "Hiding any one spot doesn’t make the model less sure, so there’s nothing to show.";
  }
  const what = {
    answered: `The warmer a spot, the less “${row.label}” the model sees once that spot is hidden.`,
    "not sure": `The warmer a spot, the more it speaks for “${row.label}”, the way the model leans.`,
    neither: `The warmer a spot, the more it speaks for “${row.label}”, the nearer of the two. It doesn’t show why the photo counts as neither.`,
  }[row.verdict];
  const [before, after] = [row.probability, lowered(row.probability, found.range)].map(percent);
  const where = `Hiding the warmest spot, ${warmest(found)}, takes “${row.label}” from ${before} to ${after}.`;
  const limits = "The map isn’t an outline of anything, and it doesn’t say whether the answer is right.";
  const below = isShown ? "" : " Your browser can’t show the photo underneath.";
  return `${what} ${where} ${limits}${below}`;
}

/** A probability whose logit has fallen. */
const lowered = (p, fall) => 1 / (1 + ((1 - p) / p) * Math.exp(fall));

/** Where a map is warmest, in words. */
function warmest({ rows, columns, map }) {
  const flat = map.flat();
  const at = flat.indexOf(Math.max(...flat));
  const third = (place, places) => Math.floor((3 * (place + 0.5)) / places);
  const row = ["at the top", "", "at the bottom"][third(Math.floor(at / columns), rows)];
  const column = ["left", "", "right"][third(at % columns, columns)];
  if (row && column) return `${row} ${column}`;
  return row || (column ? `on the ${column}` : "in the middle");
}

// ---------------------------------------------------------------- asking

let token = ""; // in memory only

/** Why a request got no answer, as one sentence. */
class Refusal extends Error {
  constructor(sentence, { status = 0, wait = null, canRetry = false } = {}) {
    super(sentence);
    Object.assign(this, { status, wait, canRetry });
  }
}

/** Ask the service; its JSON, or a Refusal. */
async function ask(path, { body = null, signal = null } = {}) {
  const headers = { Accept: "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body) headers["Content-Type"] = "application/octet-stream";
  const late = AbortSignal.timeout(PATIENCE);
  let response;
  let found;
  try {
    response = await fetch(path, {
      method: body ? "POST" : "GET",
      body,
      headers,
      cache: "no-store",
      signal: signal ? AbortSignal.any([signal, late]) : late,
    });
    found = await response.json().catch((error) => {
      if (error instanceof SyntaxError) return null;
      throw error;
    });
  } catch {
    if (signal?.aborted) throw new Refusal("Removed.");
    if (late.aborted) throw new Refusal("The service took too long to answer.", { canRetry: true });
    if (body && !(await isReadable(body))) {
      throw new Refusal("This file can’t be read: it may have been moved or changed.");
    }
    throw new Refusal("The service can’t be reached; check your connection.", { canRetry: true });
  }
  if (response.ok && found) return found;
  throw refused(response, found?.error ?? "");
}

async function isReadable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}

function refused(response, said) {
  const { status } = response;
  const id = response.headers.get("X-Request-ID");
  const because = said ? ` (${said})` : "";
  const asked = id ? ` If it stays so, tell whoever runs it: request ${id}.` : "";
  switch (status) {
    case 401:
      return new Refusal("Waiting for the access token.", { status });
    case 413:
      return new Refusal(`This photo is larger than the service takes${because}.`, { status });
    case 415:
    case 422:
      return new Refusal(unusable(said), { status });
    case 429:
      return new Refusal("The service is too busy right now.", { status, wait: waitOf(response), canRetry: true });
    case 503:
      return new Refusal("No model is ready to answer yet.", { status, canRetry: true });
    case 408:
    case 504:
      return new Refusal("The service took too long to answer.", { status, canRetry: true });
    default:
      return status >= 400 && status < 500
        ? new Refusal(`The service refused this request${because}.`, { status })
        : new Refusal(`Something went wrong inside the service.${asked}`, { status, canRetry: true });
  }
}

const unusable = (said) => `This file can’t be used${said ? `: ${said}` : ""}.`;

/** Seconds that a busy service asks for. */
function waitOf(response) {
  const said = response.headers.get("Retry-After") ?? "";
  const seconds = /^\d+$/.test(said) ? Number(said) : (Date.parse(said) - Date.now()) / 1000;
  return Math.min(Math.max(Number.isFinite(seconds) ? Math.ceil(seconds) : 1, 1), LONGEST_WAIT);
}

// ---------------------------------------------------------------- the queue

const waiting = [];
let running = 0;
let heldUntil = 0;
let isLocked = false; // until there is a token

/** A job: {path, card, done(found), failed(refusal), waits(sentence)}. */
function enqueue(job, isFirst = false) {
  job.tries = 0;
  if (isFirst) waiting.unshift(job);
  else waiting.push(job);
  pump();
}

function pump() {
  while (!isLocked && Date.now() >= heldUntil && running < AT_ONCE && waiting.length) {
    running += 1;
    attend(waiting.shift()).finally(() => {
      running -= 1;
      pump();
    });
  }
}

async function attend(job) {
  if (job.card.isGone) return;
  job.waits("");
  try {
    const found = await ask(job.path, { body: job.card.file, signal: job.card.gone.signal });
    if (!job.card.isGone) job.done(found);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (!job.card.isGone) again(job, error);
  }
}

/** Ask once more where that can help, else say why not. */
function again(job, refusal) {
  job.tries += 1;
  if (refusal.status === 401) {
    job.waits(refusal.message);
    waiting.unshift(job);
    askForToken();
  } else if (refusal.status === 429 && job.tries < MOST_TRIES) {
    job.waits(`The service is busy; trying again in ${many(refusal.wait, "second")}.`);
    waiting.unshift(job);
    hold(refusal.wait * 1000);
  } else {
    job.failed(refusal);
  }
}

function hold(ms) {
  heldUntil = Math.max(heldUntil, Date.now() + ms);
  // A timer may fire a moment early.
  setTimeout(pump, heldUntil - Date.now() + 20);
}

let asksForToken = false;

function askForToken() {
  isLocked = true;
  if (token) $("token-label").textContent = "That token wasn’t accepted. Please try another one.";
  token = "";
  if (asksForToken) return;
  asksForToken = true;
  $("token-form").hidden = false;
  $("token").focus();
  say($("token-label").textContent);
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  $("token").value = "";
  $("token-form").hidden = true;
  asksForToken = false;
  isLocked = false;
  $("choose").focus();
  describeModel();
  pump();
});

// ---------------------------------------------------------------- telling

let untold = [];
let telling = 0;

/** Have a screen reader say something; what comes close together is told together. */
function say(sentence, kind = "") {
  untold.push({ sentence, kind });
  clearTimeout(telling);
  telling = setTimeout(() => {
    $("said").textContent = untold.length > FEW ? summary(untold) : untold.map((e) => e.sentence).join(" ");
    untold = [];
  }, 600);
}

function summary(told) {
  const counts = new Map();
  for (const { kind } of told.filter((e) => e.kind)) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  return `${many(told.length, "photo")}: ${[...counts].map(([kind, n]) => `${n} ${kind}`).join(", ")}.`;
}

function notice(sentence) {
  $("notice").textContent = sentence;
  $("notice").hidden = !sentence;
}

// ---------------------------------------------------------------- cards

const cards = new Set();

class Card {
  constructor(file) {
    this.file = file;
    this.gone = new AbortController();
    this.node = $("card").content.firstElementChild.cloneNode(true);
    this.find = (name) => this.node.querySelector(`.${name}`);
    this.isShown = true;
    this.row = null;
    this.found = null;
    this.model = null;
    this.find("name").textContent = file.name;
    this.find("name").title = file.name;
    this.find("photo").setAttribute("aria-label", file.name);
    this.find("remove").setAttribute("aria-label", `Remove ${file.name}`);
    this.find("remove").addEventListener("click", () => remove(this));
    this.find("retry").addEventListener("click", () => this.predict(true));
    this.find("explain").addEventListener("click", () => this.toggleMap());
  }

  get isGone() {
    return this.gone.signal.aborted;
  }

  set state(state) {
    this.node.dataset.state = state;
    this.node.setAttribute("aria-busy", String(["waiting", "asking"].includes(state)));
    count();
  }

  get state() {
    return this.node.dataset.state;
  }

  predict(isFirst = false) {
    // The button that was pressed is about to go.
    if (this.node.contains(document.activeElement)) this.node.focus();
    this.write({ heading: "Waiting…", detail: "", why: "" });
    this.problem("");
    if (!this.file.size) {
      this.fail(new Refusal("This file is empty."));
      return;
    }
    this.state = "waiting";
    enqueue(
      {
        path: "predict",
        card: this,
        waits: (sentence) => {
          this.state = sentence ? "waiting" : "asking";
          this.write({ heading: sentence ? "Waiting…" : "Looking…", detail: sentence, why: "" });
        },
        done: (found) => this.answer(found),
        failed: (refusal) => this.fail(refusal),
      },
      isFirst,
    );
  }

  write({ heading, detail, why }) {
    this.find("answer-text").textContent = heading;
    this.find("detail").textContent = detail;
    this.find("why").textContent = why;
  }

  /** One line that says what is wrong. */
  problem(sentence, canRetry = false) {
    this.find("problem").textContent = sentence;
    this.find("problem").hidden = !sentence;
    this.find("retry").hidden = !canRetry;
    this.find("retry").setAttribute("aria-label", `Try again: ${this.file.name}`);
  }

  answer({ model, photos: [row] }) {
    if (row.error) {
      this.fail(new Refusal(unusable(row.error)));
      return;
    }
    this.row = row;
    this.model = model;
    const words = told(row);
    this.write(words);
    this.bar();
    this.find("explain").hidden = false;
    this.labelMap(false);
    this.find("by").textContent = `Answered by: ${madeBy(model)}.`;
    this.state = row.verdict;
    const heard = row.verdict === "answered" ? `${words.heading}, ${words.detail}.` : `${words.heading}. ${words.detail}`;
    say(`${this.file.name}: ${heard}`, row.answer);
    if (model.digest !== described.digest) describeModel();
    compareMakers();
  }

  bar() {
    const { verdict, label, probabilities } = this.row;
    const isShown = verdict !== "neither";
    this.find("bar").hidden = !isShown;
    this.find("ends").hidden = !isShown;
    if (!isShown) return;
    // The likelier class is on the left, where the bar begins.
    const names = Object.keys(probabilities).sort((a, b) => (b === label) - (a === label));
    this.find("fill").style.inlineSize = `${probabilities[label] * 100}%`;
    names.forEach((name, i) => {
      this.node.querySelectorAll(".end")[i].textContent = `${name} ${percent(probabilities[name])}`;
    });
  }

  fail(refusal) {
    this.write({ heading: "No answer", detail: "", why: "" });
    this.problem(refusal.message, refusal.canRetry);
    this.state = "failed";
    say(`${this.file.name}: ${refusal.message}`, "without an answer");
  }

  // -------------------------------------------------------------- the photo and its map

  /** Draw the thumbnail; a photo that the browser can't read stays a placeholder. */
  async draw() {
    const url = URL.createObjectURL(this.file);
    try {
      const image = new Image();
      image.src = url;
      await image.decode();
      const { naturalWidth: width, naturalHeight: height } = image;
      const longest = Math.max(width, height);
      const scale = Math.min(Math.max(longest, SMALLEST), THUMBNAIL) / longest;
      const canvas = this.find("photo");
      canvas.width = Math.max(1, Math.round(width * scale));
      canvas.height = Math.max(1, Math.round(height * scale));
      const pen = canvas.getContext("2d");
      pen.fillStyle = "white"; // as the service sees what is see-through
      pen.fillRect(0, 0, canvas.width, canvas.height);
      pen.imageSmoothingQuality = "high";
      pen.drawImage(image, 0, 0, canvas.width, canvas.height);
    } catch {
      this.isShown = false;
      this.node.classList.add("no-picture");
      this.find("frame").dataset.kind = this.file.name.match(/\.(\w{1,5})$/)?.[1].toUpperCase() ?? "?";
      this.find("unshown").hidden = false;
      this.find("photo").setAttribute("aria-label", `${this.file.name} (can’t be shown here)`);
    } finally {
      URL.revokeObjectURL(url);
    }
  }

  labelMap(isOpen) {
    const button = this.find("explain");
    button.textContent = isOpen ? "Hide heat map" : "Show heat map";
    button.setAttribute("aria-expanded", String(isOpen));
    button.setAttribute("aria-label", `${button.textContent}: ${this.file.name}`);
    this.find("explained").hidden = !isOpen;
    this.find("map").hidden = !(isOpen && this.found?.range);
    this.find("scale").hidden = !this.found?.range;
    this.node.classList.toggle("with-map", isOpen && Boolean(this.found?.range));
  }

  toggleMap() {
    const button = this.find("explain");
    if (button.getAttribute("aria-disabled") === "true") return;
    if (button.getAttribute("aria-expanded") === "true") {
      this.labelMap(false);
    } else if (this.found) {
      this.openMap();
    } else {
      this.problem("");
      // Not `disabled`: that would take the focus away.
      button.setAttribute("aria-disabled", "true");
      const settled = () => button.removeAttribute("aria-disabled");
      enqueue(
        {
          path: "explain",
          card: this,
          waits: (sentence) => {
            button.textContent = sentence ? "Waiting…" : "Drawing…";
            this.problem(sentence);
          },
          done: (found) => {
            settled();
            this.found = found;
            paint(this.find("map"), this.find("photo"), found);
            this.openMap();
          },
          failed: (refusal) => {
            settled();
            this.labelMap(false);
            this.problem(refusal.message);
            say(refusal.message);
          },
        },
        true,
      );
    }
  }

  openMap() {
    this.labelMap(true);
    const sentence = meaning(this.found.answer, this.found, this.isShown);
    this.find("meaning").textContent = sentence;
    say(`Heat map of ${this.file.name}. ${sentence}`);
  }
}

const COLD = [255, 214, 64];
const HOT = [214, 20, 60];

/** Draw a map as large as the photo under it. */
function paint(canvas, photo, { rows, columns, map }) {
  const small = document.createElement("canvas");
  small.width = columns;
  small.height = rows;
  const pixels = new ImageData(columns, rows);
  map.flat().forEach((share, i) => {
    const colour = COLD.map((cold, c) => cold + (HOT[c] - cold) * share);
    pixels.data.set([...colour, 220 * share ** 1.2], 4 * i);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  canvas.width = photo.width;
  canvas.height = photo.height;
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(small, 0, 0, canvas.width, canvas.height);
}

/** Say on a card who answered, once somebody else does. */
function compareMakers() {
  for (const card of cards) {
    card.find("by").hidden = !card.model || !described.digest || card.model.digest === described.digest;
  }
}

function remove(card) {
  const next = card.node.nextElementSibling ?? card.node.previousElementSibling;
  forget(card);
  (next ?? $("choose")).focus();
}

function forget(card) {
  card.gone.abort();
  card.node.remove();
  cards.delete(card);
  count();
}

/** Show how far it is. */
function count() {
  const open = [...cards].filter((c) => ["waiting", "asking"].includes(c.state)).length;
  const failed = [...cards].filter((c) => c.state === "failed" && !c.find("retry").hidden).length;
  $("answers").hidden = !cards.size;
  $("retry-all").hidden = failed < 2;
  $("retry-all").textContent = `Try ${failed} again`;
  $("progress").textContent = open
    ? `${cards.size - open} of ${cards.size} done`
    : many(cards.size, "photo");
}

$("clear").addEventListener("click", () => {
  [...cards].forEach(forget);
  notice("");
  $("choose").focus();
  say("All photos removed.");
});

$("retry-all").addEventListener("click", () => {
  $("answers-title").focus();
  [...cards].filter((c) => c.state === "failed" && !c.find("retry").hidden).forEach((c) => c.predict());
});

// ---------------------------------------------------------------- photos come in

let drawing = Promise.resolve();

function take(files) {
  const taken = files.slice(0, MOST_AT_ONCE);
  notice(
    files.length > taken.length
      ? `Took the first ${MOST_AT_ONCE} of ${many(files.length, "photo")}; for more at once, use “catdog-search predict”.`
      : files.length
        ? ""
        : "There were no files in that. Try photos from your computer.",
  );
  const made = taken.map((file) => new Card(file));
  $("cards").prepend(...made.map((card) => card.node));
  for (const card of made) {
    cards.add(card);
    card.predict();
    // One at a time: a large photo takes a hundred megabytes while it is drawn.
    drawing = drawing.then(() => (card.isGone ? null : card.draw()));
  }
}

for (const input of [$("choose"), $("take")]) {
  input.addEventListener("change", () => {
    const files = [...input.files];
    input.value = ""; // so that the same file can be chosen again
    if (files.length) take(files);
  });
}

addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (!files.length) return; // text, for the token perhaps
  event.preventDefault();
  take(files);
});

let depth = 0; // of elements that what is dragged has entered

const hasFiles = (event) => event.dataTransfer?.types.includes("Files");

function highlight(change) {
  depth = Math.max(0, depth + change);
  $("drop").classList.toggle("over", depth > 0);
}

addEventListener("dragenter", (event) => hasFiles(event) && highlight(+1));
addEventListener("dragleave", (event) => hasFiles(event) && highlight(-1));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", async (event) => {
  event.preventDefault();
  highlight(-depth);
  take(await dropped(event.dataTransfer));
});

/** Files that were dropped, those in folders too. */
async function dropped(data) {
  // Both lists are empty after the first await.
  const files = [...data.files];
  const entries = [...data.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return files;
  const found = [];
  for (const entry of entries) await collect(entry, found);
  return found;
}

async function collect(entry, found) {
  if (entry.name.startsWith(".")) return; // a folder's own, such as .DS_Store
  if (entry.isFile) {
    const file = await new Promise((resolve) => entry.file(resolve, () => resolve(null)));
    if (file) found.push(file);
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((resolve) => reader.readEntries(resolve, () => resolve([])));
    if (!some.length) return;
    for (const each of some) await collect(each, found);
  }
}

// ---------------------------------------------------------------- the model

let described = {};
let isDescribing = false;
let nextDescription = 0;

/** Say which model answers, and how good it is known to be. */
async function describeModel() {
  if (isDescribing) return;
  isDescribing = true;
  clearTimeout(nextDescription);
  try {
    described = await ask("model");
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    missing(error);
    return;
  } finally {
    isDescribing = false;
  }
  const names = described.class_names;
  document.title = $("title").textContent = inTitle(names.join(" or "));
  $("about-model").textContent = describedModel(described);
  $("about-data").textContent = describedData(described);
  $("about-test").textContent = describedTest(described);
  $("about-holds").textContent = describedHolds(described);
  $("drawn").hidden = !described.is_drawn;
  $("about").hidden = false;
  $("about-missing").hidden = true;
  compareMakers();
}

function missing(refusal) {
  if (refusal.status === 401) {
    askForToken();
  } else if (refusal.canRetry) {
    nextDescription = setTimeout(describeModel, Math.max(POLL, 1000 * (refusal.wait ?? 0)));
  }
  if (!described.digest) $("about-missing").textContent = refusal.message;
}

function describedModel(facts) {
  const when = facts.registered_at ? `, registered ${facts.registered_at.slice(0, 10)}` : "";
  const file = facts.name ? `; file ${facts.digest.slice(0, 12)}` : "";
  return `${madeBy(facts)}${when}${file}.`;
}

function describedData({ trained_on: photos, dataset_digest: digest }) {
  if (!photos && !digest) return "The file doesn’t say.";
  const data = digest ? `data set ${digest.slice(0, 12)}` : "";
  return `${upper([photos, data].filter(Boolean).join("; "))}.`;
}

function describedTest({ test, is_drawn: isDrawn }) {
  if (!test) return "Unknown: the file carries no test result, so judge its answers with care.";
  const [share, low, high] = [test.accuracy, test.low, test.high].map((s) => (s * 100).toFixed(1));
  const looks = { 0: "never looked at before", 1: "looked at once", 2: "looked at twice" }[test.looks];
  return (
    `${share}% right on ${many(test.n, isDrawn ? "drawn test picture" : "test photo")} (95% interval ${low}% to ${high}%). ` +
    `Those ${isDrawn ? "pictures" : "photos"} had been ${looks ?? `looked at ${test.looks} times`} when it was promoted` +
    `${test.looks > 1 ? "; each look makes the number a little too rosy" : ""}. ` +
    "Your photos may be harder."
  );
}

function describedHolds({ not_sure: band, error_rate: rate, neither_above: limit }) {
  const parts = [];
  if (band) {
    const aim = rate ? `, so that about ${percent(rate)} or less of the answers it gives are wrong` : "";
    parts.push(`It says “not sure” where it’s too close to call${aim}.`);
  }
  if (limit !== null) parts.push("It says “neither” where a photo is unlike those it learned from.");
  if (limit === null) parts.push("It can’t tell when a photo shows neither, and then answers all the same.");
  if (!band) parts.push("It never says “not sure”.");
  return parts.join(" ");
}

describeModel();
