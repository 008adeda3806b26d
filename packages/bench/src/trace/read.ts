/**
 * Traces in the form that the Mooncake project publishes: one request a line, as JSON, with `timestamp` (milliseconds),
 * `input_length` and `output_length` (tokens), and `hash_ids`, one for each block of 512 prompt tokens; equal ids at the
 * beginning mean an equal prefix.
 */
import { createReadStream } from 'node:fs'
import { createInterface } from 'node:readline'
import { KvxError, systemReason } from '@kvx/contract'

/** Tokens of a prompt that have one hash. */
export const blockTokens = 512

export interface TraceLine {
  readonly timestamp: number
  readonly input: number
  readonly output: number
  /** One for each block of the prompt, of which the last may be incomplete. */
  readonly blocks: readonly number[]
}

/**
 * @param most lines that are read
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT` with the number of the first line that is none
 */
export async function readTrace(path: string, most = Infinity): Promise<TraceLine[]> {
  const lines: TraceLine[] = []
  const file = createReadStream(path)
  // Else nobody hears of a file that cannot be opened.
  const failed = new Promise<never>((_, reject) => {
    file.once('error', (cause) => {
      reject(refused(path, `cannot be read: ${systemReason(cause)}`, cause))
    })
  })
  const read = async (): Promise<void> => {
    let number = 0
    for await (const text of createInterface({ input: file, crlfDelay: Infinity })) {
      number++
      if (text.trim() === '') continue
      const line = lineOf(text)
      const last = lines.at(-1)
      if (typeof line === 'string') throw refused(path, `line ${String(number)}: ${line}`)
      if (last !== undefined && line.timestamp < last.timestamp) {
        throw refused(
          path,
          `line ${String(number)}: its timestamp is before that of the line above`,
        )
      }
      if (lines.push(line) >= most) break
    }
    if (lines.length === 0) throw refused(path, 'it has no line')
  }
  try {
    await Promise.race([read(), failed])
    return lines
  } finally {
    failed.catch(() => undefined)
    file.destroy()
  }
}

/** @returns what is wrong with it, else the line */
function lineOf(text: string): TraceLine | string {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return `it must be a JSON object, got ${shown(text)}`
  }
  if (typeof value !== 'object' || value === null)
    return `it must be a JSON object, got ${shown(text)}`
  const fields = value as Record<string, unknown>
  const { timestamp, input_length: input, output_length: output, hash_ids: blocks } = fields
  if (!isNatural(timestamp, 0)) return `timestamp must be milliseconds, got ${shown(timestamp)}`
  if (!isNatural(input, 1)) return `input_length must be a positive integer, got ${shown(input)}`
  if (!isNatural(output, 0)) return `output_length must be an integer, got ${shown(output)}`
  const wanted = Math.ceil(input / blockTokens)
  if (!Array.isArray(blocks) || !blocks.every((id) => isNatural(id, 0))) {
    return `hash_ids must be a list of integers, got ${shown(blocks)}`
  }
  if (blocks.length !== wanted) {
    return `hash_ids must have ${String(wanted)} ids for ${String(input)} tokens, one for each ${String(blockTokens)}, got ${String(blocks.length)}`
  }
  return { timestamp, input, output, blocks }
}

const isNatural = (value: unknown, least: number): value is number =>
  Number.isSafeInteger(value) && Number(value) >= least

function shown(value: unknown): string {
  const text = typeof value === 'string' ? value : (JSON.stringify(value) as string | undefined)
  return text === undefined ? 'nothing' : text.length > 60 ? `${text.slice(0, 60)}…` : text
}

function refused(path: string, why: string, cause?: unknown): KvxError {
  return new KvxError('ERR_KVX_INVALID_ARGUMENT', `The trace ${path}: ${why}.`, { cause })
}
