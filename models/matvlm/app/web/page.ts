/** The page that `serve` serves: pick a picture, ask, and see teacher and student answer side by side. */
import { Card } from './card.ts';
import type { Catalogue } from './catalogue.ts';
import { EngineClient, WorkerError } from './client.ts';
import { byId, make, say } from './dom.ts';
import { FieldError, numberIn } from './fields.ts';
import { bytes } from './format.ts';
import { aboutPicture, aboutWords } from './outside.ts';
import { Picker, type Picture } from './picker.ts';
import type { Answer, BackendChoice, LoadEvent, Probe, Question } from './protocol.ts';

/** Shown for pictures whose questions are not known. */
const GENERAL_QUESTIONS = ['what shape is in the image?', 'what color is the shape?', 'is there a circle?'];

const HISTORY = 20;

class Page {
  private readonly client = new EngineClient('worker.js', (message) => this.lost(message));
  private readonly picker = new Picker(
    (file) => this.client.call('look', { image: file }),
    (picture) => this.picked(picture),
    (error) => this.problem(`This picture cannot be used: ${error.message}`),
  );
  private readonly backend = byId<HTMLSelectElement>('backend');
  private readonly question = byId<HTMLInputElement>('question');
  private readonly ask = byId<HTMLButtonElement>('ask');
  private readonly stop = byId<HTMLButtonElement>('stop');
  private cards: Card[] = [];
  private probe: Probe = { webgpu: null, why: '' };
  /** Stops what is under way. */
  private current: AbortController | null = null;
  private asking = false;

  async start(): Promise<void> {
    byId('form').addEventListener('submit', (event) => {
      event.preventDefault();
      void this.answer();
    });
    this.stop.addEventListener('click', () => this.current?.abort());
    document.addEventListener('keydown', (event) => {
      if (event.key === 'Escape' && this.asking) this.current?.abort();
    });
    this.backend.addEventListener('change', () => void this.load());
    try {
      const [catalogue] = await Promise.all([fetchCatalogue(), this.look()]);
      this.cards = (['teacher', 'student'] as const).map((role) => {
        return new Card(role, catalogue.models.filter((m) => m.role === role), () => void this.load());
      });
      await this.picker.offer(catalogue.examples);
    } catch (error) {
      return this.problem((error as Error).message);
    }
    await this.load();
  }

  private get choice(): BackendChoice {
    return this.backend.value as BackendChoice;
  }

  /** Asks the worker what there is, and chooses: a graphics card, else WASM, which beats a software adapter. */
  private async look(): Promise<void> {
    this.probe = await this.client.call('probe', {});
    const { webgpu, why } = this.probe;
    const option = this.backend.querySelector<HTMLOptionElement>('[value=webgpu]')!;
    option.disabled = webgpu === null;
    option.textContent = webgpu ? `WebGPU${webgpu.software ? ' (software)' : ''}` : 'WebGPU (not here)';
    this.backend.value = webgpu && !webgpu.software ? 'webgpu' : 'wasm';
    if (!webgpu) this.notice(`WebGPU is not available: ${why}. The models run on WebAssembly.`);
  }

  /** Loads the chosen models onto the chosen backend. */
  private async load(): Promise<void> {
    this.current?.abort();
    const controller = (this.current = new AbortController());
    this.busy(false);
    this.ask.disabled = true;
    this.problem('');
    this.clear();
    try {
      for (const card of this.cards) await this.loadInto(card, controller.signal);
      this.ask.disabled = false;
    } catch (error) {
      await this.failed(error as Error, controller, () => this.load());
    } finally {
      if (this.current === controller) byId('loading').hidden = true;
    }
  }

  private async loadInto(card: Card, signal: AbortSignal): Promise<void> {
    const { model } = card;
    if (!model) return;
    const show = ({ stage, loaded, total }: LoadEvent) => {
      const part = stage === 'weights' ? `${bytes(loaded)} of ${bytes(total)}` : 'first run';
      byId('loading-text').textContent = `Loading the ${card.role}: ${part}`;
      byId<HTMLProgressElement>('progress').value = stage === 'weights' ? loaded / total : 1;
      byId('loading').hidden = false;
    };
    const info = await this.client.call('load', { backend: this.choice, model }, show, signal);
    card.describe(info);
    say(byId('device'), `In use: ${info.backend}${this.choice === 'webgpu' ? ' through WebGPU' : ''}`);
  }

  /** Asks each model in turn: they share the machine, and each one's speed is told. */
  private async answer(): Promise<void> {
    const { picture } = this.picker;
    const prompt = this.question.value.trim();
    if (this.asking || this.ask.disabled) return;
    if (!picture || !prompt) return this.problem(picture ? 'Type a question first.' : 'Choose a picture first.');
    const options = this.options();
    if (!options) return;
    const controller = (this.current = new AbortController());
    this.busy(true);
    this.problem('');
    this.clear();
    const gold = picture.example?.questions.find((q) => q.question === prompt)?.answer ?? null;
    const cards = this.cards.filter((card) => card.model);
    for (const card of cards) card.wait('…');
    const answers = new Map<Card, Answer>();
    try {
      for (const card of cards) {
        answers.set(card, await this.askOne(card, picture, { prompt, ...options }, gold, controller.signal));
        this.tellOutside(answers);
      }
      this.conclude(picture, prompt, gold, answers);
    } catch (error) {
      for (const card of cards) if (!answers.has(card)) card.wait('');
      await this.failed(error as Error, controller, async () => {
        await this.load();
        await this.answer();
      });
    } finally {
      if (this.current === controller) this.busy(false);
      if (document.activeElement === document.body) this.ask.focus();
    }
  }

  private async askOne(
    card: Card,
    picture: Picture,
    question: Question,
    gold: string | null,
    signal: AbortSignal,
  ): Promise<Answer> {
    const send = { backend: this.choice, model: card.model!, image: picture.file, question };
    const answer = await this.client.call('answer', send, ({ piece }) => card.add(piece), signal);
    card.finish(answer, gold);
    if (answer.aborted) throw new WorkerError('stopped', 'stopped');
    return answer;
  }

  /** What the fields say; null where one is refused, which is told. */
  private options(): Omit<Question, 'prompt'> | null {
    try {
      return { temperature: numberIn('temperature'), maxNewTokens: numberIn('most') };
    } catch (error) {
      if (!(error instanceof FieldError)) throw error;
      byId<HTMLDetailsElement>('options').open = true;
      byId(error.field).focus();
      this.problem(error.message);
      return null;
    }
  }

  /** Takes away what was said: of other models, or about another picture. */
  private clear(): void {
    for (const card of this.cards) card.wait('');
    say(byId('verdict'), '');
    this.tellOutside();
  }

  /** Says where picture or question lie outside of what the models know. */
  private tellOutside(answers: ReadonlyMap<Card, Answer> = new Map()): void {
    const seen = this.cards.map(({ role, model }) => ({ role, pictures: model?.pictures ?? null }));
    const unknown = [...answers].map(([{ role }, { unknownWords }]) => ({ role, words: unknownWords }));
    const instance = byId('suggestions').firstElementChild?.textContent ?? GENERAL_QUESTIONS[0];
    const { picture } = this.picker;
    const told = [picture && aboutPicture(picture, seen), aboutWords(unknown, instance)];
    say(byId('outside'), told.filter(Boolean).join('\n'));
  }

  private conclude(picture: Picture, prompt: string, gold: string | null, answers: ReadonlyMap<Card, Answer>): void {
    const texts = [...answers.values()].map((a) => a.text);
    const agree = texts.length < 2 ? '' : texts[0] === texts[1] ? 'Both say the same. ' : 'They differ. ';
    say(byId('verdict'), agree + (gold === null ? '' : `The right answer is “${gold}”.`));
    const rows = byId('rows');
    rows.prepend(historyRow(picture, prompt, gold, new Map([...answers].map(([card, a]) => [card.role, a.text]))));
    while (rows.children.length > HISTORY) rows.lastElementChild!.remove();
    byId('history').hidden = false;
  }

  /** A command failed: stopped by the user, or the GPU is gone and WASM takes over, or there is an error to show. */
  private async failed(error: Error, controller: AbortController, again: () => Promise<void>): Promise<void> {
    const kind = error instanceof WorkerError ? error.kind : 'other';
    if (controller.signal.aborted || kind === 'stopped') {
      if (this.current === controller) say(byId('verdict'), 'Stopped.');
      return;
    }
    const gpuGone = kind === 'gpu lost' || kind === 'no gpu';
    if (!gpuGone || this.choice !== 'webgpu') return this.problem(error.message);
    this.fallBack(kind === 'gpu lost' ? 'The graphics device was lost' : 'WebGPU could not be started', error.message);
    await again();
  }

  private fallBack(what: string, reason: string): void {
    this.backend.value = 'wasm';
    const why = (reason || 'the browser gave no reason').replace(/[.\s]+$/, '');
    this.notice(`${what}: ${why}. The models run on WebAssembly now; choose WebGPU again to retry.`);
  }

  /** The GPU went away while nothing ran. */
  private lost(message: string): void {
    if (this.choice !== 'webgpu' || this.asking) return;
    this.fallBack('The graphics device was lost', message);
    void this.load();
  }

  private picked(picture: Picture): void {
    this.problem('');
    // What is being said is about the picture before.
    if (this.asking) this.current?.abort();
    this.clear();
    const { example } = picture;
    const offered = example ? spread(example.questions).map((q) => q.question) : GENERAL_QUESTIONS;
    const chips = offered.map((text) => {
      const chip = make('button', text, { type: 'button' });
      chip.addEventListener('click', () => {
        this.question.value = text;
        void this.answer();
      });
      return chip;
    });
    byId('suggestions').replaceChildren(...chips);
  }

  private busy(on: boolean): void {
    this.asking = on;
    this.ask.hidden = on;
    this.stop.hidden = !on;
  }

  private problem(text: string): void {
    say(byId('problem'), text);
    if (text) byId('problem').scrollIntoView({ block: 'nearest' });
  }

  private notice(text: string): void {
    say(byId('notice'), text);
  }
}

/** A line of what was asked before. @param said answers by the model's role */
function historyRow(
  picture: Picture,
  prompt: string,
  gold: string | null,
  said: ReadonlyMap<string, string>,
): HTMLElement {
  const image = make('td');
  image.append(make('img', '', { src: picture.url, alt: picture.alt, width: '40', height: '40' }));
  const answer = (role: string) => {
    const text = said.get(role);
    const of = { 'data-of': role };
    if (gold === null || text === undefined) return make('td', text ?? '–', of);
    return make('td', `${text === gold ? '✓' : '✗'} ${text}`, { ...of, class: text === gold ? 'right' : 'wrong' });
  };
  const row = make('tr');
  row.append(image, make('td', prompt), answer('teacher'), answer('student'), make('td', gold ?? '–', { 'data-of': 'right answer' }));
  return row;
}

/** A few questions of each kind. */
function spread<T extends { readonly kind: string }>(questions: readonly T[], each = 3): T[] {
  const kinds = [...new Set(questions.map((q) => q.kind))];
  return kinds.flatMap((kind) => questions.filter((q) => q.kind === kind).slice(0, each));
}

async function fetchCatalogue(): Promise<Catalogue> {
  const response = await fetch('/api/models.json').catch(() => null);
  if (!response?.ok) throw new Error('The server does not answer; start it again and reload this page.');
  const catalogue = (await response.json()) as Catalogue;
  if (catalogue.models.length === 0) throw new Error('The server offers no model; start it with a checkpoint folder.');
  return catalogue;
}

void new Page().start();
