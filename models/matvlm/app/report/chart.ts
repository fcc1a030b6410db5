import { html, type Html } from './html.ts';
import type { Interval } from './interval.ts';
import { linearScale, logScale, type Scale } from './scale.ts';

/** One line of a chart. */
export interface Series {
  readonly name: string;
  /** [x, y] in rising x; pairs that are not finite are left out. */
  readonly points: readonly (readonly [number, number])[];
  /** By x: where the value lies as far as its measurement tells, drawn as a bar. */
  readonly spread?: ReadonlyMap<number, Interval>;
}

/** A line chart. Series differ in colour, in dash and in the shape at their end. */
export interface Chart {
  readonly title: string;
  readonly xLabel: string;
  readonly yLabel: string;
  /** Logarithmic y where all values are above 0. */
  readonly log?: boolean;
  /** y are shares of 1, shown in percent. */
  readonly percent?: boolean;
  /** Draws the course of noisy values, and the values themselves faintly. */
  readonly smooth?: boolean;
  readonly series: readonly Series[];
}

/** About the pixels in which a chart is shown, so that letters keep their size: see `.chart` in report.css. */
const [WIDTH, HEIGHT] = [360, 250];
const [LEFT, RIGHT, TOP, BOTTOM] = [68, 14, 10, 52];
const MOST_POINTS = 240;
/** So few points were measured one by one: each gets its mark. */
const FEW_POINTS = 16;
const DASHES = ['none', '7 5', '2 4', '10 4 2 4'];

/** A series as it is drawn: what was measured, faint where it is noisy, and its course. */
interface Drawn extends Series {
  readonly points: readonly Point[];
  readonly noisy: readonly Point[];
}

/** Draws a chart as a figure: an SVG, a legend with first and last values, nothing that needs a script. */
export function renderChart(chart: Chart): Html {
  const drawn = chart.series.map((s) => prepare(s, chart.smooth ?? false)).filter((s) => s.points.length > 0);
  if (drawn.length === 0) {
    return html`<figure class="chart"><h3>${chart.title}</h3><p class="quiet">Nothing was measured.</p></figure>`;
  }
  const ends = (s: Drawn) => [...(s.spread ?? [])].flatMap(([x, bar]) => bar.map((y) => [x, y] as const));
  const scales = scalesOf(chart, drawn.flatMap((s) => [...s.points, ...s.noisy, ...ends(s)]));
  return html`<figure class="chart">
<h3>${chart.title}</h3>
<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${describe(chart, drawn)}">
${axes(chart, scales)}
${drawn.map((s, i) => line(chart, s, i, scales))}
</svg>
<figcaption>${drawn.map((s, i) => legend(chart, s, i))}</figcaption>
</figure>`;
}

interface Scales {
  readonly x: Scale;
  readonly y: Scale;
}

function scalesOf(chart: Chart, points: readonly Point[]): Scales {
  const [xs, ys] = [points.map((p) => p[0]), points.map((p) => p[1])];
  const [low, high] = [Math.min(...ys), Math.max(...ys)];
  const positive = ys.filter((y) => y > 0);
  const y =
    chart.log && positive.length > 0
      ? logScale(Math.min(...positive), high, HEIGHT - BOTTOM, TOP)
      : linearScale(Math.min(low, 0), chart.percent ? Math.max(high, 1) : high, HEIGHT - BOTTOM, TOP, 5);
  return { x: linearScale(Math.min(...xs), Math.max(...xs), LEFT, WIDTH - RIGHT, 4), y };
}

type Point = readonly [number, number];

/** At most MOST_POINTS points: means of equal stretches, which keep a noisy curve's course. */
function thin(points: readonly Point[]): Point[] {
  if (points.length <= MOST_POINTS) return [...points];
  return Array.from({ length: MOST_POINTS }, (_, i) => {
    const part = points.slice(cut(i, points.length), cut(i + 1, points.length));
    return [mean(part.map((p) => p[0])), mean(part.map((p) => p[1]))] as const;
  });
}

function prepare(series: Series, smooth: boolean): Drawn {
  const all = thin(series.points.filter((p) => p.every(Number.isFinite)));
  const half = smooth ? Math.floor(all.length / 48) : 0;
  if (half === 0) return { ...series, points: all, noisy: [] };
  const around = (i: number) => all.slice(Math.max(0, i - half), i + half + 1).map((p) => p[1]);
  return { ...series, points: all.map(([x], i) => [x, mean(around(i))] as const), noisy: all };
}

const mean = (list: readonly number[]) => list.reduce((a, b) => a + b, 0) / list.length;

const cut = (i: number, length: number) => Math.floor((i * length) / MOST_POINTS);

/** A measured number: three significant digits, or a percentage with one digit after the point. */
export function label(value: number, percent = false): string {
  if (percent) return `${(value * 100).toFixed(1)} %`;
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(1).replace('e+', 'e');
  return size < 100 ? value.toPrecision(3) : String(Number(value.toPrecision(3)));
}

/** A round number beside an axis: a label without the zeros after the point. */
export function tick(value: number, percent = false): string {
  return label(value, percent).replace(/\.0+(?=$| |e)|(\.\d*[1-9])0+(?=$| |e)/, '$1');
}

/** A place on the horizontal axis: a step. */
const xNumber = (x: number) => x.toLocaleString('en-US', { maximumFractionDigits: 2 });

function axes(chart: Chart, { x, y }: Scales): Html {
  const bottom = HEIGHT - BOTTOM;
  const grid = y.ticks.map((t) => html`<path d="M${LEFT} ${px(y.at(t))}H${WIDTH - RIGHT}"/>`);
  const values = y.ticks.map((t) => {
    return html`<text x="${LEFT - 8}" y="${px(y.at(t) + 4)}" text-anchor="end">${tick(t, chart.percent)}</text>`;
  });
  return html`<g class="grid">${grid}</g>
<g class="ticks">
${values}
${x.ticks.map((t) => html`<text x="${px(x.at(t))}" y="${bottom + 20}" text-anchor="middle">${xNumber(t)}</text>`)}
<text x="${(LEFT + WIDTH - RIGHT) / 2}" y="${HEIGHT - 6}" text-anchor="middle">${chart.xLabel}</text>
<text transform="translate(13 ${(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">${chart.yLabel}</text>
</g>`;
}

function line(chart: Chart, { name, points, noisy, spread }: Drawn, i: number, { x, y }: Scales): Html {
  const trace = (list: readonly Point[]) =>
    list.map(([a, b], k) => `${k === 0 ? 'M' : 'L'}${px(x.at(a))} ${px(y.at(b))}`).join('');
  const marked = points.length <= FEW_POINTS ? points : points.slice(-1);
  const every = Math.ceil(points.length / 40);
  const tips = points.filter((_, k) => k % every === 0 || k === points.length - 1);
  const tip = ([a, b]: Point) =>
    html`<circle class="tip" cx="${px(x.at(a))}" cy="${px(y.at(b))}" r="7"><title>${told(chart, name, a, b, spread?.get(a))}</title></circle>`;
  const bars = [...(spread ?? [])].map(([at, ends]) => {
    const [from, to] = ends.map((value) => px(y.at(Math.max(value, y.ticks[0]))));
    return html`<path class="spread" d="M${px(x.at(at) - 3)} ${from}h6m-3 0V${to}m-3 0h6"/>`;
  });
  return html`<g class="series s${i % 4}">${noisy.length > 0 && html`<path class="noise" d="${trace(noisy)}"/>`}
${bars}<path d="${trace(points)}" stroke-dasharray="${DASHES[i % 4]}"/>
${marked.map(([a, b]) => marker(i, x.at(a), y.at(b)))}
${tips.map(tip)}</g>`;
}

function told({ xLabel, percent }: Chart, name: string, x: number, y: number, spread?: Interval): string {
  const range = spread ? ` (${spread.map((end) => label(end, percent)).join(' to ')})` : '';
  return `${name}, ${xLabel} ${xNumber(x)}: ${label(y, percent)}${range}`;
}

/** A disc, a square, a triangle, a diamond: which series it is, without colour. */
function marker(i: number, x: number, y: number): Html {
  const shapes = [
    'M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z',
    'M-4 -4h8v8h-8z',
    'M0 -5.5l5.5 9.5h-11z',
    'M0 -6l6 6l-6 6l-6 -6z',
  ];
  return html`<path class="mark" transform="translate(${px(x)} ${px(y)})" d="${shapes[i % 4]}"/>`;
}

function legend(chart: Chart, { name, points }: Series, i: number): Html {
  const [first, last] = [points[0][1], points.at(-1)![1]];
  const stroke = html`<path d="M2 7H34" stroke-dasharray="${DASHES[i % 4]}"/>`;
  return html`<span class="key s${i % 4}"><svg viewBox="0 0 44 14" aria-hidden="true">${stroke}${marker(i, 36, 7)}</svg>
<b>${name}</b> ${label(first, chart.percent)} → ${label(last, chart.percent)}</span>`;
}

function describe(chart: Chart, series: readonly Series[]): string {
  const ends = series.map(({ name, points }) => {
    const [first, last] = [points[0], points.at(-1)!];
    return `${name} goes from ${label(first[1], chart.percent)} to ${label(last[1], chart.percent)}`;
  });
  return `${chart.title}: ${chart.yLabel} by ${chart.xLabel}. ${ends.join('; ')}.`;
}

const px = (value: number): string => String(Math.round(value * 10) / 10);
