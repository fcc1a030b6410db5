import { disk } from '../../models/matvlm/app/store/files.ts';
import type { FileSystem, OpenFile } from '../../models/matvlm/app/store/files.ts';

/**
 * What befalls the `at`-th call: an error with this code. When `lasting`, all later calls fail as well: a disk that
 * stays broken, or a process that was killed.
 */
export interface Fault {
  readonly at: number;
  readonly code: string;
  readonly lasting?: boolean;
}

export interface FaultyFiles extends FileSystem {
  /** Calls so far. */
  readonly calls: number;
  /** Closes what a killed process would have lost. */
  closeAll(): Promise<void>;
}

const PAGE = 4096;

/**
 * The real file system with a fault injected. Writes come out short, 4 KiB a call, and a fatal write still leaves
 * half of its bytes. `sync` counts as a call but does not touch the disk: what it guards against is a power cut,
 * which no test in a process can see.
 */
export function faultyFiles(fault: Fault = { at: Infinity, code: '' }): FaultyFiles {
  const opened: OpenFile[] = [];
  let calls = 0;
  const step = () => {
    calls++;
    if (calls === fault.at || (fault.lasting && calls > fault.at)) {
      throw Object.assign(new Error(`${fault.code}: injected at call ${calls}`), { code: fault.code });
    }
  };
  const wrap = (file: OpenFile): OpenFile => ({
    read: async (into, position) => (step(), file.read(into.subarray(0, PAGE), position)),
    write: async (from) => {
      const page = from.subarray(0, PAGE);
      if (calls + 1 === fault.at) await file.write(page.subarray(0, page.length / 2));
      step();
      return file.write(page);
    },
    size: async () => (step(), file.size()),
    sync: async () => step(),
    close: async () => {
      // A descriptor is gone even when close reports an error.
      opened.splice(opened.indexOf(file), 1);
      await file.close();
      step();
    },
  });
  return {
    get calls() {
      return calls;
    },
    open: async (path, flags) => {
      step();
      const file = await disk.open(path, flags);
      opened.push(file);
      return wrap(file);
    },
    stat: async (path) => (step(), disk.stat(path)),
    list: async (path) => (step(), disk.list(path)),
    makeFolder: async (path) => (step(), disk.makeFolder(path)),
    rename: async (from, to) => (step(), disk.rename(from, to)),
    removeFile: async (path) => (step(), disk.removeFile(path)),
    removeFolder: async (path) => (step(), disk.removeFolder(path)),
    closeAll: async () => {
      for (const file of opened.splice(0)) await file.close();
    },
  };
}
