// Which samples are shown: outcomes, menus, search.

const PAGE = 40; // cards added at a time
const TAG_VALUES = 200; // most frequent values of a tag in the menu; the search finds the others
const isRight = (row, place) => outcomeOf(row, place) === "right";
const differ = (row) => runs.some((_, place) => isRight(row, place) !== isRight(row, 0));

// The main filter: by the outcome of the one model, or by whether the outcomes of several runs differ.
const KINDS = compares
  ? [
      ["all", "All", () => true],
      ["outcome", "One right, another wrong", differ],
      ["text", "Only the text differs", (row) => !differ(row)],
    ]
  : [
      ["all", "All", () => true],
      ["wrong", "Wrong", (row) => row.outcome === "wrong"],
      ["right", "Right", (row) => row.outcome === "right"],
      ["failed", "Failed", (row) => row.outcome === "failed"],
      ["cut", "Cut", (row) => row.cut],
    ];

// The menu of a run. The base model's says also what training changed.
const STATES = [
  ["right", "right", (row, place) => isRight(row, place)],
  ["wrong", "wrong", (row, place) => !isRight(row, place)],
];
const CHANGES = [
  ["gained", "gained: wrong before, right now", (row, place) => !isRight(row, place) && isRight(row, 0)],
  ["lost", "lost: right before, wrong now", (row, place) => isRight(row, place) && !isRight(row, 0)],
];
const states = compares ? STATES : [...STATES, ...CHANGES];

const controls = byId("controls"), cards = byId("cards"), more = byId("more");
const runMenus = [...document.querySelectorAll("select[data-run]")];
let found = rows; // rows that match
let drawn = 0; // number of rows of `found` that have a card

function draw(upTo) {
  const end = Math.min(upTo, found.length);
  const batch = document.createDocumentFragment();
  for (; drawn < end; drawn++) batch.append(card(found[drawn]));
  cards.append(batch);
  more.hidden = drawn >= found.length;
  more.textContent = "Show " + number.format(Math.min(PAGE, found.length - drawn)) + " more";
}

function haystack(row) {
  if (row.text === undefined) {
    const answered = row.answers.map(([text]) => text);
    const predicted = runs.map((_, place) => predictionOf(row, place) || "");
    const texts = [row.question, ...predicted, images[row.image], row.id, ...answered, ...Object.values(row.tags)];
    row.text = texts.join("\n").normalize("NFKC").toLowerCase();
  }
  return row.text;
}

function chosen() {
  const words = byId("search").value.normalize("NFKC").toLowerCase().split(/\s+/).filter(Boolean);
  const [, , kind] = KINDS.find(([value]) => value === controls.elements.outcome.value);
  const ofRuns = runMenus
    .filter((menu) => menu.value)
    .map((menu) => [states.find(([value]) => value === menu.value)[2], Number(menu.dataset.run)]);
  const knowledge = byId("knowledge").value, word = byId("word").value;
  const tag = byId("tag").value ? JSON.parse(byId("tag").value) : null;
  return (row) =>
    kind(row) &&
    ofRuns.every(([holds, place]) => holds(row, place)) &&
    (!knowledge || row.knowledge === (knowledge === "yes")) &&
    (!word || row.word === word) &&
    (!tag || (Object.hasOwn(row.tags, tag[0]) && row.tags[tag[0]] === tag[1])) &&
    words.every((text) => haystack(row).includes(text));
}

function update() {
  found = rows.filter(chosen());
  drawn = 0;
  cards.replaceChildren();
  draw(PAGE);
  byId("count").textContent =
    found.length === rows.length
      ? number.format(rows.length) + (rows.length === 1 ? " sample" : " samples")
      : number.format(found.length) + " of " + number.format(rows.length) + " samples";
  if (!found.length) cards.append(make("li", "nothing", rows.length ? "Nothing matches." : "No samples."));
}

function option(value, text) {
  const element = make("option", "", text);
  element.value = value;
  return element;
}

function counted(values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1]);
}

function withCount(text, count) {
  return text + " (" + number.format(count) + ")";
}

function fillKinds() {
  for (const [value, title, holds] of KINDS) {
    const label = make("label", "chip");
    const input = make("input");
    Object.assign(input, { type: "radio", name: "outcome", value, defaultChecked: value === "all" });
    label.append(input, make("span", "", title + " " + number.format(rows.filter(holds).length)));
    byId("outcomes").append(label);
  }
}

function fillMenus() {
  for (const menu of runMenus) {
    for (const [value, text, holds] of states) {
      menu.append(option(value, withCount(text, rows.filter((row) => holds(row, Number(menu.dataset.run))).length)));
    }
  }
  const words = counted(rows.map((row) => row.word).filter((word) => word !== null));
  byId("word").append(...words.map(([word, count]) => option(word, withCount(word, count))));
  const names = new Map();
  for (const row of rows) {
    for (const [name, value] of Object.entries(row.tags)) {
      if (!names.has(name)) names.set(name, []);
      names.get(name).push(value);
    }
  }
  byId("tag-label").hidden = !names.size;
  for (const [name, values] of names) {
    const group = document.createElement("optgroup");
    group.label = name;
    for (const [value, count] of counted(values).slice(0, TAG_VALUES)) {
      group.append(option(JSON.stringify([name, value]), withCount(value, count)));
    }
    byId("tag").append(group);
  }
}

/** Show the samples of a group of the tables. */
function choose(group) {
  controls.reset();
  if (group.knowledge !== undefined) byId("knowledge").value = group.knowledge;
  if (group.word !== undefined) byId("word").value = group.word;
  if (group.tag !== undefined) {
    const value = JSON.stringify([group.tag, group.value]);
    if (![...byId("tag").options].some((known) => known.value === value)) {
      byId("tag").append(option(value, group.tag + ": " + group.value));
    }
    byId("tag").value = value;
  }
  for (const menu of runMenus) menu.value = (group.runs || {})[menu.dataset.run] || "";
  update();
  byId("gallery").scrollIntoView();
}
