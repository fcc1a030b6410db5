/**
 * Small helpers over the DOM. Texts go in as text: nothing here, and nothing that uses it, parses markup. What a page
 * would obey in them, such as marks that turn the direction of all that follows, is spelt out.
 */
import { printable } from '../printable.ts';


/** An element of the page by its id. */
export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

/** A new element with text. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  text = '',
  attributes: Readonly<Record<string, string>> = {},
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  element.textContent = printable(text);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, printable(value));
  return element;
}

/** Shows a text in an element, or hides the element where there is none. */
export function say(element: HTMLElement, text: string): void {
  element.textContent = printable(text);
  element.hidden = text === '';
}
