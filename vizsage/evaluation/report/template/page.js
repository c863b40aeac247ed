"use strict";
// The gallery of a report: filters, search, cards. Every text of the data is set as textContent, never as HTML.
(() => {
  const PAGE = 40; // cards added at a time
  const PRINTED = 100; // cards that are printed at least
  const TAG_VALUES = 200; // most frequent values of a tag in the menu; the search finds the others

  const byId = (id) => document.getElementById(id);
  const read = (id) => JSON.parse(byId(id).textContent);
  const { rows, images, descriptions } = read("gallery-data");
  const thumbnails = read("thumbnail-data");
  const number = new Intl.NumberFormat("en");
  const OUTCOMES = [["all", "All"], ["wrong", "Wrong"], ["right", "Right"], ["failed", "Failed"], ["cut", "Cut"]];

  const controls = byId("controls"), cards = byId("cards"), more = byId("more");
  let found = rows; // rows that match
  let drawn = 0; // number of rows of `found` that have a card

  // --- cards

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) {
      element.textContent = text;
      element.dir = "auto";
    }
    return element;
  }

  function thumbnail(row) {
    const data = thumbnails[row.image];
    if (!data) return make("div", "thumb none", "no image");
    const image = make("img", "thumb");
    image.src = "data:image/webp;base64," + data;
    image.alt = images[row.image];
    image.decoding = "async";
    return image;
  }

  function prediction(row) {
    if (row.outcome === "failed") return make("dd", "prediction", "no answer: " + (row.error || "unknown reason"));
    if (row.prediction === "") return make("dd", "prediction muted", "(empty)");
    return make("dd", "prediction", row.prediction);
  }

  function answers(row) {
    const cell = make("dd", "answers");
    for (const [text, times] of row.answers) {
      const answer = make("span", "answer", text);
      if (times > 1) answer.append(make("span", "muted", " ×" + times));
      cell.append(answer);
    }
    return cell;
  }

  function choices(row) {
    const cell = make("dd", "answers");
    row.choices.forEach((text, place) => cell.append(make("span", "answer", String.fromCharCode(65 + place) + " " + text)));
    return cell;
  }

  function pair(list, name, value) {
    const line = make("div");
    line.append(make("dt", "", name), value);
    list.append(line);
  }

  function badges(row) {
    const list = make("p", "badges");
    list.append(make("span", "badge " + row.outcome, row.outcome));
    if (row.cut) list.append(make("span", "badge cut", "cut"));
    if (row.knowledge) list.append(make("span", "badge", "external knowledge"));
    for (const [name, value] of Object.entries(row.tags)) list.append(make("span", "badge tag", name + ": " + value));
    return list;
  }

  function fold(title, text) {
    const details = make("details");
    details.append(make("summary", "", title), make("p", "", text));
    return details;
  }

  function card(row) {
    const item = make("li", "card " + row.outcome);
    const body = make("div", "body");
    const facts = make("dl");
    pair(facts, "predicted", prediction(row));
    pair(facts, "accepted", answers(row));
    if (row.choices) pair(facts, "choices", choices(row));
    body.append(make("h3", "", row.question), facts, badges(row));
    if (row.description !== null) body.append(fold("description", descriptions[row.description]));
    const scores = Object.entries(row.scores);
    if (row.outcome === "wrong" && scores.some(([, score]) => score > 0)) {
      body.append(fold("scores", scores.map(([k, v]) => k.replaceAll("_", " ") + " " + v).join(", ")));
    }
    body.append(make("p", "source muted", images[row.image] + " · " + row.id));
    item.append(thumbnail(row), body);
    return item;
  }

  function draw(upTo) {
    const end = Math.min(upTo, found.length);
    const batch = document.createDocumentFragment();
    for (; drawn < end; drawn++) batch.append(card(found[drawn]));
    cards.append(batch);
    more.hidden = drawn >= found.length;
    more.textContent = "Show " + number.format(Math.min(PAGE, found.length - drawn)) + " more";
  }

  // --- filters

  function haystack(row) {
    if (row.text === undefined) {
      const answered = row.answers.map(([text]) => text);
      const tags = Object.values(row.tags);
      const texts = [row.question, row.prediction || "", images[row.image], row.id, ...answered, ...tags];
      row.text = texts.join("\n").normalize("NFKC").toLowerCase();
    }
    return row.text;
  }

  function chosen() {
    const words = byId("search").value.normalize("NFKC").toLowerCase().split(/\s+/).filter(Boolean);
    const outcome = controls.elements.outcome.value;
    const knowledge = byId("knowledge").value, word = byId("word").value;
    const tag = byId("tag").value ? JSON.parse(byId("tag").value) : null;
    return (row) =>
      (outcome === "all" || (outcome === "cut" ? row.cut : row.outcome === outcome)) &&
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

  function fillOutcomes() {
    for (const [value, title] of OUTCOMES) {
      const count = rows.filter((row) => value === "all" || (value === "cut" ? row.cut : row.outcome === value)).length;
      const label = make("label", "chip");
      const input = make("input");
      Object.assign(input, { type: "radio", name: "outcome", value, defaultChecked: value === "all" });
      label.append(input, make("span", "", title + " " + number.format(count)));
      byId("outcomes").append(label);
    }
  }

  function fillMenus() {
    const words = counted(rows.map((row) => row.word).filter((word) => word !== null));
    byId("word").append(...words.map(([word, count]) => option(word, word + " (" + number.format(count) + ")")));
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
        group.append(option(JSON.stringify([name, value]), value + " (" + number.format(count) + ")"));
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
    update();
    byId("gallery").scrollIntoView();
  }

  // --- keyboard, paper, theme

  function typing(target) {
    return target instanceof Element && target.closest("input:not([type=radio]), select, textarea");
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/" && !typing(event.target)) {
      event.preventDefault();
      byId("search").focus();
      byId("search").select();
    } else if (event.key === "Escape" && event.target === byId("search")) {
      byId("search").value = "";
      update();
    }
  });

  window.addEventListener("beforeprint", () => {
    draw(Math.max(drawn, PRINTED));
    for (const details of document.querySelectorAll("details.printed")) details.open = true;
    const printed = drawn < found.length ? "The first " + number.format(drawn) + " of " : "All ";
    byId("print-note").textContent = printed + number.format(found.length) + " samples that were chosen.";
  });

  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  byId("theme").hidden = false;
  byId("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
  });

  fillOutcomes();
  fillMenus();
  controls.hidden = false;
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("input", update);
  controls.addEventListener("reset", () => setTimeout(update)); // after the browser has reset the fields
  for (const button of document.querySelectorAll("button[data-choose]")) {
    button.addEventListener("click", () => choose(JSON.parse(button.dataset.choose)));
  }
  more.addEventListener("click", () => {
    const first = drawn;
    draw(drawn + PAGE);
    const card = cards.children[first];
    if (card) {
      card.tabIndex = -1; // keyboard focus moves to the first new card
      card.focus({ preventScroll: true });
    }
  });
  new IntersectionObserver(
    (entries) => entries.some((entry) => entry.isIntersecting) && !more.hidden && draw(drawn + PAGE),
    { rootMargin: "800px" },
  ).observe(more);
  update();
  performance.mark("gallery");
})();
