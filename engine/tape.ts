import type { Spec } from './backend.ts';
import { isFloat } from './dtype.ts';
import { ArgumentError, DisposedError, DTypeError, ShapeError } from './errors.ts';
import type { AnyOp } from './op.ts';
import { type Call, slotsOf } from './plan.ts';
import { keep, scope } from './scope.ts';
import { type Storage, Tensor } from './tensor.ts';

interface Edge {
  readonly node: Node | null;
  readonly outputIndex: number;
  readonly leaf: Tensor | null;
}

interface Saved {
  readonly storage: Storage;
  /** The storage's version when it was saved. */
  readonly version: number;
  readonly spec: Spec;
  readonly name: string | null;
}

type Tensors = readonly (Tensor | undefined)[];

/** How a node turns gradients of its outputs into gradients of its inputs. */
type Pullback = (node: Node, grads: readonly (Tensor | null)[]) => readonly (Tensor | null | undefined)[];

let sequence = 0;
let paused = 0;

/** Whether ops are being recorded. */
export function gradEnabled(): boolean {
  return paused === 0;
}

function withPaused<T>(level: number, body: () => T): T {
  const before = paused;
  paused = level;
  try {
    return body();
  } finally {
    paused = before;
  }
}

/** Runs `body` without recording: nothing computed in it has a gradient. */
export function noGrad<T>(body: () => T): T {
  return withPaused(paused + 1, body);
}

/** One recorded op, counted by the tensors and nodes that refer to it: with the last of them goes what it saved. */
export class Node {
  readonly order = sequence++;
  private refs = 0;
  private consumed = false;

  constructor(
    readonly name: string,
    readonly edges: readonly (Edge | null)[],
    /** Specs of its operands, and the op where it is one. */
    readonly call: Pick<Call, 'inputs' | 'outputs'> & Partial<Call>,
    /** What backward reads, by its name. */
    readonly saved: ReadonlyMap<string, Saved>,
    readonly pullback: Pullback,
  ) {
    for (const edge of edges) edge?.node?.retain();
  }

  retain(): void {
    this.refs++;
  }

  /** With the last reference goes what was saved, and the hold on earlier nodes: a list, for graphs are deep. */
  release(): void {
    if (--this.refs > 0) return;
    const dead: Node[] = [this];
    for (let node = dead.pop(); node; node = dead.pop()) {
      node.consume();
      for (const edge of node.edges) if (edge?.node && --edge.node.refs === 0) dead.push(edge.node);
    }
  }

  /** Frees what was saved; backward may walk a node once. */
  consume(): void {
    if (this.consumed) return;
    this.consumed = true;
    for (const saved of this.saved.values()) saved.storage.release();
  }

  /** A tensor of what was saved under that name. */
  view(name: string): Tensor {
    if (this.consumed) {
      throw new DisposedError(`${this.name}: backward ran through this graph before; compute the loss again`);
    }
    const saved = this.saved.get(name)!;
    if (saved.storage.version !== saved.version) {
      const { shape, dtype } = saved.spec;
      const what = `${name} (${saved.name ? `"${saved.name}" ` : ''}${dtype}[${shape.join(', ')}])`;
      throw new ArgumentError(
        `${this.name}: backward reads ${what}, which was changed in place after the op ran; ` +
          'change it after backward, or give the op a clone()',
      );
    }
    return new Tensor(saved.storage.retain(), saved.spec.shape, saved.spec.dtype);
  }
}

function edgeOf(tensor: Tensor | undefined): Edge | null {
  if (!tensor?.requiresGrad) return null;
  return { node: tensor.node, outputIndex: tensor.outputIndex, leaf: tensor.node ? null : tensor };
}

/** What an op saves that saves nothing. */
const NOTHING: ReadonlyMap<string, Saved> = new Map();

function save(tensor: Tensor): Saved {
  const storage = tensor.storage.retain();
  return { storage, version: storage.version, spec: { shape: tensor.shape, dtype: tensor.dtype }, name: tensor.name };
}

/** What backward of an op reads, of those that are there. */
function savedOf(op: AnyOp, inputs: Tensors, outputs: Tensors): ReadonlyMap<string, Saved> {
  if (op.saves.length === 0) return NOTHING;
  const saved = new Map<string, Saved>();
  const own = op.takes.names.length;
  for (const i of op.saves) {
    const tensor = i < own ? inputs[i] : outputs[i - own];
    if (tensor) saved.set(i < own ? op.takes.names[i] : op.gives.names[i - own], save(tensor));
  }
  return saved;
}

/** Puts a node on the tape. Integers have no gradient: those among the outputs stay off it. */
function attach(
  name: string,
  inputs: Tensors,
  outputs: Tensors,
  saved: ReadonlyMap<string, Saved>,
  pullback: Pullback,
  call: Node['call'] = slotsOf(inputs, outputs),
): void {
  const node = new Node(name, inputs.map(edgeOf), call, saved, pullback);
  outputs.forEach((output, i) => {
    if (!output || !isFloat(output.dtype)) return;
    output.node = node;
    output.outputIndex = i;
    output.requiresGrad = true;
    node.retain();
  });
}

/** What a node saved, each made a tensor when it is asked for. */
function views(node: Node): object {
  const saved = {};
  for (const name of node.saved.keys()) {
    Object.defineProperty(saved, name, { enumerable: true, get: () => node.view(name) });
  }
  return saved;
}

/** Puts an op that ran on the tape, if anything that it gives can have a gradient. */
export function record(call: Call, inputs: Tensors, outputs: Tensors): void {
  if (!outputs.some((output) => output && isFloat(output.dtype))) return;
  const { op, attrs } = call;
  const { takes, gives } = op;
  const pullback: Pullback = (node, grads) =>
    takes.flat<Tensor | null>(
      op.backward!({
        attrs,
        saved: views(node),
        specs: { ...takes.named(call.inputs), ...gives.named(call.outputs) },
        needs: takes.named(node.edges.map((edge) => edge !== null)),
        grads: gives.named(grads),
      }),
    );
  attach(op.name, inputs, outputs, savedOf(op, inputs, outputs), pullback, call);
}

/** Puts a view on the tape: `output` shares the storage of `input`, and `pullback` reshapes the gradient back. */
export function recordAlias(name: string, input: Tensor, output: Tensor, pullback: (grad: Tensor) => Tensor): void {
  if (GRADIENTS && input.requiresGrad && gradEnabled()) {
    attach(name, [input], [output], NOTHING, (_, [grad]) => [pullback(grad!)]);
  }
}

/** What is done with gradients; handed in, because the tape knows no op. */
export interface Arithmetic {
  add(a: Tensor, b: Tensor): Tensor;
  clone(x: Tensor): Tensor;
}

/**
 * Walks the tape back from `roots`, whose gradients are `grads`, and leaves in each leaf's `.grad` the sum of what
 * reached it, of the leaf's shape and dtype and in a buffer of its own. Frees what was saved as it goes.
 * @throws ShapeError, DTypeError for a gradient that is not as its tensor is; ArgumentError for a root that depends on
 * no tensor that requires one
 */
export function backwardFrom(roots: readonly Tensor[], grads: readonly Tensor[], arithmetic: Arithmetic): void {
  noGrad(() => scope(() => walk(roots, grads, arithmetic)));
}

function walk(roots: readonly Tensor[], rootGrads: readonly Tensor[], arithmetic: Arithmetic): void {
  const pending = new Map<Node, (Tensor | null)[]>();
  const deliver = (edge: Edge, grad: Tensor): void => {
    if (edge.leaf) return addToLeaf(edge.leaf, grad, arithmetic);
    const slots = pending.get(edge.node!)!;
    const before = slots[edge.outputIndex];
    slots[edge.outputIndex] = before ? arithmetic.add(before, grad) : grad;
    if (before) {
      before.dispose();
      grad.dispose();
    }
  };
  const nodes = reachable(roots);
  for (const node of nodes) pending.set(node, new Array(node.call.outputs.length).fill(null));
  roots.forEach((root, i) => {
    if (!root.requiresGrad) {
      throw new ArgumentError(`backward: ${root} does not depend on a tensor that requires a gradient`);
    }
    expectAlike(() => `backward: ${root} was given`, rootGrads[i], root);
    deliver(edgeOf(root)!, rootGrads[i].detach());
  });
  for (const node of nodes) {
    const grads = pending.get(node)!;
    pending.delete(node);
    if (grads.every((g) => g === null)) continue;
    const results = scope(() =>
      node.pullback(node, grads).map((grad, i, all) =>
        grad && (grads.includes(grad) || all.indexOf(grad) < i) ? grad.detach() : (grad ?? null),
      ),
    );
    node.consume();
    for (const grad of grads) grad?.dispose();
    node.edges.forEach((edge, i) => {
      const grad = results[i];
      if (!grad) return;
      const what = () => `${node.name}: backward gave ${node.call.op?.takes.label(i) ?? `input ${i}`}`;
      expectAlike(what, grad, node.call.inputs[i]!);
      if (edge) deliver(edge, grad);
      else grad.dispose();
    });
  }
}

/** @throws ShapeError, DTypeError unless a gradient is as the tensor that it is of */
function expectAlike(what: () => string, grad: Spec, of: Spec): void {
  if (of.shape.length !== grad.shape.length || of.shape.some((d, i) => d !== grad.shape[i])) {
    throw new ShapeError(`${what()} a gradient of shape [${grad.shape.join(', ')}], expected [${of.shape.join(', ')}]`);
  }
  if (of.dtype === grad.dtype) return;
  throw new DTypeError(`${what()} a gradient of dtype ${grad.dtype}, expected ${of.dtype}`);
}

function addToLeaf(leaf: Tensor, grad: Tensor, arithmetic: Arithmetic): void {
  if (leaf.disposed) throw new DisposedError(`backward: ${leaf} was freed before its gradient was computed`);
  const before = leaf.grad;
  if (before) expectAlike(() => `backward: ${leaf} holds`, before, leaf);
  // In a buffer that no other tensor holds.
  const own = before ? arithmetic.add(before, grad) : grad.storage.shared ? arithmetic.clone(grad) : grad.detach();
  leaf.grad = keep(own);
  before?.dispose();
  grad.dispose();
}

/** All nodes the roots depend on, latest first. */
function reachable(roots: readonly Tensor[]): Node[] {
  const seen = new Set<Node>();
  const stack = roots.flatMap((root) => (root.node ? [root.node] : []));
  while (stack.length > 0) {
    const node = stack.pop()!;
    if (seen.has(node)) continue;
    seen.add(node);
    for (const edge of node.edges) if (edge?.node && !seen.has(edge.node)) stack.push(edge.node);
  }
  return [...seen].sort((a, b) => b.order - a.order);
}

/**
 * Gradient checkpointing: runs `body` without recording, keeps only `inputs`, and runs it again when backward comes
 * by (Chen et al. 2016). Leaves (parameters) that `body` closes over get their gradients too; every other tensor that
 * it needs must be among `inputs`, or backward ends in a DisposedError.
 * @returns what `body` returns, as tensors of their own that share its elements
 * @param replay wraps the second run, for what must be as it was in the first (random state)
 */
export function checkpoint(
  body: (inputs: Tensor[]) => Tensor[],
  inputs: readonly Tensor[],
  arithmetic: Arithmetic,
  replay: <T>(run: () => T) => T = (run) => run(),
): Tensor[] {
  if (GRADIENTS && gradEnabled()) {
    const outputs = scope(() => noGrad(() => body([...inputs])).map((output) => output.detach()));
    const pullback: Pullback = (node, grads) => {
      const leaves = node.edges.map((edge, i) => Object.assign(node.view(String(i)), { requiresGrad: edge !== null }));
      const again = replay(() => withPaused(0, () => body(leaves)));
      const used = again.flatMap((output, i) => (grads[i] && output.requiresGrad ? [i] : []));
      backwardFrom(used.map((i) => again[i]), used.map((i) => grads[i]!), arithmetic);
      return leaves.map((leaf) => leaf.grad?.detach() ?? null);
    };
    const saved = new Map(inputs.map((input, i) => [String(i), save(input)]));
    attach('checkpoint', inputs, outputs, saved, pullback);
    return outputs;
  }
  return body([...inputs]);
}
