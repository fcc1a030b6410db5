// Puts the shipped models into the package with their matrices in f16, at half the bytes: node pack.mjs FOLDER
// Vectors (norms, biases, A_log, D) stay f32. The built library reads and writes.
import { copyFileSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Checkpoint } from '../../../dist/lib/engine/index.js';
import { diskFolder } from '../../../dist/lib/engine/node/index.js';
import { writeSafetensors } from '../../../dist/lib/models/matvlm/node.js';

const assets = dirname(fileURLToPath(import.meta.url));
const target = process.argv[2];

for (const name of ['teacher', 'student']) {
  const from = join(assets, name);
  const to = join(target, name);
  rmSync(to, { recursive: true, force: true });
  mkdirSync(to, { recursive: true });
  for (const file of readdirSync(from)) if (/\.(json|md)$/.test(file)) copyFileSync(join(from, file), join(to, file));
  const weights = await Checkpoint.open(diskFolder(from), 'model');
  const tensors = weights.keys().map((key) => {
    const { shape } = weights.spec(key);
    const [dtype, kind] = shape.length > 1 ? ['F16', 'f16'] : ['F32', 'f32'];
    return { name: key, dtype, shape, data: () => weights.readAs(key, kind) };
  });
  await writeSafetensors(join(to, 'model.safetensors'), tensors);
  await weights.close();
}
