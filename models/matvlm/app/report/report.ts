import { ArgumentError } from '../../../../engine/errors.ts';
import { type Chart, renderChart } from './chart.ts';
import type {
  AccuracyRow,
  AccuracyTable,
  Headline,
  ModelSize,
  ReportData,
  ReportSample,
  Setting,
} from './data.ts';
import { html, type Html, raw } from './html.ts';
import style from './report.css';

export type { Chart, Series } from './chart.ts';
export { askedAtEachPoint, type LoggedRun, testCurves, trainingCurves } from './curves.ts';
export type * from './data.ts';

/** The file may load nothing: even a hole in the escaping would reach no network and run no script. */
const POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

const IMAGE = /^data:image\/(png|jpeg);base64,[A-Za-z0-9+/]+={0,2}$/;

/**
 * A report as one HTML file that needs no network and no script.
 * @throws ArgumentError for a sample's image that is no data URI of a PNG or JPEG
 */
export function renderReport(data: ReportData): string {
  const sections = sectionsOf(data);
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${data.title}</title>
<style>${raw(style)}</style>
</head>
<body>
<header>
<p class="brand">matvlm report</p>
<h1>${data.title}</h1>
${data.summary && html`<p class="summary">${data.summary}</p>`}
${data.command && html`<pre><code>${data.command}</code></pre>`}
${data.headlines && headlines(data.headlines)}
<nav aria-label="Sections">${sections.map(([id, title]) => html`<a href="#${id}">${title}</a>`)}</nav>
</header>
<main>
${sections.map(section)}
</main>
<footer>${data.created && made(data.created)}</footer>
</body>
</html>
`.text;
}

type Section = readonly [id: string, title: string, body: Html];

function sectionsOf(data: ReportData): Section[] {
  const { learning, models = [], curves } = data;
  const sections: (Section | false | undefined)[] = [
    learning &&
      learning.charts.length > 0 && ['learning', 'Learning', html`<p class="quiet">${learning.note}</p>${charts(learning.charts)}`],
    data.accuracy && ['accuracy', 'Accuracy', accuracy(data.accuracy)],
    data.samples.length > 0 && ['samples', 'Samples', samples(data.samples)],
    curves.length > 0 && ['curves', 'Training', charts(curves)],
    models.length > 0 && ['models', 'Models', sizes(models)],
    ['settings', 'Settings', definitions(flatten(data.settings))],
    ['environment', 'Environment', definitions(Object.entries(data.environment))],
  ];
  return sections.filter((s) => !!s);
}

function charts(list: readonly Chart[]): Html {
  return html`<div class="charts">${list.map(renderChart)}</div>`;
}

/** A table that is moved sideways where the page is too narrow for it, by keys too. */
function scrollable(label: string, table: Html): Html {
  return html`<div class="scroll" tabindex="0" role="region" aria-label="${label}">${table}</div>`;
}

function section([id, title, body]: Section): Html {
  return html`<section id="${id}" aria-labelledby="${id}-title">
<h2 id="${id}-title">${title}</h2>
${body}
</section>
`;
}

function made(date: Date): Html {
  const iso = date.toISOString();
  const shown = `${iso.slice(0, 16).replace('T', ' ')} UTC`;
  return html`<p>Made <time datetime="${iso}">${shown}</time>. This file needs no network.</p>`;
}

function headlines(list: readonly Headline[]): Html {
  const tile = ({ label, value, note }: Headline) =>
    html`<div><dt>${label}</dt><dd>${value}${note && html`<small>${note}</small>`}</dd></div>`;
  return html`<dl class="headlines">${list.map(tile)}</dl>`;
}

function accuracy(table: AccuracyTable): Html {
  const measured = table.rows.filter((row) => row.source !== 'published');
  const published = table.rows.filter((row) => row.source === 'published');
  const teacher = table.rows.find((row) => row.source === 'teacher');
  const head = table.kinds.map((kind) => html`<th scope="col">${kind}${countOf(table, kind)}</th>`);
  const row = (r: AccuracyRow) =>
    html`<tr class="${r.source}"><th scope="row">${r.name}</th>${table.kinds.map((k) => score(r, k, teacher))}</tr>`;
  const group = (title: string, rows: readonly AccuracyRow[]) =>
    rows.length > 0 &&
    html`<tbody>
<tr class="group"><th scope="rowgroup" colspan="${table.kinds.length + 1}">${title}</th></tr>
${rows.map(row)}
</tbody>`;
  return scrollable(
    'Accuracy by question kind',
    html`<table class="accuracy">
<caption>Share of answers that equal the right one word for word, in percent; for students, the points between them
and the teacher.${margins(table)}</caption>
<thead><tr><th scope="col">Model</th>${head}</tr></thead>
${group('Measured here', measured)}
${group('Published by others', published)}
</table>`,
  );
}

function countOf({ counts }: AccuracyTable, kind: string): Html | false {
  return kind in counts && html`<small>${counts[kind].toLocaleString('en-US')} questions</small>`;
}

/** How far chance alone can move a score of 90 %: the half width of its 95 % interval. */
function margins({ kinds, counts }: AccuracyTable): string {
  const each = kinds
    .filter((kind) => counts[kind] > 0)
    .map((kind) => `±${(196 * Math.sqrt(0.09 / counts[kind])).toFixed(1)} for ${kind}`);
  return each.length > 0 ? ` Chance alone moves a score near 90 by ${each.join(', ')} (95 %).` : '';
}

function score(row: AccuracyRow, kind: string, teacher: AccuracyRow | undefined): Html {
  const value = row.scores[kind];
  if (value === undefined) return html`<td class="none"><span aria-label="not measured">–</span></td>`;
  const target = teacher?.scores[kind];
  const compared = target !== undefined && (row.source === 'student' || row.source === 'before');
  const width = Math.round(1000 * Math.max(0, Math.min(1, value))) / 10;
  const difference = compared && html` <small>${points(value - target)}</small>`;
  return html`<td><span class="score">${(value * 100).toFixed(1)}</span>${difference}${bar(width)}</td>`;
}

function bar(percent: number): Html {
  return html`<svg class="bar" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">
<rect width="100" height="4"/><rect class="fill" width="${percent}" height="4"/>
</svg>`;
}

function points(difference: number): string {
  const rounded = (Math.abs(difference) * 100).toFixed(1);
  if (rounded === '0.0') return '±0.0';
  return `${difference < 0 ? '−' : '+'}${rounded}`;
}

/** Samples by image: one card for each, with all that was asked about it. */
function samples(list: readonly ReportSample[]): Html {
  const byImage = new Map<string, ReportSample[]>();
  for (const sample of list) byImage.set(sample.image, [...(byImage.get(sample.image) ?? []), sample]);
  return html`<div class="samples">${[...byImage].map(([image, asked], i) => sampleCard(image, asked, i + 1))}</div>`;
}

function sampleCard(image: string, asked: readonly ReportSample[], number: number): Html {
  if (!IMAGE.test(image)) {
    throw new ArgumentError(`sample ${number}: its image is no data URI of a PNG or JPEG: ${image.slice(0, 40)}`);
  }
  const models = asked[0].answers.map((a) => a.model);
  const head = ['Question', 'Right answer', ...models].map((title) => html`<th scope="col">${title}</th>`);
  const table = html`<table>
<thead><tr>${head}</tr></thead>
<tbody>${asked.map(sampleRow)}</tbody>
</table>`;
  return html`<article class="sample" aria-label="Sample ${number}">
<img src="${image}" alt="Image of sample ${number}" width="150" height="150">
${scrollable(`Questions on sample ${number}`, table)}
</article>`;
}

/** A row; on a narrow page its cells stand below one another, each with its column's name. */
function sampleRow({ question, kind, gold, answers }: ReportSample): Html {
  return html`<tr>
<th scope="row">${question}<small>${kind}</small></th><td data-of="Right answer">${gold}</td>
${answers.map((a) => answer(a, gold))}
</tr>`;
}

function answer({ model, text }: ReportSample['answers'][number], gold: string): Html {
  const right = text.trim() === gold.trim();
  const [sign, word, kind] = right ? ['✓', 'right', 'right'] : ['✗', 'wrong', 'wrong'];
  const verdict = html`<span class="verdict" role="img" aria-label="${word}">${sign}</span>`;
  return html`<td class="${kind}" data-of="${model}">${verdict} ${text === '' ? '(nothing)' : text}</td>`;
}

/** Parameters by part, a column a model. */
function sizes(models: readonly ModelSize[]): Html {
  const parts = [...new Set(models.flatMap((m) => [...m.parts.keys()]))];
  const total = ({ parts: counts }: ModelSize) => [...counts.values()].reduce((a, b) => a + b, 0);
  const row = (title: string, of: (m: ModelSize) => number | null) =>
    html`<tr><th scope="row">${title}</th>${models.map((m) => html`<td>${of(m)?.toLocaleString('en-US') ?? '–'}</td>`)}</tr>`;
  return scrollable(
    'Parameters of the models',
    html`<table class="sizes">
<thead><tr><th scope="col">Parameters</th>${models.map((m) => html`<th scope="col">${m.name}</th>`)}</tr></thead>
<tbody>${parts.map((part) => row(part, (m) => m.parts.get(part) ?? null))}
${row('all', total)}
${row('trained here', (m) => m.trained)}</tbody>
</table>`,
  );
}

/** Nested settings as dotted names. */
function flatten(settings: Readonly<Record<string, Setting>>, prefix = ''): [string, string][] {
  return Object.entries(settings).flatMap(([key, value]): [string, string][] => {
    if (value !== null && typeof value === 'object' && !Array.isArray(value)) {
      return flatten(value as Record<string, Setting>, `${prefix}${key}.`);
    }
    return [[prefix + key, settingText(value)]];
  });
}

/** A setting's value as a report shows it. */
export function settingText(value: Setting): string {
  if (value === null) return 'not set';
  if (Array.isArray(value)) return value.map(settingText).join(', ');
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

function definitions(entries: readonly (readonly [string, string])[]): Html {
  const pairs = entries.map(([key, value]) => html`<div><dt>${key}</dt><dd>${value}</dd></div>`);
  return html`<dl class="values">${pairs}</dl>`;
}
