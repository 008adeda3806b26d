/** Small traces of the form that Mooncake publishes. */
import { writeFile } from 'node:fs/promises'
import type { TraceLine, TraceOptions } from '@kvx/bench'

/** A prompt of so many tokens, whose blocks have these ids. */
export const line = (
  timestamp: number,
  input: number,
  blocks: readonly number[],
  output = 1,
): TraceLine => ({
  ...{ timestamp, input, output, blocks },
})

export async function writeTrace(path: string, lines: readonly TraceLine[]): Promise<string> {
  const text = lines.map(({ timestamp, input, output, blocks }) =>
    JSON.stringify({ timestamp, input_length: input, output_length: output, hash_ids: blocks }),
  )
  await writeFile(path, `${text.join('\n')}\n`)
  return path
}

/** Two layers of a small cache by shm, every byte verified. */
export const traceOptions = (
  lines: readonly TraceLine[],
  more: Partial<TraceOptions> = {},
): TraceOptions => ({
  ...{ lines, model: 'llama-3.1-8b', layers: 1, prefill: 1, decode: 1, pageTokens: 16 },
  ...{ poolTokens: 16_384, chunk: 512, speed: 1_000, itlMs: 0, maxRunning: 4, maxQueued: 64 },
  ...{ verify: true, backend: 'shm', from: import.meta.url },
  ...more,
})
