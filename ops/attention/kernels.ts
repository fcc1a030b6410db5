import type { GpuPlanner, Launch } from '../../engine/backends/webgpu/launch.ts';
import { isFloat } from '../../engine/dtype.ts';
import type { Slot } from '../../engine/plan.ts';
import { launchKernel } from '../common/launch-kernel.ts';
import tilesCode from './backward-tiles.wgsl';
import commonCode from './common.wgsl';
import decodeCode from './decode.wgsl';
import deltaCode from './delta.wgsl';
import directBackwardCode from './direct-backward.wgsl';
import directForwardCode from './direct-forward.wgsl';
import forwardCode from './forward.wgsl';
import keysCode from './keys.wgsl';
import mergeCode from './merge.wgsl';
import rowsCode from './rows.wgsl';
import softmaxCode from './softmax.wgsl';
import stepCode from './step.wgsl';
import { COS_SIN, frequencyTable } from './rope.ts';
import { type AttentionAttrs, type AttentionInputs, attentionSizes, countStep } from './shape.ts';
import { maskSteps, type StepAttrs } from './shape.ts';

/** An attention to be launched: what kernels are chosen by, and the operands that there are, by name. */
export type Task = ReturnType<typeof taskOf>;
type Slots = Readonly<Record<string, Slot | undefined>>;

/** @param others operands beside those that attention reads */
export function taskOf(inputs: AttentionInputs<Slot>, attrs: AttentionAttrs, device: GpuPlanner, others: Slots) {
  const s = attentionSizes(inputs, attrs.layout);
  const slots: Slots = { ...inputs, ...others };
  // Query rows of a problem, which is one key head of one row of the batch, and problems.
  const [rows, problems] = [(s.heads / s.kvHeads) * s.length, s.batch * s.kvHeads];
  return { s, attrs, device, rows, problems, slots };
}

export interface Kernel {
  readonly name: string;
  /** Operands of a task, in order; those that it has no slot for are read as 0, and not written. */
  readonly reads: readonly string[];
  readonly writes: readonly string[];
  /** WGSL with a `kernel`. */
  readonly code: readonly string[];
}

const READS = ['q', 'k', 'v', 'mask', 'keyCount'];
const BACKWARD_READS = ['q', 'k', 'v', 'do', 'row_stats', 'mask'];
const GRADIENTS = ['dq', 'dk', 'dv'];

const forward = { reads: READS, writes: ['o', 'stats'] };
const backward = { reads: BACKWARD_READS, writes: GRADIENTS };

export const FORWARD: Kernel = { ...forward, name: 'forward', code: [softmaxCode, forwardCode] };
export const DIRECT: Kernel = { ...forward, name: 'direct', code: [softmaxCode, directForwardCode] };

/** What the kernels of one row a workgroup write: o, or `parts` for `MERGE` where each takes a part of the keys. */
const DECODED = ['o', 'stats', 'parts', 'part_stats'];
const AS_GIVEN = /* wgsl */ `
fn prepare(p: Problem, r: u32, share: u32, t: u32) { if (t < DV) { query[t] = load_q(row_offset(p, r), t); } }
fn key_at(at: u32, d: u32) -> vec4<f32> { return load_k(at, d); }
fn value_at(at: u32, d: u32) -> vec4<f32> { return load_v(at, d); }`;

export const DECODE: Kernel = {
  name: 'decode',
  reads: READS,
  writes: DECODED,
  code: [softmaxCode, AS_GIVEN, decodeCode],
};

/** A decode whose workgroups make the token's key and value, which one of them writes to the caches. */
export const stepKernel = ({ rotaryDim, theta }: StepAttrs): Kernel => ({
  name: `step ${rotaryDim} ${theta}`,
  reads: ['q', 'k', 'v', 'first'],
  writes: ['keys', 'values', ...DECODED],
  code: [frequencyTable(rotaryDim, theta), COS_SIN, softmaxCode, stepCode, decodeCode],
});

/** Makes rows of the parts that the kernels above leave. */
export const MERGE: Kernel = {
  name: 'merge',
  reads: ['parts', 'part_stats'],
  writes: ['o', 'stats'],
  code: [softmaxCode, mergeCode],
};

/** What the gradients need of the forward: row_stats. */
export const DELTA: Kernel = { name: 'delta', reads: ['o', 'do', 'stats'], writes: ['row_stats'], code: [deltaCode] };

/** By query rows: dq, and dk and dv where these are there and one tile holds all rows. */
export const ROWS: Kernel = { ...backward, name: 'rows', code: [tilesCode, rowsCode] };
/** By keys: dk and dv. */
export const KEYS: Kernel = { ...backward, name: 'keys', code: [tilesCode, keysCode] };
/** By query rows dq, or by keys dk and dv: what is there. */
export const DIRECT_BACKWARD: Kernel = { ...backward, name: 'direct_backward', code: [directBackwardCode] };

/** Operands of rows of heads: `load_NAME(at, d)` and `store_NAME(at, d, value)` take vec4 d of the row at an offset. */
const HEADS = ['q', 'k', 'v', 'o', 'do', 'keys', 'values', ...GRADIENTS];

const vectors = {
  load: (name: string) => `
fn load_${name}(at: u32, d: u32) -> vec4<f32> { return load_${name}s(at / 4u + d); }`,
  store: (name: string) => `
fn store_${name}(at: u32, d: u32, value: vec4<f32>) { store_${name}s(at / 4u + d, value); }`,
};
/** Of heads that are no multiple of 4, which are padded with zeros. */
const elements = {
  load: (name: string) => `
fn load_${name}(at: u32, d: u32) -> vec4<f32> {
  var value = vec4<f32>();
  for (var c = 0u; c < min(4u, params.dim - 4u * d); c++) { value[c] = load_${name}s(at + 4u * d + c); }
  return value;
}`,
  store: (name: string) => `
fn store_${name}(at: u32, d: u32, value: vec4<f32>) {
  for (var c = 0u; c < min(4u, params.dim - 4u * d); c++) { store_${name}s(at + 4u * d + c, value[c]); }
}`,
};

/** WGSL of what the mask and the count of keys say, where the kernel reads them. */
function seen({ reads }: Kernel, slots: Slots, perQuery: boolean): string {
  const read = (name: string) => slots[name] && reads.includes(name);
  const additive = slots.mask !== undefined && isFloat(slots.mask.dtype);
  const ofQuery = perQuery ? 'head_of(p, r) * params.mask_head + (r % params.length) * params.mask_token + ' : '';
  const at = read('mask') && `load_mask(p.b * params.mask_batch + ${ofQuery}key)`;
  let count = 'params.keys';
  if (read('keyCount')) count = 'u32(clamp(load_keyCount(p.b * params.count_step), 0, i32(params.keys)))';
  if (read('first')) count = 'u32(clamp(load_first(0u), 0, i32(params.keys) - 1)) + 1u';
  return `const ADDITIVE = ${additive};
fn key_count(p: Problem) -> u32 { return ${count}; }
fn key_open(p: Problem, r: u32, key: u32) -> bool { return ${at && !additive ? `bool(${at})` : 'true'}; }
fn added(p: Problem, r: u32, key: u32) -> f32 { return ${at && additive ? at : '0.0'}; }`;
}

/** @param constants how the kernel is cut: THREADS of a workgroup, and what else its code names */
export function launch(
  kernel: Kernel,
  constants: Readonly<Record<string, number>>,
  task: Task,
  groups: number,
  tiles = 1,
): Launch {
  const { s, attrs, device, slots, problems } = task;
  const { length, keys, dim } = s;
  const wide = dim % 4 === 0;
  const { load, store } = wide ? vectors : elements;
  const [reads, writes] = [kernel.reads, kernel.writes].map((names) => names.filter((name) => HEADS.includes(name)));
  const bound = (names: readonly string[]) =>
    Object.fromEntries(names.map((name) => [HEADS.includes(name) ? `${name}s` : name, slots[name]]));
  const [mask_batch, mask_head, mask_token] = maskSteps(slots.mask, s);
  const perQuery = mask_head + mask_token > 0;
  return launchKernel(device, {
    key: `attention ${kernel.name} ${dim} ${Object.values(constants)} ${slots.mask?.dtype} ${perQuery}`,
    reads: bound(kernel.reads),
    writes: bound(kernel.writes),
    wide: ['parts', 'row_stats', ...(wide ? HEADS.map((name) => `${name}s`) : [])],
    params: {
      ...{ tiles, problems, kv_heads: s.kvHeads, group: s.heads / s.kvHeads, length, keys, dim },
      ...{ q_head: s.qHead, q_token: s.qToken, k_head: s.kHead, k_token: s.kToken, causal: Number(attrs.causal) },
      ...{ count_step: countStep(slots.keyCount), mask_batch, mask_head, mask_token },
      scale: ['f32', attrs.scale],
    },
    constants: { ...constants, WANT_KEYS: slots.dk || slots.dv ? 1 : 0 },
    workgroup: constants.THREADS,
    code: () =>
      [
        ...[commonCode, seen(kernel, slots, perQuery)],
        ...[...reads, ...writes].map(load),
        ...writes.map(store),
        ...kernel.code,
      ].join('\n'),
    groups,
  });
}
