import { apply } from '../../engine/apply.ts';
import { expectFinite, expectWhole } from '../../engine/arguments.ts';
import { expectDType, FLOATS } from '../../engine/dtype.ts';
import { defineOp, spec } from '../../engine/op.ts';
import { noGrad } from '../../engine/tape.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { launchKernel } from '../common/launch-kernel.ts';
import { rowFold } from '../common/rows.ts';
import { expectAlike, expectRank } from '../common/shapes.ts';
import { orderWgsl } from '../reduce/order.ts';
import code from './choose-token.wgsl';

/** How a token is chosen; see `chooseToken_`. */
interface ChooseAttrs {
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly repetitionPenalty: number;
}

const WG = 256;

const chooseTokenOp = /* @__PURE__ */ defineOp({
  name: 'choose_token',
  inputs: ['token', 'logits', 'seen?', 'draws?', 'position?'],
  outputs: [],
  mutates: ['token', 'seen'],
  shape({ token, logits, seen, draws, position }, { temperature, topK, topP, repetitionPenalty }: ChooseAttrs) {
    const name = 'chooseToken_';
    expectFinite(name, 'temperature', temperature, 0);
    expectWhole(name, 'topK', topK);
    expectFinite(name, 'topP', topP, Number.MIN_VALUE, 1);
    expectFinite(name, 'repetitionPenalty', repetitionPenalty, 0.01, 100);
    expectRank(name, 'logits', logits, 2);
    const [rows, vocabulary] = logits.shape;
    expectDType(name, 'logits', logits.dtype, ...FLOATS);
    expectWhole(name, 'the size of the vocabulary', vocabulary, 1);
    expectAlike(name, 'token', token, spec([rows, 1], 'i32'));
    if (repetitionPenalty !== 1 || seen) expectAlike(name, 'seen', seen, spec([rows, vocabulary], 'u32'));
    if (temperature > 0) {
      expectAlike(name, 'draws', draws, spec([rows, draws?.shape[1] || 1]));
      expectAlike(name, 'position', position, spec([1], 'i32'));
    }
    return {};
  },
  reference({ token, logits, seen, draws, position }, _, attrs) {
    const [rows, vocabulary] = logits.shape;
    for (let row = 0; row < rows; row++) {
      const own = Float32Array.from(logits.data.subarray(row * vocabulary, (row + 1) * vocabulary));
      const known = seen?.data.subarray(row * vocabulary, (row + 1) * vocabulary);
      const per = draws?.shape[1] ?? 0;
      const draw = draws ? draws.data[row * per + (position!.data[0] % per)] : 0;
      token.data[row] = choose(own, known, draw, attrs);
      if (known && token.data[row] >= 0) known[token.data[row]] = 1;
    }
  },
  webgpu({ token, logits, seen, draws, position }, _, { temperature, topK, topP, repetitionPenalty }, device) {
    const [rows, vocabulary] = logits.shape;
    const drawn = temperature > 0;
    const limits = { k: drawn && topK > 0 && topK < vocabulary, p: drawn && topP < 1 };
    const floats = { temperature: ['f32', temperature], penalty: ['f32', repetitionPenalty] } as const;
    return [launchKernel(device, {
      key: `choose_token.${drawn}.${limits.k}.${limits.p}`,
      reads: { logits, draws, position },
      writes: { token, seen },
      params: { vocabulary, draws: draws?.shape[1] ?? 1, ...floats, top_k: ['f32', topK], top_p: ['f32', topP] },
      constants: { LANES: WG },
      workgroup: WG,
      code: () => `${FOLDS}${code.replace('DRAW', drawn ? drawing(limits) : '')}`,
      groups: rows,
    })];
  },
});

const FOLDS = [
  orderWgsl('f32'),
  rowFold('total_sum', 'f32'),
  rowFold('greatest_key', 'vec2<u32>', 'first_of(a, b)'),
].join('');

const drawing = ({ k, p }: { readonly k: boolean; readonly p: boolean }) => /* wgsl */ `
  var kept = Kept(0u, 0u);
  ${k ? 'kept = narrowed(row, params.top_k, kept, greatest, true, local);' : ''}
  ${p ? 'kept = narrowed(row, params.top_p * mass(row, 0u, kept, greatest, false, local), kept, greatest, false, local);' : ''}
  let at = row * params.draws + u32(load_position(0u)) % params.draws;
  let draw = load_draws(at) * mass(row, 0u, kept, greatest, false, local);
  let key = max(reaching(row, draw, true, kept, greatest, false, local), kept.least);
  let before = mass(row, key + 1u, kept, greatest, false, local);
  let ties = select(equals(row, key, local), kept.ties, key == kept.least);
  let rank = u32(clamp(floor((draw - before) / weight(key, greatest)), 0.0, f32(max(ties, 1u) - 1u)));
  chosen = place_of(row, key, rank, local);`;

/** One row's token; −1 when a logit is not finite. @param logits changed in place */
function choose(
  logits: Float32Array,
  seen: ArrayLike<number> | undefined,
  draw: number,
  { temperature, topK, topP, repetitionPenalty: penalty }: ChooseAttrs,
): number {
  let best = 0;
  for (let i = 0; i < logits.length; i++) {
    if (seen?.[i]) logits[i] *= logits[i] > 0 ? 1 / penalty : penalty;
    if (!Number.isFinite(logits[i])) return -1;
    if (logits[i] > logits[best]) best = i;
  }
  if (temperature === 0) return best;
  let order = Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
  if (topK > 0) order = order.slice(0, topK);
  const weights = order.map((id) => Math.exp((logits[id] - logits[best]) / temperature));
  const kept = nucleus(weights, topP);
  let left = draw * kept.total;
  for (let i = 0; i < kept.count; i++) {
    left -= weights[i];
    if (left < 0) return order[i];
  }
  return order[kept.count - 1];
}

/** How many of the leading weights reach the share `topP`. */
function nucleus(weights: readonly number[], topP: number): { count: number; total: number } {
  const all = weights.reduce((a, b) => a + b, 0);
  let total = 0;
  for (let i = 0; i < weights.length; i++) {
    total += weights[i];
    if (total >= topP * all) return { count: i + 1, total };
  }
  return { count: weights.length, total };
}

/** What a token is chosen from, and what tells which. */
export interface ChoiceInputs {
  /** (B, V) */
  readonly logits: Tensor;
  /** (B, V) u32, where the repetition penalty applies: tokens that were there before. The chosen one is added. */
  readonly seen?: Tensor;
  /** (B, N) f32 from 0 to 1, for a temperature above 0: the draw at `position` mod N decides. */
  readonly draws?: Tensor;
  /** (1) i32 */
  readonly position?: Tensor;
}

/**
 * Chooses each row's next token on the device and writes it to `token`, (B, 1) i32; −1 where a logit is not finite. At
 * temperature 0 that is the likeliest, the first of equals. Otherwise logits are divided by the temperature, the `topK`
 * likeliest are kept (0: all), of these the fewest that reach the probability `topP` together, and one is drawn.
 * Logits of tokens in `seen` are divided by the repetition penalty, negative ones multiplied (Keskar et al. 2019).
 * Has no gradient.
 */
export function chooseToken_(token: Tensor, inputs: ChoiceInputs, options: Partial<ChooseAttrs> = {}): void {
  const { temperature = 0, topK = 0, topP = 1, repetitionPenalty = 1 } = options;
  noGrad(() => apply(chooseTokenOp, { token, ...inputs }, { temperature, topK, topP, repetitionPenalty }));
}
