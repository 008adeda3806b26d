/**
 * Machines on this machine: network namespaces, joined by a router whose forwarding can be switched off. They
 * belong to processes and have no names, so they vanish with those.
 */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'

/** One machine. */
export interface Machine {
  /** A process in its namespace. */
  readonly pid: number
  /** IPv4, of a network that is reserved for examples (RFC 5737). */
  readonly address: string
}

const tools = [
  ['unshare', 'util-linux'],
  ['nsenter', 'util-linux'],
  ['ip', 'iproute2'],
] as const

/** Arguments of `unshare` for a network of one's own; who is not root needs users of one's own for it. */
const unshareArgs = [...(process.getuid?.() === 0 ? [] : ['--user', '--map-root-user']), '--net']

/** Why machines cannot be made here; undefined when they can. */
export function whyNot(): string | undefined {
  const lacking = tools.find(([name]) => spawnSync(name, ['--version']).error !== undefined)
  if (lacking !== undefined) return `${lacking[0]} is not installed (Debian: ${lacking[1]})`
  const tried = spawnSync(
    'unshare',
    [...unshareArgs, 'ip', 'link', 'add', 'kvx0', 'type', 'veth', 'peer', 'name', 'kvx1'],
    { encoding: 'utf8' },
  )
  return tried.status === 0
    ? undefined
    : `this process may not make network namespaces: ${tried.stderr.trim()}`
}

/** The command line that runs `command` in a new namespace, which becomes the router. */
export const inRouter = (command: readonly string[]): string[] => [
  'unshare',
  ...unshareArgs,
  ...command,
]

/** Lives in the router's namespace, and holds that of each machine. */
export class Machines {
  readonly machines: readonly [Machine, Machine]
  readonly #holders: readonly ChildProcess[]

  private constructor(machines: readonly [Machine, Machine], holders: readonly ChildProcess[]) {
    this.machines = machines
    this.#holders = holders
  }

  /**
   * Two machines that reach each other and this process's namespace, which must be a new one (`inRouter`).
   * @throws Error with what a command said
   */
  static async open(): Promise<Machines> {
    ip('link', 'set', 'lo', 'up')
    const holders = await Promise.all([hold(), hold()])
    const [one, two] = holders.map(({ pid = 0 }, i) => join(pid, i))
    const machines = new Machines([one!, two!], holders)
    machines.heal()
    return machines
  }

  /** From now on packets between the machines are lost, without a word to either. */
  cut(): void {
    forward(false)
  }

  heal(): void {
    forward(true)
  }

  close(): void {
    for (const holder of this.#holders) holder.stdin?.end()
  }
}

/** A process in a namespace of its own, that ends with this one: its input does. */
async function hold(): Promise<ChildProcess> {
  const child = spawn('unshare', ['--net', 'sh', '-c', 'echo in; exec cat'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  await Promise.race([
    once(child.stdout, 'data'),
    once(child, 'close').then(() => {
      throw new Error('unshare --net failed')
    }),
  ])
  return child
}

/** A cable from this namespace to that of `pid`. */
function join(pid: number, index: number): Machine {
  const [gateway, address] = [1, 2].map((host) => `192.0.2.${String(4 * index + host)}`)
  const cable = `kvx${String(index)}`
  const inside = ['nsenter', `--net=/proc/${String(pid)}/ns/net`, 'ip']
  ip('link', 'add', cable, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(pid))
  ip('address', 'add', `${gateway!}/30`, 'dev', cable)
  ip('link', 'set', cable, 'up')
  run([...inside, 'link', 'set', 'lo', 'up'])
  run([...inside, 'address', 'add', `${address!}/30`, 'dev', 'eth0'])
  run([...inside, 'link', 'set', 'eth0', 'up'])
  run([...inside, 'route', 'add', 'default', 'via', gateway!])
  return { pid, address: address! }
}

const ip = (...args: string[]) => {
  run(['ip', ...args])
}

function run([command, ...args]: string[]): void {
  const { status, stderr } = spawnSync(command!, args, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${[command, ...args].join(' ')}: ${stderr.trim()}`)
}

const forward = (on: boolean) => {
  writeFileSync('/proc/sys/net/ipv4/ip_forward', on ? '1' : '0')
}
