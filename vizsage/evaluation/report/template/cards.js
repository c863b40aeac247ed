// Cards: a sample with its image, its predictions and the accepted answers.

function prediction(row, place) {
  const outcome = outcomeOf(row, place), text = predictionOf(row, place);
  if (outcome === "failed") {
    const reason = place === 0 && row.error ? ": " + row.error : "";
    return make("dd", "prediction failed", "no answer" + reason);
  }
  if (text === "") return make("dd", "prediction muted", "(empty)");
  return make("dd", "prediction " + outcome, text);
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

function pair(list, name, value, className = "") {
  const line = make("div");
  line.append(make("dt", className, name), value);
  list.append(line);
}

/** Fill a list with what was predicted, by which run, and what is accepted. */
function tell(list, row) {
  // A run has the colour of its curves.
  runs.forEach((name, place) => pair(list, name, prediction(row, place), compares ? "line" + (place % STYLES + 1) : ""));
  pair(list, "accepted", answers(row));
  if (row.choices) pair(list, "choices", choices(row));
}

function source(row) {
  return images[row.image] + " · " + row.id;
}

function badges(row) {
  const list = make("p", "badges");
  if (!compares) list.append(make("span", "badge " + row.outcome, row.outcome));
  if (row.cut) list.append(make("span", "badge cut", compares ? runs[0] + " cut" : "cut"));
  if (row.knowledge) list.append(make("span", "badge", "external knowledge"));
  for (const [name, value] of Object.entries(row.tags)) list.append(make("span", "badge tag", name + ": " + value));
  return list;
}

function fold(title, text) {
  const details = make("details");
  details.append(make("summary", "", title), make("p", "", text));
  return details;
}

function thumbnail(row) {
  const image = imageOf(row);
  if (!image) return make("div", "thumb none", "no image");
  const button = make("button", "enlarge");
  button.type = "button";
  button.title = "enlarge";
  image.className = "thumb";
  button.append(image);
  button.addEventListener("click", () => enlarge(found.indexOf(row)));
  return button;
}

function card(row) {
  const item = make("li", "card");
  const body = make("div", "body");
  const facts = make("dl");
  tell(facts, row);
  body.append(make("h3", "", row.question), facts, badges(row));
  if (row.description !== null) body.append(fold("description", descriptions[row.description]));
  const scores = Object.entries(row.scores);
  if (!compares && row.outcome === "wrong" && scores.some(([, score]) => score > 0)) {
    body.append(fold("scores", scores.map(([k, v]) => k.replaceAll("_", " ") + " " + v).join(", ")));
  }
  body.append(make("p", "source muted", source(row)));
  item.append(thumbnail(row), body);
  return item;
}
