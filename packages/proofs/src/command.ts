/** What the commands of this package have in common: their flags, and how they end. */
import { parseArgs, type ParseArgsConfig } from 'node:util'

const common = { help: { type: 'boolean', default: false } } as const

type Options = NonNullable<ParseArgsConfig['options']>
interface Config<T extends Options> {
  readonly options: T & typeof common
}
type Values<T extends Options> = ReturnType<typeof parseArgs<Config<T>>>['values']

/** A wrong command line. */
class UsageError extends Error {}

/** The values of flags; `--help` is one of every command. Throws what `exitCode` tells a user. */
export function readFlags<const T extends Options>(options: T): Values<T> {
  try {
    return parseArgs<Config<T>>({ options: { ...options, ...common } }).values
  } catch (cause) {
    throw new UsageError((cause as Error).message, { cause })
  }
}

export function usageError(text: string): Error {
  return new UsageError(text)
}

/** The whole number in a flag. Throws what `exitCode` tells a user. */
export function whole(
  flag: string,
  text: string,
  { least = 0, most = Number.MAX_SAFE_INTEGER }: { least?: number; most?: number } = {},
): number {
  const value = Number(text)
  if (/^\d+$/.test(text) && value >= least && value <= most) return value
  const bounds = [
    ...(least > 0 ? [` of at least ${String(least)}`] : []),
    ...(most < Number.MAX_SAFE_INTEGER ? [` of at most ${String(most)}`] : []),
  ]
  throw new UsageError(`--${flag} must be a whole number${bounds.join(' and')}, got ${text}`)
}

/** Random generators take 32 bits. */
export const mostSeed = 2 ** 32 - 1
/** From 0 to `most`, included. */
export const anySeed = (most = mostSeed) => Math.floor(Math.random() * (most + 1))

/** A signal that SIGINT or SIGTERM gives, with a word of what happens now; another one of them ends the process at once. */
export function endEarly(word: string): AbortSignal {
  const stop = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      if (stop.signal.aborted) process.exit(130)
      process.stderr.write(`${word}; once more to end at once\n`)
      stop.abort()
    })
  }
  return stop.signal
}

/** Runs a command: its exit code, or 2 for a wrong command line, or 1 for an error. Both are told. */
export async function exitCode(main: () => Promise<number>): Promise<number> {
  // Whoever reads this may go away, as `head` does: the exit code still tells how the run ended.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined)
  try {
    return await main()
  } catch (cause) {
    if (cause instanceof UsageError) {
      process.stderr.write(`${cause.message}\nTry --help.\n`)
      return 2
    }
    process.stderr.write(`${String(cause instanceof Error ? (cause.stack ?? cause) : cause)}\n`)
    return 1
  }
}
