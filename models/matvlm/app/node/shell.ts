/** A command of ours as it runs in a clone and where the package is installed. */
export function ownCommand(...words: readonly string[]): string {
  return commandLine(['npx', 'matvlm', ...words]);
}

/** A command as a shell takes it: words with anything but plain characters stand in quotes. */
export function commandLine(words: readonly string[]): string {
  return words.map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)).join(' ');
}
