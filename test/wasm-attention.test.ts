import { test } from 'uvu';
import { close, gradients, type Machine, machines, random, type Reference } from './wasm-machine.ts';

const all = await machines();

interface AttentionCase {
  B: number;
  H: number;
  KV: number;
  L: number;
  S: number;
  D: number;
  causal: boolean;
  tokenMajor: boolean;
  mask?: Int32Array;
}

interface Strides {
  batch: number;
  head: number;
  token: number;
}

/** (B, heads, tokens, D), or (B, tokens, heads, D). */
function strides(heads: number, tokens: number, D: number, tokenMajor: boolean): Strides {
  const batch = heads * tokens * D;
  return tokenMajor ? { batch, head: D, token: heads * D } : { batch, head: tokens * D, token: D };
}

/** Inputs q, k, v; calls `row` with the weights of each query, and where o, the query and its key head start. */
function reference(c: AttentionCase, scale: number): Reference {
  const q = strides(c.H, c.L, c.D, c.tokenMajor);
  const k = strides(c.KV, c.S, c.D, c.tokenMajor);
  return (qs, ks, vs) => {
    const o = new Array<number>(qs.length).fill(0);
    for (let b = 0; b < c.B; b++) {
      for (let h = 0; h < c.H; h++) {
        const keys = b * k.batch + Math.floor(h / (c.H / c.KV)) * k.head;
        for (let i = 0; i < c.L; i++) {
          const query = b * q.batch + h * q.head + i * q.token;
          const scores = Array.from({ length: c.S }, (_, j) => {
            if ((c.causal && j > i + c.S - c.L) || (c.mask && !c.mask[b * c.S + j])) return -Infinity;
            let dot = 0;
            for (let d = 0; d < c.D; d++) dot += qs[query + d] * ks[keys + j * k.token + d];
            return dot * scale;
          });
          const max = Math.max(...scores);
          if (max === -Infinity) continue;
          const weights = scores.map((s) => Math.exp(s - max));
          const sum = weights.reduce((a, v) => a + v, 0);
          weights.forEach((w, j) => {
            for (let d = 0; d < c.D; d++) o[query + d] += (w / sum) * vs[keys + j * k.token + d];
          });
        }
      }
    }
    return o;
  };
}

function check(m: Machine, c: AttentionCase, withGradients = true): void {
  const { mask, ...rest } = c;
  const label = `attention ${JSON.stringify(rest)}${mask ? ' masked' : ''}`;
  const { B, H, KV, L, S, D } = c;
  const e = m.kernels.exports;
  const sizes = [B * H * L * D, B * KV * S * D, B * KV * S * D];
  const inputs = sizes.map((n, i) => random(n, i + L + S, 2));
  const [q, k, v] = inputs.map((x) => m.put(x));
  const maskPointer = mask ? m.put(mask) : 0;
  const [o, stats] = [m.out(sizes[0]), m.out(2 * B * H * L)];
  const scratch = m.scratch(e.attention_scratch(L, D));
  const [qs, ks] = [strides(H, L, D, c.tokenMajor), strides(KV, S, D, c.tokenMajor)];
  const scale = 1 / Math.sqrt(D);
  const shape = [B, H, KV, L, S, D] as const;
  const tail = [qs.head, qs.token, ks.head, ks.token, S, 0, 0, 0, scale, +c.causal, scratch] as const;
  e.attention(q, k, v, maskPointer, 0, 0, o, stats, ...shape, ...tail);
  const f = reference(c, scale);
  close(label, m.read(o, sizes[0]), f(...inputs.map((x) => Array.from(x))), 2e-5, 2e-6);
  if (withGradients) {
    const dy = random(sizes[0], 77);
    const [dq, dk, dv] = sizes.map((n) => m.out(n));
    e.attention_backward(q, k, v, maskPointer, o, stats, m.put(dy), dq, dk, dv, ...shape, ...tail);
    const want = gradients(f, inputs, dy);
    [dq, dk, dv].forEach((p, i) => close(`${label} d${'qkv'[i]}`, m.read(p, sizes[i]), want[i], 1e-4, 1e-5));
  }
  m.finish(label);
}

test('attention and its gradients: grouped heads, causal and not, both layouts', () => {
  const sizes = [[1, 1, 1, 1, 1, 1], [2, 4, 2, 5, 5, 8], [1, 4, 4, 1, 9, 6], [1, 2, 1, 3, 7, 5], [1, 2, 2, 6, 4, 3]];
  for (const m of all) {
    for (const [B, H, KV, L, S, D] of sizes) {
      for (const causal of [false, true]) {
        for (const tokenMajor of [false, true]) check(m, { B, H, KV, L, S, D, causal, tokenMajor });
      }
    }
  }
});

test('a key mask, rows that see no key among them', () => {
  const mask = Int32Array.of(1, 1, 0, 1, 1, 0, 1, 1, 0, 0);
  for (const m of all) {
    for (const causal of [false, true]) {
      check(m, { B: 2, H: 2, KV: 1, L: 5, S: 5, D: 4, causal, tokenMajor: false, mask });
    }
  }
});

test('a count of keys is as a shorter cache, in every head', () => {
  const [H, S, D, used] = [2, 9, 4, 6];
  for (const m of all) {
    const e = m.kernels.exports;
    const [q, k, v] = [random(H * 2 * D, 1), random(H * S * D, 2), random(H * S * D, 3)];
    const cut = (x: Float32Array): number[] =>
      Array.from({ length: H }, (_, h) => Array.from(x.slice(h * S * D, (h * S + used) * D))).flat();
    const [whole, short, stats] = [m.out(H * 2 * D), m.out(H * 2 * D), m.out(H * 4)];
    const scratch = m.scratch(e.attention_scratch(2, D));
    const count = m.put(Int32Array.of(used));
    const [qp, tail] = [m.put(q), [0, 0, 0, 0, 0.5, 1, scratch] as const];
    e.attention(qp, m.put(k), m.put(v), 0, count, 0, whole, stats, 1, H, H, 2, S, D, 2 * D, D, S * D, D, ...tail);
    e.attention(qp, m.put(cut(k)), m.put(cut(v)), 0, 0, 0, short, stats, 1, H, H, 2, used, D, 2 * D, D, used * D, D, ...tail);
    close('count', m.read(whole, H * 2 * D), m.read(short, H * 2 * D), 0, 0);
    m.finish('count');
  }
});

test('sequences past the blocks of 192 queries and keys', () => {
  for (const m of all) {
    for (const causal of [false, true]) {
      for (const [L, S] of [[200, 200], [3, 500], [390, 195]]) {
        const mask = Int32Array.from({ length: S }, (_, j) => +(j % 7 !== 3));
        const masked = L === 200 ? { mask } : {};
        check(m, { B: 1, H: 2, KV: 1, L, S, D: 7, causal, tokenMajor: causal, ...masked }, false);
      }
    }
  }
});

/** Gradients at block size, where differences would take too long: dv = Pᵀ·dy and ⟨dq, q⟩ = ⟨dk, k⟩ per key head. */
test('gradients past the blocks agree with a plain backward', () => {
  const [L, S, D] = [210, 230, 5];
  for (const m of all) {
    const e = m.kernels.exports;
    const [q, k, v, dy] = [L, S, S, L].map((n, i) => random(n * D, i + 1));
    const scale = 0.7;
    const want = { dq: new Array(L * D).fill(0), dk: new Array(S * D).fill(0), dv: new Array(S * D).fill(0) };
    for (let i = 0; i < L; i++) {
      const dot = (a: ArrayLike<number>, x: number, b: ArrayLike<number>, y: number): number => {
        let sum = 0;
        for (let d = 0; d < D; d++) sum += a[x * D + d] * b[y * D + d];
        return sum;
      };
      const seen = i + 1 + S - L;
      const weights = Array.from({ length: seen }, (_, j) => Math.exp(scale * dot(q, i, k, j)));
      const sum = weights.reduce((a, b) => a + b, 0);
      const p = weights.map((w) => w / sum);
      const dp = p.map((_, j) => dot(dy, i, v, j));
      const delta = p.reduce((a, w, j) => a + w * dp[j], 0);
      for (let j = 0; j < seen; j++) {
        for (let d = 0; d < D; d++) {
          want.dv[j * D + d] += p[j] * dy[i * D + d];
          want.dq[i * D + d] += scale * p[j] * (dp[j] - delta) * k[j * D + d];
          want.dk[j * D + d] += scale * p[j] * (dp[j] - delta) * q[i * D + d];
        }
      }
    }
    const [qp, kp, vp, dyp] = [q, k, v, dy].map((x) => m.put(x));
    const [o, stats, dq, dk, dv] = [L * D, 2 * L, L * D, S * D, S * D].map((n) => m.out(n));
    const scratch = m.scratch(e.attention_scratch(L, D));
    const tail = [1, 1, 1, L, S, D, L * D, D, S * D, D, 0, 0, 0, 0, scale, 1, scratch] as const;
    e.attention(qp, kp, vp, 0, 0, 0, o, stats, ...tail);
    e.attention_backward(qp, kp, vp, 0, o, stats, dyp, dq, 0, dv, ...tail);
    e.attention_backward(qp, kp, vp, 0, o, stats, dyp, 0, dk, 0, ...tail);
    close('dq', m.read(dq, L * D), want.dq, 1e-4, 1e-5);
    close('dk', m.read(dk, S * D), want.dk, 1e-4, 1e-5);
    close('dv', m.read(dv, S * D), want.dv, 1e-4, 1e-5);
    m.finish('long attention');
  }
});

test.run();
