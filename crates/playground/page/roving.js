// Keyboard focus in a picture: Tab reaches one of its buttons, the arrow keys reach the others.

/** Returns the buttons of a picture in reading order. */
function buttons(picture) {
  return [...picture.querySelectorAll("[data-at]")];
}

/** Lets the arrow keys move the focus among the buttons of `picture`, whatever is drawn into it. */
export function rove(picture) {
  picture.addEventListener("keydown", (event) => {
    const all = buttons(picture);
    const at = all.indexOf(document.activeElement);
    if (at < 0) return;
    const next = {
      ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: all.length - 1,
    }[event.key];
    if (next === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    focus(all, Math.max(0, Math.min(next, all.length - 1)));
  });
  picture.addEventListener("focusin", (event) => {
    if (event.target.matches("[data-at]")) focus(buttons(picture), buttons(picture).indexOf(event.target), false);
  });
}

function focus(all, index, moves = true) {
  all.forEach((button, other) => {
    const wanted = other === index ? 0 : -1;
    if (button.tabIndex !== wanted || !button.hasAttribute("tabindex")) button.tabIndex = wanted;
  });
  if (moves) all[index]?.focus();
}

/** Draws into `picture`, and puts the focus back where it was, or to the button that has its place. */
export function redraw(picture, draw) {
  const before = document.activeElement;
  const hadFocus = picture.contains(before) && before.matches("[data-at]");
  const place = hadFocus ? Number(before.dataset.at) : null;
  draw();
  const all = buttons(picture);
  let index = 0;
  if (place !== null) {
    const after = all.findIndex((button) => Number(button.dataset.at) > place);
    index = after < 0 ? all.length - 1 : Math.max(0, after - 1);
  }
  focus(all, index, hadFocus);
}
