import type { HostArg } from '../../engine/op.ts';
import { type SsdGrads, type SsdInputs, type SsdSizes, ssdSizes } from './shape.ts';

type Inputs = SsdInputs<HostArg>;

/** Index arithmetic and the step size of one head of one sequence. */
function lane(s: SsdSizes, inputs: Inputs, b: number, h: number) {
  const { dt, A_log, dt_bias } = inputs;
  const group = Math.floor(h / (s.heads / s.groups));
  return {
    step: (t: number) => (b * s.length + t) * s.heads + h,
    x: (t: number) => ((b * s.length + t) * s.heads + h) * s.p,
    bc: (t: number) => ((b * s.length + t) * s.groups + group) * s.n,
    state: (b * s.heads + h) * s.p * s.n,
    a: -Math.exp(A_log.data[h]),
    raw: (t: number) => dt.data[(b * s.length + t) * s.heads + h] + dt_bias.data[h],
  };
}

export const softplus = (x: number) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

function forEachHead(s: SsdSizes, body: (b: number, h: number) => void): void {
  for (let b = 0; b < s.batch; b++) for (let h = 0; h < s.heads; h++) body(b, h);
}

/** The states before each token and after the last, (L + 1) × P × N. */
function statesOf(s: SsdSizes, inputs: Inputs, b: number, h: number): Float64Array {
  const { x, B, initialState } = inputs;
  const at = lane(s, inputs, b, h);
  const plane = s.p * s.n;
  const states = new Float64Array((s.length + 1) * plane);
  if (initialState) for (let i = 0; i < plane; i++) states[i] = initialState.data[at.state + i];
  for (let t = 0; t < s.length; t++) {
    const dt = softplus(at.raw(t));
    const decay = Math.exp(dt * at.a);
    for (let p = 0; p < s.p; p++) {
      const dx = dt * x.data[at.x(t) + p];
      for (let n = 0; n < s.n; n++) {
        const i = t * plane + p * s.n + n;
        states[i + plane] = decay * states[i] + dx * B.data[at.bc(t) + n];
      }
    }
  }
  return states;
}

/** S_t = exp(dt_t A) S_{t−1} + dt_t x_t ⊗ B_t, y_t = S_t C_t + D x_t, token by token. */
export function scanReference(inputs: Inputs, y: HostArg, final: HostArg): void {
  const { x, C, D } = inputs;
  const s = ssdSizes(inputs);
  const plane = s.p * s.n;
  forEachHead(s, (b, h) => {
    const at = lane(s, inputs, b, h);
    const states = statesOf(s, inputs, b, h);
    for (let t = 0; t < s.length; t++) {
      for (let p = 0; p < s.p; p++) {
        let sum = D.data[h] * x.data[at.x(t) + p];
        for (let n = 0; n < s.n; n++) sum += states[(t + 1) * plane + p * s.n + n] * C.data[at.bc(t) + n];
        y.data[at.x(t) + p] = sum;
      }
    }
    for (let i = 0; i < plane; i++) final.data[at.state + i] = states[s.length * plane + i];
  });
}

/** The adjoint of the recurrence: G_t = dy_t ⊗ C_t + exp(dt_{t+1} A) G_{t+1}, from the last token to the first. */
export function scanBackwardReference(
  inputs: Inputs,
  dy: HostArg | undefined,
  dfinal: HostArg | undefined,
  grads: SsdGrads<HostArg>,
): void {
  const { x, B, C, D } = inputs;
  const s = ssdSizes(inputs);
  for (const grad of Object.values(grads)) grad?.data.fill(0);
  const { dx, ddt, dA_log, dB, dC, dD, ddt_bias, dinitialState } = grads;
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
          if (dC) dC.data[at.bc(t) + n] += dyi * states[(t + 1) * plane + i];
          g[i] += dyi * C.data[at.bc(t) + n];
          gb += g[i] * B.data[at.bc(t) + n];
          if (dB) dB.data[at.bc(t) + n] += dt * g[i] * xi;
          flow += g[i] * decay * before;
          g[i] *= decay;
        }
        own += gb * xi;
        if (dx) dx.data[at.x(t) + p] = dt * gb + D.data[h] * dyi;
        if (dD) dD.data[h] += dyi * xi;
      }
      const draw = (own + at.a * flow) / (1 + Math.exp(-raw));
      if (ddt) ddt.data[at.step(t)] = draw;
      if (ddt_bias) ddt_bias.data[h] += draw;
      if (dA_log) dA_log.data[h] += at.a * dt * flow;
    }
    if (dinitialState) for (let i = 0; i < plane; i++) dinitialState.data[at.state + i] = g[i];
  });
}
