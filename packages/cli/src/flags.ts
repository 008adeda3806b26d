/** Strict flags on top of a command's definition: nothing unknown, nothing misspelt, nothing silently ignored. */
import { parseArgs } from 'node:util'
import type { ArgsDef } from 'citty'
import { foreignFlags } from './foreign.ts'
import { nearest, UsageError } from './usage.ts'

/** Options that appear under two spellings: the second is SGLang's. */
export const spellings: Readonly<Record<string, string>> = {
  'model-path': 'model',
  'disaggregation-transfer-backend': 'transfer-backend',
}

export class Flags {
  readonly positionals: readonly string[]
  readonly #values: ReadonlyMap<string, readonly (string | true)[]>

  private constructor(
    values: ReadonlyMap<string, readonly (string | true)[]>,
    positionals: readonly string[],
  ) {
    this.#values = values
    this.positionals = positionals
  }

  /**
   * @param lists flags that take several values, given one after another or by repeating the flag; also of the
   *   positional argument that may stand several times
   * @throws UsageError
   */
  static parse(rawArgs: readonly string[], args: ArgsDef, lists: readonly string[] = []): Flags {
    const names = Object.keys(args).filter((name) => args[name]?.type !== 'positional')
    const takesValue = (name: string) => args[name]?.type === 'string'
    const { tokens } = parseArgs({
      args: [...rawArgs],
      options: Object.fromEntries(
        names.map((name) => [name, { type: takesValue(name) ? 'string' : 'boolean' } as const]),
      ),
      strict: false,
      tokens: true,
    })
    const values = new Map<string, (string | true)[]>()
    const positionals: string[] = []
    let list: (string | true)[] | undefined
    for (const token of tokens) {
      if (token.kind === 'option-terminator') {
        list = undefined
      } else if (token.kind === 'positional') {
        if (list === undefined) positionals.push(token.value)
        else list.push(token.value)
      } else {
        if (!names.includes(token.name) || token.rawName !== `--${token.name}`) {
          throw unknownFlag(token.rawName, names)
        }
        if (takesValue(token.name) && token.value === undefined) {
          throw new UsageError(`--${token.name} needs a value.`)
        }
        if (!takesValue(token.name) && token.value !== undefined) {
          throw new UsageError(`--${token.name} takes no value, but '${token.value}' was given.`)
        }
        const name = spellings[token.name] ?? token.name
        const given = values.get(name) ?? []
        const repeatable = lists.includes(name)
        if (given.length > 0 && !repeatable) {
          throw new UsageError(`--${name} is given more than once.`)
        }
        given.push(token.value ?? true)
        values.set(name, given)
        list = repeatable ? given : undefined
      }
    }
    const places = Object.keys(args).filter((name) => args[name]?.type === 'positional')
    const most = places.some((name) => lists.includes(name)) ? Infinity : places.length
    const extra = positionals[most]
    if (extra !== undefined) throw new UsageError(`'${extra}' is one argument too many.`)
    return new Flags(values, positionals)
  }

  has(name: string): boolean {
    return this.#values.has(name)
  }

  string(name: string): string | undefined {
    const value = this.#values.get(name)?.[0]
    return value === true ? undefined : value
  }

  /** Every value, in the order given. */
  list(name: string): readonly string[] {
    return (this.#values.get(name) ?? []).filter((value) => value !== true)
  }

  /** @throws UsageError when it is not one of `choices` */
  choice<const C extends string>(name: string, choices: readonly C[]): C | undefined {
    const value = this.string(name)
    if (value === undefined || (choices as readonly string[]).includes(value)) return value as C
    throw new UsageError(`--${name} must be one of ${choices.join(', ')}, not '${value}'.`)
  }

  /** @throws UsageError when it is no integer between `least` and `most`, inclusive */
  integer(name: string, least: number, most: number): number | undefined {
    const text = this.string(name)
    if (text === undefined) return undefined
    const value = Number(text)
    if (/^-?\d+$/.test(text) && value >= least && value <= most) return value
    const range =
      most < Number.MAX_SAFE_INTEGER
        ? `from ${String(least)} to ${String(most)}`
        : `of at least ${String(least)}`
    throw new UsageError(`--${name} must be an integer ${range}, not '${text}'.`)
  }

  /** @throws UsageError when it is no number between `least` and `most`, inclusive */
  number(name: string, least: number, most: number): number | undefined {
    const text = this.string(name)
    if (text === undefined) return undefined
    const value = Number(text)
    if (text.trim() !== '' && value >= least && value <= most) return value
    throw new UsageError(
      `--${name} must be a number from ${String(least)} to ${String(most)}, not '${text}'.`,
    )
  }
}

function unknownFlag(given: string, names: readonly string[]): UsageError {
  const instead = foreignFlags[given.replace(/^--/, '')]
  if (instead !== undefined)
    return new UsageError(`${given} of SGLang is no flag here: ${instead}.`)
  const near = nearest(given.replace(/^-+/, ''), names)
  return new UsageError(
    near === undefined
      ? `There is no flag ${given}: see --help.`
      : `There is no flag ${given}: did you mean --${near}?`,
  )
}
