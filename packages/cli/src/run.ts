import { readFileSync } from 'node:fs'
import { stripVTControlCharacters } from 'node:util'
import { renderUsage, type CommandMeta } from 'citty'
import { isKvxError } from '@kvx/contract'
import type { Command } from './command.ts'
import { backend } from './commands/backend.ts'
import { bench } from './commands/bench/index.ts'
import { doctor } from './commands/doctor.ts'
import { model } from './commands/model.ts'
import { router } from './commands/router.ts'
import { serve } from './commands/serve.ts'
import { synth } from './commands/synth.ts'
import { up } from './commands/up.ts'
import { limitBehind } from './limits.ts'
import { nearest, UsageError } from './usage.ts'

const { version } = JSON.parse(
  readFileSync(new URL('../package.json', import.meta.url), 'utf8'),
) as { version: string }

const root: Command = {
  meta: {
    name: 'kvx',
    version,
    description: 'KV-cache transfer for prefill/decode-disaggregated LLM serving',
  },
  args: {},
  subCommands: { up, serve, router, backend, doctor, model, synth, bench },
}

/** What the words of the command line ask for; returns the exit status. */
export async function run(argv: readonly string[]): Promise<number> {
  try {
    const { command, parent, rest } = find(argv)
    if (argv.length === 1 && (argv[0] === '--version' || argv[0] === '-v')) {
      process.stdout.write(`${version}\n`)
      return 0
    }
    if (rest.includes('--help') || rest.includes('-h')) {
      await showHelp(command, parent)
      return 0
    }
    if (command.main !== undefined) return await command.main(rest)
    const names = Object.keys(command.subCommands ?? {})
    const [word] = rest
    if (word === undefined) {
      await showHelp(command, parent)
      return 2
    }
    const near = nearest(word, names)
    throw new UsageError(
      word.startsWith('-')
        ? `There is no flag ${word} here: see --help.`
        : `There is no command '${word}': ${near === undefined ? `the commands are ${names.join(', ')}` : `did you mean '${near}'?`}`,
    )
  } catch (cause) {
    process.stderr.write(`kvx: ${describe(cause, argv)}\n`)
    return cause instanceof UsageError ? 2 : 1
  }
}

/** The command that the first words name, and what is left for it. */
function find(argv: readonly string[]): {
  command: Command
  parent: Command | undefined
  rest: readonly string[]
} {
  let command = root
  let parent: Command | undefined
  let depth = 0
  for (const word of argv) {
    const next = Object.entries(command.subCommands ?? {}).find(([name]) => name === word)?.[1]
    if (next === undefined) break
    parent = command
    command = next
    depth++
  }
  return { command, parent, rest: argv.slice(depth) }
}

async function showHelp(command: Command, parent: Command | undefined): Promise<void> {
  // `kvx model pull`: citty puts one parent before the name, so that the parent brings its own.
  const above: Command | undefined =
    parent === undefined || parent === root
      ? parent
      : {
          ...parent,
          meta: { ...(parent.meta as CommandMeta), name: `kvx ${nameOf(parent)}`, version },
        }
  const usage = await renderUsage(command, above)
  const text = command.examples === undefined ? usage : `${usage.trimEnd()}\n\n${command.examples}`
  process.stdout.write(`${process.stdout.isTTY ? text : stripVTControlCharacters(text)}\n`)
}

const nameOf = (command: Command): string => (command.meta as CommandMeta).name ?? ''

/** One sentence for a person; the stack as well for who debugs. */
function describe(cause: unknown, argv: readonly string[]): string {
  if (!(cause instanceof Error)) return String(cause)
  const debug = argv.some(
    (word, i) =>
      word === '--log-level=debug' || (word === 'debug' && argv[i - 1] === '--log-level'),
  )
  if (debug) return cause.stack ?? cause.message
  const limit = limitBehind(cause)
  if (limit !== undefined) return limit
  if (cause instanceof UsageError || isKvxError(cause)) return cause.message
  return `an unexpected error: ${cause.message} (--log-level debug shows where)`
}
