import { FLAT_INDEX, grid1d, shader } from '../../engine/backends/webgpu/launch.ts';
import { type DType, type ElementDType, encoder, isFloat } from '../../engine/dtype.ts';
import { apply1, defineOp, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import conversions from './cast.wgsl';

interface CastAttrs {
  readonly to: DType;
}

/** WGSL: the array type that holds pairs of a dtype, how to read such a pair, and the type of what is read. */
const SOURCES: Record<ElementDType, { stored: string; read: string; type: 'f32' | 'i32' | 'u32' }> = {
  f32: { stored: 'vec2<f32>', read: 'x[i]', type: 'f32' },
  f16: { stored: 'u32', read: 'vec2(from_half(x[i] & 0xffffu), from_half(x[i] >> 16u))', type: 'f32' },
  bf16: { stored: 'u32', read: 'vec2(from_bfloat(x[i] & 0xffffu), from_bfloat(x[i] >> 16u))', type: 'f32' },
  i32: { stored: 'vec2<i32>', read: 'x[i]', type: 'i32' },
  u32: { stored: 'vec2<u32>', read: 'x[i]', type: 'u32' },
  bool: { stored: 'vec2<u32>', read: 'x[i]', type: 'u32' },
};

/** WGSL: a pair `v` of f32, i32 or u32 as the dtype stores it. */
function store(to: DType, type: 'f32' | 'i32' | 'u32'): string {
  switch (to) {
    case 'f16':
      return 'to_half(f32(v.x)) | (to_half(f32(v.y)) << 16u)';
    case 'bf16':
      return 'to_bfloat(f32(v.x)) | (to_bfloat(f32(v.y)) << 16u)';
    case 'bool':
      // By the bits, −0 aside: drivers may take a comparison with NaN for false.
      if (type === 'f32') return 'min(bitcast<vec2<u32>>(v) << vec2(1u), vec2(1u))';
      return `select(vec2(0u), vec2(1u), v != vec2<${type}>())`;
    case 'u32':
      if (type === 'f32') return 'vec2(to_u32(v.x), to_u32(v.y))';
      return type === 'i32' ? 'vec2<u32>(max(v, vec2(0)))' : 'v';
    case 'i32':
      if (type === 'f32') return 'vec2(to_i32(v.x), to_i32(v.y))';
      return type === 'u32' ? 'vec2<i32>(min(v, vec2(0x7fffffffu)))' : 'v';
    default:
      return `vec2<${to}>(v)`;
  }
}

const WG = 256;

export const castOp = /* @__PURE__ */ defineOp<CastAttrs>({
  name: 'cast',
  shape: ([x], { to }) => [spec(x.shape, to)],
  reference({ inputs: [x], outputs: [y] }) {
    const to = isFloat(y.dtype) ? Number : encoder(y.dtype);
    for (let i = 0; i < y.size; i++) y.data[i] = to(x.data[i]);
  },
  webgpu({ inputs: [x], outputs: [y] }) {
    const kernel = shader(`cast.${x.dtype}.${y.dtype}`, () => ({
      reads: { x: SOURCES[x.dtype as ElementDType].stored },
      writes: { y: SOURCES[y.dtype as ElementDType].stored },
      params: { pairs: 'u32' },
      constants: { WG },
      code: /* wgsl */ `${conversions}${FLAT_INDEX}
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let i = flat_index(group, groups, local, WG);
  if (i >= params.pairs) { return; }
  let v = ${SOURCES[x.dtype as ElementDType].read};
  y[i] = ${store(y.dtype, SOURCES[x.dtype as ElementDType].type)};
}`,
    }));
    const pairs = Math.ceil(y.size / 2);
    return [{ shader: kernel, args: [x, y], params: [pairs], grid: grid1d(pairs, WG) }];
  },
  backward({ inputSpecs: [x], outputSpecs: [y], grads }) {
    return [isFloat(x.dtype) && isFloat(y.dtype) ? cast(grads[0]!, x.dtype) : null];
  },
});

/**
 * x as another dtype: floats round to nearest even, integers truncate toward zero and stop at their bounds, bool is
 * "not 0". Differentiable between floats. Returns x itself where it has the dtype.
 */
export function cast(x: Tensor, dtype: DType): Tensor {
  return x.dtype === dtype ? x : apply1(castOp, [x], { to: dtype });
}
