import { supportsVariant } from '../../../../../engine/backends/wasm/wasm.ts';
import { dawnVersion } from '../../../../../engine/node/dawn.ts';
import { allowRelaxedSimd } from '../../../../../engine/node/relaxed-simd.ts';
import { type ProbedAdapter, probeWebGpu } from '../../node/probe.ts';
import { bytes, print, printJson } from '../terminal/output.ts';

/** `matvlm devices` */
export async function devices(json: boolean): Promise<void> {
  const webgpu = await probeWebGpu();
  allowRelaxedSimd();
  const wasm = supportsVariant('relaxed') ? 'relaxed' : 'simd';
  const hardware = webgpu.some(({ software }) => !software);
  const chosen = hardware ? 'webgpu' : 'wasm';
  if (json)
    return printJson({ default: chosen, node: process.version, dawn: dawnVersion(), webgpu, wasm: { variant: wasm } });
  print(
    `webgpu     Dawn (npm webgpu ${dawnVersion()})` +
      (webgpu.length === 0 ? ': no adapter; install a Vulkan driver' : ''),
  );
  for (const line of webgpu.flatMap(describe)) print(line);
  print(`wasm       ${wasm === 'relaxed' ? 'relaxed SIMD' : 'SIMD128'}, one thread, up to 4 GB`);
  print('reference  readable JavaScript loops, slow');
  print(`default    ${chosen}`);
}

function describe({ name, software, features, limits }: ProbedAdapter): string[] {
  const size = (key: string, limit: number) => (/Size$/.test(key) ? bytes(limit) : String(limit));
  return [
    `  ${name}${software ? ' (software)' : ''}`,
    `    features  ${features.join(' ')}`,
    `    limits    ${Object.entries(limits)
      .map(([key, limit]) => `${key} ${size(key, limit)}`)
      .join(', ')}`,
  ];
}
