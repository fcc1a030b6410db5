import type { BackendKind } from '../engine/backend.ts';
import { WebGpuBackend } from '../engine/backends/webgpu/webgpu.ts';
import { Profiler } from '../engine/profiler.ts';
import { scope } from '../engine/scope.ts';
import { closeBackend } from '../models/matvlm/app/node/backend.ts';
import { type Device, openDevice } from './devices.ts';
import { type Batch, measure } from './measure.ts';
import { Inputs } from '../test/support/inputs.ts';
import { type ModelCase, modelCases } from './model-cases.ts';
import { readMachine } from './machine.ts';
import { callOf, OP_CASES, type OpCase, type Work, workOf } from './op-cases.ts';
import { profileSteps } from './profile.ts';
import type { Report, Result, StepProfile } from './results.ts';

export interface BenchOptions {
  readonly backends: readonly BackendKind[];
  /** Also WebGPU on a software adapter. */
  readonly software?: boolean;
  /** Only cases whose name has this in it. */
  readonly filter?: string;
  /** The smaller cases, a few samples each. */
  readonly quick?: boolean;
  /** Also profile one step of each kind on the compiled backends. */
  readonly profile?: boolean;
  /** Hears what is going on. */
  readonly say?: (line: string) => void;
}

/** Runs all cases on all backends that are present. */
export async function runBench(options: BenchOptions): Promise<Report> {
  const { quick = false, software = true, profile = false, say = () => {} } = options;
  const machine = readMachine();
  const backends: Record<string, string> = {};
  const results: Result[] = [];
  const profiles: StepProfile[] = [];
  for (const kind of options.backends) {
    const device = await openDevice(kind, quick, software);
    if (!device) {
      backends[kind] = `left out: no ${software ? '' : 'hardware '}adapter`;
      continue;
    }
    backends[device.class.label] = device.backend.description;
    try {
      for await (const result of runDevice(device, options.filter, say)) results.push(result);
      if (profile && kind !== 'reference') profiles.push(...(await profileSteps(device)));
    } finally {
      closeBackend(device.backend);
    }
  }
  return { format: 'matvlm-bench-1', machine, quick, backends, results, profiles };
}

async function* runDevice(device: Device, filter: string | undefined, say: (l: string) => void): AsyncGenerator<Result> {
  const { most, images, questions, label } = device.class;
  const wanted = ({ name }: { name: string }) => filter === undefined || name.includes(filter);
  for (const one of OP_CASES.filter(wanted)) {
    const work = workOf(one);
    if (work.amount * (work.unit === 'byte' ? 10 : 1) > most) continue;
    say(`${label}: ${one.name}`);
    yield await runOp(device, one, work);
  }
  for (const one of modelCases(images, questions).filter(wanted)) {
    say(`${label}: ${one.name}`);
    yield await runModel(device, one);
  }
}

async function runOp(device: Device, one: OpCase, work: Work): Promise<Result> {
  const { backend, limits } = device;
  const { name } = one;
  const data = new Inputs(backend, one.gradients);
  const call = callOf(data, one);
  const batch = async (n: number) => {
    for (let i = 0; i < n; i++) scope(call);
    await backend.sync();
  };
  const timing = await measure(name, batch, device.class.budget);
  const onGpu = await deviceTime(device, batch, timing.calls);
  data.dispose();
  const rate = work.amount / (onGpu ?? timing.median) / 1e6;
  const limit = limits && (work.unit === 'flop' ? limits.gflops : limits.gbs);
  return {
    ...{ case: name, backend: device.class.label, ...timing, device: onGpu },
    ...{ unit: work.unit === 'flop' ? 'GFLOP/s' : 'GB/s', rate, share: limit && rate / limit },
  };
}

async function runModel(device: Device, { name, unit, open }: ModelCase): Promise<Result> {
  const { run, close } = await open(device.backend);
  const timing = await measure(name, run, device.class.budget);
  const onGpu = await deviceTime(device, run, Math.min(timing.calls, 4));
  await close();
  const where = { case: name, backend: device.class.label };
  return { ...where, ...timing, device: onGpu, unit, rate: 1000 / timing.median, share: null };
}

/** Milliseconds of one call by the clock of a hardware GPU. */
async function deviceTime({ backend }: Device, batch: Batch, calls: number): Promise<number | null> {
  if (!(backend instanceof WebGpuBackend) || backend.caps.software || !backend.device.features.has('timestamp-query')) return null;
  backend.profiler = new Profiler();
  await batch(calls);
  await backend.sync();
  const total = backend.profiler.rows().reduce((sum, row) => sum + row.ms, 0);
  backend.profiler = null;
  return total / calls;
}
