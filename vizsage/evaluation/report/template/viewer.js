// The viewer: a sample with its image as large as the page has it, or twice as large where the window has room.

const ENLARGED = 2;
const viewer = byId("viewer");
let at = 0; // index in `found` of the sample that is shown

function show(place) {
  at = place;
  const row = found[at], image = imageOf(row);
  if (image) {
    image.addEventListener("load", () => { image.width = ENLARGED * image.naturalWidth; });
    byId("viewer-stage").replaceChildren(image);
  } else {
    byId("viewer-stage").replaceChildren(make("p", "thumb none", "no image"));
  }
  byId("viewer-question").textContent = row.question;
  byId("viewer-question").dir = "auto";
  byId("viewer-facts").replaceChildren();
  tell(byId("viewer-facts"), row);
  byId("viewer-source").textContent = source(row);
  byId("viewer-place").textContent = number.format(at + 1) + " of " + number.format(found.length);
  byId("viewer-back").disabled = at === 0;
  byId("viewer-next").disabled = at === found.length - 1;
}

function enlarge(place) {
  show(place);
  viewer.showModal();
  byId("viewer-close").focus();
}

function step(by) {
  const place = at + by;
  if (place >= 0 && place < found.length) show(place);
}

viewer.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by) {
    event.preventDefault();
    step(by);
  }
});
byId("viewer-back").addEventListener("click", () => step(-1));
byId("viewer-next").addEventListener("click", () => step(1));
byId("viewer-close").addEventListener("click", () => viewer.close());
viewer.addEventListener("click", (event) => event.target === viewer && viewer.close()); // beside the box
viewer.addEventListener("close", () => {
  byId("viewer-stage").replaceChildren();
  draw(Math.max(drawn, at + 1));
  const seen = cards.children[at]?.querySelector(".enlarge");
  seen?.focus(); // reading goes on at the sample that was shown last
});
