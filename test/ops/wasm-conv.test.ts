import { test } from 'uvu';
import { close, gradients, type Machine, machines, random, type Reference } from '../support/wasm-machine.ts';

const all = await machines();

interface ConvCase {
  B: number;
  C: number;
  L: number;
  K: number;
  tokenMajor: boolean;
  silu: boolean;
  bias: boolean;
  initial: boolean;
}

/** Inputs x, w, bias, initial, in the case's layout. */
function convReference({ B, C, L, K, tokenMajor, silu, bias, initial }: ConvCase): Reference {
  return (x, w, b, start) => {
    const y = new Array<number>(B * C * L).fill(0);
    const at = (n: number, c: number, l: number, length: number): number =>
      tokenMajor ? (n * length + l) * C + c : (n * C + c) * length + l;
    const value = (n: number, c: number, l: number): number =>
      l >= 0 ? x[at(n, c, l, L)] : initial ? start[at(n, c, l + K - 1, K - 1)] : 0;
    for (let n = 0; n < B; n++) {
      for (let c = 0; c < C; c++) {
        for (let l = 0; l < L; l++) {
          let sum = bias ? b[c] : 0;
          for (let k = 0; k < K; k++) sum += w[c * K + k] * value(n, c, l - K + 1 + k);
          y[at(n, c, l, L)] = silu ? sum / (1 + Math.exp(-sum)) : sum;
        }
      }
    }
    return y;
  };
}

function check(m: Machine, c: ConvCase): void {
  const label = `conv ${JSON.stringify(c)}`;
  const { B, C, L, K } = c;
  const e = m.kernels.exports;
  const sizes = [B * C * L, C * K, C, B * C * (K - 1)];
  const inputs = sizes.map((n, i) => random(n, i + C + L));
  const dy = random(B * C * L, 9);
  const [x, w, b, start] = inputs.map((v) => m.put(v));
  const [bias, initial] = [c.bias ? b : 0, c.initial ? start : 0];
  const scratch = m.scratch(e.causal_conv1d_scratch(C, L, K, +c.tokenMajor));
  const y = m.out(B * C * L);
  e.causal_conv1d(x, w, bias, initial, y, B, C, L, K, +c.tokenMajor, +c.silu, scratch);
  const f = convReference(c);
  close(label, m.read(y, B * C * L), f(...inputs.map((v) => Array.from(v))), 1e-5, 2e-6);
  const [dx, dw, db, dinitial] = sizes.map((n) => m.out(n));
  const [dbUsed, dinitialUsed] = [c.bias ? db : 0, c.initial ? dinitial : 0];
  const sizesOnly = [B, C, L, K, +c.tokenMajor, +c.silu, scratch] as const;
  e.causal_conv1d_backward(x, w, bias, initial, m.put(dy), dx, dw, dbUsed, dinitialUsed, ...sizesOnly);
  const want = gradients(f, inputs, dy);
  close(`${label} dx`, m.read(dx, sizes[0]), want[0], 1e-4, 1e-5);
  close(`${label} dw`, m.read(dw, sizes[1]), want[1], 1e-4, 1e-5);
  if (c.bias) close(`${label} db`, m.read(db, C), want[2], 1e-4, 1e-5);
  if (c.initial) close(`${label} dinitial`, m.read(dinitial, sizes[3]), want[3], 1e-4, 1e-5);
  m.finish(label);
}

test('causal_conv1d and its gradients, both layouts', () => {
  const sizes = [[1, 1, 1, 4], [2, 5, 7, 4], [2, 8, 2, 4], [1, 3, 9, 1], [2, 6, 5, 3], [1, 4, 11, 8]];
  for (const m of all) {
    for (const [B, C, L, K] of sizes) {
      for (const tokenMajor of [false, true]) {
        for (const silu of [false, true]) {
          check(m, { B, C, L, K, tokenMajor, silu, bias: silu, initial: !silu });
          check(m, { B, C, L, K, tokenMajor, silu, bias: !silu, initial: silu });
        }
      }
    }
  }
});

test('rope and its inverse', () => {
  for (const m of all) {
    const e = m.kernels.exports;
    const cases = [[15, 20, 5, 1, 8, 3], [24, 7, 3, 4, 6, 70000], [4, 5, 4, 1, 2, 0], [99, 4, 99, 1, 4, 7]];
    for (const [rows, dim, length, inner, rotary, offset] of cases) {
      const theta = 10000;
      const x = random(rows * dim, dim);
      const half = rotary / 2;
      const want = Array.from(x);
      for (let r = 0; r < rows; r++) {
        for (let i = 0; i < half; i++) {
          const angle = ((Math.floor(r / inner) % length) + offset) * theta ** ((-2 * i) / rotary);
          const [a, b] = [x[r * dim + i], x[r * dim + half + i]];
          want[r * dim + i] = a * Math.cos(angle) - b * Math.sin(angle);
          want[r * dim + half + i] = b * Math.cos(angle) + a * Math.sin(angle);
        }
      }
      const [y, back] = [m.out(rows * dim), m.out(rows * dim)];
      const scratch = m.scratch(e.rope_scratch(length, rotary));
      const ratio = theta ** (-2 / rotary);
      const start = m.put(Int32Array.of(2));
      e.rope(m.put(x), start, y, rows, dim, length, inner, rotary, ratio, offset - 2, 0, scratch);
      e.rope(y, 0, back, rows, dim, length, inner, rotary, ratio, offset, 1, scratch);
      close('rope', m.read(y, rows * dim), want, 1e-5, 1e-6);
      close('rope back', m.read(back, rows * dim), x, 1e-5, 1e-6);
      m.finish('rope');
    }
  }
});

test.run();
