import { isIP } from 'node:net';
import { hostname, networkInterfaces } from 'node:os';

/**
 * The names and addresses that a server answers to. A name that somebody's DNS rebinds to this machine is not among
 * them, so that the page behind it cannot read what is served here.
 */
export interface Hosts {
  /**
   * Whether a request with this Host header is answered.
   * @param local the address of this machine that the client reached
   */
  allows(host: string, local: string | undefined): boolean;
  /** Addresses to open in a browser, the nearest first. */
  readonly urls: readonly string[];
}

const LOOPBACK = ['127.0.0.1', 'localhost', '::1'];
const WILDCARDS = ['0.0.0.0', '::'];

/**
 * The hosts of a server bound to `host` and `port`: the loopback's; on a network also the names of this machine, and
 * the address bound or, for 0.0.0.0 and ::, all that the machine has.
 * @param more names that are allowed too, each with a port of its own or with any
 */
export function hostsOf(host: string, port: number, more: readonly string[] = []): Hosts {
  const bound = host.toLowerCase();
  const everywhere = WILDCARDS.includes(bound);
  const near = LOOPBACK.includes(bound) || bound.startsWith('127.');
  const addresses = everywhere ? ownAddresses().filter((address) => bound === '::' || isIP(address) === 4) : [];
  const names = [...LOOPBACK, bound, ...addresses, ...(near ? [] : ownNames())];
  const given = more.map((name) => name.toLowerCase());
  const allowed = new Set([...names.flatMap((name) => withPort(name, port)), ...given]);
  const shown = everywhere ? ['127.0.0.1', ...addresses.filter((address) => !isNear(address))] : [bound];
  return {
    allows: (header, local) => {
      const asked = header.toLowerCase();
      if (allowed.has(asked) || given.includes(asked.replace(/:\d+$/, ''))) return true;
      return local !== undefined && withPort(local.replace(/^::ffff:/, ''), port).includes(asked);
    },
    urls: shown.map((name) => `http://${bracketed(name)}:${port}/`),
  };
}

/** A host as a browser writes it, which leaves out the port that is http's own. */
function withPort(name: string, port: number): string[] {
  const host = bracketed(name);
  return port === 80 ? [host, `${host}:80`] : [`${host}:${port}`];
}

function bracketed(name: string): string {
  // As browsers do: the shortest form of an IPv6 address, in brackets.
  return isIP(name) === 6 ? new URL(`http://[${name.replace(/%.*$/, '')}]`).hostname : name;
}

const isNear = (address: string) => address.startsWith('127.') || address === '::1' || address.startsWith('fe80:');

function ownAddresses(): string[] {
  return Object.values(networkInterfaces()).flatMap((list) => (list ?? []).map(({ address }) => address.toLowerCase()));
}

/** The name of this machine, in full, without its domain, and as the local network finds it. */
function ownNames(): string[] {
  const name = hostname().toLowerCase();
  const [first] = name.split('.');
  return first === '' ? [] : [name, first, `${first}.local`];
}
