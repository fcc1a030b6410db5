import { accessor } from '../../engine/access.ts';
import { type Binding, type GpuPlanner, type Launch, type Scalar, shader } from '../../engine/backends/webgpu/launch.ts';
import { accessOf, isFloat } from '../../engine/dtype.ts';
import type { Slot } from '../../engine/plan.ts';
import { linked } from '../common/library.ts';
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
import stepCode from './step.wgsl';
import { COS_SIN } from './rope.ts';
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
  /** Bindings in order: what `PLAIN` knows, the mask, and tensors of heads. Those without an operand are left out. */
  readonly reads: readonly string[];
  readonly writes: readonly string[];
  /** WGSL with a `kernel`, as in `ShaderSpec`. It may name the stores of all gradients: those that are not written do nothing. */
  readonly code: readonly string[];
}

const READS = ['q', 'k', 'v', 'mask', 'keyCount'];
const BACKWARD_READS = ['q', 'k', 'v', 'do', 'row_stats', 'mask'];
const GRADIENTS = ['dq', 'dk', 'dv'];

export const FORWARD: Kernel = { name: 'forward', reads: READS, writes: ['o', 'stats'], code: [forwardCode] };
export const DIRECT: Kernel = { name: 'direct', reads: READS, writes: ['o', 'stats'], code: [directForwardCode] };

/** How a workgroup of `decode` comes by the row's query, keys and values, and what else it does before and writes. */
interface Beginning {
  readonly name: string;
  readonly reads: readonly string[];
  readonly writes: readonly string[];
  readonly code: readonly string[];
  /** Whether statistics for a backward are left. */
  readonly stats: boolean;
}

const QUERY = 'var<workgroup> query: array<vec4<f32>, DV>;';
const AS_GIVEN: Beginning = {
  name: 'decode',
  reads: READS,
  writes: [],
  code: [
    `${QUERY}
fn prepare(p: Problem, r: u32, share: u32, t: u32) { if (t < DV) { query[t] = load_q(row_offset(p, r), t); } }
fn key_at(at: u32, d: u32) -> vec4<f32> { return load_k(at, d); }
fn value_at(at: u32, d: u32) -> vec4<f32> { return load_v(at, d); }`,
  ],
  stats: true,
};
const APPENDING: Beginning = {
  name: 'step',
  reads: ['q', 'k', 'v', 'first'],
  writes: ['keys', 'values'],
  code: [COS_SIN, QUERY, stepCode],
  stats: false,
};

/** Kernels of one row a workgroup: `whole` for all keys of it, `parts` for a part of them. */
function decoding({ name, reads, writes, code, stats }: Beginning): { readonly whole: Kernel; readonly parts: Kernel } {
  const whole = `
fn leave(share: u32, at: u32, d: u32, value: vec4<f32>, sum: f32) { store_o(at, d, value * inverse(sum)); }
fn leave_stats(share: u32, row: u32, top: f32, sum: f32) { ${stats ? 'stats[row] = stats_of(top, sum);' : ''} }`;
  const parts = `
fn leave(share: u32, at: u32, d: u32, value: vec4<f32>, sum: f32) { parts[share * DV + d] = value; }
fn leave_stats(share: u32, row: u32, top: f32, sum: f32) { part_stats[share] = vec2<f32>(top, sum); }`;
  return {
    whole: { name, reads, writes: [...writes, 'o', ...(stats ? ['stats'] : [])], code: [...code, whole, decodeCode] },
    parts: { name: `${name}_parts`, reads, writes: [...writes, 'parts', 'part_stats'], code: [...code, parts, decodeCode] },
  };
}

export const DECODE = decoding(AS_GIVEN);
export const STEP = decoding(APPENDING);

/** Makes rows of what the kernels of parts leave. */
export const MERGE: Kernel = {
  name: 'merge',
  reads: ['parts', 'part_stats'],
  writes: ['o', 'stats'],
  code: [mergeCode],
};

/** What the gradients need of the forward: row_stats. */
export const DELTA: Kernel = { name: 'delta', reads: ['o', 'do', 'stats'], writes: ['row_stats'], code: [deltaCode] };

export const ROWS: Kernel = {
  name: 'rows',
  reads: BACKWARD_READS,
  writes: ['dq'],
  code: ['const FUSED = false;', tilesCode, rowsCode],
};
export const FUSED: Kernel = {
  name: 'fused',
  reads: BACKWARD_READS,
  writes: GRADIENTS,
  code: ['const FUSED = true;', tilesCode, rowsCode],
};
export const KEYS: Kernel = { name: 'keys', reads: BACKWARD_READS, writes: ['dk', 'dv'], code: [tilesCode, keysCode] };
export const DIRECT_ROWS: Kernel = {
  name: 'direct_rows',
  reads: BACKWARD_READS,
  writes: ['dq'],
  code: ['const OF_KEYS = false;', directBackwardCode],
};
export const DIRECT_KEYS: Kernel = {
  name: 'direct_keys',
  reads: BACKWARD_READS,
  writes: ['dk', 'dv'],
  code: ['const OF_KEYS = true;', directBackwardCode],
};

/** How a kernel is cut: its part of the shader's key, and its constants, THREADS among them. */
export interface Cut {
  readonly key: string;
  readonly constants: Readonly<Record<string, number>>;
  /** WGSL in front of the kernel's own. */
  readonly code?: string;
  /** Keeps compilers from unrolling loops over the head. */
  readonly rolled?: boolean;
}

/** Bindings other than tensors of heads, which `load_NAME` and `store_NAME` access, and than the mask. */
const PLAIN: Readonly<Record<string, string>> = {
  stats: 'vec2<f32>',
  row_stats: 'vec4<f32>',
  parts: 'vec4<f32>',
  part_stats: 'vec2<f32>',
  keyCount: 'i32',
  first: 'i32',
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

/** How many keys there are, by what says it. */
const counts = [
  ['keyCount', 'u32(clamp(keyCount[p.b * params.count_step], 0, i32(params.keys)))'],
  ['first', 'u32(clamp(first[0], 0, i32(params.keys) - 1)) + 1u'],
] as const;

/** WGSL of what the mask and the count of keys say, where the kernel binds them. */
function seen(mask: Slot | undefined, bound: readonly string[], perQuery: boolean): string {
  const masked = bound.includes('mask');
  const additive = mask !== undefined && isFloat(mask.dtype);
  const ofQuery = perQuery ? 'head_of(p, r) * params.mask_head + (r % params.length) * params.mask_token + ' : '';
  const at = `mask[p.b * params.mask_batch + ${ofQuery}key]`;
  return `const ADDITIVE = ${additive};
fn key_count(p: Problem) -> u32 { return ${counts.find(([name]) => bound.includes(name))?.[1] ?? 'params.keys'}; }
fn key_open(p: Problem, r: u32, key: u32) -> bool { return ${masked && !additive ? `${at} != 0u` : 'true'}; }
fn added(p: Problem, r: u32, key: u32) -> f32 { return ${masked && additive ? at : '0.0'}; }`;
}

const sizeNames = 'tiles problems kv_heads group length keys dim causal'.split(' ');
const stepNames = 'q_head q_token k_head k_token count_step mask_batch mask_head mask_token'.split(' ');
const PARAMS: Readonly<Record<string, Scalar>> = {
  ...Object.fromEntries([...sizeNames, ...stepNames].map((name) => [name, 'u32'])),
  scale: 'f32',
};

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
        return name in PLAIN ? [name, PLAIN[name]] : [`${name}s`, accessor(access(name), wide ? 'four' : 'one')];
      }),
    );
  const unwritten = GRADIENTS.filter((name) => !kernel.writes.includes(name));
  const made = shader(key, () => ({
    reads: bind(reads),
    writes: bind(kernel.writes),
    params: PARAMS,
    constants: cut.constants,
    workgroup: cut.constants.THREADS,
    code: linked([
      commonCode,
      seen(mask, reads, perQuery),
      ...heads([...reads, ...kernel.writes]).map(load),
      ...heads(kernel.writes).map(store),
      ...unwritten.map((name) => `fn store_${name}(at: u32, d: u32, value: vec4<f32>) {}`),
      cut.code ?? '',
      ...kernel.code.map((code) => (cut.rolled ? code.replaceAll('d < DV;', 'd < (params.dim + 3u) / 4u;') : code)),
    ].join('\n')),
  }));
  const sizes = [tiles, task.problems, s.kvHeads, s.heads / s.kvHeads, s.length, s.keys, s.dim, attrs.causal ? 1 : 0];
  const steps = [s.qHead, s.qToken, s.kHead, s.kToken, countStep(slots.keyCount), ...maskStep];
  const args = [...reads, ...kernel.writes].map(slotOf);
  return { shader: made, args, params: [...sizes, ...steps, attrs.scale], grid };
}
