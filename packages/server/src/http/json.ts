/**
 * JSON bodies without loss, and with bounds. A room is an integer up to 2^63, which a JavaScript number cannot hold,
 * and what is passed on keeps every number as it was written. The bounds are checked in one pass over the text,
 * before anything is made of it: whatever is within them costs the event loop a few milliseconds.
 */
import { KvxError } from '@kvx/contract'

const maxJsonLevels = 32
/** Enough for the token ids of a prompt of 128k. */
const maxJsonValues = 150_000
const maxJsonNames = 4096
const maxNameLength = 256
/** Names and texts together: each is made anew, which takes far longer than a number. */
const maxJsonTexts = 8192
/** 64-bit integers have 20 digits, and the longest exact double 17. */
const maxNumberLength = 64

/**
 * Parses JSON. An integer that a number would round becomes a bigint where it is a field of the body, or an item of one
 * that lists a few integers: there routers send rooms. Every other number is a number.
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`
 */
export function parseJson(text: string): unknown {
  const fields = rawFields(text)
  const value = parse(text)
  for (const [name, raw] of fields) {
    if (!/\d{16}/.test(raw)) continue
    if (integer.test(raw)) (value as Record<string, unknown>)[name] = exact(raw)
    else if (raw.length <= maxRoomsLength && integers.test(raw)) {
      const items = raw.slice(1, -1).split(',')
      ;(value as Record<string, unknown>)[name] = items.map((item) => exact(item.trim()))
    }
  }
  return value
}

/** Of a list that may be one of rooms: 256 answers, each a number of at most 20 digits, with what stands between. */
const maxRoomsLength = 256 * 32

const integer = /^-?\d+$/
const integers = /^\[[-\d\s,]*\]$/

function exact(digits: string): number | bigint {
  const value = Number(digits)
  return Number.isSafeInteger(value) ? value : BigInt(digits)
}

/**
 * The fields of a JSON object, each as it was written, for a body that is passed on.
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`, also when the text is no object
 */
export function parseFields(text: string): Map<string, string> {
  const fields = rawFields(text)
  const value = parse(text)
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw refusal('The body must be a JSON object.')
  }
  return fields
}

/** The object that has these fields. */
export function writeFields(fields: ReadonlyMap<string, string>): string {
  return `{${[...fields].map(([name, raw]) => `${JSON.stringify(name)}:${raw}`).join(',')}}`
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    // The rest of V8's message quotes the body.
    const reason = (cause as Error).message.replace(/, (\.\.\.)?".*/s, '')
    throw refusal(`The body is not valid JSON: ${reason}.`, cause)
  }
}

const refusal = (message: string, cause?: unknown) =>
  new KvxError('ERR_KVX_INVALID_ARGUMENT', message, {
    phase: 'open',
    ...(cause !== undefined && { cause }),
  })

const blank = 0x20
const quote = 0x22
const comma = 0x2c
const colon = 0x3a
const backslash = 0x5c
const openList = 0x5b
const closeList = 0x5d
const openObject = 0x7b
const closeObject = 0x7d

/**
 * Counts what the text holds, and cuts the fields out of the object that it is. Of a text that is no JSON the
 * fields mean nothing; the bounds hold all the same.
 */
function rawFields(text: string): Map<string, string> {
  const fields = new Map<string, string>()
  let levels = 0
  let values = 1
  let names = 0
  let texts = 0
  let name: string | undefined
  let start = 0
  const endField = (end: number) => {
    if (levels !== 1 || name === undefined) return
    if (fields.has(name)) throw refusal(`The body has the field ${name.slice(0, 100)} twice.`)
    fields.set(name, text.slice(start, end).trim())
    name = undefined
  }
  let lastString: [start: number, end: number] | undefined
  for (let at = 0; at < text.length;) {
    const code = text.charCodeAt(at)
    if (code <= blank) {
      at++
      continue
    }
    switch (code) {
      case quote: {
        const end = stringEnd(text, at)
        if (++texts > maxJsonTexts) {
          throw refusal(`The body holds more than ${String(maxJsonTexts)} texts and names.`)
        }
        lastString = [at, end]
        at = end
        continue
      }
      case openObject:
      case openList:
        if (++levels > maxJsonLevels) {
          throw refusal(`The body is nested more than ${String(maxJsonLevels)} levels deep.`)
        }
        values++
        break
      case closeObject:
      case closeList:
        endField(at)
        levels--
        break
      case comma:
        endField(at)
        if (++values > maxJsonValues) {
          throw refusal(`The body holds more than ${String(maxJsonValues)} values.`)
        }
        break
      case colon:
        if (++names > maxJsonNames) {
          throw refusal(`The body holds more than ${String(maxJsonNames)} names.`)
        }
        if (lastString !== undefined && lastString[1] - lastString[0] > maxNameLength + 2) {
          throw refusal(
            `A name of the body is written with more than ${String(maxNameLength)} characters.`,
          )
        }
        if (levels === 1 && lastString !== undefined) {
          name = nameOf(text.slice(...lastString))
          start = at + 1
        }
        break
      default:
        if (code === 0x2d || (code >= 0x30 && code <= 0x39)) {
          const end = numberEnd(text, at)
          if (end - at > maxNumberLength) {
            throw refusal(
              `A number of the body is written with more than ${String(maxNumberLength)} characters.`,
            )
          }
          at = end
          continue
        }
    }
    at++
  }
  return fields
}

/** The place after the string that begins at `at`. */
function stringEnd(text: string, at: number): number {
  for (let end = at + 1; end < text.length; end++) {
    const code = text.charCodeAt(end)
    if (code === quote) return end + 1
    if (code === backslash) end++
  }
  return text.length
}

/** The place after everything that may stand in a number, from `at` on. */
function numberEnd(text: string, at: number): number {
  for (let end = at + 1; ; end++) {
    const code = text.charCodeAt(end)
    const inNumber =
      (code >= 0x30 && code <= 0x39) ||
      code === 0x2e ||
      code === 0x2d ||
      code === 0x2b ||
      (code | 0x20) === 0x65
    if (!inNumber) return end
  }
}

function nameOf(raw: string): string | undefined {
  try {
    return JSON.parse(raw) as string
  } catch {
    // The text is no JSON, and will be refused as that.
    return undefined
  }
}
