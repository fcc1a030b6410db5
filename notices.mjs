import { readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

/** Files in which a package states its terms. */
const TERMS = /^(licen[cs]e|copying|notice)(\.(md|txt))?$/i;

const PACKAGE = /^(?:.*\/)?node_modules\/(?:@[^/]+\/)?[^/]+(?=\/)/;

/**
 * An esbuild plugin for builds that give their files back: adds `file` to the bundles, with the terms of this package and of each library that is in
 * them, and begins every bundle with a comment that names it. The build fails for a library that states none.
 */
export function notices(file) {
  return {
    name: 'notices',
    setup(build) {
      const options = build.initialOptions;
      options.metafile = true;
      options.banner = { js: `/*! matvlm, Apache License 2.0; the libraries in here and their terms: ${file} */` };
      build.onEnd(({ metafile, outputFiles }) => {
        if (!metafile) return;
        outputFiles.push({ path: resolve(options.outdir, file), contents: Buffer.from(textOf(foldersIn(metafile))) });
      });
    },
  };
}

/** Folders of the libraries that the bundles hold something of. */
function foldersIn({ outputs }) {
  const inputs = Object.values(outputs).flatMap((output) => Object.entries(output.inputs));
  const used = inputs.filter(([, { bytesInOutput }]) => bytesInOutput > 0);
  return [...new Set(used.flatMap(([path]) => PACKAGE.exec(path) ?? []))].sort();
}

function textOf(folders) {
  const libraries = folders.map((folder) => {
    const { name, version } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
    return section(`${name} ${version}`, folder);
  });
  return [section('matvlm', '.'), ...libraries].join('\n');
}

function section(title, folder) {
  const files = readdirSync(folder).filter((entry) => TERMS.test(entry)).sort();
  if (files.length === 0) throw new Error(`${folder} states no licence: it may not be part of the page`);
  const texts = files.map((entry) => readFileSync(join(folder, entry), 'utf8').trim());
  return `${'='.repeat(78)}\n${title}\n${'='.repeat(78)}\n\n${texts.join('\n\n')}\n`;
}
