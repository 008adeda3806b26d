/** The process of the command: what holds for it whatever it is asked to do. */
import { limitBehind, limitTooLow } from './limits.ts'

/** Where nothing holds it, a process ends by itself; what was forgotten must not keep it. */
const lastResortMs = 3_000

/** A folder that was removed would fail whoever asks for it, deep inside of libraries. */
function leaveRemovedFolder(): void {
  try {
    process.cwd()
  } catch {
    process.chdir('/')
    process.stderr.write('kvx: the working directory is gone: relative paths are taken from /\n')
  }
}

// Whoever reads what is said here may go away: that ends neither this process nor what it has started.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined)
// Also what nobody waits for, as Node's own parts that are loaded when they are first used.
process.on('uncaughtException', (cause) => {
  const limit = limitBehind(cause)
  process.stderr.write(
    limit === undefined ? `${cause.stack ?? cause.message}\n` : `kvx: ${limit}\n`,
  )
  process.exit(1)
})
const tooLow = limitTooLow()
if (tooLow !== undefined) {
  process.stderr.write(`kvx: ${tooLow}\n`)
  process.exit(1)
}
leaveRemovedFolder()
// Here, not at the top: what cannot be loaded must end in one sentence too.
const { run } = await import('./run.ts')
process.exitCode = await run(process.argv.slice(2))
// The channel to a parent would keep a process alive that has nothing left to do.
if (process.connected) process.disconnect()
setTimeout(() => process.exit(), lastResortMs).unref()
