/** `kvx bench compare`: engines behind a real model, beside one process that does both. */
import type { ArgsDef } from 'citty'
import type { Command } from '../../command.ts'
import { Flags } from '../../flags.ts'
import { runToEnd } from '../../lifetime.ts'
import { pullProgress, stepProgress } from '../../progress.ts'
import { contendersOf, launcher } from './contenders.ts'
import { integers } from './numbers.ts'
import { UsageError } from '../../usage.ts'
import { Output, outputFlags, tellingMs } from './output.ts'

const args = {
  model: {
    type: 'string',
    valueHint: 'NAME|FILE.gguf',
    description: 'A model by name, pulled when it is missing, or a GGUF file. Default: smollm2',
  },
  backends: {
    type: 'string',
    valueHint: 'NAME,…',
    description:
      'Engines, and standalone, which is one process without one. Default: standalone,mori,mooncake,shm',
  },
  inputs: {
    type: 'string',
    valueHint: 'TOKENS,…',
    description: 'Tokens of the prompts. Default: 1024,2048,4096,8192',
  },
  output: { type: 'string', valueHint: 'TOKENS', description: 'Of each answer. Default: 16' },
  repeat: {
    type: 'string',
    valueHint: 'N',
    description: 'Rounds, in each of which all take turns. Default: 3',
  },
  warmup: {
    type: 'string',
    valueHint: 'N',
    description:
      'Requests of at most 64 tokens to each before the first round, which nobody counts. Default: 20',
  },
  concurrency: {
    type: 'string',
    valueHint: 'N,…',
    description:
      'Also so many requests at once, with the shortest prompts: prefill and decode beside two standalone workers',
  },
  'chunked-prefill-size': {
    type: 'string',
    valueHint: 'TOKENS',
    description: 'Prompt tokens computed at once, then sent. Default: 512',
  },
  'kv-cache-dtype': {
    type: 'string',
    valueHint: 'f16,q8_0',
    description: 'What K of the cache is kept as; of several one after the other. Default: f16',
  },
  seed: { type: 'string', valueHint: 'S', description: 'Of the prompts. Default: 1' },
  ...outputFlags,
} as const satisfies ArgsDef

export const compare: Command = {
  meta: {
    name: 'compare',
    description:
      'Engines behind a real model, in real processes, beside one process that does both',
  },
  args,
  examples: `EXAMPLES

  All engines, four lengths, with charts:
    kvx bench compare --report results

  A minute's look:
    kvx bench compare --backends standalone,shm --inputs 256 --repeat 1

  Throughput of two processes with 1, 4 and 16 requests at once:
    kvx bench compare --backends standalone,shm --inputs 256 --concurrency 1,4,16

Every process computes with one thread. It ends with 0 when every answer came and equals that of one process.
`,
  main: async (rawArgs) => {
    const flags = Flags.parse(rawArgs, args)
    const settings = {
      model: flags.string('model') ?? 'smollm2',
      backends: (flags.string('backends') ?? 'standalone,mori,mooncake,shm').split(','),
      inputs: or(integers(flags, 'inputs', 1, 2 ** 24), [1_024, 2_048, 4_096, 8_192]),
      output: flags.integer('output', 1, 2 ** 24) ?? 16,
      repeat: flags.integer('repeat', 1, 1_000) ?? 3,
      warmup: flags.integer('warmup', 0, 100_000) ?? 20,
      concurrency: integers(flags, 'concurrency', 1, 256),
      chunkedPrefillSize: flags.integer('chunked-prefill-size', 2, 2 ** 31 - 1) ?? 512,
      seed: flags.integer('seed', 0, 2 ** 32 - 1) ?? 1,
    }
    const dtypes = dtypesOf(flags)
    const output = await Output.open('compare', flags)
    const contenders = await contendersOf('backends', settings.backends)
    const [{ resolveModel, trainedContext }, { compareFindings, joinedFindings, runCompare }] =
      await Promise.all([import('@kvx/llama'), import('@kvx/bench')])
    return runToEnd(async (signal) => {
      const { path } = await resolveModel(settings.model, { ...pullProgress(), signal })
      const progress = stepProgress()
      const parts = []
      for (const kvCacheDtype of dtypes) {
        if (parts.length > 0 && signal.aborted) break
        const result = await runCompare({
          ...settings,
          ...{ model: path, trainedContext: await trainedContext(path), contenders, signal },
          ...{ kvCacheDtype, launch: launcher(), onProgress: progress.step },
        })
        const own = { ...settings, kvCacheDtype }
        parts.push({ kvCacheDtype, findings: compareFindings(result, own, signal.aborted) })
      }
      progress.end()
      return output.tell(joinedFindings(parts, { ...settings, kvCacheDtype: dtypes }))
    }, tellingMs)
  },
}

function dtypesOf(flags: Flags): readonly string[] {
  const dtypes = [...new Set((flags.string('kv-cache-dtype') ?? 'f16').split(','))]
  const unknown = dtypes.find((dtype) => dtype !== 'f16' && dtype !== 'q8_0')
  if (unknown === undefined) return dtypes
  throw new UsageError(`--kv-cache-dtype knows f16 and q8_0, got '${unknown}'.`)
}

const or = <T>(given: readonly T[], otherwise: readonly T[]): readonly T[] =>
  given.length > 0 ? given : otherwise
