import type { GemmBinding, GemmEpilogue, GemmParam, GemmSpec } from './types.ts';

/** The spec with every default filled in, and what can be read or written four elements at a time. */
export interface Layout extends Required<Omit<GemmSpec, 'a' | 'b' | 'c' | 'bias' | 'batch'>> {
  batch: readonly [number, number];
  bias: GemmSpec['bias'];
  a: Operand;
  b: Operand;
  c: Operand;
}

/** An operand with its defaults filled in; `vec4` when its rows can be moved as aligned groups of four. */
export interface Operand {
  dtype: 'f32' | 'f16';
  offset: number;
  ld: number;
  strides: readonly [number, number];
  vec4: boolean;
}

/** Fills in defaults. Rows are what is contiguous in storage: K of A, or M with `transA`. */
export function layoutOf(spec: GemmSpec): Layout {
  const { M, N, K, batch = [1, 1], transA = false, transB = false } = spec;
  const operand = (given: GemmSpec['a'], rows: number, columns: number): Operand => {
    const { dtype = 'f32', offset = 0, ld = columns } = given ?? {};
    const strides = given?.strides ?? [rows * ld * batch[1], rows * ld];
    const moved = [columns, offset, ld, ...(batch[0] * batch[1] > 1 ? strides : [])];
    return { dtype, offset, ld, strides, vec4: moved.every((n) => n % 4 === 0) };
  };
  return {
    ...{ M, N, K, batch, transA, transB, bias: spec.bias },
    alpha: spec.alpha ?? 1,
    accumulate: spec.accumulate ?? false,
    epilogue: spec.epilogue ?? 'none',
    a: operand(spec.a, transA ? K : M, transA ? M : K),
    b: operand(spec.b, transB ? N : K, transB ? K : N),
    c: operand(spec.c, M, N),
  };
}

/** Bodies of `fn activate(x: vec4<f32>) -> vec4<f32>`. */
export const EPILOGUES: Record<Exclude<GemmEpilogue, 'none'>, string> = {
  relu: 'return max(x, vec4<f32>());',
  silu: 'return x / (1.0 + exp(-x));',
  // Hendrycks and Gimpel 2016; the clamp keeps drivers whose tanh overflows from answering NaN.
  gelu_tanh:
    'let u = 0.7978845608 * (x + 0.044715 * x * x * x);\n' +
    '  return 0.5 * x * (1.0 + tanh(clamp(u, vec4(-15.0), vec4(15.0))));',
};

const FIELDS = [
  ...['M', 'N', 'K', 'batches', 'batch_inner', 'k_chunk', 'splits'],
  ...['a_offset', 'a_ld', 'a_outer', 'a_inner', 'b_offset', 'b_ld', 'b_outer', 'b_inner'],
  ...['c_offset', 'c_ld', 'c_outer', 'c_inner'],
];

/** `struct Params`, the same for every GEMM kernel. */
export const PARAMS_WGSL = `struct Params {\n${FIELDS.map((f) => `  ${f}: u32,\n`).join('')}  alpha: f32,\n}\n`;

/** Values of `Params`, in its order. */
export function paramsOf(g: Layout, kChunk: number, splits: number): GemmParam[] {
  const operand = (o: Operand): number[] => [o.offset, o.ld, o.strides[0], o.strides[1]];
  const batches = g.batch[0] * g.batch[1];
  const values = [
    ...[g.M, g.N, g.K, batches, g.batch[1], kChunk, splits],
    ...[...operand(g.a), ...operand(g.b), ...operand(g.c)],
  ];
  const scalars: GemmParam[] = FIELDS.map((name, i) => ({ name, type: 'u32', value: values[i] }));
  return [...scalars, { name: 'alpha', type: 'f32', value: g.alpha }];
}

/** Storage declarations in binding order and the uniform block. `types` gives the element type of each argument. */
export function declare(bindings: readonly GemmBinding[], types: Partial<Record<GemmBinding['arg'], string>>): string {
  const f16 = Object.values(types).some((t) => t.includes('f16'));
  const storage = bindings.map(
    ({ arg, access }, i) => `@group(0) @binding(${i}) var<storage, ${access}> ${arg}: array<${types[arg]}>;\n`,
  );
  const uniform = '@group(1) @binding(0) var<uniform> params: Params;\n';
  return `${f16 ? 'enable f16;\n' : ''}${PARAMS_WGSL}${storage.join('')}${uniform}`;
}

/** WGSL type of an operand's array elements. */
export const elementType = (dtype: string, vec4: boolean): string => (vec4 ? `vec4<${dtype}>` : dtype);

/**
 * `fn load_x(base, r, k, k_end) -> vec4<f32>`: four elements of operand x, where r runs along M (of A) or N (of B).
 * k-contiguous storage gives k … k+3 of row r, the other kind r … r+3 of row k. Past `k_end` it gives zeros; past the
 * last row it repeats rows, whose results are never stored, so that no value needs a second test.
 */
export function loader(x: 'a' | 'b', kContiguous: boolean, vec4: boolean): string {
  const rows = x === 'a' ? 'params.M' : 'params.N';
  const head = `fn load_${x}(base: u32, r: u32, k: u32, k_end: u32) -> vec4<f32> {\n  var v = vec4<f32>();\n`;
  const tail = '  return v;\n}\n';
  if (vec4) {
    const index = kContiguous
      ? `base + min(r, ${rows} - 1u) * params.${x}_ld + k`
      : `base + k * params.${x}_ld + min(r, ${rows} - 4u)`;
    return `${head}  if (k < k_end) { v = vec4<f32>(${x}[(${index}) >> 2u]); }\n${tail}`;
  }
  if (kContiguous) {
    const row = `  let row = base + min(r, ${rows} - 1u) * params.${x}_ld;\n`;
    const part = (j: number) => `f32(${x}[row + min(k + ${j}u, k_end - 1u)])`;
    const inside = (j: number) => `  v[${j}] = select(0.0, ${part(j)}, k + ${j}u < k_end);\n`;
    return head + row + [0, 1, 2, 3].map(inside).join('') + tail;
  }
  const parts = [0, 1, 2, 3].map((j) => `f32(${x}[row + min(r + ${j}u, ${rows} - 1u)])`);
  const body = `    let row = base + k * params.${x}_ld;\n    v = vec4<f32>(${parts.join(', ')});\n`;
  return `${head}  if (k < k_end) {\n${body}  }\n${tail}`;
}

/**
 * WGSL that names the tile across, the tile down and the product (batch, and part of K times batches) `group`: the
 * workgroup's id, or where a count exceeds what a grid's dimension holds (`flat`), what `grid1d` made of them. Only
 * there, because an index from divisions costs large kernels a sixth of their rate (NVIDIA H100).
 */
export function tileOf(flat: boolean, across: string, down: string): string {
  if (!flat) return '  let group = id;\n';
  return (
    `  let tile = id.y * groups.x + id.x;\n  let across = ${across};\n  let down = ${down};\n` +
    '  let group = vec3<u32>(tile % across, tile / across % down, tile / (across * down));\n' +
    '  if (group.z >= params.batches * params.splits) { return; }\n'
  );
}

/** Steps whose products go into one sum before that goes into the next, where a walk over K has several levels. */
const BLOCK = 64;

/** Levels of sums for a walk of so many steps: one is enough for some hundred, and fastest. */
export function levelsFor(steps: number): 1 | 2 | 3 {
  if (steps <= 4 * BLOCK) return 1;
  return steps <= BLOCK * BLOCK * 4 ? 2 : 3;
}

/**
 * WGSL that walks k from `start` in steps and leaves `count` sums in sum0, sum1, …; `body` is the code of a step, which
 * adds to them. With more levels than one, BLOCK steps make a sum, BLOCK of these one of the next level, so that a long
 * K loses no digits.
 */
export function sumOverK(count: number, levels: 1 | 2 | 3, start: string, step: number, body: string): string {
  const each = (code: (i: number) => string) => Array.from({ length: count }, (_, i) => code(i)).join('');
  const walk = (level: number, end: string): string => {
    if (level === 1) return `  for (; k < ${end}; k += ${step}u) {\n${body}  }\n`;
    const far = `min(${end}, k + ${step * BLOCK ** (level - 1)}u)`;
    return (
      `  while (k < ${end}) {\n${each((i) => `  let before${level}_${i} = sum${i};\n  sum${i} = vec4<f32>();\n`)}` +
      `  let end${level} = ${far};\n${walk(level - 1, `end${level}`)}` +
      `${each((i) => `  sum${i} += before${level}_${i};\n`)}  }\n`
    );
  };
  return `${each((i) => `  var sum${i} = vec4<f32>();\n`)}  var k = ${start};\n${walk(levels, 'params.K')}`;
}

/** `base` of the operands for batch `z`. */
export function bases(...operands: ('a' | 'b' | 'c')[]): string {
  const lines = operands.map(
    (x) =>
      `  let ${x}_base = params.${x}_offset + (z / params.batch_inner) * params.${x}_outer` +
      ` + (z % params.batch_inner) * params.${x}_inner;\n`,
  );
  return lines.join('');
}

/** Element types of bias and C in the code that stores results. */
export function outputTypes(g: Layout): { bias?: string; c: string } {
  return { ...(g.bias && { bias: g.bias }), c: elementType(g.c.dtype, g.c.vec4) };
}

/**
 * `fn finish(acc, n)`: alpha, bias and activation on columns n … n+3, and `fn store_c(base, m, n, acc)`, which guards
 * rows and columns and adds to C where asked.
 */
export function storer(g: Layout): string {
  const out = g.c.dtype;
  const bias = g.bias ? ` + vec4<f32>(${[0, 1, 2, 3].map((j) => `f32(bias[n + ${j}u])`).join(', ')})` : '';
  const activate =
    g.epilogue === 'none' ? '' : `fn activate(x: vec4<f32>) -> vec4<f32> {\n  ${EPILOGUES[g.epilogue]}\n}\n`;
  const sum = `acc * params.alpha${bias}`;
  const finish =
    `${activate}fn finish(acc: vec4<f32>, n: u32) -> vec4<f32> {\n` +
    `  return ${g.epilogue === 'none' ? sum : `activate(${sum})`};\n}\n`;
  const put = (index: string, type: string, value: string) =>
    `c[${index}] = ${type}(${g.accumulate ? `${type.replace('f16', 'f32')}(c[${index}]) + ` : ''}${value});`;
  const stores = g.c.vec4
    ? `  ${put('i >> 2u', `vec4<${out}>`, 'v')}\n`
    : [0, 1, 2, 3].map((j) => `  if (n + ${j}u < params.N) { ${put(`i + ${j}u`, out, `v[${j}]`)} }\n`).join('');
  return (
    `${finish}fn store_c(base: u32, m: u32, n: u32, acc: vec4<f32>) {\n` +
    `  if (m >= params.M || n >= params.N) { return; }\n` +
    `  let v = finish(acc, n);\n  let i = base + m * params.c_ld + n;\n${stores}}\n`
  );
}

/** The part of a pipeline key that `storer` depends on. */
export const storerKey = (g: Layout): string =>
  [g.c.dtype + (g.c.vec4 ? 'v' : ''), g.bias ? `b${g.bias}` : '', g.accumulate ? 'acc' : '', g.epilogue].join('.');

/** Bindings of a kernel that stores C itself. */
export function outputBindings(g: Layout, ...inputs: ('a' | 'b' | 'scratch')[]): GemmBinding[] {
  const read: GemmBinding[] = inputs.map((arg) => ({ arg, access: 'read' }));
  return [...read, ...(g.bias ? [{ arg: 'bias', access: 'read' } as const] : []), { arg: 'c', access: 'read_write' }];
}
