/** Which hosts a request may have decode connect to, and the address that was checked. */
import { lookup } from 'node:dns/promises'
import { BlockList, isIP } from 'node:net'
import { isHost } from '@kvx/core'
import { KvxError } from '@kvx/contract'
import { isLoopback } from '../http/address.ts'

/** Milliseconds in which a name must have been looked up. */
const lookupMs = 5_000

type Lookup = (host: string) => Promise<readonly string[]>

const loopback = ['127.0.0.0/8', '::1']
const everywhere = ['0.0.0.0/0', '::/0']

export class PrefillHosts {
  readonly #addresses = new BlockList()
  readonly #names = new Set<string>()
  readonly #lookup: Lookup

  /**
   * @param allowed names, addresses, and ranges of addresses in CIDR notation; IPv6 without brackets
   * @throws KvxError `ERR_KVX_INVALID_OPTION`
   */
  constructor(allowed: readonly string[], lookUp: Lookup = allAddresses) {
    this.#lookup = lookUp
    for (const entry of allowed) this.#add(entry)
  }

  /** What a worker that listens on `host` allows by default: on loopback loopback alone, else any host. */
  static byDefault(host: string, lookUp: Lookup = allAddresses): PrefillHosts {
    return new PrefillHosts(isLoopback(host) ? loopback : everywhere, lookUp)
  }

  /**
   * The address to connect to. A name is looked up here, once, and all of its addresses must be allowed: what is
   * connected to is what was checked. A name that has no address is answered as one that is not allowed, so that nobody
   * learns from it which names there are.
   *
   * @throws KvxError `ERR_KVX_INVALID_OPTION`
   */
  async addressOf(host: string): Promise<string> {
    const addresses = isIP(host) === 0 ? await this.#find(host) : [host]
    const isListed = this.#names.has(host.toLowerCase())
    const [first] = addresses
    if (first === undefined) throw refused()
    if (isListed || addresses.every((address) => this.#allows(address))) return first
    const named = new Set(
      (await Promise.all([...this.#names].map((name) => this.#find(name)))).flat(),
    )
    if (addresses.every((address) => this.#allows(address) || named.has(address))) return first
    throw refused()
  }

  #add(entry: string): void {
    const [address = '', bits, ...rest] = entry.split('/')
    const version = isIP(address)
    const most = version === 6 ? 128 : 32
    if (version !== 0 && bits === undefined) {
      this.#addresses.addAddress(address, version === 6 ? 'ipv6' : 'ipv4')
    } else if (
      version !== 0 &&
      /^\d{1,3}$/.test(bits ?? '') &&
      Number(bits) <= most &&
      rest.length === 0
    ) {
      this.#addresses.addSubnet(address, Number(bits), version === 6 ? 'ipv6' : 'ipv4')
    } else if (bits === undefined && isHost(address)) {
      this.#names.add(address.toLowerCase())
    } else {
      throw new KvxError(
        'ERR_KVX_INVALID_OPTION',
        `'${entry}' is no host of prefill workers: --prefill-hosts takes names, addresses, and ranges such as 10.0.0.0/8 or fd00::/8.`,
        { phase: 'open' },
      )
    }
  }

  #allows(address: string): boolean {
    const version = isIP(address)
    return version !== 0 && this.#addresses.check(address, version === 6 ? 'ipv6' : 'ipv4')
  }

  async #find(name: string): Promise<readonly string[]> {
    const late = new Promise<readonly string[]>((resolve) => {
      setTimeout(resolve, lookupMs, []).unref()
    })
    return Promise.race([this.#lookup(name).catch(() => []), late])
  }
}

/** IPv4 first, as a prefill worker that was given a name listens there as a rule. */
async function allAddresses(host: string): Promise<readonly string[]> {
  const found = await lookup(host, { all: true, verbatim: true })
  return found.sort((a, b) => a.family - b.family).map(({ address }) => address)
}

function refused(): KvxError {
  return new KvxError(
    'ERR_KVX_INVALID_OPTION',
    'Decode may not ask the bootstrap_host of this request, or there is no such host: --prefill-hosts of the decode worker lists those that it may ask.',
    { phase: 'open' },
  )
}
