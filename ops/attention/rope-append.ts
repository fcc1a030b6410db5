import { apply } from '../../engine/apply.ts';
import { expectWhole } from '../../engine/arguments.ts';
import { FLAT_INDEX, grid1d, shader } from '../../engine/backends/webgpu/launch.ts';
import { expectDType } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { defineOp, spec } from '../../engine/op.ts';
import { noGrad } from '../../engine/tape.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { expectRank, expectShape } from '../common/shapes.ts';
import { COS_SIN, frequencyTable, ropeOnHost, ropeOnWasm } from './rope.ts';

interface RopeAppendAttrs {
  readonly rotaryDim: number;
  readonly theta: number;
}

const OP = 'rope_append';
const WG = 64;

/** The attributes of `rope` that it goes by. */
const turning = (attrs: RopeAppendAttrs) => ({ ...attrs, offset: 0, layout: 'blhd' as const, inverse: false });

const ropeAppendOp = /* @__PURE__ */ defineOp({
  name: OP,
  inputs: ['q', 'k', 'v', 'keys', 'values', 'first'],
  outputs: ['y'],
  mutates: ['keys', 'values'],
  shape({ q, k, v, keys, values, first }, { rotaryDim }: RopeAppendAttrs) {
    for (const [name, { dtype }] of Object.entries({ q, k, v, keys, values })) expectDType(OP, name, dtype, 'f32');
    expectDType(OP, 'first', first.dtype, 'i32');
    expectShape(OP, 'first', first, [1]);
    expectRank(OP, 'q', q, 4);
    expectRank(OP, 'keys', keys, 4);
    const [b, l, , d] = q.shape;
    const [, room, heads] = keys.shape;
    for (const [name, given] of Object.entries({ k, v })) expectShape(OP, name, given, [b, l, heads, d]);
    for (const [name, given] of Object.entries({ keys, values })) expectShape(OP, name, given, [b, room, heads, d]);
    if (l > room) throw new ShapeError(`${OP}: ${l} tokens do not fit caches of ${room} positions`);
    expectWhole(OP, 'rotaryDim', rotaryDim, 2, d);
    if (rotaryDim % 2 !== 0) throw new ShapeError(`${OP}: rotaryDim is ${rotaryDim}, expected an even number`);
    return { y: spec(q.shape) };
  },
  reference({ q, k, v, keys, values, first }, { y }, attrs) {
    const [b, l, heads, d] = k.shape;
    const room = keys.shape[1];
    const at = Math.min(Math.max(first.data[0], 0), room - l);
    ropeOnHost(q, first, y, turning(attrs));
    const turned = { ...k, data: k.data.slice() };
    ropeOnHost(k, first, turned, turning(attrs));
    const size = l * heads * d;
    for (let i = 0; i < b; i++) {
      const into = (i * room + at) * heads * d;
      keys.data.set(turned.data.subarray(i * size, (i + 1) * size), into);
      values.data.set(v.data.subarray(i * size, (i + 1) * size), into);
    }
  },
  webgpu({ q, k, v, keys, values, first }, { y }, { rotaryDim, theta }) {
    const [b, l, heads, d] = q.shape;
    const [, room, kv] = keys.shape;
    const rows = b * l * (heads + 2 * kv);
    return [
      {
        shader: shader(`${OP}.${rotaryDim}.${theta}`, () => ({
          reads: { qs: 'f32', ks: 'f32', vs: 'f32', first: 'i32' },
          writes: { keys: 'f32', values: 'f32', ys: 'f32' },
          params: { rows: 'u32', dim: 'u32', length: 'u32', heads: 'u32', kv: 'u32', room: 'u32' },
          constants: { WG, HALF: rotaryDim / 2 },
          // A thread for each pair that turns and each element that does not, of the rows of q, k and v of a token.
          code: /* wgsl */ `${frequencyTable(rotaryDim, theta)}${FLAT_INDEX}${COS_SIN}
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let i = flat_index(group, groups, local, WG);
  let items = params.dim - HALF;
  let row = i / items;
  if (row >= params.rows) { return; }
  let j = i - row * items;
  let pairs = j < HALF;
  let each = params.heads + 2u * params.kv;
  let token = row / each;
  let head = row % each;
  let t = token % params.length;
  if (head < params.heads) {
    let at = (token * params.heads + head) * params.dim + j;
    if (pairs) {
      let pair = turned(qs[at], qs[at + HALF], t, first[0], j, 1.0);
      ys[at] = pair.x;
      ys[at + HALF] = pair.y;
    } else { ys[at + HALF] = qs[at + HALF]; }
    return;
  }
  let own = (head - params.heads) % params.kv;
  let at = (token * params.kv + own) * params.dim + j;
  let place = u32(clamp(first[0], 0, i32(params.room - params.length))) + t;
  let into = ((token / params.length * params.room + place) * params.kv + own) * params.dim + j;
  if (head >= params.heads + params.kv) {
    if (pairs) { values[into] = vs[at]; }
    values[into + HALF] = vs[at + HALF];
  } else if (pairs) {
    let pair = turned(ks[at], ks[at + HALF], t, first[0], j, 1.0);
    keys[into] = pair.x;
    keys[into + HALF] = pair.y;
  } else { keys[into + HALF] = ks[at + HALF]; }
}`,
        })),
        args: [q, k, v, first, keys, values, y],
        params: [rows, d, l, heads, kv, room],
        grid: grid1d(rows * (d - rotaryDim / 2), WG),
      },
    ];
  },
  wasm({ q, k, v, keys, values, first }, { y }, attrs, device) {
    const [b, l, heads, d] = k.shape;
    const room = keys.shape[1];
    const turned = device.scratch(4 * k.size);
    ropeOnWasm(device, q, first, y, q, turning(attrs));
    ropeOnWasm(device, k, first, turned, k, turning(attrs));
    const row = heads * d;
    for (const [from, to] of [[turned, keys], [v, values]]) {
      const sizes = [1, 1, b, l * row] as const;
      device.k.strided_copy(from, to, 4, ...sizes, 0, 0, l * row, 1, 0, 0, room * row, 1, first, row, room - l);
    }
    return true;
  },
});

/** What `ropeAppend_` takes. */
export interface RopeAppendInputs {
  /** (B, L, H, Dh) f32 */
  readonly q: Tensor;
  /** (B, L, KV, Dh) f32, and so is v */
  readonly k: Tensor;
  readonly v: Tensor;
  /** (B, room, KV, Dh) f32, written in place, and so is values */
  readonly keys: Tensor;
  readonly values: Tensor;
  /** i32 [1]: the position of the first token, at which the caches are written. It is clamped to 0 … room − L there. */
  readonly first: Tensor;
}

/**
 * What a cached attention does before it attends, in one launch on WebGPU: `rope` of q and k, of which k goes to the cache of
 * keys at the tokens' positions, as v goes to that of values. Not recorded: it has no gradient.
 * @param rotaryDim how many of the head's dimensions turn, from the first
 * @param theta base of the frequencies, as in `rope`
 * @returns q turned, (B, L, H, Dh)
 */
export function ropeAppend_(inputs: RopeAppendInputs, attrs: { readonly rotaryDim: number; readonly theta: number }): Tensor {
  const { rotaryDim, theta } = attrs;
  return noGrad(() => apply(ropeAppendOp, { ...inputs }, { rotaryDim, theta }).y);
}
