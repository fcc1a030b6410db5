import { Command } from 'commander';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { UsageError } from './errors.ts';
import { addOptions, flagLayer, type Layer, type OptionTable, resolve, type Settings } from './options.ts';
import { yamlLayer } from './settings-file.ts';

/** What a command is given beside its settings. */
export interface Context<T extends OptionTable> {
  readonly args: readonly string[];
  /** Flags that are no settings: those of `extra`. */
  readonly flags: Readonly<Record<string, unknown>>;
  /** The settings again, over those of a run's own file. */
  readonly over: (file: string) => Settings<T>;
}

/** One command: its settings, how help shows it, and what it does. */
export interface CommandSpec<T extends OptionTable = OptionTable> {
  readonly about: string;
  /** Positional arguments as commander spells them: `<model>`, `[folder]`. */
  readonly args?: readonly (readonly [name: string, about: string])[];
  readonly table: T;
  /** Whether the settings may come from a YAML file. */
  readonly yaml?: boolean;
  /** Flags that are no settings of a run: `--json`, `--dry-run`. */
  readonly extra?: readonly (readonly [flags: string, about: string])[];
  readonly examples: readonly string[];
  readonly run: (settings: Settings<T>, context: Context<T>) => Promise<void>;
}

/** States a command with the types of its own table. */
export function defineCommand<T extends OptionTable>(spec: CommandSpec<T>): CommandSpec {
  return spec as unknown as CommandSpec;
}

/** Adds the flags, help and action of a command. */
export function attach(command: Command, spec: CommandSpec): void {
  command.description(spec.about);
  for (const [name, about] of spec.args ?? []) command.argument(name, about);
  if (spec.yaml) command.option('-c, --config <file>', 'settings from a YAML file or a recipe; flags win over it');
  addOptions(command, spec.table);
  for (const [flags, about] of spec.extra ?? []) command.option(flags, about);
  command.option('--debug', 'show the stack of an error');
  command.addHelpText('after', `\nExamples:\n${spec.examples.map((line) => `  $ matvlm ${line}`).join('\n')}`);
  command.action(async () => {
    const flags = command.opts<Record<string, unknown>>();
    const own = flagLayer(spec.table, flags);
    const files = typeof flags.config === 'string' ? [await configLayer(flags.config, spec.table)] : [];
    const over = (file: string) => resolve(spec.table, [yamlLayer(file, spec.table), ...files, own]);
    await spec.run(resolve(spec.table, [...files, own]), { args: command.args, flags, over });
  });
}

/** The layer of `-c`: a file, or the name of a recipe that comes with the package. */
export async function configLayer(name: string, table: OptionTable): Promise<Layer> {
  if (existsSync(name)) return yamlLayer(name, table);
  const { recipesPath } = await import('../node/package-root.ts');
  const recipe = join(recipesPath(), `${name}.yaml`);
  if (/^[\w-]+$/.test(name) && existsSync(recipe)) return yamlLayer(recipe, table);
  throw new UsageError(`--config: there is no file ${name}, nor a recipe of that name; "matvlm recipes ls" lists them`);
}
