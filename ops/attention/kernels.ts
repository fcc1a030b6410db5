import { accessor } from '../../engine/access.ts';
import type { Binding, GpuPlanner, Launch } from '../../engine/backends/webgpu/launch.ts';
import { FLAT_INDEX, shader } from '../../engine/backends/webgpu/launch.ts';
import { accessOf, isFloat } from '../../engine/dtype.ts';
import type { Slot } from '../../engine/plan.ts';
import { NOTHING } from '../common/exp-sum.ts';
import tilesCode from './backward-tiles.wgsl';
import commonCode from './common.wgsl';
import deltaCode from './delta.wgsl';
import directBackwardCode from './direct-backward.wgsl';
import directForwardCode from './direct-forward.wgsl';
import forwardCode from './forward.wgsl';
import keysCode from './keys.wgsl';
import mergeCode from './merge.wgsl';
import rowsCode from './rows.wgsl';
import { type AttentionAttrs, type AttentionInputs, type AttentionSizes, attentionSizes, countStep } from './shape.ts';
import { maskSteps } from './shape.ts';

/** An attention to be launched: what kernels are chosen by, and the operands that there are, by the bindings' names. */
export interface Task {
  readonly s: AttentionSizes;
  readonly attrs: AttentionAttrs;
  readonly device: GpuPlanner;
  /** Query rows of a problem, which is one key head of one row of the batch, and problems. */
  readonly rows: number;
  readonly problems: number;
  readonly slots: Readonly<Record<string, Slot | undefined>>;
}

/** @param slots operands beside those that attention reads */
export function taskOf(
  inputs: AttentionInputs<Slot>,
  attrs: AttentionAttrs,
  device: GpuPlanner,
  slots: Task['slots'],
): Task {
  const s = attentionSizes(inputs, attrs.layout);
  const [rows, problems] = [(s.heads / s.kvHeads) * s.length, s.batch * s.kvHeads];
  return { s, attrs, device, rows, problems, slots: { ...inputs, ...slots } };
}

export interface Kernel {
  readonly name: string;
  /** Bindings in order: what `PLAIN` and `maskOf` know, and tensors of heads. Those without an operand are left out. */
  readonly reads: readonly string[];
  readonly writes: readonly string[];
  readonly code: string;
}

export const FORWARD: Kernel = {
  name: 'forward',
  reads: ['q', 'k', 'v', 'mask', 'keyCount'],
  writes: ['o', 'stats'],
  code: forwardCode,
};

export const DIRECT_FORWARD: Kernel = {
  ...FORWARD,
  name: 'direct_forward',
  code: `const PARTS = 1u;
fn leave(share: u32, at: u32, d: u32, value: vec4<f32>, sum: f32) { store_o(at, d, value * inverse(sum)); }
fn leave_stats(share: u32, row: u32, top: f32, sum: f32) { stats[row] = stats_of(top, sum); }
${directForwardCode}`,
};

/** The first of two launches for rows whose keys are shared out in `parts`; `mergedForward` is the second. */
export const partsForward = (parts: number): Kernel => ({
  name: `parts_forward.${parts}`,
  reads: FORWARD.reads,
  writes: ['parts', 'part_stats'],
  code: `const PARTS = ${parts}u;
fn leave(share: u32, at: u32, d: u32, value: vec4<f32>, sum: f32) { parts[share * DV + d] = value; }
fn leave_stats(share: u32, row: u32, top: f32, sum: f32) { part_stats[share] = vec2<f32>(top, sum); }
${directForwardCode}`,
});

export const mergedForward = (parts: number): Kernel => ({
  name: `merged_forward.${parts}`,
  reads: ['parts', 'part_stats'],
  writes: FORWARD.writes,
  code: `const PARTS = ${parts}u;\n${mergeCode}`,
});

/** What the gradients need of the forward: row_stats. */
export const DELTA: Kernel = { name: 'delta', reads: ['o', 'do', 'stats'], writes: ['row_stats'], code: deltaCode };

const BACKWARD_READS = ['q', 'k', 'v', 'do', 'row_stats', 'mask'];
const STORES = ['dq', 'dk', 'dv'] as const;

/** @param code may name the stores of all gradients */
function backward(name: string, writes: readonly (typeof STORES)[number][], code: string): Kernel {
  const unbound = STORES.filter((store) => !writes.includes(store));
  const stubs = unbound.map((store) => `fn store_${store}(at: u32, d: u32, value: vec4<f32>) {}\n`);
  return { name, reads: BACKWARD_READS, writes, code: stubs.join('') + code };
}

const rows = (fused: boolean) => `const FUSED = ${fused};\n${tilesCode}\n${rowsCode}`;
const direct = (ofKeys: boolean) => `const OF_KEYS = ${ofKeys};\n${directBackwardCode}`;
export const ROWS = backward('rows', ['dq'], rows(false));
export const FUSED = backward('fused', ['dq', 'dk', 'dv'], rows(true));
export const KEYS = backward('keys', ['dk', 'dv'], `${tilesCode}\n${keysCode}`);
export const DIRECT_ROWS = backward('direct_rows', ['dq'], direct(false));
export const DIRECT_KEYS = backward('direct_keys', ['dk', 'dv'], direct(true));

/** How a kernel is cut: its part of the shader's key, and its constants. */
export interface Cut {
  readonly key: string;
  readonly constants: Readonly<Record<string, number>>;
  /** Rewrites loops over the head. */
  readonly loops?: (code: string) => string;
}

/** Bindings other than tensors of heads, which `load_NAME` and `store_NAME` access, and than the mask. */
const PLAIN: Readonly<Record<string, string>> = {
  stats: 'vec2<f32>',
  row_stats: 'vec4<f32>',
  parts: 'vec4<f32>',
  part_stats: 'vec2<f32>',
  keyCount: 'i32',
};

/** WGSL over vec4 d of the row at an offset; heads that are no multiple of 4 are padded with zeros. */
const vectors = {
  load: (name: string) => `
fn load_${name}(at: u32, d: u32) -> vec4<f32> { return load_${name}s(at / 4u + d); }`,
  store: (name: string) => `
fn store_${name}(at: u32, d: u32, value: vec4<f32>) { store_${name}s(at / 4u + d, value); }`,
};
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

/** WGSL of what the mask and the count of keys say, where the kernel binds them. */
function seen(mask: Slot | undefined, bound: readonly string[], perQuery: boolean): string {
  const counted = bound.includes('keyCount');
  const masked = bound.includes('mask');
  const additive = mask !== undefined && isFloat(mask.dtype);
  const ofQuery = perQuery ? 'head_of(p, r) * params.mask_head + (r % params.length) * params.mask_token + ' : '';
  const at = `mask[p.b * params.mask_batch + ${ofQuery}key]`;
  return `const ADDITIVE = ${additive};
fn key_count(p: Problem) -> u32 { return ${
    counted ? 'u32(clamp(keyCount[p.b * params.count_step], 0, i32(params.keys)))' : 'params.keys'
  }; }
fn key_open(p: Problem, r: u32, key: u32) -> bool { return ${masked && !additive ? `${at} != 0u` : 'true'}; }
fn added(p: Problem, r: u32, key: u32) -> f32 { return ${masked && additive ? at : '0.0'}; }`;
}

const PARAMS = {
  tiles: 'u32',
  problems: 'u32',
  kv_heads: 'u32',
  group: 'u32',
  length: 'u32',
  keys: 'u32',
  dim: 'u32',
  causal: 'u32',
  q_head: 'u32',
  q_token: 'u32',
  k_head: 'u32',
  k_token: 'u32',
  count_step: 'u32',
  mask_batch: 'u32',
  mask_head: 'u32',
  mask_token: 'u32',
  scale: 'f32',
} as const;

export function launch(kernel: Kernel, cut: Cut, task: Task, grid: Launch['grid'], tiles = 1): Launch {
  const { s, attrs, device, slots } = task;
  const reads = kernel.reads.filter((name) => slots[name]);
  const slotOf = (name: string) => slots[name]!;
  const { mask } = slots;
  const maskStep = maskSteps(mask, s);
  const perQuery = maskStep[1] + maskStep[2] > 0;
  const heads = (names: readonly string[]) => names.filter((name) => name !== 'mask' && !(name in PLAIN));
  const access = (name: string) => accessOf(slotOf(name).dtype, device.caps);
  const formats = heads(reads).map((name) => access(name).key);
  const masking = mask ? `${isFloat(mask.dtype) ? 'added' : 'masked'}${perQuery ? '.query' : ''}` : '';
  const counting = slots.keyCount ? 'counted' : '';
  const key = ['attention', kernel.name, s.dim, cut.key, masking, counting, ...formats].join('.');
  const wide = s.dim % 4 === 0;
  const { load, store } = wide ? vectors : elements;
  const bind = (names: readonly string[]) =>
    Object.fromEntries(
      names.map((name): [string, Binding] => {
        if (name === 'mask') return [name, isFloat(slotOf(name).dtype) ? 'f32' : 'u32'];
        return name in PLAIN ? [name, PLAIN[name]] : [`${name}s`, accessor(access(name), wide)];
      }),
    );
  const made = shader(key, () => ({
    reads: bind(reads),
    writes: bind(kernel.writes),
    params: PARAMS,
    constants: cut.constants,
    code: [
      FLAT_INDEX,
      NOTHING,
      commonCode,
      seen(mask, reads, perQuery),
      ...heads(reads).map(load),
      ...heads(kernel.writes).map(store),
      cut.loops?.(kernel.code) ?? kernel.code,
    ].join('\n'),
  }));
  const sizes = [tiles, task.problems, s.kvHeads, s.heads / s.kvHeads, s.length, s.keys, s.dim, attrs.causal ? 1 : 0];
  const steps = [s.qHead, s.qToken, s.kHead, s.kToken, countStep(slots.keyCount), ...maskStep];
  return { shader: made, args: [...reads, ...kernel.writes].map(slotOf), params: [...sizes, ...steps, attrs.scale], grid };
}
