import { test } from 'uvu';
import { close, gradients, type Machine, machines, random, type Reference } from '../support/wasm-machine.ts';

const all = await machines();

interface Sizes {
  B: number;
  L: number;
  H: number;
  P: number;
  G: number;
  N: number;
}

const softplus = (x: number): number => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

/** Inputs x, dt, A_log, B, C, D, dt_bias, initial; outputs y, then the final state. */
function reference({ B, L, H, P, G, N }: Sizes): Reference {
  return (x, dtRaw, aLog, bs, cs, d, dtBias, initial) => {
    const y = new Array<number>(B * L * H * P);
    const states: number[] = [];
    for (let b = 0; b < B; b++) {
      for (let h = 0; h < H; h++) {
        const S = initial.slice((b * H + h) * P * N, (b * H + h + 1) * P * N);
        const group = Math.floor(h / (H / G));
        for (let t = 0; t < L; t++) {
          const dt = softplus(dtRaw[(b * L + t) * H + h] + dtBias[h]);
          const a = Math.exp(-dt * Math.exp(aLog[h]));
          const row = ((b * L + t) * G + group) * N;
          for (let p = 0; p < P; p++) {
            const at = ((b * L + t) * H + h) * P + p;
            y[at] = d[h] * x[at];
            for (let n = 0; n < N; n++) {
              S[p * N + n] = a * S[p * N + n] + dt * x[at] * bs[row + n];
              y[at] += S[p * N + n] * cs[row + n];
            }
          }
        }
        states.push(...S);
      }
    }
    return [...y, ...states];
  };
}

const NAMES = ['x', 'dt', 'A_log', 'B', 'C', 'D', 'dt_bias', 'initial'];

/** @param strong decays of a token are mostly below e⁻⁵, so that the gradient of A_log is next to nothing */
function check(m: Machine, sizes: Sizes, withInitial: boolean, strong = false): void {
  const { B, L, H, P, G, N } = sizes;
  const label = `ssd ${JSON.stringify(sizes)} ${withInitial}`;
  const e = m.kernels.exports;
  const lengths = [B * L * H * P, B * L * H, H, B * L * G * N, B * L * G * N, H, H, B * H * P * N];
  const inputs = lengths.map((n, i) => random(n, i + L));
  if (!withInitial) inputs[7].fill(0);
  if (strong) {
    inputs[1].forEach((v, i, dt) => (dt[i] = 6 + v));
    inputs[2].forEach((v, i, aLog) => (aLog[i] = 1 + v / 4));
  }
  const [x, dt, aLog, b, c, d, bias, start] = inputs.map((v) => m.put(v));
  const initial = withInitial ? start : 0;
  const [y, state] = [m.out(lengths[0]), m.out(lengths[7])];
  const shape = [B, L, H, P, G, N] as const;
  e.ssd_scan(x, dt, aLog, b, c, d, bias, initial, y, state, ...shape, m.scratch(e.ssd_scan_scratch(L)));
  const f = reference(sizes);
  const want = f(...inputs.map((v) => Array.from(v)));
  close(`${label} y`, m.read(y, lengths[0]), want.slice(0, lengths[0]), 1e-4, 1e-5);
  close(`${label} state`, m.read(state, lengths[7]), want.slice(lengths[0]), 1e-4, 1e-5);
  const dy = random(lengths[0] + lengths[7], 50);
  const [dyp, dstate] = [m.put(dy.subarray(0, lengths[0])), m.put(dy.subarray(lengths[0]))];
  const outs = lengths.map((n) => m.out(n));
  const scratch = m.scratch(e.ssd_scan_backward_scratch(L, P, N));
  const [dx, ddt, dA, dB, dC, dD, dBias, dInitial] = outs;
  const last = withInitial ? dInitial : 0;
  e.ssd_scan_backward(
    ...([x, dt, aLog, b, c, d, bias, initial, dyp, dstate] as const),
    ...([dx, ddt, dA, dB, dC, dD, dBias, last] as const),
    ...shape,
    scratch,
  );
  const grads = gradients(f, inputs, dy);
  outs.slice(0, withInitial ? 8 : 7).forEach((p, i) => {
    const least = strong && NAMES[i] === 'A_log' ? 1e-7 : 3e-5;
    close(`${label} d${NAMES[i]}`, m.read(p, lengths[i]), grads[i], 2e-4, least);
  });
  m.finish(label);
}

test('ssd_scan and its gradients, with and without an initial state', () => {
  const cases: Sizes[] = [
    { B: 1, L: 1, H: 1, P: 1, G: 1, N: 1 },
    { B: 2, L: 5, H: 2, P: 4, G: 2, N: 4 },
    { B: 1, L: 6, H: 4, P: 3, G: 2, N: 7 },
    { B: 2, L: 3, H: 3, P: 9, G: 1, N: 5 },
    { B: 1, L: 70, H: 2, P: 2, G: 1, N: 3 },
    { B: 1, L: 130, H: 1, P: 1, G: 1, N: 2 },
  ];
  for (const m of all) for (const c of cases) for (const initial of [false, true]) check(m, c, initial);
});

test('the gradient of A_log is right where states hardly last a token', () => {
  for (const m of all) check(m, { B: 1, L: 130, H: 2, P: 5, G: 1, N: 6 }, false, true);
});

test.run();
