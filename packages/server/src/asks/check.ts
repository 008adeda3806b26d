/** Checks a body against a closed table of fields. */
import * as v from 'valibot'
import { KvxError } from '@kvx/contract'
import type { Bootstrap } from './ask.ts'
import type { bootstrapFields } from './fields.ts'

export type Fields = v.ObjectEntries
export type Known<F extends Fields> = v.InferOutput<v.ObjectSchema<F, undefined>>

/**
 * @param fields every field that is known: honoured, harmless with the value that means nothing, or a note
 * @param inner the fields of those that are objects
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT` with one sentence about the first thing that is wrong
 */
export function checkBody<F extends Fields>(
  body: unknown,
  fields: F,
  inner: Readonly<Record<string, Fields>> = {},
): Known<F> {
  // A list is an object to JavaScript.
  const given = Array.isArray(body) ? null : body
  const schema = v.object(fields, 'the body must be a JSON object')
  const result = v.safeParse(schema, given, { abortEarly: true })
  if (!result.success) {
    const [issue] = result.issues
    throw refuse(
      issue.kind === 'schema' && issue.type === 'object' && issue.received === 'undefined'
        ? `${v.getDotPath(issue) ?? 'a field'} is missing`
        : issue.message,
    )
  }
  const unknown = [
    unknownField(body as object, fields),
    ...Object.entries(inner).map(([name, known]) =>
      unknownField((body as Record<string, object | null>)[name] ?? {}, known),
    ),
  ].find((name) => name !== undefined)
  if (unknown !== undefined) {
    throw refuse(
      `${unknown.slice(0, 64)} is no field that this server knows: leave it out, or the answer would not be what it asks for`,
    )
  }
  return result.output
}

/** @returns the first field that is not known and might mean something */
function unknownField(body: object, known: object): string | undefined {
  for (const [name, value] of Object.entries(body) as [string, unknown][]) {
    if (Object.hasOwn(known, name) || value === null || value === false || value === '') continue
    // An empty list or object asks for nothing either.
    if (typeof value === 'object' && isEmpty(value)) continue
    return name
  }
  return undefined
}

/** Without the names of all that a list holds. */
const isEmpty = (value: object) =>
  Array.isArray(value) ? value.length === 0 : Object.keys(value).length === 0

export const refuse = (message: string) =>
  new KvxError('ERR_KVX_INVALID_ARGUMENT', sentence(message), { phase: 'open' })

/** Field names keep their case, so the first letter stays as it is. */
const sentence = (text: string) => (text.endsWith('.') ? text : `${text}.`)

/** The one name of a request, if it has one. */
export const ridOf = (rid: string | readonly string[] | null | undefined) =>
  typeof rid === 'string' ? rid : undefined

/** Two names of one field. */
export function eitherName<T>(
  one: readonly [name: string, value: T | null | undefined],
  other: readonly [name: string, value: T | null | undefined],
): T | undefined {
  const [a, b] = [one[1] ?? undefined, other[1] ?? undefined]
  if (a !== undefined && b !== undefined && a !== b) {
    throw refuse(`${one[0]} and ${other[0]} differ: give one of them`)
  }
  return a ?? b
}

/**
 * Where the cache of each prompt comes from. A router gives a list, with an entry for each prompt or for each of its
 * answers, of which the first counts, since a prompt is sent once; or scalars: the i-th prompt then has the room that
 * is i higher.
 */
export function bootstrapOf(
  fields: Known<typeof bootstrapFields>,
  prompts: number,
  samples: number,
): readonly Bootstrap[] {
  const of = <T>(name: string, list: readonly (T | null)[] | undefined) => {
    if (list === undefined) return () => undefined
    const each = list.length / prompts
    if (list.length !== 1 && each !== 1 && each !== samples) {
      throw refuse(
        `${name} has ${String(list.length)} entries for ${String(prompts)} prompts: give one for each`,
      )
    }
    return (index: number) => list[list.length === 1 ? 0 : index * each] ?? undefined
  }
  const { bootstrap_room: rooms } = fields
  const host = of('bootstrap_host', fields.bootstrap_host)
  const port = of('bootstrap_port', fields.bootstrap_port)
  const given = of('bootstrap_room', rooms)
  const room = (index: number) => {
    const first = given(index)
    if (first === undefined || rooms?.length !== 1) return first
    return BigInt.asUintN(63, first + BigInt(index))
  }
  return Array.from({ length: prompts }, (_, index) => ({
    ...{ host: host(index), port: port(index), room: room(index) },
  }))
}
