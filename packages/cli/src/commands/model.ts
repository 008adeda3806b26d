/** `kvx model`: the models kvx knows by name, and fetching them. */
import type { Command } from '../command.ts'
import { Flags } from '../flags.ts'
import { runToEnd } from '../lifetime.ts'
import { pullProgress } from '../progress.ts'
import { UsageError } from '../usage.ts'

const pullArgs = {
  name: { type: 'positional', description: 'Name of the model', required: true },
} as const

const pull: Command = {
  meta: { name: 'pull', description: 'Fetch a model into the cache and check it' },
  args: pullArgs,
  main: async (rawArgs) => {
    const [name] = Flags.parse(rawArgs, pullArgs).positionals
    const { knownModels, pullModel } = await import('@kvx/llama')
    if (name === undefined) {
      throw new UsageError(`Which model? One of: ${knownModels.map((m) => m.name).join(', ')}.`)
    }
    return runToEnd(async (signal) => {
      process.stdout.write(`${await pullModel(name, { ...pullProgress(), signal })}\n`)
      return 0
    })
  },
}

const list: Command = {
  meta: { name: 'list', description: 'List the models kvx knows and whether they are here' },
  args: {},
  main: async (rawArgs) => {
    Flags.parse(rawArgs, {})
    const { installedModel, knownModels } = await import('@kvx/llama')
    for (const { name, bytes, license } of knownModels) {
      const path = await installedModel(name)
      const size = `${(bytes / 1e6).toFixed(0)} MB`
      process.stdout.write(`${name}  ${size}  ${license}  ${path ?? 'not pulled'}\n`)
    }
    return 0
  },
}

export const model: Command = {
  meta: { name: 'model', description: 'Models that kvx knows by name' },
  args: {},
  subCommands: { pull, list },
}
