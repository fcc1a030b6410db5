import { Command } from 'commander';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { nearest } from '../../../nn/did-you-mean.ts';
import { ALIASES } from './options/aliases.ts';
import { UsageError } from './terminal/errors.ts';
import { addOptions, dashed, flagLayer, type Layer, type OptionTable, resolve, type Settings } from './options/options.ts';
import { tellDetails } from './terminal/output.ts';
import { yamlLayer } from './options/settings-file.ts';

/** What a command is given. */
export interface Context<T extends OptionTable> {
  readonly args: readonly string[];
  /** Flags that are no settings: those of `extra`. */
  readonly flags: Readonly<Record<string, unknown>>;
  /**
   * The settings: what `-c` and, over it, the flags say.
   * @param base what both go over, the later over the earlier: the settings of a run that is resumed
   * @throws UsageError for a value out of its range, one that is missing, or a flag without effect
   */
  settings(...base: readonly Layer[]): Settings<T>;
  /** Some of the settings, before it is known what they go over. */
  some<K extends keyof T>(...keys: readonly K[]): Pick<Settings<T>, K>;
}

/** When a flag would do nothing: what the settings say then, for the error. */
export type Idle<T extends OptionTable> = {
  readonly [K in keyof T]?: (settings: Settings<T>) => string | false;
};

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
  /** Flags that other settings leave without effect; given then, they are refused. */
  readonly idle?: Idle<T>;
  readonly examples: readonly string[];
  readonly run: (context: Context<T>) => Promise<void>;
}

/** States a command with the types of its own table. */
export function defineCommand<T extends OptionTable>(spec: CommandSpec<T>): CommandSpec {
  return spec as unknown as CommandSpec;
}

/** A command that tells what was meant by a flag that it does not know. */
export class CliCommand extends Command {
  override createCommand(name?: string): CliCommand {
    return new CliCommand(name);
  }

  /** Called by commander. */
  unknownOption(flag: string): never {
    const known = this.options.map(({ long }) => long!.slice(2));
    const meant = nearest(flag.replace(/^-+/, '').replace(/=.*$/s, ''), known, ALIASES);
    const hint = meant === null ? `"matvlm ${this.name()} --help" lists them` : `did you mean --${meant}?`;
    return this.error(`unknown option ${flag}; ${hint}`, { code: 'commander.unknownOption' });
  }
}

/** Adds the flags, help and action of a command. */
export function attach(command: Command, spec: CommandSpec): void {
  command.description(spec.about);
  for (const [name, about] of spec.args ?? []) command.argument(name, about);
  if (spec.yaml) command.option('-c, --config <file>', 'settings from a YAML file or a recipe; flags win over it');
  addOptions(command, spec.table);
  for (const [flags, about] of spec.extra ?? []) command.option(flags, about);
  command.option('--debug', 'show the stack of an error');
  refuseRepeated(command);
  command.addHelpText('after', `\nExamples:\n${spec.examples.map((line) => `  $ matvlm ${line}`).join('\n')}`);
  command.action(async () => {
    const flags = command.opts<Record<string, unknown>>();
    const own = flagLayer(spec.table, flags);
    if (flags.verbose === true) tellDetails();
    const files = typeof flags.config === 'string' ? [await configLayer(flags.config, spec.table)] : [];
    const settings = (...base: readonly Layer[]) => {
      const resolved = resolve(spec.table, [...base, ...files, own]);
      refuseIdle(spec, resolved, own);
      return resolved;
    };
    const some = <K extends string>(...keys: readonly K[]) => {
      const table = Object.fromEntries(keys.map((key) => [key, spec.table[key]]));
      return resolve(table, [...files, own].map(withoutNeeds)) as { [key in K]: unknown };
    };
    await spec.run({ args: command.args, flags, settings, some });
  });
}

function withoutNeeds({ values, where }: Layer): Layer {
  return { values, where };
}

/** A flag that stands twice on a command line, or with its opposite, is a mistake: one of the two would be ignored. */
function refuseRepeated(command: Command): void {
  const given = new Map<string, string>();
  for (const option of command.options) {
    command.on(`option:${option.name()}`, () => {
      const key = option.attributeName();
      const before = given.get(key);
      if (before !== undefined) {
        const what = before === option.long ? `${before} is given twice` : `${before} and ${option.long} contradict`;
        throw new UsageError(`${what}; give one`);
      }
      given.set(key, option.long!);
    });
  }
}

function refuseIdle({ idle = {} }: CommandSpec, settings: Settings<OptionTable>, flags: Layer): void {
  for (const [key, test] of Object.entries(idle)) {
    const why = flags.values.has(key) && test!(settings);
    if (why) throw new UsageError(`--${dashed(key)} has no effect: ${why}; leave one of them out`);
  }
}

/** The layer of `-c`: a file, or the name of a recipe that comes with the package. */
export async function configLayer(name: string, table: OptionTable): Promise<Layer> {
  if (existsSync(name)) return yamlLayer(name, table);
  const { recipesPath } = await import('../node/package-root.ts');
  const recipe = join(recipesPath(), `${name}.yaml`);
  if (/^[\w-]+$/.test(name) && existsSync(recipe)) return yamlLayer(recipe, table);
  throw new UsageError(`--config: there is no file ${name}, nor a recipe of that name; "npx matvlm recipes ls" lists them`);
}
