/** A map from values to pixels, with round values to mark. */
export interface Scale {
  readonly at: (value: number) => number;
  readonly ticks: readonly number[];
}

/** Round values from `low` to `high`, about `count`: steps of 1, 2 or 5 times a power of ten. */
export function niceTicks(low: number, high: number, count: number): number[] {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999)!;
  const ticks: number[] = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) {
    ticks.push(Number((i * step).toPrecision(12)));
  }
  return ticks;
}

/** A linear scale that begins and ends at a tick. */
export function linearScale(low: number, high: number, from: number, to: number, count: number): Scale {
  const [a, b] = low < high ? [low, high] : [low - 0.5, high + 0.5];
  const inner = niceTicks(a, b, count);
  const step = inner.length > 1 ? inner[1] - inner[0] : b - a;
  const first = Math.floor(a / step + 1e-9) * step;
  const last = Math.ceil(b / step - 1e-9) * step;
  return {
    at: (v) => from + ((v - first) / (last - first)) * (to - from),
    ticks: niceTicks(first, last, (last - first) / step),
  };
}

/** A logarithmic scale over whole decades, with ticks at 1, 2 and 5 where there are few. @param low above 0 */
export function logScale(low: number, high: number, from: number, to: number): Scale {
  const ticks: number[] = [];
  const wide = Math.log10(high / low) > 3;
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
    for (const m of wide ? [1] : [1, 2, 5]) ticks.push(Number(`${m}e${e}`));
  }
  const first = ticks.filter((t) => t <= low).at(-1) ?? low;
  const last = ticks.find((t) => t >= high && t > first) ?? high;
  const span = Math.log(last / first) || 1;
  return {
    at: (v) => from + (Math.log(v / first) / span) * (to - from),
    ticks: ticks.filter((t) => t >= first && t <= last),
  };
}
