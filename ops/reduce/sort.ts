import { expectWhole } from '../../engine/arguments.ts';
import { apply } from '../../engine/apply.ts';
import type { Launch } from '../../engine/backends/webgpu/launch.ts';
import { accessOf, expectDType, FLOATS } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { defineOp, spec } from '../../engine/op.ts';
import { scope } from '../../engine/scope.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { launchKernel } from '../common/launch-kernel.ts';
import { around, normalizeDim, show } from '../common/shapes.ts';
import { gather } from '../movement/gather.ts';
import { reshape } from '../movement/reshape.ts';
import { mapLines } from './map-lines.ts';
import { comesBefore, orderWgsl } from './order.ts';

interface SortAttrs {
  readonly dim: number;
  /** How many of each line are wanted, from the front. */
  readonly keep: number;
  readonly descending: boolean;
}

/** Elements that one workgroup sorts, and its threads. */
const BLOCK = 256;

/** A workgroup a block: each element counts those that come before it. */
const SORT_BLOCKS = /* wgsl */ `
var<workgroup> keys: array<u32, WG>;
fn kernel(group: u32, local: u32) {
  let line = group / params.runs;
  let run = group % params.runs;
  let begin = run * WG;
  let count = select(0u, min(WG, params.len - begin), line < params.lines);
  let base = (line / params.inner) * params.len * params.inner + line % params.inner;
  // What is behind the end comes last.
  keys[local] = 0xffffffffu;
  if (local < count) { keys[local] = key_of(load_x(base + (begin + local) * params.inner)); }
  workgroupBarrier();
  if (local >= count) { return; }
  let own = keys[local];
  var place = 0u;
  // Four at a time; of equals those before come first.
  for (var j = 0u; j < count; j += 4u) {
    let four = vec4(keys[j], keys[j + 1u], keys[j + 2u], keys[j + 3u]);
    let equals = vec4(j, j + 1u, j + 2u, j + 3u) < vec4(local);
    place += dot(select(vec4(0u), vec4(1u), (four < vec4(own)) | ((four == vec4(own)) & equals)), vec4(1u));
  }
  emit(line, run, place, vec2(own, begin + local));
}`;

/** A thread an element: in the run of two it comes after those before it in its own, and those of the other. */
const MERGE = /* wgsl */ `
fn count_of(run: u32) -> u32 {
  let begin = run * params.width;
  return min(params.cap, select(0u, params.len - begin, begin < params.len));
}
fn kernel(group: u32, local: u32) {
  let i = group * WG + local;
  let place = i % params.cap;
  let run = (i / params.cap) % params.runs;
  let line = i / (params.cap * params.runs);
  if (line >= params.lines || place >= count_of(run)) { return; }
  let own = vec2(load_x(2u * i), load_x(2u * i + 1u));
  let other = (line * params.runs + (run ^ 1u)) * params.cap;
  var low = 0u;
  var high = count_of(run ^ 1u);
  while (low < high) {
    let middle = (low + high) / 2u;
    let key = load_x(2u * (other + middle));
    // Of equals those of the first run come first.
    if (key < own.x || (key == own.x && (run & 1u) == 1u)) { low = middle + 1u; } else { high = middle; }
  }
  emit(line, run / 2u, place + low, own);
}`;

/** Puts an element, number `place` of a run, where the next launch wants it; of each run as many as are wanted. */
const EMIT_PAIR = /* wgsl */ `
fn emit(line: u32, run: u32, place: u32, pair: vec2<u32>) {
  if (place >= params.out) { return; }
  let o = (line * params.out_runs + run) * params.out + place;
  store_y(2u * o, pair.x);
  store_y(2u * o + 1u, pair.y);
}`;
/** Writes its index as the result. */
const EMIT_INDEX = /* wgsl */ `
fn emit(line: u32, run: u32, place: u32, pair: vec2<u32>) {
  if (place >= params.out) { return; }
  store_y((line / params.inner * params.out + place) * params.inner + line % params.inner, i32(pair.y));
}`;

/** Indices that sort each line: blocks in workgroup memory, then merges of two runs until one is left. */
const sortOp = /* @__PURE__ */ defineOp({
  name: 'sort',
  inputs: ['x'],
  outputs: ['indices'],
  shape: ({ x }, { dim, keep }: SortAttrs) => ({ indices: spec(x.shape.map((d, i) => (i === dim ? keep : d)), 'i32') }),
  reference({ x }, { indices }, { dim, descending }) {
    mapLines([x], indices, dim, (line) => {
      const before = (i: number, j: number) =>
        descending ? comesBefore(line[i], i, line[j], j) : comesBefore(line[j], i, line[i], j);
      return [...line.keys()].sort((i, j) => (before(i, j) ? -1 : 1));
    });
  },
  webgpu({ x }, { indices }, { dim, keep, descending }, device) {
    const { outer, length, inner } = around(x.shape, dim);
    const lines = outer * inner;
    const launches: Launch[] = [];
    let [from, cap] = [x, 0];
    /** Of runs of `width` elements, `cap` were kept; `outRuns` with `out` elements come of them. */
    const launch = (code: string, runs: number, width: number, out: number, outRuns: number, threads: number) => {
      const last = outRuns === 1;
      const to = last ? indices : device.scratch([lines, outRuns, out, 2], 'u32');
      launches.push(launchKernel(device, {
        key: `sort.${code === MERGE ? 'merge' : descending}.${last}`,
        reads: { x: from },
        writes: { y: to },
        workgroup: BLOCK,
        params: { lines, len: length, inner, runs, width, cap, out, out_runs: outRuns },
        code: () => (last ? EMIT_INDEX : EMIT_PAIR) + code,
        groups: Math.ceil((lines * runs * threads) / BLOCK),
      }));
      [from, cap] = [to, out];
    };
    let runs = Math.max(1, Math.ceil(length / BLOCK));
    const { type } = accessOf(x.dtype, device.caps);
    const key = /* wgsl */ `${orderWgsl(type)}
fn key_of(v: ${type}) -> u32 { return ${descending ? '~' : ''}order_key(v); }`;
    launch(key + SORT_BLOCKS, runs, BLOCK, Math.min(keep, BLOCK), runs, BLOCK);
    for (let width = BLOCK; runs > 1; width *= 2, runs = Math.ceil(runs / 2)) {
      launch(MERGE, runs, width, Math.min(keep, 2 * width), Math.ceil(runs / 2), cap);
    }
    return launches;
  },
});

/** The first `keep` along `dim` of x sorted, and where they stood. */
function sorted(name: string, x: Tensor, dim: number, keep: number, descending: boolean): [Tensor, Tensor] {
  expectDType(name, 'x', x.dtype, ...FLOATS, 'i32', 'u32');
  const { outer, length, inner } = around(x.shape, dim);
  return scope(() => {
    const { indices } = apply(sortOp, { x }, { dim, keep, descending });
    const values = gather(reshape(x, [outer, length, inner]), 1, reshape(indices, [outer, keep, inner]));
    return [reshape(values, indices.shape), indices];
  });
}

/**
 * x sorted along `dim`, and the indices (i32) at which the values stood. Equal values keep their order; NaN is largest.
 * The values carry a gradient.
 * @param x floats, i32 or u32
 */
export function sort(x: Tensor, dim = -1, descending = false): [values: Tensor, indices: Tensor] {
  const along = normalizeDim('sort', dim, x.shape.length);
  return sorted('sort', x, along, x.shape[along] ?? 1, descending);
}

/**
 * The k largest elements along `dim`, largest first, and their indices (i32); the lower index first among equals, NaN
 * largest. The values carry a gradient.
 * @param x floats, i32 or u32
 */
export function topk(x: Tensor, k: number, dim = -1): [values: Tensor, indices: Tensor] {
  const along = normalizeDim('topk', dim, x.shape.length);
  const most = x.shape[along] ?? 1;
  expectWhole('topk', 'k', k);
  if (k > most) throw new ShapeError(`topk: k is ${k}, expected at most the ${most} of dim ${dim} of ${show(x.shape)}`);
  return sorted('topk', x, along, k, true);
}
