/** `kvx bench accuracy`: caches and answers through engines, beside those of one process. */
import type { ArgsDef } from 'citty'
import { locateBackend } from '../../backends.ts'
import type { Command } from '../../command.ts'
import { Flags } from '../../flags.ts'
import { runToEnd } from '../../lifetime.ts'
import { pullProgress, stepProgress } from '../../progress.ts'
import { UsageError } from '../../usage.ts'
import { contendersOf } from './contenders.ts'
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
    description: 'Engines. Default: mori,mooncake,shm',
  },
  prompts: {
    type: 'string',
    valueHint: 'N',
    description: 'Prompts of random tokens, beside 24 questions. Default: 20',
  },
  longest: {
    type: 'string',
    valueHint: 'TOKENS',
    description: 'Of them; the others have any length below. Default: 200',
  },
  output: { type: 'string', valueHint: 'TOKENS', description: 'Of each answer. Default: 16' },
  chunk: {
    type: 'string',
    valueHint: 'TOKENS',
    description: 'Prefill computes and sends so many at once. Default: 48',
  },
  seed: { type: 'string', valueHint: 'S', description: 'Of the prompts. Default: 1' },
  ...outputFlags,
} as const satisfies ArgsDef

export const accuracy: Command = {
  meta: {
    name: 'accuracy',
    description:
      'Caches and answers through engines, beside one process; and a control in which nothing crosses',
  },
  args,
  examples: `EXAMPLES

  All engines that can run here:
    kvx bench accuracy --prompts 100

It ends with 0 when every cache and every answer of every engine equals that of one process, byte by byte and token by token, and
the control does not.
`,
  main: async (rawArgs) => {
    const flags = Flags.parse(rawArgs, args)
    const settings = {
      model: flags.string('model') ?? 'smollm2',
      backends: (flags.string('backends') ?? 'mori,mooncake,shm').split(','),
      prompts: flags.integer('prompts', 0, 1_000_000) ?? 20,
      longest: flags.integer('longest', 2, 1_000_000) ?? 200,
      output: flags.integer('output', 1, 1_000_000) ?? 16,
      chunk: flags.integer('chunk', 2, 1_000_000) ?? 48,
      seed: flags.integer('seed', 0, 2 ** 32 - 1) ?? 1,
    }
    if (settings.backends.includes('standalone')) {
      throw new UsageError('--backends: one process takes part anyway; name engines only.')
    }
    const output = await Output.open('accuracy', flags)
    const contenders = await contendersOf('backends', settings.backends)
    const located = await Promise.all(
      contenders.map(async (one) => ({ ...one, from: (await locateBackend(one.name)).from })),
    )
    const [{ resolveModel }, { accuracyFindings, runAccuracy }] = await Promise.all([
      import('@kvx/llama'),
      import('@kvx/bench'),
    ])
    return runToEnd(async (signal) => {
      const { path } = await resolveModel(settings.model, { ...pullProgress(), signal })
      const progress = stepProgress()
      const result = await runAccuracy({
        ...{ ...settings, model: path, contenders: located, signal, onProgress: progress.step },
      })
      progress.end()
      return output.tell(accuracyFindings(result, settings, signal.aborted))
    }, tellingMs)
  },
}
