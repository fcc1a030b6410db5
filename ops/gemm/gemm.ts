import type { Launch, Shader } from '../../engine/backends/webgpu/launch.ts';
import { wholeShader } from '../../engine/backends/webgpu/launch.ts';
import { type GpuArg, type GpuCall, type HostArg, type WasmCall } from '../../engine/positional.ts';
import { Elementwise } from '../elementwise/elementwise.ts';
import { launchFill } from '../elementwise/fill-kernel.ts';
import { type GemmArg, type GemmSpec, gemmVariant } from './wgsl.ts';

/** C[M,N] = op(A)·op(B) (+ bias) over up to two batch dimensions; a batch stride of 0 repeats that operand. */
export interface Gemm {
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly transA: boolean;
  readonly transB: boolean;
  readonly batch: readonly [number, number];
  readonly strideA: readonly [number, number];
  readonly strideB: readonly [number, number];
}

/** A plain product of matrices, no batch. */
export function plainGemm(M: number, N: number, K: number, transA: boolean, transB: boolean): Gemm {
  return { M, N, K, transA, transB, batch: [1, 1], strideA: [0, 0], strideB: [0, 0] };
}

/** The product in loops. */
export function gemmOnHost(g: Gemm, a: HostArg, b: HostArg, bias: HostArg | undefined, c: HostArg): void {
  const [aRow, aStep] = g.transA ? [1, g.M] : [g.K, 1];
  const [bStep, bColumn] = g.transB ? [1, g.K] : [g.N, 1];
  let at = 0;
  for (let outer = 0; outer < g.batch[0]; outer++) {
    for (let inner = 0; inner < g.batch[1]; inner++) {
      const aBase = outer * g.strideA[0] + inner * g.strideA[1];
      const bBase = outer * g.strideB[0] + inner * g.strideB[1];
      for (let m = 0; m < g.M; m++) {
        for (let n = 0; n < g.N; n++) {
          let sum = bias ? bias.data[n] : 0;
          for (let k = 0; k < g.K; k++) {
            sum += a.data[aBase + m * aRow + k * aStep] * b.data[bBase + k * bStep + n * bColumn];
          }
          c.data[at++] = sum;
        }
      }
    }
  }
}

/** The product by the C kernels. */
export function gemmOnWasm<A>(call: WasmCall<A>, g: Gemm, a: number, b: number, bias: number, c: number): void {
  const { k, scratch } = call;
  const work = scratch(k.gemm_scratch(g.M, g.N, g.K, Number(g.transA)));
  if (g.batch[0] * g.batch[1] === 1) {
    k.gemm(a, b, c, bias, g.M, g.N, g.K, Number(g.transA), Number(g.transB), 0, work);
    return;
  }
  const size = g.batch[1] * g.M * g.N;
  for (let outer = 0; outer < g.batch[0]; outer++) {
    const [aAt, bAt, cAt] = [a + 4 * outer * g.strideA[0], b + 4 * outer * g.strideB[0], c + 4 * outer * size];
    const strides = [g.strideA[1], g.strideB[1], g.M * g.N] as const;
    k.gemm_batched(aAt, bAt, cAt, g.batch[1], ...strides, g.M, g.N, g.K, Number(g.transA), Number(g.transB), 0, work);
  }
}

interface Prepared {
  readonly launches: readonly {
    readonly shader: Shader;
    readonly args: readonly GemmArg[];
    readonly params: readonly number[];
    readonly grid: readonly [number, number, number];
  }[];
  readonly scratch: number;
}

/** What was worked out for a shape before; shapes repeat every step. */
const prepared = new Map<string, Prepared>();

function prepare<A>(g: Gemm, bias: boolean, { caps }: GpuCall<A>): Prepared {
  const spec: GemmSpec = {
    ...g,
    a: { strides: g.strideA },
    b: { strides: g.strideB },
    ...(bias ? { bias: 'f32' as const } : {}),
  };
  const { launches, scratch } = gemmVariant(spec, { ...caps, cpu: caps.software });
  return {
    scratch,
    launches: launches.map((l) => ({
      shader: wholeShader(l.key, () => ({
        bindings: l.bindings.map((b) => (b.access === 'read' ? 'r' : 'w')).join(''),
        paramTypes: l.params.map((p) => p.type),
        source: () => l.code,
      })),
      args: l.bindings.map((b) => b.arg),
      params: l.params.map((p) => p.value),
      grid: l.grid,
    })),
  };
}

/** Every row is the bias: the product of matrices without an inner dimension. */
const biasKernel = /* @__PURE__ */ new Elementwise({
  name: 'gemm.bias',
  reads: { bias: 'f32' },
  writes: { c: 'f32' },
  values: { c: 'bias' },
});

/** The product as launches, two where K is split. */
export function gemmOnGpu<A>(
  call: GpuCall<A>,
  g: Gemm,
  operands: { a: GpuArg; b: GpuArg; bias?: GpuArg; c: GpuArg },
): Launch[] {
  if (g.K === 0) return [operands.bias ? biasKernel.launch([operands.bias], [operands.c]) : launchFill(operands.c, 0)];
  const flags = (g.transA ? 1 : 0) + (g.transB ? 2 : 0) + (operands.bias ? 4 : 0) + (call.caps.software ? 8 : 0);
  let key = `${flags},${g.M},${g.N},${g.K}`;
  if (g.batch[0] * g.batch[1] > 1) key += `,${g.batch},${g.strideA},${g.strideB}`;
  let plan = prepared.get(key);
  if (!plan) prepared.set(key, (plan = prepare(g, operands.bias !== undefined, call)));
  const scratch = plan.scratch > 0 ? call.scratch([plan.scratch]) : undefined;
  const of = (name: GemmArg) => (name === 'scratch' ? scratch! : operands[name]!);
  return plan.launches.map(({ shader, params, grid, args }) => ({ shader, params, grid, args: args.map(of) }));
}
