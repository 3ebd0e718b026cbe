// Runs in the page: finds text whose contrast to its background is too low (WCAG 2.1, criterion 1.4.3).

/** Returns a line for each text with a contrast below 4.5. Disabled controls are exempt. */
export function lowContrast() {
  const parse = (colour) => {
    const numbers = colour.match(/[\d.]+/g).map(Number);
    return { rgb: numbers.slice(0, 3), alpha: numbers[3] ?? 1 };
  };
  const luminance = (rgb) => {
    const [red, green, blue] = rgb.map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const { rgb, alpha } = parse(getComputedStyle(at).backgroundColor);
      if (alpha === 1) return rgb;
    }
    return [255, 255, 255];
  };
  const found = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (walker.currentNode.data.trim() === "" || element.closest("script, style, template, :disabled, option")) continue;
    if (!element.checkVisibility() || element.getClientRects().length === 0) continue;
    const one = luminance(parse(getComputedStyle(element).color).rgb);
    const other = luminance(behind(element));
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < 4.5) found.add(`${contrast.toFixed(2)}: ${element.tagName} ${element.className} "${element.textContent.slice(0, 20)}"`);
  }
  return [...found];
}
