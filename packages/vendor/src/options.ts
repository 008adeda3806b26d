import { networkInterfaces } from 'node:os'
import * as v from 'valibot'
import { invalidOption } from './errors.ts'

/** Where an option comes from when the host does not give it. */
export interface OptionSource {
  /** Environment variables, the first that is set and not empty counts. */
  readonly variables: readonly string[]
  /** What the text of a variable means: `Number`, `list`. Default: the text itself. */
  readonly parse?: ((text: string) => unknown) | undefined
}

/** The names in a variable, separated by commas. */
export function list(text: string): string[] {
  return text.split(',')
}

export const text = v.pipe(v.string('must be a text'), v.nonEmpty('must not be empty'))

const integer = v.pipe(v.number('must be a number'), v.integer('must be a whole number'))

/** A whole number from `least` to `most`. */
export function whole(least: number, most: number) {
  return v.pipe(
    integer,
    v.minValue(least, `must be at least ${String(least)}`),
    v.maxValue(most, `must be at most ${String(most)}`),
  )
}

/** A whole number that `accepts` holds for; `message` says which those are: "must be -1 or 1 to 8192". */
export function wholeThat(accepts: (number: number) => boolean, message: string) {
  return v.pipe(integer, v.check(accepts, message))
}

/** One or more names of RDMA devices; `message` says which names are allowed. */
export function devices(name: RegExp, message: string) {
  return v.pipe(
    v.array(v.pipe(text, v.regex(name, message)), 'must be a list'),
    v.minLength(1, 'must name a device'),
  )
}

/**
 * How a backend reads its options: what the host gave, else the option's variables. Defaults are the backend's.
 *
 * @returns a function of the host's options and the environment; it throws KvxError `ERR_KVX_INVALID_OPTION`, which
 *   names the option or variable, also for a variable whose option was given
 */
export function optionTable<Entries extends v.ObjectEntries>(
  backend: string,
  schema: v.StrictObjectSchema<Entries, undefined>,
  sources: Readonly<Record<keyof Entries & string, OptionSource>>,
): (
  options: unknown,
  env: NodeJS.ProcessEnv,
) => v.InferOutput<v.StrictObjectSchema<Entries, undefined>> {
  type Options = v.InferOutput<typeof schema>

  const check = (options: unknown, subject: (option: string) => string): Options => {
    const result = v.safeParse(schema, options)
    if (result.success) return result.output
    const [issue] = result.issues
    const option = v.getDotPath(issue)?.split('.')[0]
    if (option === undefined)
      throw invalidOption(`The options of the backend '${backend}' must be an object.`)
    if (!Object.hasOwn(schema.entries, option)) {
      const known = Object.keys(schema.entries).join(', ')
      throw invalidOption(`The backend '${backend}' has no option '${option}'. It has: ${known}.`)
    }
    throw invalidOption(`${subject(option)} ${issue.message}.`)
  }

  return (options, env) => {
    const given = check(
      options ?? {},
      (option) => `The option '${option}' of the backend '${backend}'`,
    )
    const found: Record<string, unknown> = {}
    const from: Record<string, string> = {}
    for (const [option, { variables, parse }] of Object.entries<OptionSource>(sources)) {
      const variable = variables.find((candidate) => (env[candidate] ?? '') !== '')
      if (variable === undefined) continue
      const value = env[variable] ?? ''
      from[option] = variable
      found[option] = parse === undefined ? value : parse(value)
    }
    const environment = check(found, (option) => `The variable ${from[option] ?? option}`)
    const isGiven = ([, value]: [string, unknown]): boolean => value !== undefined
    return { ...environment, ...Object.fromEntries(Object.entries(given).filter(isGiven)) }
  }
}

/** The first IPv4 address of this machine that is not loopback, else loopback's. */
export function ownAddress(): string {
  const addresses = Object.values(networkInterfaces()).flatMap((some) => some ?? [])
  return (
    addresses.find(({ family, internal }) => family === 'IPv4' && !internal)?.address ?? '127.0.0.1'
  )
}
