import { apply } from '../../engine/apply.ts';
import type { Spec } from '../../engine/backend.ts';
import { type GpuPlanner, type Launch, MAX_GRID } from '../../engine/backends/webgpu/launch.ts';
import { isPlain } from '../../engine/dtype.ts';
import { defineOp } from '../../engine/op.ts';
import type { Slot } from '../../engine/plan.ts';
import { gradEnabled } from '../../engine/tape.ts';
import { scope } from '../../engine/scope.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { type Activation, nameOf } from '../elementwise/activation.ts';
import { binaryOnWasm } from '../elementwise/wasm.ts';
import { dotColumns, FEW_ROWS, launchDot } from './dot.ts';
import { gpuProduct, tilesAcross } from './kernel.ts';
import { linear, type LinearOperands, linearOnHost, linearOnWasm, linearProduct, linearSlots, linearSpec, rowsOf } from './linear.ts';
import { productFlops } from './product.ts';
import { productOnGpu, VARIANTS } from './variants.ts';

/** A linear layer: weight (out, in) in any format of `WEIGHTS`, bias (out). */
export interface Layer {
  readonly weight: Tensor;
  readonly bias: Tensor | null;
}

/** Layers out of a list of operands: what `names` says of each, then its bias, a vector, where it has one. */
function layersOf<T extends Spec, N extends string>(operands: readonly T[], ...names: readonly N[]) {
  const layers: (Record<N, T> & { bias?: T })[] = [];
  for (let i = 0; i < operands.length; ) {
    const layer = Object.fromEntries(names.map((name) => [name, operands[i++]])) as (typeof layers)[number];
    if (operands[i]?.shape.length === 1) layer.bias = operands[i++];
    layers.push(layer);
  }
  return layers;
}

const flat = ({ weight, bias }: Layer): Tensor[] => (bias ? [weight, bias] : [weight]);

const totalFlops = (layers: readonly LinearOperands<Spec>[]) =>
  layers.reduce((sum, layer) => sum + productFlops(linearProduct(layer)), 0);

interface LayerOf<T> extends LinearOperands<T> {
  readonly y: T;
  readonly activation?: string | undefined;
}

/** One launch for layers of few rows, if there is a kernel for it. */
function inOneLaunch(layers: readonly LayerOf<Slot>[], device: GpuPlanner): Launch[] | null {
  const { caps } = device;
  const products = layers.map((layer) => gpuProduct(linearProduct(layer, layer.activation), linearSlots(layer, layer.y), caps));
  const buffers = new Set(layers.flatMap(({ x, weight, bias, addend, y }) => [x, weight, bias, addend, y]));
  buffers.delete(undefined);
  const fits =
    products.every((g) => VARIANTS.find(({ when }) => when(g, caps))!.name === 'dot') &&
    products.every(({ c }) => c.form === 'four' || isPlain(c.slot.dtype)) &&
    buffers.size <= caps.maxStorageBuffers &&
    tilesAcross(products.map(({ N }) => N), dotColumns(products)) <= MAX_GRID;
  return fits ? [launchDot(products)] : null;
}

/** As many layers in each launch as the device has bindings for. */
function inFewLaunches(layers: readonly LayerOf<Slot>[], device: GpuPlanner): Launch[] {
  for (let count = layers.length; count > 1; count--) {
    const one = inOneLaunch(layers.slice(0, count), device);
    if (one) return [...one, ...inFewLaunches(layers.slice(count), device)];
  }
  const [first, ...others] = layers;
  if (!first) return [];
  const product = linearProduct(first, first.activation);
  return [...productOnGpu(product, linearSlots(first, first.y), device), ...inFewLaunches(others, device)];
}

interface LinearsAttrs {
  /** Of each layer: the elementwise function that is applied. */
  readonly activations: readonly (string | undefined)[];
}

const linearsOp = /* @__PURE__ */ defineOp({
  name: 'linears',
  inputs: ['x', 'parts*'],
  outputs: ['ys*'],
  asStored: { webgpu: ['ys'], wasm: ['x', 'parts'] },
  shape: ({ x, parts }, _: LinearsAttrs) => ({ ys: layersOf(parts, 'weight').map((layer) => linearSpec('linears', { x, ...layer })) }),
  flops: ({ x, parts }) => totalFlops(layersOf(parts, 'weight').map((layer) => ({ x, ...layer }))),
  reference({ x, parts }, { ys }, { activations }) {
    layersOf(parts, 'weight').forEach((layer, i) => linearOnHost({ x, ...layer }, ys[i], activations[i]));
  },
  webgpu({ x, parts }, { ys }, { activations }, device) {
    const layers = layersOf(parts, 'weight').map((layer, i) => ({ x, ...layer, y: ys[i], activation: activations[i] }));
    return inFewLaunches(layers, device);
  },
  wasm: ({ x, parts }, { ys }, { activations }, device) =>
    layersOf(parts, 'weight').every((layer, i) => linearOnWasm({ x, ...layer }, ys[i], device, activations[i])),
});

/**
 * What several linear layers make of the same x, each with an activation or none: on WebGPU one launch where x has few
 * rows, as in decoding, and no gradient is wanted.
 * @param x (…, in) floats
 * @returns (…, out) of x's dtype, one of each layer
 */
export function linears(x: Tensor, layers: readonly (Layer & { readonly activation?: Activation })[]): Tensor[] {
  const operands = layers.flatMap(flat);
  if (rowsOf(x) > FEW_ROWS || layers.length === 1 || wantGradient([x, ...operands])) {
    return layers.map(({ weight, bias, activation }) => linear(x, weight, bias, { activation }));
  }
  const activations = layers.map(({ activation }) => nameOf('linears', activation));
  return [...apply(linearsOp, { x, parts: operands }, { activations }).ys];
}

const termsOf = <T extends Spec>(operands: readonly T[]) => layersOf(operands, 'x', 'weight');

const linearSumOp = /* @__PURE__ */ defineOp({
  name: 'linear_sum',
  inputs: ['addend', 'operands*'],
  outputs: ['y'],
  asStored: { webgpu: ['y'], wasm: ['operands'] },
  shape({ addend, operands }) {
    for (const term of termsOf(operands)) linearSpec('linear_sum', { ...term, addend });
    return { y: addend };
  },
  flops: ({ operands }) => totalFlops(termsOf(operands)),
  reference({ addend, operands }, { y }) {
    termsOf(operands).forEach((term, i) => linearOnHost({ ...term, addend: i === 0 ? addend : y }, y));
  },
  webgpu({ addend, operands }, { y }, _, device) {
    const terms = termsOf(operands);
    const one = inOneLaunch(terms.map((term, i) => ({ ...term, y, ...(i === 0 && { addend }) })), device);
    if (one) return one;
    let sum = addend;
    return terms.flatMap((term, i) => {
      const into = i === terms.length - 1 ? y : device.scratch(y.shape);
      const launches = productOnGpu(linearProduct(term), linearSlots({ ...term, addend: sum }, into), device);
      sum = into;
      return launches;
    });
  },
  wasm({ addend, operands }, { y }, _, device) {
    const [first, ...others] = termsOf(operands);
    const part: Slot = { ...y, slot: device.scratch(4 * y.size).slot };
    return (
      linearOnWasm({ ...first, addend }, y, device) &&
      others.every((term) => linearOnWasm(term, part, device) && binaryOnWasm(device.k, 'add', y, part, y))
    );
  },
});

/**
 * addend + Σ (x·Wᵀ + b), summed in f32: on WebGPU one launch where the terms have few rows, as in decoding, and no
 * gradient is wanted.
 * @param addend (…, out) floats
 * @param terms x (…, in) floats and the layer it goes through, into (…, out)
 * @returns shape and dtype of the addend
 */
export function linearSum(addend: Tensor, terms: readonly (readonly [x: Tensor, layer: Layer])[]): Tensor {
  const operands = terms.flatMap(([x, layer]) => [x, ...flat(layer)]);
  if (rowsOf(addend) > FEW_ROWS || terms.length < 2 || addend.shape.length < 2 || wantGradient([addend, ...operands])) {
    return scope(() => terms.reduce((sum, [x, { weight, bias }]) => linear(x, weight, bias, { addend: sum }), addend));
  }
  return apply(linearSumOp, { addend, operands }, {}).y;
}

const wantGradient = (tensors: readonly Tensor[]): boolean => gradEnabled() && tensors.some((t) => t.requiresGrad);
