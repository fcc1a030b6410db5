import type { HostArg } from '../../engine/op.ts';
import { type Layouts, layoutsOf, type SsdGrads, type SsdInputs, type SsdSizes, ssdSizes } from './shape.ts';

type Inputs = SsdInputs<HostArg>;

const softplus = (x: number) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

/** One head of one sequence: where its values of a token lie, its decay, and a token's step before the softplus. */
interface Head extends Readonly<Record<keyof Layouts | 'y', (t: number) => number>> {
  readonly h: number;
  readonly state: number;
  readonly a: number;
  readonly raw: (t: number) => number;
}

function forEachHead({ dt, A_log, dt_bias }: Inputs, s: SsdSizes, own: Layouts, body: (head: Head) => void): void {
  for (let b = 0; b < s.batch; b++) {
    for (let h = 0; h < s.heads; h++) {
      const at = (name: keyof Layouts, size: number) => {
        const { row, from, share } = own[name];
        return (t: number) => (b * s.length + t) * row + from + Math.floor(h / share) * size;
      };
      const places = { x: at('x', s.p), dt: at('dt', 1), B: at('B', s.n), C: at('C', s.n) };
      const y = (t: number) => ((b * s.length + t) * s.heads + h) * s.p;
      const raw = (t: number) => dt.data[places.dt(t)] + dt_bias.data[h];
      body({ ...places, y, h, state: (b * s.heads + h) * s.p * s.n, a: -Math.exp(A_log.data[h]), raw });
    }
  }
}

/** The states before each token and after the last, (L + 1) × P × N. */
function statesOf({ x, B, initialState }: Inputs, s: SsdSizes, at: Head): Float64Array {
  const plane = s.p * s.n;
  const states = new Float64Array((s.length + 1) * plane);
  if (initialState) states.set(initialState.data.subarray(at.state, at.state + plane));
  for (let t = 0; t < s.length; t++) {
    const dt = softplus(at.raw(t));
    const decay = Math.exp(dt * at.a);
    for (let i = 0; i < plane; i++) {
      const made = dt * x.data[at.x(t) + Math.floor(i / s.n)] * B.data[at.B(t) + (i % s.n)];
      states[(t + 1) * plane + i] = decay * states[t * plane + i] + made;
    }
  }
  return states;
}

/**
 * S_t = exp(dt_t A) S_{t−1} + dt_t x_t ⊗ B_t, y_t = S_t C_t + D x_t, token by token; `final` may be the initial state.
 */
export function scanReference(
  inputs: Inputs,
  y: HostArg,
  final: HostArg,
  s = ssdSizes(inputs),
  own = layoutsOf(s),
): void {
  const { x, C, D } = inputs;
  const plane = s.p * s.n;
  forEachHead(inputs, s, own, (at) => {
    const states = statesOf(inputs, s, at);
    for (let t = 0; t < s.length; t++) {
      for (let p = 0; p < s.p; p++) {
        let sum = D.data[at.h] * x.data[at.x(t) + p];
        for (let n = 0; n < s.n; n++) sum += states[(t + 1) * plane + p * s.n + n] * C.data[at.C(t) + n];
        y.data[at.y(t) + p] = sum;
      }
    }
    final.data.set(states.subarray(s.length * plane), at.state);
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
  forEachHead(inputs, s, layoutsOf(s), (at) => {
    const { h } = at;
    const states = statesOf(inputs, s, at);
    const g = new Float64Array(plane);
    if (dfinal) g.set(dfinal.data.subarray(at.state, at.state + plane));
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
          if (dC) dC.data[at.C(t) + n] += dyi * states[(t + 1) * plane + i];
          g[i] += dyi * C.data[at.C(t) + n];
          gb += g[i] * B.data[at.B(t) + n];
          if (dB) dB.data[at.B(t) + n] += dt * g[i] * xi;
          flow += g[i] * decay * before;
          g[i] *= decay;
        }
        own += gb * xi;
        if (dx) dx.data[at.x(t) + p] = dt * gb + D.data[h] * dyi;
        if (dD) dD.data[h] += dyi * xi;
      }
      const draw = (own + at.a * flow) / (1 + Math.exp(-raw));
      if (ddt) ddt.data[at.dt(t)] = draw;
      if (ddt_bias) ddt_bias.data[h] += draw;
      if (dA_log) dA_log.data[h] += at.a * dt * flow;
    }
    dinitialState?.data.set(g, at.state);
  });
}
