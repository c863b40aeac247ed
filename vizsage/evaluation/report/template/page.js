// Keyboard, paper, theme, and the start.

const PRINTED = 100; // cards that are printed at least

function typing(target) {
  return target instanceof Element && target.closest("input:not([type=radio]), select, textarea");
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || viewer.open) return;
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

fillKinds();
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
  const next = cards.children[first];
  if (next) {
    next.tabIndex = -1; // keyboard focus moves to the first new card
    next.focus({ preventScroll: true });
  }
});
new IntersectionObserver(
  (entries) => entries.some((entry) => entry.isIntersecting) && !more.hidden && draw(drawn + PAGE),
  { rootMargin: "800px" },
).observe(more);
update();
performance.mark("gallery");
