import { type HostArg } from '../../engine/positional.ts';
import type { SsdSizes } from './shape.ts';

/** x, dt, A_log, B, C, D, dt_bias and the initial state. */
export type SsdInputs = readonly HostArg[];

/** Index arithmetic and the step size of one head of one sequence. */
function lane(s: SsdSizes, inputs: SsdInputs, b: number, h: number) {
  const [, dt, aLog, , , , bias] = inputs;
  const group = Math.floor(h / (s.heads / s.groups));
  return {
    step: (t: number) => (b * s.length + t) * s.heads + h,
    x: (t: number) => ((b * s.length + t) * s.heads + h) * s.p,
    bc: (t: number) => ((b * s.length + t) * s.groups + group) * s.n,
    state: (b * s.heads + h) * s.p * s.n,
    a: -Math.exp(aLog.data[h]),
    raw: (t: number) => dt.data[(b * s.length + t) * s.heads + h] + bias.data[h],
  };
}

export const softplus = (x: number) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

function forEachHead(s: SsdSizes, body: (b: number, h: number) => void): void {
  for (let b = 0; b < s.batch; b++) for (let h = 0; h < s.heads; h++) body(b, h);
}

/** The states before each token and after the last, (L + 1) × P × N. */
function statesOf(s: SsdSizes, inputs: SsdInputs, b: number, h: number): Float64Array {
  const [x, , , bs] = inputs;
  const at = lane(s, inputs, b, h);
  const plane = s.p * s.n;
  const states = new Float64Array((s.length + 1) * plane);
  const initial = inputs[7];
  if (initial) for (let i = 0; i < plane; i++) states[i] = initial.data[at.state + i];
  for (let t = 0; t < s.length; t++) {
    const dt = softplus(at.raw(t));
    const decay = Math.exp(dt * at.a);
    for (let p = 0; p < s.p; p++) {
      const dx = dt * x.data[at.x(t) + p];
      for (let n = 0; n < s.n; n++) {
        const i = t * plane + p * s.n + n;
        states[i + plane] = decay * states[i] + dx * bs.data[at.bc(t) + n];
      }
    }
  }
  return states;
}

/** S_t = exp(dt_t A) S_{t−1} + dt_t x_t ⊗ B_t, y_t = S_t C_t + D x_t, token by token. */
export function scanReference(s: SsdSizes, inputs: SsdInputs, y: HostArg, final: HostArg): void {
  const [x, , , , cs, d] = inputs;
  const plane = s.p * s.n;
  forEachHead(s, (b, h) => {
    const at = lane(s, inputs, b, h);
    const states = statesOf(s, inputs, b, h);
    for (let t = 0; t < s.length; t++) {
      for (let p = 0; p < s.p; p++) {
        let sum = d.data[h] * x.data[at.x(t) + p];
        for (let n = 0; n < s.n; n++) sum += states[(t + 1) * plane + p * s.n + n] * cs.data[at.bc(t) + n];
        y.data[at.x(t) + p] = sum;
      }
    }
    for (let i = 0; i < plane; i++) final.data[at.state + i] = states[s.length * plane + i];
  });
}

/** The adjoint of the recurrence: G_t = dy_t ⊗ C_t + exp(dt_{t+1} A) G_{t+1}, from the last token to the first. */
export function scanBackwardReference(
  s: SsdSizes,
  inputs: SsdInputs,
  dy: HostArg | undefined,
  dfinal: HostArg | undefined,
  grads: readonly (HostArg | undefined)[],
): void {
  const [x, , , bs, cs, d] = inputs;
  const [dx, ddt, daLog, db, dc, dd, dbias, dinitial] = grads.map((g) => g?.data.fill(0));
  const plane = s.p * s.n;
  forEachHead(s, (b, h) => {
    const at = lane(s, inputs, b, h);
    const states = statesOf(s, inputs, b, h);
    const g = new Float64Array(plane);
    if (dfinal) for (let i = 0; i < plane; i++) g[i] = dfinal.data[at.state + i];
    for (let t = s.length - 1; t >= 0; t--) {
      const raw = at.raw(t);
      const dt = softplus(raw);
      const decay = Math.exp(dt * at.a);
      let own = 0;
      let flow = 0;
      for (let p = 0; p < s.p; p++) {
        const xi = x.data[at.x(t) + p];
        const dyi = dy ? dy.data[at.x(t) + p] : 0;
        let gb = 0;
        for (let n = 0; n < s.n; n++) {
          const i = p * s.n + n;
          const before = states[t * plane + i];
          if (dc) dc[at.bc(t) + n] += dyi * states[(t + 1) * plane + i];
          g[i] += dyi * cs.data[at.bc(t) + n];
          gb += g[i] * bs.data[at.bc(t) + n];
          if (db) db[at.bc(t) + n] += dt * g[i] * xi;
          flow += g[i] * decay * before;
          g[i] *= decay;
        }
        own += gb * xi;
        if (dx) dx[at.x(t) + p] = dt * gb + d.data[h] * dyi;
        if (dd) dd[h] += dyi * xi;
      }
      const draw = (own + at.a * flow) / (1 + Math.exp(-raw));
      if (ddt) ddt[at.step(t)] = draw;
      if (dbias) dbias[h] += draw;
      if (daLog) daLog[h] += at.a * dt * flow;
    }
    if (dinitial) for (let i = 0; i < plane; i++) dinitial[at.state + i] = g[i];
  });
}
