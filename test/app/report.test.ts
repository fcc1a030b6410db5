import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ArgumentError } from '../../engine/errors.ts';
import { SortOfClevr } from '../../models/matvlm/data/sort-of-clevr.ts';
import { pngDataUri } from '../../models/matvlm/app/node/encode-png.ts';
import { label, renderChart, tick } from '../../models/matvlm/app/report/chart.ts';
import { askedAtEachPoint, testCurves, trainingCurves } from '../../models/matvlm/app/report/curves.ts';
import { escapeHtml, html, raw } from '../../models/matvlm/app/report/html.ts';
import { aroundMean, wilson } from '../../models/matvlm/app/report/interval.ts';
import { renderReport, type ReportData } from '../../models/matvlm/app/report/report.ts';
import { linearScale, logScale, niceTicks } from '../../models/matvlm/app/report/scale.ts';
import { throws } from '../support/expect.ts';

const EVIL = `</style></title><script>alert(1)</script><img src=x onerror='a()'>" & \0 \x1b[31m \x9b \u202e`;
const image = await pngDataUri(new SortOfClevr('test').get(0).image() as never);

const points = [[0, 1], [1, 0.5]] as const;
const line = (text: string) => ({ title: text, xLabel: text, yLabel: text, series: [{ name: text, points }] });

const answer = (model: string, text: string) => ({ model, text });

const data = (text: string): ReportData => ({
  title: text,
  summary: text,
  command: text,
  created: new Date(Date.UTC(2026, 0, 2, 3, 4)),
  headlines: [{ label: text, value: text, note: text }],
  accuracy: {
    kinds: [`non-relational ${text}`, 'relational'],
    counts: { relational: 2000 },
    rows: [
      { name: `teacher ${text}`, source: 'teacher', scores: { relational: 0.951 } },
      { name: `student ${text}`, source: 'student', scores: { relational: 0.9304 } },
      { name: `paper ${text}`, source: 'published', scores: { relational: 0.94 } },
    ],
  },
  curves: [line(text)],
  samples: [{ image, kind: text, question: text, gold: 'circle', answers: [answer(text, 'circle'), answer('student', text)] }],
  learning: { note: text, charts: [line(text)] },
  models: [
    { name: text, parts: new Map([[text, 1234567]]), trained: null },
    { name: 'student', parts: new Map([[text, 1], ['mamba', 2]]), trained: 2 },
  ],
  settings: { [text]: text, nested: { deep: { list: [1, text] }, on: true, none: null } },
  environment: { [text]: text },
});

const plain = renderReport(data('plain'));

const report = suite('report');

report('escapes everything that it is given', () => {
  const evil = renderReport(data(EVIL));
  for (const tag of ['script', 'img', 'style', 'title', 'a', 'section', 'td']) {
    const count = (text: string) => text.split(new RegExp(`<${tag}[\\s>]`)).length;
    assert.is(count(evil), count(plain), `<${tag}>`);
  }
  assert.not.match(evil.replace(/"[^"]*"/g, '""'), /<[^>]*\sonerror/, 'no attribute may be left');
  assert.not.match(evil, '\0');
  assert.not.match(evil, /[\x1b\x9b\u202e]/);
  assert.match(evil, '\\u202e');
  assert.match(evil, '&lt;script&gt;alert(1)');
  assert.is(escapeHtml(`<&>"'`), '&lt;&amp;&gt;&quot;&#39;');
  assert.is(html`<i>${'<'}${raw('<b>')}${[html`${1}`, null, false]}</i>`.text, '<i>&lt;<b>1</i>');
});

report('needs no network and no script', () => {
  const text = renderReport(data('https'));
  assert.not.match(text, /(https?:)?\/\/[a-z0-9]/i);
  assert.not.match(text, /<(script|link|iframe|object|embed|base)\b|@import|url\(/i);
  for (const [, where] of text.matchAll(/(?:src|href)="([^"]*)"/g)) assert.match(where, /^(#|data:image\/png;base64,)/);
  assert.match(text, 'content="default-src &#39;none&#39;;');
});

report('refuses an image that is no data URI', () => {
  const svg = 'data:image/svg+xml;base64,AA';
  for (const bad of ['http://x.example/a.png', 'data:text/html;base64,AA', svg, `${image}" onload="x`]) {
    const changed = data('x');
    const samples = [{ ...changed.samples[0], image: bad }];
    throws(() => renderReport({ ...changed, samples }), ArgumentError, /sample 1/, bad);
  }
});

report('marks right and wrong in words and signs, compares students with their teacher, tells parts and settings', () => {
  const parts = [
    /<td class="right" data-of="[^"]+"><span class="verdict" role="img" aria-label="right">✓<\/span> circle/,
    /<td class="wrong" data-of="[^"]+"><span class="verdict" role="img" aria-label="wrong">✗<\/span> plain/,
    ...[/93\.0<\/span> <small>−2\.1<\/small>/, 'Published by others', '±1.3 for relational', 'aria-label="not measured"'],
    ...['<dt>nested.deep.list</dt><dd>1, plain</dd>', '<dt>nested.none</dt><dd>not set</dd>', '2026-01-02 03:04 UTC'],
    '<th scope="row">plain</th><td>1,234,567</td><td>1</td>',
    '<th scope="row">mamba</th><td>–</td><td>2</td>',
    '<th scope="row">all</th><td>1,234,567</td><td>3</td>',
    '<th scope="row">trained here</th><td>–</td><td>2</td>',
  ];
  for (const part of parts) assert.match(plain, part);
  assert.not.match(plain, 'null');
});

report('has headings, landmarks and labels in order, every id once, every anchor a target, every region in reach', () => {
  assert.match(plain, '<html lang="en">');
  assert.is(plain.split('<h1>').length, 2);
  const all = (pattern: RegExp) => [...plain.matchAll(pattern)].map((m) => m[1]);
  const ids = all(/\sid="([^"]+)"/g);
  assert.is(new Set(ids).size, ids.length);
  for (const to of all(/href="#([^"]+)"/g)) assert.ok(ids.includes(to), to);
  for (const svg of all(/<svg([^>]*)>/g)) assert.match(svg, /role="img" aria-label=|aria-hidden="true"/);
  for (const img of all(/<img([^>]*)>/g)) assert.match(img, / alt="/);
  const regions = all(/<div class="scroll"([^>]*)>/g);
  assert.equal([regions.length, new Set(regions).size], [3, 3]);
  for (const region of regions) assert.match(region, /^ tabindex="0" role="region" aria-label="[^"]+"$/);
});

report('works with as little as a title and settings', () => {
  const text = renderReport({ title: 't', curves: [], samples: [], settings: {}, environment: {} });
  assert.match(text, '<h1>t</h1>');
  assert.not.match(text, 'undefined');
});
report.run();

const charts = suite('charts');

type Chart = Parameters<typeof renderChart>[0];
const chart = (series: Chart['series'], more: Partial<Chart> = {}) =>
  renderChart({ title: 'c', xLabel: 'x', yLabel: 'y', series, ...more }).text;
const one = (points: readonly (readonly [number, number])[], more: Partial<Chart> = {}) => chart([{ name: 's', points }], more);

charts('draw each series from its first to its last point', () => {
  const text = one([[0, 10], [50, 5], [100, 0]]);
  assert.is(/<path d="([^"]+)" stroke-dasharray/.exec(text)![1], 'M68 10L207 104L346 198');
  assert.match(text, 's goes from 10.0 to 0.00');
});

charts('leave out what is not finite, and say so where nothing is left', () => {
  for (const text of [one([[0, NaN], [1, Infinity], [2, 3], [3, 4]]), one([[5, 5]], { log: true })]) {
    assert.not.match(text, /NaN|Infinity/);
  }
  assert.match(chart([]), 'Nothing was measured');
});

charts('stay small however long a run was, and keep its mean', () => {
  const text = one(Array.from({ length: 50_000 }, (_, i) => [i, i % 2] as const));
  assert.ok(text.length < 20_000, `${text.length}`);
  assert.match(text, 's goes from 0.500 to 0.502');
});

charts('tell series apart without colour', () => {
  const text = chart(['a', 'b', 'c'].map((name, i) => ({ name, points: [[0, i], [1, i + 1]] as const })));
  const dashes = [...text.matchAll(/<path d="[^"]+" stroke-dasharray="([^"]+)"\/>\n/g)].map((m) => m[1]);
  assert.is(new Set(dashes).size, 3);
});

charts('scales have round ticks around their values', () => {
  assert.equal(niceTicks(0, 1, 5), [0, 0.2, 0.4, 0.6, 0.8, 1]);
  const linear = linearScale(3, 97, 0, 100, 5);
  assert.equal([linear.ticks, linear.at(50)], [[0, 20, 40, 60, 80, 100], 50]);
  const log = logScale(0.03, 40, 0, 100);
  assert.ok(log.ticks[0] <= 0.03 && log.ticks.at(-1)! >= 40);
  assert.ok(Math.abs(log.at(log.ticks[0])) < 1e-9 && Math.abs(log.at(log.ticks.at(-1)!) - 100) < 1e-9);
  for (const value of [1e-9, 0.001, 0.5, 1, 1e5, 1e9]) {
    const { ticks } = logScale(value, value * 1.01, 0, 1);
    assert.ok(ticks.length >= 2 && ticks[0] <= value && ticks.at(-1)! >= value * 1.01, `${value}: ${ticks}`);
  }
});

charts('show measured values with as many digits each, and round ones beside the axes', () => {
  const rows: [(value: number) => string, Record<string, number>][] = [
    [label, { 0.123: 0.123456, '0.500': 0.5, '1.00': 1, '12.0': 12, 100: 99.96, 1230: 1234, 123000: 123456 }],
    [label, { '2.0e-4': 2e-4, '-3.14': -3.14159, '0.00': 0 }],
    [(share) => label(share, true), { '95.7 %': 0.9567, '81.0 %': 0.81, '100.0 %': 1, '0.0 %': 0 }],
    [tick, { 0.5: 0.5, 1: 1, 10: 10, 1.25: 1.25, 100: 100, 5000: 5000, '2e-4': 2e-4, '2e6': 2e6, 0: 0 }],
    [(share) => tick(share, true), { '20 %': 0.2, '2.5 %': 0.025, '100 %': 1, '0 %': 0 }],
  ];
  for (const [show, shown] of rows) for (const [text, value] of Object.entries(shown)) assert.is(show(value), text);
  const [a, b] = [[[0, 0.484], [1200, 0.81]] as const, [[0, 0.1], [1200, 0.95]] as const];
  const text = chart([{ name: 'a', points: a }, { name: 'b', points: b }], { xLabel: 'step', percent: true });
  for (const part of ['48.4 % → 81.0 %', '10.0 % → 95.0 %', 'from 48.4 % to 81.0 %', 'step 1,200: 81.0 %', '>80 %<']) {
    assert.match(text, part);
  }
});

charts('draw how far a value may be off, within the scale', () => {
  const points = [[0, 0.5], [1, 0.01]] as const;
  const text = chart([{ name: 's', points, spread: new Map([[1, [-1, 2]]]) }], { log: true });
  assert.match(text, 'x 1: 0.0100 (-1.00 to 2.00)');
  // From the bottom of the scale, as there is no logarithm of what is below, to its top.
  assert.match(text, '<path class="spread" d="M343 198h6m-3 0V10m-3 0h6"/>');
});

charts('of training come from the logs of runs, one line a run', () => {
  const runs = ['from attention', 'random'].map((name, i) => ({
    name,
    lines: [
      { step: 1, 'train/loss': 3 + i, 'train/kl': 2, lr: 1e-3, grad_norm: 9, tokens_per_second: 100 },
      { step: 2, 'train/loss': 'NaN', 'train/kl': 1, 'eval/accuracy/relational': 0.5 },
    ],
  }));
  const made = trainingCurves(runs);
  const titles = ['Total loss', 'KL divergence to the teacher', 'Gradient norm, before clipping', 'Throughput', 'Learning rate'];
  assert.equal(made.map((c) => c.title), titles);
  assert.equal(made[0].series, runs.map(({ name }, i) => ({ name, points: [[1, 3 + i]] })));
  assert.is(made.at(-1)!.series.length, 1, 'runs beside one another share a schedule');
});

charts('of evaluations hold only points of the same questions, with their intervals', () => {
  const point = (step: number, share: number, questions = 500) => ({
    ...{ step, 'eval/accuracy': share, 'eval/questions': 2 * questions, 'eval/images': 50 },
    ...{ 'eval/accuracy/relational': share, 'eval/questions/relational': questions },
    ...{ 'eval/kl': 2 * share, 'eval/kl_stderr': 0.1 },
  });
  const runs = [
    { name: 'a', lines: [point(0, 0.1), { step: 1, lr: 1 }, point(50, 0.5, 20), point(100, 0.9)] },
    { name: 'b', lines: [point(0, 0.2), point(100, 0.8)] },
  ];
  const [kl, relational, ...none] = testCurves(runs);
  assert.equal(none, []);
  assert.equal([kl.title, relational.title], ['KL divergence to the teacher', 'Accuracy, relational']);
  const points = relational.series.map((s) => s.points);
  assert.equal(points, [[[0, 0.1], [100, 0.9]], [[0, 0.2], [100, 0.8]]]);
  assert.equal(relational.series[0].spread!.get(100), wilson(0.9, 500));
  assert.equal(kl.series[1].spread!.get(0), aroundMean(0.4, 0.1));
  assert.equal(askedAtEachPoint(runs), { questions: 1000, images: 50 });
  assert.equal(testCurves([{ name: 'a', lines: [{ step: 1, lr: 1 }] }]), []);
});

charts("bound a share by Wilson's interval", () => {
  // The bounds p are where the share is 1.959964 standard deviations of p off.
  for (const [share, count] of [[0.9, 500], [0.5, 10], [1, 20], [0, 20], [0.999, 2000]]) {
    const [low, high] = wilson(share, count);
    assert.ok(low >= 0 && low <= share && share <= high && high <= 1);
    for (const p of [low, high]) {
      if (p === 0 || p === 1) continue;
      const off = Math.abs(share - p) / Math.sqrt((p * (1 - p)) / count);
      assert.ok(Math.abs(off - 1.959964) < 1e-6, `${share} of ${count}: ${p} is ${off} off`);
    }
  }
  assert.equal(wilson(0.9, 500).map((p) => Number(p.toFixed(4))), [0.8706, 0.9233]);
});
charts.run();
