import type { CatalogueModel } from './catalogue.ts';
import { printable } from '../printable.ts';
import { byId, make } from './dom.ts';
import { bytes, count, duration, rate } from './format.ts';
import type { Answer, ModelInfo } from './protocol.ts';

/** One model's place on the page: its name, its layers, what it says and what that costs. */
export class Card {
  private readonly root: HTMLElement;
  private readonly select: HTMLSelectElement;
  private readonly said: HTMLElement;

  /**
   * @param role the element's id
   * @param models those that may be chosen here; the first is
   * @param onChange hears that another one was
   */
  constructor(
    readonly role: 'teacher' | 'student',
    private readonly models: readonly CatalogueModel[],
    onChange: () => void,
  ) {
    this.root = byId(role);
    this.root.append(byId<HTMLTemplateElement>('card').content.cloneNode(true));
    this.root.hidden = models.length === 0;
    this.select = this.root.querySelector('select')!;
    this.said = this.find('.said');
    const title = this.find('h3');
    title.id = `${role}-title`;
    title.textContent = role === 'teacher' ? 'Teacher' : 'Student';
    this.select.setAttribute('aria-label', `Which ${role}`);
    this.select.replaceChildren(...models.map(({ name }, i) => make('option', name, { value: String(i) })));
    this.select.hidden = models.length < 2;
    this.select.addEventListener('change', onChange);
  }

  /** The model that is chosen; undefined where there is none. */
  get model(): CatalogueModel | undefined {
    return this.models[Number(this.select.value) || 0];
  }

  /** Shows what was loaded. */
  describe(info: ModelInfo): void {
    const mamba = info.layers.filter((kind) => kind === 'mamba').length;
    const layers = this.find('.layers');
    const what = mamba > 0 ? `${info.layers.length - mamba} attention, ${mamba} Mamba-2` : 'all attention';
    layers.setAttribute('aria-label', `${info.layers.length} layers: ${what}`);
    const blocks = info.layers.map((kind, i) => make('i', '', { class: kind, title: `layer ${i}: ${kind}` }));
    layers.replaceChildren(...blocks);
    const { name } = this.model!;
    const which = this.models.length > 1 || name === this.role ? '' : `${name}: `;
    const size = `${count(info.parameters)} parameters, ${info.layers.length} layers, ${what}`;
    const seen = this.model!.pictures ? `. Has seen ${this.model!.pictures.join(' and ')}, nothing else` : '';
    this.find('.about').textContent = printable(`${which}${size}${seen}.`);
  }

  /** Clears the last answer; `text` says what is being waited for. */
  wait(text: string): void {
    this.root.classList.toggle('busy', text !== '');
    this.root.classList.remove('right', 'wrong');
    this.said.textContent = text;
    this.said.classList.add('waiting');
    for (const stat of ['first', 'rate', 'cache']) this.stat(stat, '–');
  }

  /** Adds a piece of the answer. */
  add(piece: string): void {
    if (this.said.classList.contains('waiting')) this.said.textContent = '';
    this.said.classList.remove('waiting');
    this.said.append(printable(piece));
  }

  /** Shows the whole answer and what it cost. @param gold the right answer, where it is known */
  finish(answer: Answer, gold: string | null): void {
    this.root.classList.remove('busy');
    this.said.classList.toggle('waiting', answer.text === '');
    this.said.textContent = printable(answer.text) || (answer.aborted ? 'stopped' : '(no answer)');
    if (gold !== null && !answer.aborted) this.root.classList.add(answer.text === gold ? 'right' : 'wrong');
    this.stat('first', answer.newTokens > 0 ? duration(answer.timeToFirstToken) : '–');
    this.stat('rate', rate(answer.tokensPerSecond));
    this.stat('cache', bytes(answer.cacheBytes), `+ ${bytes(answer.cacheBytesPerToken)} a token`);
  }

  private stat(name: string, value: string, note = ''): void {
    this.find(`[data-stat=${name}]`).replaceChildren(value, ...(note ? [make('small', note)] : []));
  }

  private find(selector: string): HTMLElement {
    return this.root.querySelector<HTMLElement>(selector)!;
  }
}
