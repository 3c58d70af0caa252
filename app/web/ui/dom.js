// Elements of the page.

export const byId = (id) => document.getElementById(id);

/** A new element. Data only ever becomes text or a property, never markup. */
export function create(tag, { className, text, attributes, ...properties } = {}, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes ?? {})) element.setAttribute(name, value);
  Object.assign(element, properties);
  element.append(...children);
  return element;
}

/** Shows `text` in `element`, or hides the element when there is none. */
export function showText(element, text) {
  element.textContent = text ?? "";
  element.hidden = !text;
}

/** A button with words; `properties` as of `create`. */
export function button(text, onClick, { className = "button", ...properties } = {}) {
  const element = create("button", { className, type: "button", text, ...properties });
  element.addEventListener("click", onClick);
  return element;
}

/** Whether keys typed into `element` are text. */
export const takesText = (element) =>
  Boolean(
    element?.closest?.(
      "textarea, select, input:not([type=range], [type=checkbox], [type=radio], [type=file])",
    ),
  );
