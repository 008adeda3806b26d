/** `kvx bench load`: requests at a rate, through a router, and what is left of them. */
import type { ArgsDef } from 'citty'
import type { Command } from '../../command.ts'
import { Flags } from '../../flags.ts'
import { runToEnd } from '../../lifetime.ts'
import { pullProgress, stepProgress } from '../../progress.ts'
import { UsageError } from '../../usage.ts'
import { backendFlags, backendOptions } from '../serve.ts'
import { contendersOf, launcher } from './contenders.ts'
import { Output, outputFlags, tellingMs } from './output.ts'

const args = {
  model: {
    type: 'string',
    valueHint: 'NAME|FILE.gguf',
    description: 'A model by name, pulled when it is missing, or a GGUF file. Default: smollm2',
  },
  ...backendFlags,
  rate: {
    type: 'string',
    valueHint: 'R',
    description: 'Arrivals a second on the average, at random times. Default: 1',
  },
  concurrency: {
    type: 'string',
    valueHint: 'C',
    description: 'Requests under way at once; later ones are held back. Default: 8',
  },
  seconds: { type: 'string', valueHint: 'S', description: 'Of arrivals. Default: 60' },
  input: { type: 'string', valueHint: 'TOKENS', description: 'Of each prompt. Default: 64' },
  output: { type: 'string', valueHint: 'TOKENS', description: 'Of each answer. Default: 16' },
  'max-running-requests': {
    type: 'string',
    valueHint: 'N',
    description: 'Requests that each worker works on at the same time. Default: 4',
  },
  'max-queued-requests': {
    type: 'string',
    valueHint: 'N',
    description: 'Requests that wait at each worker; one more is refused. Default: 256',
  },
  'check-every': {
    type: 'string',
    valueHint: 'N',
    description: 'Every Nth answer is compared with that of one process. Default: 20. 0: none',
  },
  seed: { type: 'string', valueHint: 'S', description: 'Of prompts and arrivals. Default: 1' },
  ...outputFlags,
} as const satisfies ArgsDef

export const load: Command = {
  meta: {
    name: 'load',
    description: 'Requests at a rate through a router: latencies, failures, leaks, memory, answers',
  },
  args,
  examples: `EXAMPLES

  Half an hour, two requests a second:
    kvx bench load --rate 2 --seconds 1800 --report results

  More than it can do, with a short queue: refused, nothing lost:
    kvx bench load --rate 50 --concurrency 64 --seconds 20 --max-queued-requests 4

It ends with 0 when every request was answered or refused (429), no page leaked, and every answer that was compared was right.
`,
  main: async (rawArgs) => {
    const flags = Flags.parse(rawArgs, args)
    const settings = {
      model: flags.string('model') ?? 'smollm2',
      backend: flags.string('transfer-backend') ?? 'shm',
      rate: flags.number('rate', 0.001, 10_000) ?? 1,
      concurrency: flags.integer('concurrency', 1, 4_096) ?? 8,
      seconds: flags.number('seconds', 0.1, 10_000_000) ?? 60,
      input: flags.integer('input', 1, 2 ** 24) ?? 64,
      output: flags.integer('output', 1, 2 ** 24) ?? 16,
      maxRunningRequests: flags.integer('max-running-requests', 1, 256) ?? 4,
      maxQueuedRequests: flags.integer('max-queued-requests', 0, 65_536) ?? 256,
      checkEvery: flags.integer('check-every', 0, 1_000_000) ?? 20,
      seed: flags.integer('seed', 0, 2 ** 32 - 1) ?? 1,
    }
    backendOptions(flags)
    const output = await Output.open('load', flags)
    const [engine] = await contendersOf('transfer-backend', [settings.backend])
    if (engine?.unavailable !== undefined) {
      throw new UsageError(`${engine.name} cannot run here: ${engine.unavailable}`)
    }
    const [{ resolveModel }, { loadFindings, runLoad }] = await Promise.all([
      import('@kvx/llama'),
      import('@kvx/bench'),
    ])
    return runToEnd(async (signal) => {
      const { path } = await resolveModel(settings.model, { ...pullProgress(), signal })
      const progress = stepProgress()
      const result = await runLoad({
        ...{ ...settings, model: path, signal, launch: launcher(), onProgress: progress.step },
        engine: { name: settings.backend, options: flags.string('transfer-backend-options') },
      })
      progress.end()
      const versions = engine?.version === undefined ? {} : { [engine.name]: engine.version }
      return output.tell(loadFindings(result, settings, signal.aborted, versions))
    }, tellingMs)
  },
}
