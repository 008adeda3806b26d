/** Limits of a process (`ulimit`) that show as errors of whoever meets them first, deep inside of libraries. */
import { readFileSync } from 'node:fs'

/** Read beforehand: later no file handle may be left for it. */
const ownLimits = readOwnLimits()

function readOwnLimits(): string {
  try {
    return readFileSync('/proc/self/limits', 'utf8')
  } catch {
    return ''
  }
}

/** Loading a worker opens about 160 files at once, whatever it does afterwards. */
const fewestFiles = 256

const files = {
  met: /\b(EMFILE|ENFILE)\b|too many open files/i,
  line: /^Max open files\s+(\S+)/m,
  say: (limit: string) =>
    `This process may open ${limit} files and sockets, which is too few: raise the limit (ulimit -n 4096).`,
}

const limits = [
  files,
  {
    met: /WebAssembly.*out of memory|cannot allocate (wasm )?memory|\bENOMEM\b|bad_alloc/i,
    line: /^Max address space\s+(\d+)/m,
    say: (limit: string) =>
      `This process may use ${limit} bytes of address space, which is too little: raise the limit (ulimit -v unlimited).`,
  },
]

/**
 * A sentence about the limit that an error comes from, or undefined.
 * @param table `/proc/self/limits`
 */
export function limitBehind(cause: unknown, table = ownLimits): string | undefined {
  for (let error = cause; error instanceof Error; error = error.cause) {
    const { message } = error
    for (const { met, line, say } of limits) {
      const limit = line.exec(table)?.[1]
      if (limit !== undefined && met.test(message)) return say(limit)
    }
  }
  return undefined
}

/**
 * A sentence about a limit under which a command cannot even be loaded, or undefined. Node.js reports a file that it
 * may not open as a package that does not exist, so that the error itself would not say so.
 * @param table `/proc/self/limits`
 */
export function limitTooLow(table = ownLimits): string | undefined {
  const limit = files.line.exec(table)?.[1]
  return limit !== undefined && Number(limit) < fewestFiles ? files.say(limit) : undefined
}
