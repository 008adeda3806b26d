/** The command `kvx-rdma-lab`. */
import { isKvxError } from '@kvx/contract'
import { readArguments, usage } from './arguments.ts'
import { startInLab, type Run } from './lab.ts'

const passedOn = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/** Says what is wrong, and answers with the exit code for it. */
function tell(error: unknown, code: number): number {
  process.stderr.write(`kvx-rdma-lab: ${error instanceof Error ? error.message : String(error)}\n`)
  return isKvxError(error) && error.code === 'ERR_KVX_INVALID_OPTION' ? 2 : code
}

async function main(): Promise<number> {
  let run: Run
  try {
    const given = readArguments(process.argv.slice(2))
    if (given === 'help') {
      process.stdout.write(usage)
      return 0
    }
    run = await startInLab({
      ...given,
      stdin: given.pair === undefined ? process.stdin : undefined,
      stdout: process.stdout,
      stderr: process.stderr,
      onLog: given.verbose ? (text) => process.stderr.write(text) : undefined,
    })
  } catch (error) {
    return tell(error, 69)
  }
  for (const name of passedOn) process.on(name, () => run.signal(name))
  return run.code.catch((error: unknown) => tell(error, 70))
}

// Without input of its own, what reads the terminal would keep the process alive.
process.exitCode = await main()
process.stdin.destroy()
for (const name of passedOn) process.removeAllListeners(name)
