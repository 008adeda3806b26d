/** JSON without loss: a room is an integer up to 2^63, which a JavaScript number cannot hold. */
import { isInteger, isSafeNumber, parse, stringify } from 'lossless-json'
import { KvxError } from '@kvx/core/backend'

/**
 * Parses JSON. An integer that a number would round becomes a bigint; every other number is a number.
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`
 */
export function parseJson(text: string): unknown {
  return parseWith(text, (digits) =>
    isInteger(digits) && !isSafeNumber(digits) ? BigInt(digits) : Number(digits),
  )
}

/** Parses JSON and keeps every number as it was written, for a body that is passed on. Throws as `parseJson`. */
export function parseJsonVerbatim(text: string): unknown {
  return parseWith(text, undefined)
}

export function toJson(value: unknown): string {
  // The library answers undefined only for values that are no JSON at the top, such as a function.
  return stringify(value) ?? 'null'
}

function parseWith(text: string, number: ((digits: string) => unknown) | undefined): unknown {
  try {
    return parse(text, null, number)
  } catch (cause) {
    // A RangeError is the stack's end: nested deeper than any request has reason to be.
    const reason =
      cause instanceof RangeError ? 'it is nested too deeply' : (cause as Error).message
    throw new KvxError('ERR_KVX_INVALID_ARGUMENT', `The body is not valid JSON: ${reason}.`, {
      cause,
      phase: 'open',
    })
  }
}
