/**
 * Statistics of a row: the student's maximum and log Σ exp((x − maximum)/T), the teacher's, and what else the gradient
 * needs, `aux`: the loss for `reverse`, half the student's share of it for `jsd`.
 */
export const STATS = 5;

/** On the host: the logarithms of the probabilities of a row's classes, of student and teacher, at the temperature. */
export interface HostRow {
  readonly classes: number;
  readonly a: (c: number) => number;
  readonly b: (c: number) => number;
}

/**
 * A loss between two rows of logits s and t over the temperature, with a = log p_s, b = log p_t, p = e^a, q = e^b. The
 * code of the loss, of a row kernel, gives `logs`, the first four of its STATS, and `row_loss`.
 */
interface Divergence {
  /** WGSL: a row's loss and aux. */
  readonly loss: string;
  /** WGSL: the derivative of a row's loss by s[c], without 1/T. */
  readonly slope: string;
  readonly host: {
    loss(row: HostRow): readonly [loss: number, aux: number];
    slope(row: HostRow, c: number, aux: number): number;
  };
}

/** 0·x = 0, also for infinite x. */
const times = (p: number, x: number) => (p === 0 ? 0 : p * x);

function logCosh(x: number): number {
  const a = Math.abs(x);
  return a + Math.log1p(Math.exp(-2 * a)) - Math.LN2;
}

/**
 * WGSL. log cosh by its series near zero, where the logarithm would lose every digit: a student that has learned its
 * teacher lives there.
 */
export const MATH = /* wgsl */ `
fn scaled(p: f32, x: f32) -> f32 { return select(p * x, 0.0, p == 0.0); }
fn log_cosh(x: f32) -> f32 {
  let a = abs(x);
  let s = x * x;
  let near = s * (0.5 - s * (0.083333333 - s * (0.022222222 - s * 0.0067460317)));
  return select(a + log(1.0 + exp(-2.0 * a)) - 0.69314718, near, a < 0.25);
}
`;

/** Sums over the classes of (loss, aux). */
const summed = (terms: string) => /* wgsl */ `
  var sum_s = no_exp();
  var sum_t = no_exp();
  for (var c = lane; c < params.columns; c += LANES) {
    sum_s = with_exp(sum_s, load_student(base + c));
    sum_t = with_exp(sum_t, load_teacher(base + c));
  }
  let logs = max_and_log_sum(sum_s, sum_t, local);
  var sums = vec2<f32>();
  for (var c = lane; c < params.columns; c += LANES) {
    let a = (load_student(base + c) - logs.x) * params.k - logs.y;
    let b = (load_teacher(base + c) - logs.z) * params.k - logs.w;
    let p = exp(a);
    let q = exp(b);
    sums += ${terms};
  }
  let row_loss = row_sum2(sums, local);`;

type Term = (a: number, b: number) => readonly [loss: number, aux: number];

const summedOnHost = (term: Term) => ({ classes, a, b }: HostRow): [number, number] => {
  const sums: [number, number] = [0, 0];
  for (let c = 0; c < classes; c++) term(a(c), b(c)).forEach((v, i) => (sums[i] += v));
  return sums;
};

/**
 * Adding p_s − p_t, which sums to zero, makes every term of the KLs non-negative and cancels what rounding did to the
 * two logsumexps.
 */
export const DIVERGENCES = {
  kl: {
    loss: summed('vec2<f32>(scaled(q, b - a) + (p - q), 0.0)'),
    slope: 'p - q',
    host: {
      loss: summedOnHost((a, b) => [times(Math.exp(b), b - a), 0]),
      slope: ({ a, b }, c) => Math.exp(a(c)) - Math.exp(b(c)),
    },
  },
  reverse: {
    loss: summed('vec2<f32>(scaled(p, a - b) + (q - p))'),
    slope: 'scaled(p, a - b - aux)',
    host: {
      loss: summedOnHost((a, b) => [times(Math.exp(a), a - b), times(Math.exp(a), a - b)]),
      slope: ({ a, b }, c, aux) => times(Math.exp(a(c)), a(c) - b(c) - aux),
    },
  },
  jsd: {
    loss: summed('vec2<f32>(scaled(0.5 * (p + q), log_cosh(0.5 * (a - b))), scaled(0.5 * p, log_cosh(0.5 * (a - b))))'),
    slope: 'scaled(p, 0.5 * log_cosh(0.5 * (a - b)) - aux) + 0.25 * (p - q)',
    host: {
      loss: summedOnHost((a, b) =>
        [(Math.exp(a) + Math.exp(b)) / 2, Math.exp(a) / 2].map((p) => times(p, logCosh((a - b) / 2))) as [number, number],
      ),
      slope({ a, b }, c, aux) {
        const [p, q] = [Math.exp(a(c)), Math.exp(b(c))];
        return times(p, logCosh((a(c) - b(c)) / 2) / 2 - aux) + (p - q) / 4;
      },
    },
  },
} as const satisfies Record<string, Divergence>;

export type DivergenceKind = keyof typeof DIVERGENCES;
