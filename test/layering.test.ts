import { readdirSync, readFileSync } from 'node:fs';
import { join, normalize } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

/** Each layer with those it may import. `wasm` holds kernels and their loader; only the engine knows it. */
const ALLOWED: Record<string, string[]> = {
  wasm: ['wasm'],
  engine: ['engine', 'wasm'],
  ops: ['ops', 'engine'],
  'models/nn': ['models/nn', 'ops', 'engine'],
  models: ['models', 'ops', 'engine'],
  bench: ['bench', 'models', 'ops', 'engine', 'wasm', 'test/support', 'test/cases'],
};

interface Import {
  readonly file: string;
  readonly target: string;
}

function sources(dir: string): string[] {
  return readdirSync(dir, { recursive: true })
    .map((f) => join(dir, String(f)))
    .filter((f) => f.endsWith('.ts') && !f.includes('node_modules'));
}

function importsOf(file: string): Import[] {
  const text = readFileSync(file, 'utf8');
  const found = [...text.matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g)];
  return found.map(([, path]) => ({ file, target: normalize(join(file, '..', path)) }));
}

const layering = suite('imports point one way');

for (const [layer, allowed] of Object.entries(ALLOWED)) {
  layering(layer, () => {
    const files = sources(layer);
    assert.ok(files.length > 0, `${layer}/ holds sources`);
    const wrong = files
      .flatMap(importsOf)
      .filter(({ target }) => !allowed.some((a) => target === a || target.startsWith(`${a}/`)));
    assert.equal(wrong, []);
  });
}

layering('the model knows nothing of the application around it', () => {
  const files = sources('models/matvlm').filter((f) => !f.startsWith('models/matvlm/app/') && f !== 'models/matvlm/node.ts');
  const wrong = files.flatMap(importsOf).filter(({ target }) => target.startsWith('models/matvlm/app/'));
  assert.equal(wrong, []);
});

layering('no import cycle', () => {
  const graph = new Map<string, string[]>();
  for (const layer of Object.keys(ALLOWED)) {
    for (const file of sources(layer)) {
      const text = readFileSync(file, 'utf8');
      const values = [...text.matchAll(/^(?:import|export)\s+(?!type\b)[^;]*?from\s+'(\.[^']+)'/gm)];
      graph.set(file, values.map(([, path]) => normalize(join(file, '..', path))));
    }
  }
  const cycles: string[] = [];
  const done = new Set<string>();
  const walk = (file: string, path: string[]): void => {
    if (path.includes(file)) cycles.push([...path.slice(path.indexOf(file)), file].join(' → '));
    if (done.has(file) || path.includes(file)) return;
    for (const next of graph.get(file) ?? []) walk(next, [...path, file]);
    done.add(file);
  };
  for (const file of graph.keys()) walk(file, []);
  assert.equal(cycles, []);
});

layering('the engine names no op and no model', () => {
  const named = sources('engine').filter((f) => /ops\/|models\//.test(readFileSync(f, 'utf8').replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, '')));
  assert.equal(named, []);
});

layering.run();
