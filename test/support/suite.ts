import { suite } from 'uvu';
import { closeBackend, openBackend, openGpu, openWasms } from './backends.ts';

/** A suite with a backend of each kind, of WASM one for each variant, which are closed behind its last test. */
export async function suiteOnBackends(name: string) {
  const [reference, wasms, gpu] = [await openBackend('reference'), await openWasms(), await openGpu()];
  const others = [...wasms, gpu];
  const backends = [reference, ...others];
  const test = suite(name);
  test.after(() => backends.forEach(closeBackend));
  return { test, backends, reference, others, wasms, wasm: wasms[0], gpu };
}
