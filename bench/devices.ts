import type { Backend, BackendKind } from '../engine/backend.ts';
import { WebGpuBackend } from '../engine/backends/webgpu/webgpu.ts';
import { DeviceError } from '../engine/errors.ts';
import { openBackend } from '../models/matvlm/app/node/backend.ts';
import { probeWebGpu } from '../models/matvlm/app/node/probe.ts';
import type { Budget } from './measure.ts';

/** What a device's maker states. */
export interface Limits {
  /** f32 outside tensor cores. */
  readonly gflops: number;
  readonly gbs: number;
}

/** The settings of a bench on one kind of device. */
export interface Class {
  /** Name in the table. */
  readonly label: string;
  readonly budget: Budget;
  /** Cases with more work than this are left out: floating-point operations, or ten times the bytes. */
  readonly most: number;
  /** Images in a training step, with that many questions each. */
  readonly images: number;
  readonly questions: number;
}

export interface Device {
  readonly backend: Backend;
  readonly class: Class;
  readonly limits: Limits | null;
}

const CLASSES = {
  gpu: {
    label: 'webgpu',
    budget: { warm: 400, time: 200, samples: 10, sample: 20, calls: 2000 },
    most: Infinity,
    images: 64,
    questions: 20,
  },
  software: {
    label: 'webgpu (software)',
    budget: { warm: 50, time: 100, samples: 3, sample: 5, calls: 100 },
    most: 1.5e8,
    images: 1,
    questions: 4,
  },
  wasm: {
    label: 'wasm',
    budget: { warm: 100, time: 300, samples: 5, sample: 5, calls: 1000 },
    most: 2e10,
    images: 4,
    questions: 20,
  },
  reference: {
    label: 'reference',
    budget: { warm: 10, time: 60, samples: 3, sample: 2, calls: 100 },
    most: 5e7,
    images: 1,
    questions: 2,
  },
} satisfies Record<string, Class>;

/** A few samples each: whether it runs, and roughly how fast. */
const QUICK: Budget = { warm: 20, time: 40, samples: 3, sample: 2, calls: 100 };
/** By how much the most work of a case is less then. */
const QUICK_SHARE = 0.1;

/** f32 and memory rates of data sheets, by what the adapter calls itself. */
const LIMITS: readonly (readonly [RegExp, Limits])[] = [
  [/H200/i, { gflops: 67_000, gbs: 4_800 }],
  [/H100/i, { gflops: 67_000, gbs: 3_350 }],
];

/** The device of that kind; null where WebGPU has no adapter, or one in software while `software` is false. */
export async function openDevice(kind: BackendKind, quick: boolean, software: boolean): Promise<Device | null> {
  if (kind === 'webgpu' && !software && (await probeWebGpu())[0]?.software) return null;
  const backend = await openIfPresent(kind);
  if (!backend) return null;
  const own = CLASSES[classOf(backend)];
  const limits = LIMITS.find(([name]) => name.test(backend.description))?.[1] ?? null;
  return { backend, class: quick ? { ...own, budget: QUICK, most: QUICK_SHARE * own.most } : own, limits };
}

async function openIfPresent(kind: BackendKind): Promise<Backend | null> {
  try {
    return await openBackend(kind);
  } catch (error) {
    if (error instanceof DeviceError) return null;
    throw error;
  }
}

function classOf(backend: Backend): keyof typeof CLASSES {
  if (backend instanceof WebGpuBackend) return backend.caps.software ? 'software' : 'gpu';
  return backend.kind === 'wasm' ? 'wasm' : 'reference';
}
