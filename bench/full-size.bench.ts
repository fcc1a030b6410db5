/**
 * A model of Phi-2's size with SigLIP's so400m tower, of random f16 weights: bytes on the device, prefill, and tokens/s
 * behind a context of 752 positions. `node build.mjs --bench && node dist/bench/full-size.bench.js`; takes a GPU with 8 GB.
 */
import type { Backend } from '../engine/backend.ts';
import { byteLength } from '../engine/dtype.ts';
import { scope } from '../engine/scope.ts';
import { noGrad } from '../engine/tape.ts';
import { fromData, type Tensor } from '../engine/tensor.ts';
import { closeBackend, openBackend } from '../models/matvlm/app/node/backend.ts';
import { parseConfig } from '../models/matvlm/config.ts';
import { prefill } from '../models/matvlm/generate.ts';
import { MaTVLM } from '../models/matvlm/model.ts';
import { tinyConfig } from '../models/matvlm/presets.ts';
import { IMAGE_ID } from '../models/matvlm/template.ts';
import { TokenStream } from '../models/matvlm/token-stream.ts';
import { emptyParameters } from '../models/nn/parameters.ts';
import { describeMachine, readMachine } from './machine.ts';

/** Image patches and 23 tokens of text. */
const CONTEXT = 752;
const TOKENS = 256;
const PIECE = 2 ** 22;

const base = tinyConfig({ size: 51200, bosId: 50256, eosId: 50256 });
const config = parseConfig({
  ...base,
  tokenizer_model_max_length: 2048,
  vision_config: {
    ...{ model_type: 'siglip_vision_model', image_size: 384, patch_size: 14, hidden_size: 1152 },
    ...{ num_hidden_layers: 27, num_attention_heads: 16, intermediate_size: 4304 },
  },
  text_config: {
    ...{ model_type: 'phi', vocab_size: 51200, hidden_size: 2560, num_hidden_layers: 32, num_attention_heads: 32 },
    ...{ intermediate_size: 10240, partial_rotary_factor: 0.4, max_position_embeddings: 2048 },
  },
});

/** Numbers of about ±1/64, as raw f16 patterns: exponent 8 of 31, any sign and mantissa. */
const noise = Uint16Array.from({ length: PIECE }, (_, i) => {
  const bits = Math.imul(i + 1, 0x9e3779b9) >>> 16;
  return (bits & 0x83ff) | (8 << 10);
});

function fillRandom(backend: Backend, { buffer, dtype, size }: Tensor): void {
  for (let first = 0; first < size; first += PIECE) {
    const n = Math.min(PIECE, size - first);
    backend.write([buffer], [dtype === 'f16' ? noise.subarray(0, n) : new Float32Array(n).fill(0.01)], first);
  }
}

const seconds = async (work: () => Promise<unknown>) => {
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1000;
};

const backend = await openBackend('webgpu');
for (const line of describeMachine(readMachine())) console.log(line);
console.log(backend.description);
const model = new MaTVLM(config, backend, emptyParameters(backend, () => 'f16'));
for (const tensor of model.parameters.values()) fillRandom(backend, tensor);
await backend.sync();
const count = [...model.parameters.values()].reduce((sum, { size }) => sum + size, 0);
const bytes = [...model.parameters.values()].reduce((sum, { dtype, size }) => sum + byteLength(dtype, size), 0);
const giga = (n: number) => (n / 1e9).toFixed(2);
console.log(`${giga(count)} G parameters, ${giga(bytes)} GB on the device (${giga(backend.memory.reserved)} GB reserved)`);

const pixels = new Float32Array(3 * 384 * 384).fill(0.1);
const ids = [IMAGE_ID, ...Array.from({ length: CONTEXT - 729 }, (_, i) => 100 + i)];
const cache = model.decoder.cache();
const run = () => noGrad(() => scope(() => prefill(model, ids, fromData(backend, pixels, [1, 3, 384, 384]), cache).alias([1, 51200])));
run().dispose();
await backend.sync();
cache.truncate(0);
let logits!: Tensor;
const first = await seconds(async () => {
  logits = run();
  await backend.sync();
});
console.log(`prefill of ${cache.length} positions with the tower: ${(1000 * first).toFixed(0)} ms`);
const tokens = new TokenStream(model.decoder, cache, logits, { maxNewTokens: 2 * TOKENS });
for (let i = 0; i < 16; i++) await tokens.next(Infinity);
const took = await seconds(async () => {
  for (let i = 0; i < TOKENS; i++) await tokens.next(Infinity);
});
const weights = bytes - [...model.parameters].reduce((sum, [name, t]) => sum + (/vision|connector|embed_tokens/.test(name) ? byteLength(t.dtype, t.size) : 0), 0);
console.log(`${(TOKENS / took).toFixed(1)} tokens/s from ${CONTEXT} positions on, ${giga((weights * TOKENS) / took)} GB/s of weights`);
await tokens.dispose();
logits.dispose();
cache.dispose();
closeBackend(backend);
