/** The command line. */
import { parseArgs } from 'node:util'
import { invalidOption } from '@kvx/vendor'

export const usage = `usage: kvx-rdma-lab [options] [--] COMMAND [ARGUMENT...]

Runs COMMAND on this machine's files in an emulated guest with a software RDMA device, rxe0. Its input, output and exit code
are those of kvx-rdma-lab, and SIGINT, SIGTERM and SIGHUP are passed on to it. What it writes to files is lost.

  -w, --writable DIR    what it writes below DIR is kept (may be repeated)
  -t, --time SECONDS    ends it with 124 after so long, boot included (600)
  -c, --cpus N          processors of the guest (as many as the machine has, at least 2)
  -m, --memory MIB      memory of the guest (4096)
  -v, --verbose         shows the log of the guest's kernel when it has ended
      --pair            two guests that are joined by a link; both run COMMAND, without input
      --netem TEXT      what the link does to packets, for example 'loss 1% delay 2ms' (man tc-netem); implies --pair
  -h, --help            this text

COMMAND finds its number in KVX_RDMA_LAB (1; of a pair 1 or 2), the address of rxe0 in KVX_RDMA_LAB_ADDRESS, that of the other guest
in KVX_RDMA_LAB_PEER, and in KVX_RDMA_LAB_LINK a program that changes the link: cut, mend, netem TEXT.

Exit codes of its own: 2 wrong usage, 69 something is missing, 70 the guest died, 124 time was up, 141 nobody reads the output.
`

export interface Arguments {
  readonly command: readonly string[]
  readonly writable: readonly string[]
  readonly limitSeconds: number | undefined
  readonly cpus: number | undefined
  readonly memoryMiB: number | undefined
  readonly verbose: boolean
  readonly pair: { readonly netem: string } | undefined
}

const options = {
  writable: { type: 'string', short: 'w', multiple: true },
  time: { type: 'string', short: 't' },
  cpus: { type: 'string', short: 'c' },
  memory: { type: 'string', short: 'm' },
  verbose: { type: 'boolean', short: 'v' },
  pair: { type: 'boolean' },
  netem: { type: 'string' },
  help: { type: 'boolean', short: 'h' },
} as const

/**
 * Of `argv`, without node and script; 'help' when that was asked for.
 *
 * @throws KvxError `ERR_KVX_INVALID_OPTION`
 */
export function readArguments(argv: readonly string[]): Arguments | 'help' {
  const { own, command } = split(argv)
  let values
  try {
    values = parseArgs({ args: own, options, strict: true }).values
  } catch (error) {
    throw invalidOption((error as Error).message)
  }
  if (values.help) return 'help'
  if (command.length === 0) throw invalidOption('There is no COMMAND to run.')
  const { netem } = values
  return {
    command,
    writable: values.writable ?? [],
    limitSeconds: positive('--time', values.time),
    cpus: positive('--cpus', values.cpus),
    memoryMiB: positive('--memory', values.memory),
    verbose: values.verbose ?? false,
    pair: values.pair || netem !== undefined ? { netem: netem ?? '' } : undefined,
  }
}

/** The options end where the command begins: at --, or at the first word that is neither an option nor its value. */
function split(argv: readonly string[]): { own: string[]; command: string[] } {
  const { tokens } = parseArgs({ args: [...argv], options, strict: false, tokens: true })
  const first = tokens.find(({ kind }) => kind !== 'option')
  if (first === undefined) return { own: [...argv], command: [] }
  const start = first.kind === 'option-terminator' ? first.index + 1 : first.index
  return { own: argv.slice(0, first.index), command: argv.slice(start) }
}

function positive(name: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  if (!/^[1-9]\d{0,6}$/.test(text))
    throw invalidOption(`${name} must be a positive integer, got ${text}.`)
  return Number(text)
}
