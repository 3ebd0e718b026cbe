// Makes elements, and reads the width of the window.

/** Makes an element with attributes and children; a null attribute or child is left out. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "onclick") element.addEventListener("click", value);
    else if (key === "style") element.style.cssText = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Replaces the content of an element. Children that are there already, in the same order, are not touched. */
export function fill(element, ...children) {
  const wanted = children.filter((child) => child !== null && child !== undefined)
    .map((child) => child instanceof Node ? child : document.createTextNode(child));
  const kept = new Set(wanted);
  for (const child of [...element.childNodes]) if (!kept.has(child)) child.remove();
  let next = element.firstChild;
  for (const child of wanted) {
    if (child === next) next = next.nextSibling;
    else element.insertBefore(child, next);
  }
}

/** Says whether the window is as narrow as a phone. */
export const narrow = window.matchMedia("(max-width: 640px)");

/** Writes bytes as an exact text: 4K, 1536K, 850B. */
export function size(bytes) {
  if (bytes === 0) return "0";
  const [scale, suffix] = [[2 ** 30, "G"], [2 ** 20, "M"], [2 ** 10, "K"]].find(([scale]) => bytes % scale === 0) ?? [1, "B"];
  return `${bytes / scale}${suffix}`;
}

/** Returns the class of a colour that belongs to a name. */
export function colourOf(name) {
  let sum = 0;
  for (const character of name) sum = (sum * 31 + character.codePointAt(0)) % 6007;
  return `c${sum % 6}`;
}
