"use strict";
// Without this script the page shows the masks side by side and every gallery; with it, what follows.
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
all("[hidden]").forEach((element) => { element.hidden = false; });

const show = (view) => { document.body.dataset.view = view; };
all("input[name=view]").forEach((input) => {
  if (input.checked) show(input.value);
  input.addEventListener("change", () => show(input.value));
});

for (const compare of all(".compare")) {
  const range = compare.querySelector("input");
  const pair = compare.querySelector(".pair");
  const move = () => {
    compare.style.setProperty("--at", `${range.value}%`);
    range.setAttribute("aria-valuetext", `dense on the left ${range.value} %`);
  };
  const drag = (event) => {
    const { left, width } = pair.getBoundingClientRect();
    range.value = Math.round((100 * (event.clientX - left)) / width);
    move();
  };
  range.addEventListener("input", move);
  pair.addEventListener("pointerdown", (event) => {
    if (document.body.dataset.view !== "slider") return;
    event.preventDefault();
    pair.setPointerCapture(event.pointerId);
    range.focus({ preventScroll: true });
    drag(event);
  });
  pair.addEventListener("pointermove", (event) => { if (pair.hasPointerCapture(event.pointerId)) drag(event); });
  move();
}

const select = document.querySelector("#gallery");
if (select) {
  const pick = () => all(".gallery").forEach((gallery) => { gallery.hidden = gallery.id !== select.value; });
  select.addEventListener("change", pick);
  pick();
}

for (const button of all(".copy")) {
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    getSelection().selectAllChildren(code);
    let outcome = "Copied.";
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      outcome = "The command is selected; copy it with Ctrl+C.";
    }
    document.querySelector(".status").textContent = outcome;
  });
}
